"""What every pod worker shares: the cluster's API, processes, responder, clock and caches."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netsim.client.api import Api
from netsim.client.events import EventRecorder
from netsim.client.informer import Informer
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kubelet import agnhost_script
from netsim.kubelet.cni_config import NetworkList
from netsim.kubelet.cni_runtime import CniRuntime
from netsim.kubelet.containers import BuiltinProvider
from netsim.kubelet.environment import PodFacts, plan_service_variables
from netsim.kubelet.files import Resolver
from netsim.kubelet.logs import LogStore
from netsim.kubelet.nodes import NodeRuntime
from netsim.kubelet.responder import Responder
from netsim.kubelet.sandboxes import Removals
from netsim.kubelet.state import PodState
from netsim.model.clock import Clock
from netsim.model.config import ClusterConfig
from netsim.model.objects import Object

SERVICES_BY_NAMESPACE = "kubelet/namespace"


@dataclass(slots=True)
class KubeletNode:
    """One node and its network list, once its pod network is ready. ``stopped_at_s``: its kubelet is silent since."""

    runtime: NodeRuntime
    network: NetworkList | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list)  # told when the network is ready
    stopped_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """Shared by all workers; made once by the component."""

    api: Api
    spawner: Spawner
    responder: Responder
    events: EventRecorder
    config: ClusterConfig
    state_dir: Path
    clock: Clock
    publish: Callable[[str, Netns | None], None]
    providers: Sequence[BuiltinProvider]
    cni: CniRuntime
    removals: Removals
    logs: LogStore
    config_maps: Informer
    services: Informer
    machine_resolver: Resolver

    def facts(self, pod: Mapping[str, Any], state: PodState, *, services: bool = False) -> PodFacts:
        """What the downward API and the environment may ask for."""
        namespace = pod["metadata"]["namespace"]
        variables: Mapping[str, str] = {}
        if services:
            links = pod["spec"].get("enableServiceLinks", True) is not False
            own = self.services.by_index(SERVICES_BY_NAMESPACE, namespace) if links else ()
            variables = plan_service_variables(own, self.services.get("default", "kubernetes"), links)
        return PodFacts(state.pod_ips, state.host_ips, lambda name: self.config_maps.get(namespace, name), variables)

    def pod_folder(self, pod: Mapping[str, Any]) -> Path:
        """Where a pod's files are: volumes, /etc/hosts and kin."""
        metadata = pod["metadata"]
        return self.state_dir / "pods" / str(metadata.get("uid") or f"{metadata['namespace']}_{metadata['name']}")

    def agnhost_program(self) -> Path:
        """The script that is shown as /agnhost in containers; written when it is first needed."""
        path = self.state_dir / "agnhost"
        if not path.exists():
            source = Path(agnhost_script.__file__).read_text(encoding="utf-8")
            # The real interpreter: a virtual environment's link may lie where containers do not see it.
            path.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{source}", encoding="utf-8")
            path.chmod(0o755)
        return path


def service_namespace(service: Object) -> tuple[str, ...]:
    """The index of Services by namespace."""
    return (service["metadata"].get("namespace", ""),)
