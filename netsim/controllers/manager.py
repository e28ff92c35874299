"""All control loops of a cluster, in the order in which data flows through them."""

from collections.abc import Callable

from netsim.client.api import Api
from netsim.client.controller import Component
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.controllers.deployments import DeploymentController
from netsim.controllers.endpointslices import EndpointSliceController
from netsim.controllers.garbage import GarbageCollector
from netsim.controllers.namespaces import NamespaceController
from netsim.controllers.nodelifecycle import NodeLifecycleController
from netsim.controllers.nodes import NodeController
from netsim.controllers.podgc import PodGarbageCollector
from netsim.controllers.replicasets import ReplicaSetController
from netsim.model.clock import Clock
from netsim.model.config import ClusterConfig


def make_controllers(
    api: Api,
    informers: InformerSet,
    config: ClusterConfig,
    clock: Clock,
    silent_since_s: Callable[[str], float | None] = lambda _node: None,
) -> list[Component]:
    """The controllers and the recorders of their events, ready to run. ``informers`` must be run beside them.

    silent_since_s: when a node's kubelet was last heard of (`NodeLifecycleController`); without it none is ever silent.
    """

    def recorder(component: str) -> EventRecorder:
        made = EventRecorder(api, component, clock=clock)
        recorders.append(made)
        return made

    recorders: list[EventRecorder] = []
    controllers: list[Component] = [
        NodeController(api, informers, config, recorder("cidrAllocator"), clock),
        NodeLifecycleController(
            api,
            informers,
            recorder("node-controller"),
            clock,
            silent_since_s=silent_since_s,
            grace_s=config.node_monitor_grace_s,
        ),
        NamespaceController(api, informers, clock),
        GarbageCollector(api, informers, clock),
        PodGarbageCollector(api, informers, clock),
        DeploymentController(api, informers, recorder("deployment-controller"), clock),
        ReplicaSetController(api, informers, recorder("replicaset-controller"), clock),
        EndpointSliceController(api, informers, recorder("endpoint-slice-controller"), clock),
    ]
    return [*controllers, *recorders]
