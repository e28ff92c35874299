"""The proxies of all nodes of a cluster, from one service map, as one component of the control plane."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netsim.client.informerset import InformerSet
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.clock import Clock, SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.errors import NetsimError
from netsim.model.kinds import ENDPOINT_SLICE, NODE, SERVICE
from netsim.model.objects import Object
from proxy.config import FamilyView, NodeView, ProxyConfig, check_proxy_config, make_proxy_config
from proxy.dialect import Dialect, Target
from proxy.modes import MODES
from proxy.nodesync import FlowCleaner, NodeSync
from proxy.servicemap import Change, ServiceMap, ServicePortName, Snapshot

LABEL_ZONE = "topology.kubernetes.io/zone"
# A sync mostly waits for the kernel (the commit of a netfilter transaction waits about 10 ms for an RCU grace period),
# so more of them than processors may run at once.
MAX_CONCURRENT_SYNCS = 16


@dataclass(frozen=True, slots=True)
class NodeProxy:
    """A node to write rules for. ``addresses``: the node's own, of any family."""

    name: str
    netns: Netns
    addresses: tuple[str, ...] = ()


class ProxyComponent:
    """A Component. Nodes may be added before and while ``run`` runs."""

    name = "kube-proxy"

    def __init__(
        self,
        *,
        informers: InformerSet,
        spawner: Spawner,
        config: ClusterConfig | ProxyConfig,
        clock: Clock | None = None,
        api: Any = None,
        nodes: Iterable[NodeProxy] = (),
        make_hands: "Callable[[NodeProxy, ProxyConfig], tuple[Target, FlowCleaner]] | None" = None,
    ) -> None:
        self._config = check_proxy_config(make_proxy_config(config) if isinstance(config, ClusterConfig) else config)
        self._clock = clock or SystemClock()
        self._spawner = spawner
        self._api = api  # for events, which health checks will need
        self._make_hands = make_hands or self._make_kernel_hands
        self._services = informers.of(SERVICE)
        self._slices = informers.of(ENDPOINT_SLICE)
        self._nodes = informers.of(NODE)
        self._dialect: Dialect = MODES[self._config.mode].make_dialect()
        self._maps = {family: ServiceMap(family) for family in self._config.families}
        self._syncs: dict[int, dict[str, NodeSync]] = {family: {} for family in self._config.families}
        self._gate = asyncio.Semaphore(MAX_CONCURRENT_SYNCS)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._signalled = False
        self._services.add_handler(self._service_changed)
        self._slices.add_handler(self._slice_changed)
        self._nodes.add_handler(self._node_changed)
        for node in nodes:
            self.add_node(node)

    # --- nodes ---

    def add_node(self, node: NodeProxy) -> None:
        """Write rules on this node from now on. Raises KeyError when there is one of that name."""
        if any(node.name in syncs for syncs in self._syncs.values()):
            raise KeyError(node.name)
        target, cleaner = self._make_hands(node, self._config)
        for family, syncs in self._syncs.items():
            view = self._viewer(node, family)
            syncs[node.name] = NodeSync(self, self._dialect, target, cleaner, view, self._clock, self._gate)
        if self._group is not None:
            self._start(node.name)

    def remove_node(self, name: str) -> None:
        """Leave this node alone from now on; its rules stay."""
        for task in self._tasks.pop(name, ()):
            task.cancel()
        for syncs in self._syncs.values():
            sync = syncs.pop(name, None)
            if sync is not None:
                sync.stop()

    async def node_ready(self, name: str) -> None:
        """Return when the node has had its first full sync. Raises the NetsimError that keeps it from that."""
        for syncs in self._syncs.values():
            await syncs[name].reach(0)

    def _start(self, name: str) -> None:
        if self._group is not None:
            for family, syncs in self._syncs.items():
                task = self._group.create_task(syncs[name].run(), name=f"proxy {name} IPv{family}")
                self._tasks.setdefault(name, []).append(task)

    def _make_kernel_hands(self, node: NodeProxy, config: ProxyConfig) -> tuple[Target, FlowCleaner]:
        from proxy.kernelflows import KernelFlows

        target = MODES[config.mode].make_target(node.netns, self._spawner, config)
        return target, KernelFlows(node.netns)

    def _viewer(self, node: NodeProxy, family: int) -> Callable[[], FamilyView]:
        """What the node looks like now, as its object has it; the same object as long as it looks the same."""
        known: FamilyView | None = None

        def view() -> FamilyView:
            nonlocal known
            now = self._read_node(node)
            if known is None or known.node != now:
                known = FamilyView(self._config, now, family)
            return known

        return view

    def _read_node(self, node: NodeProxy) -> NodeView:
        obj: Object = self._nodes.get(None, node.name) or {}
        zone = ((obj.get("metadata") or {}).get("labels") or {}).get(LABEL_ZONE, "")
        cidrs: tuple[str, ...] = ()
        if self._config.detect_local_mode == "NodeCIDR":  # else it decides nothing, and its coming must not matter
            spec = obj.get("spec") or {}
            cidrs = tuple(spec.get("podCIDRs") or filter(None, (spec.get("podCIDR"),)))
        return NodeView(node.name, node.addresses, cidrs, zone)

    # --- the map ---

    def refresh(self, family: int) -> Snapshot:
        """Work in what changed and tell the nodes; see `proxy.nodesync.Feed`."""
        self._signalled = False
        service_map = self._maps[family]
        if service_map.dirty:
            changes: Mapping[ServicePortName, Change] = service_map.take()
            if changes:
                for sync in self._syncs[family].values():
                    sync.note(changes)
        return service_map.snapshot()

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        for service_map in self._maps.values():
            service_map.update_service(old, new)
        self._signal()

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        for service_map in self._maps.values():
            service_map.update_slice(old, new)
        self._signal()

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        for syncs in self._syncs.values():
            sync = syncs.get(name)
            if sync is not None and sync.generation >= 0 and not sync.is_current(sync.generation):
                sync.wake()

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            for syncs in self._syncs.values():
                for sync in syncs.values():
                    sync.wake()

    # --- Component ---

    async def run(self) -> None:
        """Write rules until cancelled; nothing before Services and EndpointSlices are known: a part would mislead."""
        for informer in (self._services, self._slices, self._nodes):
            await informer.synced()
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for name in {name for syncs in self._syncs.values() for name in syncs}:
                    self._start(name)
                await asyncio.Event().wait()  # for ever; the group's tasks do the work
            finally:
                self._group = None

    async def settle(self, revision: int) -> None:
        """Return when everything the API held at ``revision`` is in every node's kernel.

        Raises the KernelError of a node whose rules cannot be written.
        """
        for informer in (self._services, self._slices, self._nodes):
            await informer.reached(revision)
        for family, syncs in self._syncs.items():
            generation = self.refresh(family).generation
            waiting = [sync.reach(generation) for sync in syncs.values() if not sync.is_current(generation)]
            if waiting:
                await asyncio.gather(*waiting)

    def summary(self) -> dict[str, Any]:
        """For status: the mode, the size of the map, and how each node is doing."""
        errors = {
            name: str(sync.error)
            for syncs in self._syncs.values()
            for name, sync in syncs.items()
            if isinstance(sync.error, NetsimError)
        }
        snapshots = [service_map.snapshot() for service_map in self._maps.values()]
        syncs = [sync for by_name in self._syncs.values() for sync in by_name.values()]
        return {
            "mode": self._dialect.name,
            "servicePorts": sum(len(snapshot.entries) for snapshot in snapshots),
            "endpoints": sum(snapshot.total_endpoints for snapshot in snapshots),
            "nodes": len({name for by_name in self._syncs.values() for name in by_name}),
            "synced": sum(sync.state is not None for sync in syncs),
            "syncs": sum(sync.syncs for sync in syncs),
            "fullSyncs": sum(sync.full_syncs for sync in syncs),
            "failures": sum(sync.failures for sync in syncs),
            "errors": errors,
        }
