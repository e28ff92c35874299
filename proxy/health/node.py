"""One node's proxy, as health checkers and Prometheus see it: gathers what its syncs report, and serves it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from netsim.model.clock import Clock
from netsim.model.errors import FeatureMissing, KernelError
from proxy.config import FamilyView, ProxyConfig, split_address
from proxy.health.proxyhealth import Answer, Moment, ProxyHealth
from proxy.health.servers import HttpServer, open_listener
from proxy.health.servicehealth import Check, answer_check
from proxy.metrics import ProxyMetrics
from proxy.servicemap import ServiceKey

if TYPE_CHECKING:
    from aiohttp import web

    from netsim.kernel.netns import Netns
    from proxy.nodesync import SyncReport

log = logging.getLogger(__name__)

RETRY_S = 5.0  # upstream tries a taken port again after that
_TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
_NOT_FOUND = Answer(404, b"404 page not found\n", _TEXT)
_Place = tuple[int, tuple[str, ...]]  # a port, and the addresses that it is open on
_Opened = dict[ServiceKey, tuple[_Place, list[HttpServer]]]


class Surroundings(Protocol):
    """What the component knows and a node's health needs."""

    def checks(self, family: int, node: str) -> Mapping[ServiceKey, Check]:
        """The health checks the node must answer now."""
        ...

    def health_check_failed(self, node: str, service: ServiceKey, port: int, error: KernelError) -> None:
        """A health-check port could not be opened."""
        ...


