"""The proxies of all nodes of a cluster, from one service map, as one component of the control plane."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.clock import Clock, SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.errors import KernelError, NetsimError
from netsim.model.kinds import ENDPOINT_SLICE, NODE, SERVICE
from netsim.model.objects import Object
from proxy.collector import collector_paused
from proxy.config import FamilyView, NodeView, ProxyConfig, check_proxy_config, expand_node_ports, make_proxy_config
from proxy.dialect import Dialect, Target
from proxy.health.ledger import Ledger
from proxy.health.node import NodeHealth
from proxy.health.proxyhealth import is_eligible
from proxy.health.servicehealth import Check
from proxy.kernelsettings import ensure_settings, forget_settings
from proxy.metrics import Now, ProxyMetrics
from proxy.modes import MODES
from proxy.nodesync import FlowCleaner, NodeSync
from proxy.servicemap import Change, ServiceKey, ServiceMap, ServicePortName, Snapshot

log = logging.getLogger(__name__)

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
        """``make_hands``: what acts on a node in place of the kernel; then nothing is served either."""
        self._asked = config
        self._config = self._make_config()
        self._clock = clock or SystemClock()
        self._spawner = spawner
        self._events = EventRecorder(api, "kube-proxy", clock=self._clock) if api is not None else None
        self._serves = make_hands is None
        self._make_hands = make_hands or self._make_kernel_hands
        self._services = informers.of(SERVICE)
        self._slices = informers.of(ENDPOINT_SLICE)
        self._nodes = informers.of(NODE)
        self._dialect: Dialect = MODES[self._config.mode].make_dialect()
        self._maps = {family: ServiceMap(family) for family in self._config.families}
        self._ledger = Ledger(self._maps, self._clock.wall_s())
        self._service_cidrs: tuple[str, ...] | None = None  # None: as the options say
        self._proxies: dict[str, NodeProxy] = {}
        self._health: dict[str, NodeHealth] = {}
        self._syncs: dict[int, dict[str, NodeSync]] = {family: {} for family in self._config.families}
        # Those of the mode that is to be, while a switch is under way.
        self._incoming: dict[int, dict[str, NodeSync]] = {family: {} for family in self._config.families}
        self._next: tuple[ProxyConfig, Dialect] | None = None
        self._switching = asyncio.Lock()
        self._gate = asyncio.Semaphore(MAX_CONCURRENT_SYNCS)
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[NodeSync, asyncio.Task[None]] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._signalled = False
        self._services.add_handler(self._service_changed)
        self._slices.add_handler(self._slice_changed)
        self._nodes.add_handler(self._node_changed)
        for node in nodes:
            self.add_node(node)

    # --- nodes ---

    def add_node(self, node: NodeProxy) -> None:
        """Write rules on this node from now on. Raises KeyError when there is one of that name."""
        if node.name in self._proxies:
            raise KeyError(node.name)
        self._proxies[node.name] = node
        metrics = ProxyMetrics(self._config.mode, self._config.families, lambda: self._look(node.name))
        health = NodeHealth(node.name, node.netns, self._config, self._clock, self, metrics)
        health.health.node_eligible = is_eligible(self._nodes.get(None, node.name))
        self._health[node.name] = health
        self._add_syncs(node, self._config, self._dialect, self._syncs)
        if self._next is not None:
            self._add_syncs(node, *self._next, self._incoming)
        if self._group is not None and self._serves:
            self._serving[node.name] = self._group.create_task(health.run(), name=f"health of {node.name}")

    def set_addresses(self, name: str, addresses: tuple[str, ...]) -> None:
        """The node has other addresses than before; its rules are written anew. Raises KeyError without such a node."""
        self._proxies[name] = replace(self._proxies[name], addresses=addresses)
        self._wake_if_behind(name)

    def set_service_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """The service network is another than the options say; rules are written anew."""
        self._service_cidrs = cidrs
        for name in self._proxies:
            self._wake_if_behind(name)

    def _add_syncs(
        self, node: NodeProxy, config: ProxyConfig, dialect: Dialect, to: dict[int, dict[str, NodeSync]]
    ) -> None:
        target, cleaner = self._make_hands(node, config)
        for family, syncs in to.items():
            view = self._viewer(node, family, config)
            observer = self._health[node.name].observer(family)
            sync = NodeSync(self, dialect, target, cleaner, view, self._clock, self._gate, observer)
            syncs[node.name] = sync
            if self._group is not None:
                self._start(sync)

    def remove_node(self, name: str) -> None:
        """Leave this node alone from now on; its rules stay."""
        for registry in (self._syncs, self._incoming):
            for syncs in registry.values():
                sync = syncs.pop(name, None)
                if sync is not None:
                    sync.stop()
                    task = self._running.pop(sync, None)
                    if task is not None:
                        task.cancel()
        self._proxies.pop(name, None)
        self._health.pop(name, None)
        serving = self._serving.pop(name, None)
        if serving is not None:
            serving.cancel()

    async def node_ready(self, name: str) -> None:
        """Return when the node has had its first full sync. Raises the NetsimError that keeps it from that."""
        for syncs in self._syncs.values():
            await syncs[name].reach(0)

    def _start(self, sync: NodeSync) -> None:
        if self._group is not None:
            task = self._group.create_task(sync.run(), name=f"proxy {sync.view.node.name} IPv{sync.view.family}")
            self._running[sync] = task

    def _all_syncs(self, family: int) -> Iterator[NodeSync]:
        yield from self._syncs[family].values()
        yield from self._incoming[family].values()

    def _make_config(self, mode: str | None = None) -> ProxyConfig:
        """The options, in the mode asked for or in another. Raises InputError."""
        asked = self._asked
        if isinstance(asked, ClusterConfig):
            return check_proxy_config(make_proxy_config(replace(asked, proxy_mode=mode or asked.proxy_mode)))
        return check_proxy_config(replace(asked, mode=mode or asked.mode))

    def _make_kernel_hands(self, node: NodeProxy, config: ProxyConfig) -> tuple[Target, FlowCleaner]:
        from proxy.kernelflows import KernelFlows

        ensure_settings(node.netns, config)
        target = MODES[config.mode].make_target(node.netns, self._spawner, config)
        return target, KernelFlows(node.netns)

    def _viewer(self, node: NodeProxy, family: int, config: ProxyConfig) -> Callable[[], FamilyView]:
        """What the node looks like now, as its object has it; the same object as long as it looks the same."""
        known: FamilyView | None = None

        def view() -> FamilyView:
            nonlocal known
            now = self._read_node(self._proxies.get(node.name, node), config)
            cidrs = config.service_cidrs if self._service_cidrs is None else self._service_cidrs
            if known is None or known.node != now or known.config.service_cidrs != cidrs:
                known = FamilyView(replace(expand_node_ports(config, now.ips), service_cidrs=cidrs), now, family)
            return known

        return view

    def _read_node(self, node: NodeProxy, config: ProxyConfig) -> NodeView:
        obj: Object = self._nodes.get(None, node.name) or {}
        zone = ((obj.get("metadata") or {}).get("labels") or {}).get(LABEL_ZONE, "")
        cidrs: tuple[str, ...] = ()
        if config.detect_local_mode == "NodeCIDR":  # else it decides nothing, and its coming must not matter
            spec = obj.get("spec") or {}
            cidrs = tuple(spec.get("podCIDRs") or filter(None, (spec.get("podCIDR"),)))
        return NodeView(node.name, node.addresses, cidrs, zone)

    # --- the map ---

    def refresh(self, family: int) -> Snapshot:
        """Work in what changed and tell the nodes; see `proxy.nodesync.Feed`."""
        self._signalled = False
        service_map = self._maps[family]
        if service_map.dirty:
            with collector_paused():
                changes: Mapping[ServicePortName, Change] = service_map.take()
            triggers_s = self._ledger.take(family, changes)
            if changes:
                for sync in self._all_syncs(family):
                    sync.note(changes, triggers_s)
        return service_map.snapshot()

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        self._ledger.service_changed()
        for service_map in self._maps.values():
            service_map.update_service(old, new)
        self._signal()

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        self._ledger.slice_changed(old, new)
        for service_map in self._maps.values():
            service_map.update_slice(old, new)
        self._signal()

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        if name in self._health:
            self._health[name].health.node_eligible = new is not None and is_eligible(new)
        self._wake_if_behind(name)

    def _wake_if_behind(self, name: str) -> None:
        for syncs in (*self._syncs.values(), *self._incoming.values()):
            sync = syncs.get(name)
            if sync is not None and sync.generation >= 0 and not sync.is_current(sync.generation):
                sync.wake()

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            for family in self._maps:
                for sync in self._all_syncs(family):
                    sync.wake()

    # --- Component ---

    async def run(self) -> None:
        """Write rules until cancelled; nothing before Services and EndpointSlices are known: a part would mislead."""
        for informer in (self._services, self._slices, self._nodes):
            await informer.synced()
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                if self._events is not None:
                    group.create_task(self._events.run(), name=self._events.name)
                for family in self._maps:
                    for sync in self._all_syncs(family):
                        self._start(sync)
                for name, health in self._health.items() if self._serves else ():
                    self._serving[name] = group.create_task(health.run(), name=f"health of {name}")
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

    # --- another mode ---

    @property
    def mode(self) -> str:
        """The mode whose rules serve."""
        return self._dialect.name

    async def switch_mode(self, mode: str) -> None:
        """Serve in another mode, on all nodes.

        The new mode's rules are written beside the old ones, both are kept up to date until every node has the new, and
        then the old are removed: at no moment has a new connection no rules, and established ones go on, because the
        connection tracker keeps their translation. Raises InputError for a mode there is not, and the NetsimError of a
        node that can't have it; then the old mode goes on serving and what the new one wrote is removed.
        """
        async with self._switching:
            if mode == self.mode:
                return
            if self._group is None:
                raise NetsimError("the proxy does not run")
            config = self._make_config(mode)
            self._next = (config, MODES[mode].make_dialect())
            try:
                for node in self._proxies.values():
                    self._add_syncs(node, *self._next, self._incoming)
                while waiting := self._behind():
                    await _gather(waiting)
            except BaseException:
                self._next = None
                await self._retire(self._incoming, quiet=True)
                self._forget(mode)
                raise
            before, old, self._syncs = self.mode, self._syncs, self._incoming
            self._incoming = {family: {} for family in self._maps}
            (self._config, self._dialect), self._next = self._next, None
            for health in self._health.values():
                health.switch(config)
            try:
                await self._retire(old)
            finally:
                self._forget(before)

    def _forget(self, mode: str) -> None:
        """What a mode wants of the kernel, and no other, is not wanted any more."""
        if self._serves and mode == "iptables":
            for node in self._proxies.values():
                forget_settings(node.netns)

    def _behind(self) -> list[Any]:
        """What to wait for until the mode to be is where the map is, on every node."""
        waiting = []
        for family, syncs in self._incoming.items():
            generation = self.refresh(family).generation
            waiting += [sync.reach(generation) for sync in syncs.values() if not sync.is_current(generation)]
        return waiting

    async def _retire(self, registry: dict[int, dict[str, NodeSync]], *, quiet: bool = False) -> None:
        """End these and remove what they wrote. Raises the first NetsimError unless ``quiet``."""
        retired = [sync for syncs in registry.values() for sync in syncs.values()]
        for syncs in registry.values():
            syncs.clear()
        for sync in retired:
            sync.stop()
        await asyncio.gather(*(self._running.pop(sync) for sync in retired if sync in self._running))
        errors = await asyncio.gather(*(sync.remove_rules() for sync in retired), return_exceptions=True)
        for sync, error in zip(retired, errors, strict=True):
            if error is not None:
                log.error("%s: removing the rules of another mode failed: %s", sync.view.node.name, error)
            sync.close()
        failed = [error for error in errors if error is not None]
        if failed and not quiet:
            raise failed[0]

    # --- health and metrics ---

    def checks(self, family: int, node: str) -> Mapping[ServiceKey, Check]:
        """See `proxy.health.node.Surroundings`."""
        return self._ledger.checks(family, node)

    def health_check_failed(self, node: str, service: ServiceKey, port: int, error: KernelError) -> None:
        """See `proxy.health.node.Surroundings`."""
        obj = self._services.get(*service)
        if self._events is not None and obj is not None:
            name = "/".join(service)
            message = f'node {node} failed to start healthcheck "{name}" on port {port}: {error.message}'
            self._events.event(obj, "Warning", "FailedToStartServiceHealthcheck", message)

    def _look(self, node: str) -> Now:
        return self._ledger.look(node, {f: syncs[node] for f, syncs in self._syncs.items() if node in syncs})

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


async def _gather(waiting: list[Any]) -> None:
    """All of them to their end, then the first error: nothing is left running behind."""
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
