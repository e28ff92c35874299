"""The running cluster for those who look into it: what its places are, and the API's objects about them."""

from dataclasses import dataclass

from netsim.client.informerset import InformerSet
from netsim.cluster.namespaces import NamespaceRegistry
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kubelet.component import KubeletComponent
from netsim.model.config import ClusterConfig
from netsim.model.errors import NetsimError, not_found
from netsim.model.kinds import POD
from netsim.model.names import EXTERNAL
from netsim.model.where import Where


@dataclass(frozen=True, slots=True)
class Site:
    """Where things are."""

    config: ClusterConfig
    namespaces: NamespaceRegistry
    informers: InformerSet
    kubelet: KubeletComponent
    spawner: Spawner

    def node_names(self) -> list[str]:
        return [node.name for node in self.config.nodes]

    def netns_at(self, where: Where) -> Netns:
        """Raises NetsimError if there is no such place, or the pod has no network (yet)."""
        if where.kind == "pod":
            found = self.kubelet.netns_of(where.namespace, where.name)
            if found is None:
                if self.informers.of(POD).get(where.namespace, where.name) is None:
                    raise not_found("pods", "", where.name)
                raise NetsimError(
                    "the pod has no network namespace: it is not running",
                    where=str(where),
                    hint=f"netsim describe pod {where.name} -n {where.namespace}",
                )
            return found
        if where.kind == "node" and where.name not in self.node_names():
            names = ", ".join(self.node_names())
            raise NetsimError(f'there is no node "{where.name}"', hint=f"nodes: {names}")
        if where.kind == "host" and where.name != EXTERNAL:
            raise NetsimError(f'there is no host "{where.name}"', hint=f"host/{EXTERNAL} is always there")
        return self.namespaces.need(where.netns)
