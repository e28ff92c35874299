"""How long the proxy takes in iptables mode, beside the bare iptables-restore of the same rules, in the same run.

    python tests/bench/bench_proxy.py [--services 100 1000 5000] [--nodes 3] [--json]

first sync:   services and slices as objects -> rules in one node's kernel (beside: iptables-restore of that text)
one endpoint: an EndpointSlice event -> rules in every node's kernel (beside: iptables-restore, on one node, of
              upstream's partial sync, which writes the top-level chains whole)
Endpoints: two for each service. Needs root; works in namespaces of its own.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any, cast

from netsim.client.informerset import InformerSet
from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.objects import Object
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import FamilyView, NodeView, ProxyConfig
from proxy.iptables.plan import IptablesDialect
from proxy.servicemap import ServiceMap

CHANGES = 15
CONFIG = ProxyConfig(cluster_cidrs=("10.244.0.0/16",))


class Feed:
    """An informer without an API server: what the bench says is there is there."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self._handlers: list[Any] = []

    def get(self, namespace: str | None, name: str) -> Object | None:
        return self.objects.get(name)

    def add_handler(self, handler: Any) -> None:
        self._handlers.append(handler)

    async def synced(self) -> None: ...

    async def reached(self, revision: int) -> None: ...

    def put(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        old, self.objects[name] = self.objects.get(name), obj
        for handler in self._handlers:
            handler(old, obj)


class Feeds:
    """Stands where an InformerSet does."""

    def __init__(self) -> None:
        self.feeds: dict[str, Feed] = {}

    def of(self, kind: Any) -> Feed:
        return self.feeds.setdefault(kind.plural, Feed())


def make_service(number: int) -> Object:
    ip = f"10.96.{number // 250}.{number % 250 + 1}"
    ports = [{"name": "p80", "port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "bench", "name": f"svc-{number}"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports},
    }


def make_slice(number: int, extra: Sequence[str] = ()) -> Object:
    ips = (f"10.244.{number // 250}.{number % 250 + 1}", f"10.245.{number // 250}.{number % 250 + 1}", *extra)
    return {
        "metadata": {
            "namespace": "bench",
            "name": f"svc-{number}-x",
            "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "p80", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "nodeName": "node-1", "conditions": {"ready": True}} for ip in ips],
    }


def measure_floor(spawner: Spawner, services: int) -> dict[str, float]:
    """The bare tool on the same rules: everything, and upstream's partial sync for one more endpoint."""
    view = FamilyView(CONFIG, NodeView("node-1", ("172.18.0.2",)), 4)
    service_map = ServiceMap()
    for number in range(services):
        service_map.update_service(None, make_service(number))
        service_map.update_slice(None, make_slice(number))
    service_map.take()
    dialect = IptablesDialect()
    full = dialect.plan_full(service_map.snapshot(), view, {})
    service_map.update_slice(make_slice(0), make_slice(0, ("10.245.255.1",)))
    changed = service_map.take()
    partial = dialect.plan_changes(service_map.snapshot(), changed, full.state, view).text
    heads = [line for line in full.text.splitlines() if line.startswith((":KUBE-SERVICES", "-A KUBE-SERVICES"))]
    at = heads.index(":KUBE-SERVICES - [0:0]", 1)  # the first is filter's
    lines = partial.splitlines()
    upstream = "\n".join([lines[0], *heads[at:], *lines[1:], ""])
    ns = Netns.create("floor")
    try:
        tool = Iptables(ns, spawner)
        tool.save()
        return {
            "restore_ms": timed_ms(lambda: tool.restore(full.text.encode())),
            "upstream_partial_ms": statistics.median(
                timed_ms(lambda: tool.restore(upstream.encode())) for _ in range(5)
            ),
        }
    finally:
        ns.close()


def timed_ms(work: Any) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


async def measure_ours(spawner: Spawner, services: int, nodes: int) -> dict[str, float]:
    feeds = Feeds()
    spaces = [Netns.create(f"node-{n}") for n in range(1, nodes + 1)]
    component = ProxyComponent(
        informers=cast(InformerSet, feeds),
        spawner=spawner,
        config=CONFIG,
        nodes=[NodeProxy("node-1", spaces[0], ("172.18.0.2",))],
    )
    started = time.perf_counter()
    for number in range(services):
        feeds.feeds["services"].put(make_service(number))
        feeds.feeds["endpointslices"].put(make_slice(number))
    task = asyncio.create_task(component.run())
    await component.node_ready("node-1")
    first_ms = (time.perf_counter() - started) * 1000
    for number, space in enumerate(spaces[1:], 2):
        component.add_node(NodeProxy(f"node-{number}", space, ("172.18.0.2",)))
    await component.settle(0)
    changes = []
    for number in range(CHANGES):
        extra = (f"10.245.255.{number}",) if number % 2 == 0 else ()
        started = time.perf_counter()
        feeds.feeds["endpointslices"].put(make_slice(number // 2, extra))
        await component.settle(0)
        changes.append((time.perf_counter() - started) * 1000)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for space in spaces:
        space.close()
    return {"first_sync_ms": first_ms, "change_ms": statistics.median(changes), "change_max_ms": max(changes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    with Spawner.start() as spawner:
        for services in args.services:
            floor = measure_floor(spawner, services)
            ours = asyncio.run(measure_ours(spawner, services, args.nodes))
            ratio = ours["first_sync_ms"] / floor["restore_ms"]
            rows.append({"services": services, "nodes": args.nodes} | floor | ours | {"first_sync_ratio": ratio})
    if args.json:
        print(json.dumps([{key: round(value, 2) for key, value in row.items()} for row in rows]))
        return
    change = f"one endpoint, {args.nodes} nodes"
    print(f"services  first sync  bare restore  ratio  | {change}  longest  upstream's partial, 1 node")
    for row in rows:
        print(
            f"{row['services']:8.0f}  {row['first_sync_ms']:7.0f} ms  {row['restore_ms']:9.0f} ms  "
            f"{row['first_sync_ratio']:5.2f}  | {row['change_ms']:20.1f} ms  {row['change_max_ms']:6.1f} ms  "
            f"{row['upstream_partial_ms']:10.1f} ms"
        )


if __name__ == "__main__":
    main()
