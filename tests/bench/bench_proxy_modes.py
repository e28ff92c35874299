"""The proxy's modes at growing numbers of services, and what upstream's rules cost, side by side in one run.

    python tests/bench/bench_proxy_modes.py [--services 100 1000 5000] [--floor-limit 1000] [--json]

For each way: first sync, one endpoint's change, the first packet of a connection through the last service (connect(2),
with that of a connection past all services as the floor), and what kernel and process hold more after it.

nftables:           ours, from the objects to the kernel
iptables:           ours, up to --floor-limit services
upstream nft -f:    a chain for each service and each endpoint, as kube-proxy's nftables mode has them, loaded by nft;
                    a change is what kube-proxy's partial sync would write
restore nft/legacy: iptables-restore of kube-proxy's iptables rules by both back ends
Endpoints: two for each service, TCP. Needs root; works in namespaces of its own.
"""

import argparse
import asyncio
import gc
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from netsim.client.informerset import InformerSet
from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.sysctl import write_sysctls
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import FamilyView, NodeView
from proxy.iptables.plan import IptablesDialect
from proxy.servicemap import ServiceMap
from tests.bench.bench_proxy import CONFIG, Feeds, make_service, make_slice, timed_ms

CHANGES, CONNECTS = 15, 300
CLIENT, NODE_IP = "10.244.255.2", "172.18.0.2"
CHANGED = "10.245.255.1"  # the endpoint that comes and goes


class World:
    """A node between a client and a server that has every endpoint's address."""

    def __init__(self, spawner: Spawner) -> None:
        self.spawner = spawner
        self.node, self.client, self.server = (Netns.create(name) for name in ("node", "client", "server"))

        def path(ns: Netns) -> str:
            return f"/proc/{os.getpid()}/fd/{ns.fd}"

        self._ip(
            self.node,
            f"link add c type veth peer name eth0 netns {path(self.client)}",
            f"link add s type veth peer name eth0 netns {path(self.server)}",
            "link set c up",
            "link set s up",
            f"addr add {NODE_IP}/32 dev c",
            f"route add {CLIENT}/32 dev c",
            "route add 10.244.0.0/15 dev s",
        )
        for ns, ip in ((self.client, CLIENT), (self.server, "10.245.255.254")):
            self._ip(ns, f"addr add {ip}/32 dev eth0", "link set eth0 up", f"route add {NODE_IP} dev eth0 src {ip}",
                     f"route add default via {NODE_IP} dev eth0 src {ip} onlink")  # fmt: skip
        self._ip(self.server, "route add local 10.244.0.0/17 dev lo", "route add local 10.245.0.0/17 dev lo")
        write_sysctls(self.node, {"net.ipv4.ip_forward": 1, "net.ipv4.conf.s.proxy_arp": 1})
        write_sysctls(self.node, {"net.ipv4.conf.c.proxy_arp": 1})
        self._listener = self.server.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
        self._listener.bind(("0.0.0.0", 80))
        self._listener.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _ip(self, ns: Netns, *lines: str) -> None:
        self.run(ns, "ip", "-batch", "-", text="\n".join(lines) + "\n")

    def run(self, ns: Netns, *argv: str, text: str = "") -> str:
        done = self.spawner.run_blocking(ProcessSpec(argv, netns=ns), input=text.encode())
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr.decode()[:2000]}")
        return done.stdout.decode()

    def _accept(self) -> None:
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:
                return

    def connect_us(self, address: str, port: int) -> float:
        """The median time of connect(2): the first packet of a flow there, the answer back."""
        taken = []
        for _ in range(CONNECTS):
            with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(5)
                started = time.perf_counter()
                sock.connect((address, port))
                taken.append((time.perf_counter() - started) * 1e6)
        return statistics.median(taken)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for ns in (self.node, self.client, self.server):
            ns.close()


@contextmanager
def world(spawner: Spawner) -> Iterator[World]:
    made = World(spawner)
    try:
        yield made
    finally:
        made.close()


def memory_mb() -> tuple[float, float]:
    """What the kernel's slabs and vmalloc hold and what this process does, in MB."""
    lines = dict(line.split(":", 1) for line in open("/proc/meminfo"))  # noqa: SIM115
    kernel = sum(int(lines[name].split()[0]) for name in ("SUnreclaim", "Percpu"))
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # noqa: SIM115
    return kernel / 1024, int(status["VmRSS"].split()[0]) / 1024


