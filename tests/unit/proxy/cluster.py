"""A cluster for the proxy alone: a real API server in this process, nodes with rules in memory, a clock set by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.informerset import InformerSet
from netsim.model.config import ClusterConfig
from netsim.model.errors import KernelError
from netsim.model.kinds import ENDPOINT_SLICE, NODE, SERVICE, Kind
from netsim.model.objects import Object
from netsim.ruleset.iptables import Tables, parse_edits
from netsim.ruleset.iptables_model import apply_edits, make_tables
from netsim.store.store import Store
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import Plan
from proxy.staleflows import Frontends


class HandClock:
    """Time passes when `advance` says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now_s + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        await let_run()  # whoever is about to sleep is asleep first
        self.now_s += seconds
        due = [future for at, future in self._sleepers if at <= self.now_s]
        self._sleepers = [(at, future) for at, future in self._sleepers if at > self.now_s]
        for future in due:
            if not future.done():
                future.set_result(None)
        await let_run()


@dataclass
class MemoryTarget:
    """A node's rules in memory; ``refuse`` makes writing fail, ``hold`` makes it wait."""

    tables: Tables = field(default_factory=make_tables)
    written: list[str] = field(default_factory=list)
    cleaned: list[Frontends] = field(default_factory=list)
    refuse: int = 0  # how many of the next writes fail
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    async def read(self, family: int) -> Tables:
        return self.tables

    async def apply(self, plan: Plan[Any]) -> None:
        await self.hold.wait()
        if self.refuse:
            self.refuse -= 1
            raise KernelError("iptables-restore: refused", where="test")
        self.tables = apply_edits(self.tables, parse_edits(plan.text))
        self.written.append(plan.text)

    async def is_intact(self, view: FamilyView) -> bool:
        return "KUBE-PROXY-CANARY" in self.tables["nat"] and "KUBE-PROXY-CANARY" in self.tables["filter"]

    async def clean(self, found: Frontends, node_ips: tuple[str, ...], family: int) -> int:
        self.cleaned.append(found)
        return 0


class ProxyCluster:
    """An API server, its informers and the proxies of some nodes."""

    def __init__(self, nodes: int, config: ProxyConfig) -> None:
        self.clock = HandClock()
        self.server = ApiServer(Store(":memory:"), ClusterConfig(), self.clock)
        self.api = Api(self.server.transport())
        self.informers = InformerSet(self.api)
        self.targets: dict[str, MemoryTarget] = {}
        self.proxy = ProxyComponent(
            informers=self.informers,
            spawner=cast(Any, None),
            config=config,
            clock=self.clock,
            make_hands=self._make_hands,
        )
        for number in range(1, nodes + 1):
            self.add_node(f"node-{number}")

    def add_node(self, name: str) -> None:
        self.proxy.add_node(NodeProxy(name, cast(Any, None), ("172.18.0.2",)))

    def _make_hands(self, node: NodeProxy, config: ProxyConfig) -> tuple[MemoryTarget, MemoryTarget]:
        target = self.targets[node.name] = MemoryTarget()
        return target, target

    async def put(self, obj: Object, kind: Kind | None = None) -> None:
        """Create or replace."""
        kind = kind or (ENDPOINT_SLICE if "endpoints" in obj else SERVICE)
        namespace, name = obj["metadata"].get("namespace"), obj["metadata"]["name"]
        known = [o for o in (await self.api.list(kind)).items if o["metadata"]["name"] == name]
        if known:
            await self.api.patch(kind, name, {k: v for k, v in obj.items() if k != "metadata"}, namespace)
        else:
            typed = {"apiVersion": kind.api_version, "kind": kind.kind}
            await self.api.create(kind, typed | obj)

    async def put_node(self, name: str, zone: str) -> None:
        meta = {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}
        await self.api.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": meta})

    async def settle(self) -> None:
        async with asyncio.timeout(10):
            await self.proxy.settle(self.server.revision())


async def let_run() -> None:
    """Let every task go on until it waits for something that only the test can give."""
    for _ in range(50):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(nodes: int = 1, config: ProxyConfig | None = None) -> AsyncIterator[ProxyCluster]:
    """A running cluster with namespace ``ns``, settled."""
    cluster = ProxyCluster(nodes, config or ProxyConfig(cluster_cidrs=("10.244.0.0/16",)))
    await cluster.api.create(Kind("", "v1", "Namespace", "namespaces", False), make_namespace())
    tasks = [asyncio.create_task(cluster.informers.run()), asyncio.create_task(cluster.proxy.run())]
    try:
        await cluster.settle()
        yield cluster
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_namespace() -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}
