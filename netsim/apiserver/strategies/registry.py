"""Which Strategy serves which kind."""

from netsim.apiserver.strategies.base import Strategy
from netsim.apiserver.strategies.config_maps import ConfigMapStrategy
from netsim.apiserver.strategies.endpoint_slices import EndpointSliceStrategy
from netsim.apiserver.strategies.events import EventStrategy
from netsim.apiserver.strategies.namespaces import NamespaceStrategy
from netsim.apiserver.strategies.nodes import NodeStrategy
from netsim.apiserver.strategies.pods import PodStrategy
from netsim.apiserver.strategies.service_cidrs import ServiceCIDRStrategy
from netsim.apiserver.strategies.services import ServiceStrategy
from netsim.apiserver.strategies.workloads import DeploymentStrategy, ReplicaSetStrategy
from netsim.model.config import ClusterConfig
from netsim.model.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    EVENT,
    KINDS,
    NAMESPACE,
    NODE,
    POD,
    REPLICA_SET,
    SERVICE,
    SERVICE_CIDR,
    Kind,
)

_STRATEGIES: dict[Kind, type[Strategy]] = {
    NAMESPACE: NamespaceStrategy,
    NODE: NodeStrategy,
    POD: PodStrategy,
    CONFIG_MAP: ConfigMapStrategy,
    EVENT: EventStrategy,
    ENDPOINT_SLICE: EndpointSliceStrategy,
    SERVICE_CIDR: ServiceCIDRStrategy,
    REPLICA_SET: ReplicaSetStrategy,
    DEPLOYMENT: DeploymentStrategy,
}


def make_strategies(config: ClusterConfig) -> dict[Kind, Strategy]:
    """One Strategy for each known kind; a kind without rules of its own gets the base."""
    found = {kind: _STRATEGIES.get(kind, Strategy)(kind) for kind in KINDS}
    found[SERVICE] = ServiceStrategy(SERVICE, config)
    return found
