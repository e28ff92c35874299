"""The node network, kept in line with the Node objects: the component that joins a node's pods to all others."""

import asyncio
from collections.abc import Callable, Mapping

from netsim.client.controller import Controller
from netsim.client.informer import Informer
from netsim.cluster.namespaces import NamespaceRegistry
from netsim.cluster.network import NodeNet, plan_nodes, plan_peers, plan_pod_bridge
from netsim.kernel.netns import Netns
from netsim.model.config import ClusterConfig
from netsim.model.objects import Object, name_of, node_cidrs
from netsim.ruleset.netplan import Operation

_ALL = "nodes"  # the queue's only key: nodes that join together are planned together, N-1 routes at a time


class NodeNetwork(Controller):
    """Makes a node's namespace when asked, and its pod network when the Node object has its pod CIDR."""

    def __init__(
        self,
        nodes: Informer,
        config: ClusterConfig,
        namespaces: NamespaceRegistry,
        ready: Callable[[str], None],
    ) -> None:
        super().__init__("node-network", [nodes])
        self._config = config
        self._namespaces = namespaces
        self._ready = ready
        self._made: dict[str, tuple[str, ...]] = {}  # node name to fabric addresses
        self._joined: dict[str, NodeNet] = {}
        self._waiting: dict[str, NodeNet] = {}
        nodes.add_handler(self._node_changed)

    async def make_nodes(self, addresses: Mapping[str, tuple[str, ...]]) -> dict[str, Netns]:
        """The namespaces of new nodes by name, on the fabric with these addresses. Raises KernelError."""
        made = await asyncio.to_thread(self._make_nodes, addresses)
        self._made |= addresses
        return made

    def _make_nodes(self, addresses: Mapping[str, tuple[str, ...]]) -> dict[str, Netns]:
        made = {}
        for name in addresses:
            made[name] = Netns.create(name, ipv6=6 in self._config.families)
            self._namespaces.publish(name, made[name])
        self._namespaces.apply(plan_nodes(self._config, [NodeNet(name, own) for name, own in addresses.items()]))
        return made

    def _node_changed(self, _old: Object | None, new: Object | None) -> None:
        if new is None:
            return
        name, pod_cidrs = name_of(new), node_cidrs(new)
        if pod_cidrs and name in self._made and name not in self._joined:
            self._waiting[name] = NodeNet(name, self._made[name], pod_cidrs)
            self.queue.add(_ALL)

    async def reconcile(self, key: str) -> None:
        """Join the nodes that have got their pod CIDR: bridges, and routes both ways between them and the rest."""
        new = list(self._waiting.values())
        present = list(self._joined.values())
        plan: list[Operation] = []
        for node in new:
            plan += plan_pod_bridge(self._config, node)
            plan += plan_peers(self._config, node, [*present, *(other for other in new if other is not node)])
        for node in present:
            plan += plan_peers(self._config, node, new)
        await asyncio.to_thread(self._namespaces.apply, tuple(plan))
        for node in new:
            self._joined[node.name] = node
            del self._waiting[node.name]
            self._ready(node.name)