class NodeHealth:
    """Health and metrics of one node. ``run`` opens the servers; without it nothing is served, only kept."""

    def __init__(
        self, name: str, netns: Netns, config: ProxyConfig, clock: Clock, around: Surroundings, metrics: ProxyMetrics
    ) -> None:
        self.name = name
        self.metrics = metrics
        self.health = ProxyHealth(config.families, 2 * config.sync_period_s)
        self._netns = netns
        self._config = config
        self._clock = clock
        self._around = around
        self._first = asyncio.Event()  # a sync was tried: servers may take their share of the processor
        self._changed = asyncio.Event()
        self._views: dict[int, FamilyView] = {}
        self._checks: dict[int, Mapping[ServiceKey, Check]] = {family: {} for family in config.families}
        self._open: dict[int, _Opened] = {family: {} for family in config.families}
        self._failed: set[tuple[int, ServiceKey, int]] = set()
        self._servers: list[HttpServer] = []

    def switch(self, config: ProxyConfig) -> None:
        """Another mode from now on."""
        self._config = config
        self.metrics.mode = config.mode
        for kept in self.metrics.families.values():
            kept.last_rules = {}

    def observer(self, family: int) -> FamilyObserver:
        """What the node's sync of a family reports to."""
        return FamilyObserver(self, family)

    # --- what the syncs report ---

    def queued(self, family: int) -> None:
        now = self._now()
        self.metrics.families[family].last_queued_wall_s = now.wall_s
        self.health.queued(family, now)

    def synced(self, family: int, report: SyncReport) -> None:
        now = self._now()
        kept = self.metrics.families[family]
        kept.observe_sync(report.full, report.took_s)
        kept.last_sync_wall_s = now.wall_s
        if report.rules is not None:
            kept.last_rules = report.rules
        for trigger_s in report.triggers_s:
            kept.programming.observe(max(0.0, now.wall_s - trigger_s))
        self.health.updated(family, now)
        self._views[family] = report.view
        checks = self._around.checks(family, self.name)
        if checks or self._checks[family]:
            self._checks[family] = checks
            self._changed.set()
        self._first.set()

    def failed(self, family: int, full: bool, took_s: float) -> None:
        kept = self.metrics.families[family]
        kept.observe_sync(full, took_s)
        kept.sync_failures += 1
        kept.partial_failures += not full
        self._first.set()

    # --- serving ---

    async def run(self) -> None:
        """Serve until cancelled. Raises KernelError only when bindAddressHardFail says so."""
        await self._first.wait()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve("healthz", self._config.healthz_bind_address, self._answer_health))
                group.create_task(self._serve("metrics", self._config.metrics_bind_address, self._answer_metrics))
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    for family in self._checks:
                        await self._serve_checks(family)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every socket; may be repeated."""
        servers = [*self._servers]
        for opened in self._open.values():
            servers += [server for _, some in opened.values() for server in some]
            opened.clear()
        self._servers.clear()
        await asyncio.gather(*(server.close() for server in servers))

    async def _serve(self, what: str, bind: str, handler: Callable[[web.BaseRequest], Any]) -> None:
        """Open one server, trying until it works."""
        if not bind:
            return
        address, port = split_address(bind)
        if address == "0.0.0.0" and 6 in self._config.families:
            address = "::"  # to Go's net.Listen, upstream's, either means both families
        said = ""
        while True:
            try:
                return await self._open_server(address, port, handler)
            except KernelError as error:
                if self._config.bind_address_hard_fail:
                    raise
                if str(error) != said:
                    log.error("%s: the %s server: %s", self.name, what, error)
                    said = str(error)
            await self._clock.sleep(RETRY_S)

    async def _open_server(self, address: str, port: int, handler: Callable[[web.BaseRequest], Any]) -> None:
        server = HttpServer(open_listener(self._netns, address, port, dual=address == "::"), handler)
        self._servers.append(server)
        try:
            await server.start()
        except KernelError:
            self._servers.remove(server)
            await server.close()
            raise

    async def _serve_checks(self, family: int) -> None:
        """Open and close health-check node ports, so that they are what the last sync wanted."""
        wanted, opened = self._checks[family], self._open[family]
        addresses = self._choose_addresses(family) if wanted else ()
        for key, (place, servers) in list(opened.items()):
            if key not in wanted or place != (wanted[key].port, addresses):
                del opened[key]
                await asyncio.gather(*(server.close() for server in servers))
        self._failed = {f for f in self._failed if f[0] != family or f[1] in wanted}
        for key, check in wanted.items():
            if key not in opened:
                await self._open_check(family, key, (check.port, addresses))

    def _choose_addresses(self, family: int) -> tuple[str, ...]:
        """Where health-check node ports are open: where NodePorts answer."""
        view = self._views[family]
        addresses = view.node_port_ips()
        if addresses is None and view.config.mode == "nftables" and not view.config.node_port_addresses:
            addresses = tuple(filter(None, (view.node.ip(family),)))  # that mode's default is `primary`
        return ("0.0.0.0" if family == 4 else "::",) if addresses is None else addresses

    async def _open_check(self, family: int, key: ServiceKey, place: _Place) -> None:
        port, addresses = place
        servers: list[HttpServer] = []
        try:
            for address in addresses:
                listener = open_listener(self._netns, address, port)
                servers.append(HttpServer(listener, partial(self._answer_check, family, key)))
            self._open[family][key] = (place, servers)
            for server in servers:
                await server.start()
        except KernelError as error:
            self._open[family].pop(key, None)
            for server in servers:
                await server.close()
            if (family, key, port) not in self._failed:  # tried again after each sync, told once
                self._failed.add((family, key, port))
                log.error("%s: the health check of %s/%s: %s", self.name, *key, error)
                self._around.health_check_failed(self.name, key, port, error)

    # --- answers ---

    def _now(self) -> Moment:
        return Moment(self._clock.wall_s(), self._clock.monotonic_s())

    async def _answer_health(self, request: web.BaseRequest) -> Answer:
        now = self._now()
        if request.path == "/healthz":
            answer, counts = self.health.healthz(now), self.metrics.healthz
        elif request.path == "/livez":
            answer, counts = self.health.livez(now), self.metrics.livez
        else:
            return _NOT_FOUND
        counts[answer.status] += 1
        return answer

    async def _answer_metrics(self, request: web.BaseRequest) -> Answer:
        if request.path == "/metrics":
            self._read_counters()
            body, content_type = self.metrics.render(request.headers.get("Accept", ""))
            return Answer(200, body, {"Content-Type": content_type})
        if request.path == "/metrics/slis":
            body, content_type = self.metrics.render_slis(request.headers.get("Accept", ""))
            return Answer(200, body, {"Content-Type": content_type})
        if request.path == "/proxyMode":
            return Answer(200, self._config.mode.encode(), _TEXT)
        if request.path == "/healthz":
            self.metrics.pings += 1
            return Answer(200, b"ok", _TEXT)
        if request.path == "/configz":
            from proxy.configuration import describe_config  # only for those who ask

            body = json.dumps({"kubeproxy.config.k8s.io": describe_config(self._config)}).encode()
            return Answer(200, body, {"Content-Type": "application/json"})
        return _NOT_FOUND

    def _read_counters(self) -> None:
        """The kernel's counters of packets, where iptables rules have such."""
        from netsim.kernel.nfacct import read_counters  # only for those who ask

        self.metrics.counters = {}
        if self._config.mode == "iptables":
            try:
                self.metrics.counters = read_counters(self._netns)
            except (FeatureMissing, KernelError) as error:
                log.debug("%s: %s", self.name, error)

    async def _answer_check(self, family: int, key: ServiceKey, _request: web.BaseRequest) -> Answer:
        check = self._checks[family].get(key) or Check(0, 0)
        return answer_check(key, check, self.health.is_healthy(self._now()))


class FamilyObserver:
    """`proxy.nodesync.Observer` of one node and family."""

    __slots__ = ("_family", "_node")

    def __init__(self, node: NodeHealth, family: int) -> None:
        self._node = node
        self._family = family

    def queued(self) -> None:
        self._node.queued(self._family)

    def synced(self, report: SyncReport) -> None:
        self._node.synced(self._family, report)

    def failed(self, full: bool, took_s: float) -> None:
        self._node.failed(self._family, full, took_s)

    def cleaned(self, took_s: float, deleted: int) -> None:
        kept = self._node.metrics.families[self._family]
        kept.reconcile.observe(took_s)
        kept.deleted_flows += deleted