async def measure_ours(spawner: Spawner, mode: str, services: int) -> dict[str, float]:
    feeds = Feeds()
    with world(spawner) as place:
        config = replace(CONFIG, mode=mode, service_cidrs=("10.96.0.0/12",))
        component = ProxyComponent(
            informers=cast(InformerSet, feeds),
            spawner=spawner,
            config=config,
            nodes=[NodeProxy("node-1", place.node, (NODE_IP,))],
        )
        objects = [(make_service(number), make_slice(number)) for number in range(services)]
        gc.collect()
        before = memory_mb()
        started = time.perf_counter()
        for service, item in objects:
            feeds.feeds["services"].put(service)
            feeds.feeds["endpointslices"].put(item)
        task = asyncio.create_task(component.run())
        await component.node_ready("node-1")
        first_ms = (time.perf_counter() - started) * 1000
        gc.collect()
        after = memory_mb()
        changes = []
        for number in range(CHANGES):
            started = time.perf_counter()
            feeds.feeds["endpointslices"].put(make_slice(number // 2, (CHANGED,) if number % 2 == 0 else ()))
            await component.settle(0)
            changes.append((time.perf_counter() - started) * 1000)
        packet = await asyncio.to_thread(place.connect_us, *last_service(services))
        floor = await asyncio.to_thread(place.connect_us, "10.244.0.1", 80)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return {
            "first_ms": first_ms,
            "change_ms": statistics.median(changes),
            "packet_us": packet,
            "direct_us": floor,
            "kernel_mb": after[0] - before[0],
            "process_mb": after[1] - before[1],
        }


def last_service(services: int) -> tuple[str, int]:
    return make_service(services - 1)["spec"]["clusterIP"], 80


def measure_text(
    spawner: Spawner, services: int, load: Callable[[World, str], None], full: str, changes: list[str]
) -> dict[str, float]:
    """A tool on the text of everything, and then on the text of one change after the other."""
    with world(spawner) as place:
        before = memory_mb()[0]
        first_ms = timed_ms(lambda: load(place, full))
        kernel_mb = memory_mb()[0] - before
        taken = [timed_ms(lambda text=text: load(place, text)) for text in changes]
        packet, direct = place.connect_us(*last_service(services)), place.connect_us("10.244.0.1", 80)
    return {
        "first_ms": first_ms,
        "change_ms": statistics.median(taken),
        "packet_us": packet,
        "direct_us": direct,
        "kernel_mb": kernel_mb,
        "process_mb": float("nan"),
    }


def upstream_nft(services: int) -> tuple[str, list[str]]:
    """kube-proxy's nftables mode: a chain for each service and endpoint, and the text of a change."""
    out = [
        "table ip kube-proxy {",
        "chain mark-for-masquerade { meta mark set meta mark or 0x4000; }",
        "chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000;",
        "masquerade fully-random; }",
        "set cluster-ips { type ipv4_addr; }",
        "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
    ]
    elements, ips = [], []
    for number in range(services):
        ip = make_service(number)["spec"]["clusterIP"]
        name = f"ABCDEFGH-bench/svc-{number}/tcp/p80"
        endpoints = [e["addresses"][0] for e in make_slice(number)["endpoints"]]
        out += [_upstream_endpoint(name, endpoint) for endpoint in endpoints]
        out.append(f"chain service-{name} {{ {_upstream_service(name, ip, endpoints)} }}")
        elements.append(f"{ip} . tcp . 80 : goto service-{name}")
        ips.append(ip)
    out += [
        "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }",
        "chain nat-prerouting { type nat hook prerouting priority -100; jump services; }",
        "chain nat-output { type nat hook output priority -100; jump services; }",
        "chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }",
        "}",
        f"add element ip kube-proxy cluster-ips {{ {', '.join(ips)} }}",
        f"add element ip kube-proxy service-ips {{ {', '.join(elements)} }}",
    ]
    changes = []
    for number in range(5):
        ip, name = make_service(number)["spec"]["clusterIP"], f"ABCDEFGH-bench/svc-{number}/tcp/p80"
        endpoints = [e["addresses"][0] for e in make_slice(number, (CHANGED,))["endpoints"]]
        lines = ["table ip kube-proxy {", _upstream_endpoint(name, CHANGED), "}"]
        lines += [f"flush chain ip kube-proxy service-{name}"]
        lines += [
            f"add rule ip kube-proxy service-{name} {rule}"
            for rule in _upstream_service(name, ip, endpoints).rstrip(";").split("; ")
        ]
        changes.append("\n".join(lines) + "\n")
    return "\n".join(out) + "\n", changes


def _upstream_endpoint(name: str, endpoint: str) -> str:
    rules = f"ip saddr {endpoint} jump mark-for-masquerade; meta l4proto tcp dnat to {endpoint}:80;"
    return f"chain endpoint-{name}__{endpoint}/80 {{ {rules} }}"


def _upstream_service(name: str, ip: str, endpoints: list[str]) -> str:
    choice = ", ".join(f"{n} : goto endpoint-{name}__{endpoint}/80" for n, endpoint in enumerate(endpoints))
    mark = f"ip daddr {ip} tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
    return f"{mark}; numgen random mod {len(endpoints)} vmap {{ {choice} }};"


def upstream_iptables(services: int) -> tuple[str, list[str]]:
    """kube-proxy's iptables rules, and partial syncs as upstream writes them: top-level chains whole."""
    view = FamilyView(CONFIG, NodeView("node-1", (NODE_IP,)), 4)
    service_map = ServiceMap()
    for number in range(services):
        service_map.update_service(None, make_service(number))
        service_map.update_slice(None, make_slice(number))
    service_map.take()
    dialect = IptablesDialect()
    full = dialect.plan_full(service_map.snapshot(), view, {})
    heads = [line for line in full.text.splitlines() if line.startswith((":KUBE-SERVICES", "-A KUBE-SERVICES"))]
    at = heads.index(":KUBE-SERVICES - [0:0]", 1)  # the first is filter's
    changes, state = [], full.state
    for number in range(3):
        service_map.update_slice(make_slice(number), make_slice(number, (CHANGED,)))
        changed = service_map.take()
        plan = dialect.plan_changes(service_map.snapshot(), changed, state, view)
        lines, state = plan.text.splitlines(), plan.state
        changes.append("\n".join([lines[0], *heads[at:], *lines[1:], ""]))
    return full.text, changes


def load_nft(place: World, text: str) -> None:
    place.run(place.node, "nft", "-f", "-", text=text)


def load_iptables(backend: Backend) -> Callable[[World, str], None]:
    return lambda place, text: Iptables(place.node, place.spawner, backend=backend).restore(text.encode())


WAYS: dict[str, Callable[[Spawner, int], dict[str, float]]] = {
    "nftables": lambda spawner, n: asyncio.run(measure_ours(spawner, "nftables", n)),
    "iptables": lambda spawner, n: asyncio.run(measure_ours(spawner, "iptables", n)),
    "upstream nft -f": lambda spawner, n: measure_text(spawner, n, load_nft, *upstream_nft(n)),
    "restore nft": lambda spawner, n: measure_text(spawner, n, load_iptables("nft"), *upstream_iptables(n)),
    "restore legacy": lambda spawner, n: measure_text(spawner, n, load_iptables("legacy"), *upstream_iptables(n)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--floor-limit", type=int, default=1000, help="most services for all but nftables")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with Spawner.start() as spawner:
        for services in args.services:
            ways = WAYS if services <= args.floor_limit else {"nftables": WAYS["nftables"]}
            for way, measure in ways.items():
                row: dict[str, Any] = {"services": services, "way": way} | measure(spawner, services)
                rows.append(row)
                if not args.json:
                    show(row, header=len(rows) == 1)
    if args.json:
        print(json.dumps([{k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()} for row in rows]))


def show(row: dict[str, Any], *, header: bool) -> None:
    if header:
        print("services  way              first sync    one change  first packet   direct   kernel  process")
    print(
        f"{row['services']:8d}  {row['way']:15s} {row['first_ms']:8.0f} ms  {row['change_ms']:8.2f} ms  "
        f"{row['packet_us']:9.0f} µs  {row['direct_us']:5.0f} µs  {row['kernel_mb']:4.0f} MB  "
        f"{row['process_mb']:4.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
