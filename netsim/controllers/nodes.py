"""Nodes: a pod CIDR for each. Addresses are the kubelet's to report.

Source: kubernetes ``pkg/controller/nodeipam/ipam/range_allocator.go``.
"""

from netsim.client.api import Api
from netsim.client.controller import Controller, enqueue_key
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.model.cidrs import CidrAllocator, CidrsExhausted
from netsim.model.clock import Clock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError, NetsimError
from netsim.model.kinds import NODE
from netsim.model.objects import Key, Object, is_deleting, name_of, node_cidrs


class NodeController(Controller):
    """Gives every node a part of the pod network, and takes it back when the node is deleted."""

    def __init__(
        self,
        api: Api,
        informers: InformerSet,
        config: ClusterConfig,
        events: EventRecorder,
        clock: Clock,
    ) -> None:
        self._api = api
        self._events = events
        self._nodes = informers.of(NODE)
        super().__init__("node-ipam-controller", [self._nodes], clock=clock)
        self._allocators = [  # one for each family
            CidrAllocator(network, mask) for network, mask in zip(config.pod_cidrs, config.pod_cidr_masks, strict=True)
        ]
        self._held: dict[str, list[str]] = {}  # node -> its CIDRs
        self._waiting: set[str] = set()  # nodes for which there was none
        self._nodes.add_handler(self._occupy)
        self._nodes.add_handler(enqueue_key(self.queue))

    def _occupy(self, old: Object | None, new: Object | None) -> None:
        """What nodes hold already is taken before anything is given out: run starts after the first list."""
        node = new if new is not None else old
        if node is None:
            return
        name = name_of(node)
        if new is None:
            self._waiting.discard(name)
            self._release(name)
            return
        for cidr in node_cidrs(new):
            if cidr not in self._held.setdefault(name, []):
                self._take(new, cidr)

    def _take(self, node: Object, cidr: str) -> None:
        try:
            self._allocator(cidr).occupy(cidr)
        except (NetsimError, ValueError) as error:
            self._events.event(node, "Warning", "CIDRAssignmentFailed", str(error))
        else:
            self._held[name_of(node)].append(cidr)

    def _allocator(self, cidr: str) -> CidrAllocator:
        """The one of the CIDR's family. Raises NetsimError when the cluster has not that family."""
        family = 6 if ":" in cidr else 4
        for allocator in self._allocators:
            if allocator.network.version == family:
                return allocator
        raise NetsimError(f"CIDR {cidr} is IPv{family}, which this cluster has not")

    def _release(self, name: str) -> None:
        for cidr in self._held.pop(name, ()):
            self._allocator(cidr).release(cidr)
        for waiting in self._waiting:
            self.queue.add(("", waiting))

    async def reconcile(self, key: Key) -> None:
        node = self._nodes.get(*key)
        if node is None or is_deleting(node) or node_cidrs(node):
            return
        name = name_of(node)
        cidrs = self._held.get(name) or self._allocate(node)
        if not cidrs:
            return  # until a node goes
        try:
            await self._api.patch(NODE, name, {"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
        except ApiError as error:
            if error.code != 404:
                self._events.event(node, "Warning", "CIDRAssignmentFailed", error.message)
                raise
            self._release(name)

    def _allocate(self, node: Object) -> list[str]:
        """A CIDR of each family for the node, remembered until the cache shows it; none when they ran out."""
        name = name_of(node)
        cidrs: list[str] = []
        try:
            for allocator in self._allocators:
                cidrs.append(str(allocator.allocate()))
        except CidrsExhausted as error:
            for allocator, cidr in zip(self._allocators, cidrs, strict=False):
                allocator.release(cidr)
            self._waiting.add(name)
            text = f"Node {name} status is now: CIDRNotAvailable: {error.message} {error.where}; {error.hint}"
            self._events.event(node, "Warning", "CIDRNotAvailable", text)
            return []
        self._waiting.discard(name)
        self._held[name] = cidrs
        return cidrs
