"""The rules in the kernel: what partial syncs leave, what survives, what heals, what is refused."""

import asyncio
import random
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import read_sysctl
from netsim.model.errors import KernelError
from netsim.ruleset.iptables import Tables, parse_save
from netsim.ruleset.iptables_model import make_tables
from netsim.testing.waiting import wait_until
from proxy.config import NodeView, ProxyConfig
from proxy.iptables.plan import IptablesDialect, check_text
from proxy.iptables.target import IptablesTarget
from tests.kernel.proxy.node import FAILURES, PODS, RealNode, ask, real_node
from tests.unit.proxy.make import CONFIG, make_endpoint, make_map, make_service, make_slice, make_view

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore")

SEEDS = (1, 2, 3)
Backend = Any


def read_tables(ns: Netns, spawner: Spawner, backend: Backend = None, family: int = 4) -> Tables:
    """What there is, without tables and built-in chains that hold nothing."""
    tables = parse_save(Iptables(ns, spawner, backend=backend).save(family=family))
    return {t: {c: r for c, r in chains.items() if r or c not in make_tables()[t]} for t, chains in tables.items()}


def make_objects(chance: random.Random) -> list[Any]:
    """A Service and its slice, as chance has it."""
    name = chance.choice("abc")
    number = "abc".index(name) + 1
    kind = chance.choice(["ClusterIP", "NodePort", "LoadBalancer"])
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}][: chance.choice([1, 2])]
    if kind != "ClusterIP":
        ports = [port | {"nodePort": 30000 + 10 * number + at} for at, port in enumerate(ports)]
    service = make_service(
        name,
        f"10.96.0.{number}",
        type=kind,
        ports=ports,
        externalTrafficPolicy=chance.choice(["Cluster", "Local"]),
        sessionAffinity=chance.choice(["None", "ClientIP"]),
        externalIPs=chance.choice([[], [f"192.0.2.{number}"]]),
        loadBalancerSourceRanges=chance.choice([[], ["203.0.113.0/24"]]),
        status={"loadBalancer": {"ingress": chance.choice([[], [{"ip": f"198.51.100.{number}"}]])}},
    )
    endpoints = [
        make_endpoint(f"10.244.1.{n}", chance.choice(["node-1", "node-2"]), chance.choice(["ready", "terminating"]))
        for n in chance.sample(range(2, 9), chance.randrange(5))
    ]
    numbers = [{"name": "http", "port": 8080}, {"name": "dns", "port": 8053, "protocol": "UDP"}]
    return [service, make_slice(endpoints, name, ports=numbers)]


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("seed", SEEDS)
def test_partial_syncs_leave_what_a_fresh_proxy_writes(spawner: Spawner, seed: int, backend: Backend) -> None:
    chance = random.Random(seed)
    changed_ns, fresh_ns = Netns.create("changed"), Netns.create("fresh")
    dialect, view, service_map = IptablesDialect(), make_view(), make_map([])
    target = IptablesTarget(changed_ns, spawner, CONFIG, backend=backend)

    async def run() -> None:
        plan = dialect.plan_full(service_map.snapshot(), view, await target.read(4))
        await target.apply(plan)
        for _ in range(25):
            service, item = make_objects(chance)
            if chance.random() < 0.3:
                service_map.update_service(service, None)
            else:
                service_map.update_service(None, service)
                service_map.update_slice(None, item)
            changed = service_map.take()
            plan = dialect.plan_changes(service_map.snapshot(), changed, plan.state, view)
            await target.apply(plan)
        assert await target.is_intact(view)
        fresh = IptablesTarget(fresh_ns, spawner, CONFIG, backend=backend)
        await fresh.apply(dialect.plan_full(service_map.snapshot(), view, await fresh.read(4)))

    try:
        asyncio.run(run())
        written = read_tables(changed_ns, spawner, backend)
        assert len(written["nat"]) > 10
        assert written == read_tables(fresh_ns, spawner, backend)
    finally:
        changed_ns.close()
        fresh_ns.close()


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_second_full_sync_changes_nothing_and_cleanup_leaves_nothing(spawner: Spawner, backend: Backend) -> None:
    ns = Netns.create("again")
    dialect, view = IptablesDialect(), make_view()
    target = IptablesTarget(ns, spawner, CONFIG, backend=backend)
    snapshot = make_map(make_objects(random.Random(7))).snapshot()
    foreign = b"*filter\n-A INPUT -s 192.0.2.0/24 -m comment --comment mine -j DROP\nCOMMIT\n"
    Iptables(ns, spawner, backend=backend).restore(foreign)
    before = read_tables(ns, spawner, backend)

    async def sync() -> None:
        await target.apply(dialect.plan_full(snapshot, view, await target.read(4)))

    async def clean() -> None:
        await target.apply(dialect.plan_cleanup(4, await target.read(4)))

    try:
        asyncio.run(sync())
        first = read_tables(ns, spawner, backend)
        asyncio.run(sync())
        assert read_tables(ns, spawner, backend) == first
        for _ in range(2):
            asyncio.run(clean())
            left = {table: chains for table, chains in read_tables(ns, spawner, backend).items() if chains}
            assert left == before
    finally:
        ns.close()


FLUSHES: dict[str, Callable[[RealNode], None]] = {
    "iptables -t nat -F": lambda node: node.iptables().restore(b"*nat\n-F\nCOMMIT\n"),
    "iptables -F KUBE-FORWARD": lambda node: node.iptables().restore(b"*filter\n-F KUBE-FORWARD\nCOMMIT\n"),
    "nft flush ruleset": lambda node: (node.run(node.node, "nft", "flush ruleset"), None)[1],
    "a jump is gone": lambda node: node.iptables().restore(
        b'*nat\n-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\nCOMMIT\n'
    ),
}


@pytest.mark.parametrize("how", FLUSHES)
def test_flushed_rules_come_back(spawner: Spawner, how: str) -> None:
    with real_node(spawner, replace(CONFIG, sync_period_s=2.0)) as node:  # long enough to see them gone
        node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
        before = read_tables(node.node, spawner)
        FLUSHES[how](node)
        assert read_tables(node.node, spawner) != before
        wait_until("the rules are back", lambda: read_tables(node.node, spawner) == before, timeout_s=10)
        assert ask(node.pods["pod-1"], "10.96.0.77", 80).startswith("pod-2")


def test_a_udp_client_that_sent_while_the_rules_were_gone_is_served(spawner: Spawner) -> None:
    """What it sent is tracked untranslated, and would be for as long as it goes on (#48370)."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    slice_ports = [{"name": "dns", "port": 8080, "protocol": "UDP"}]
    with real_node(spawner, replace(CONFIG, sync_period_s=2.0)) as node:
        node.put(
            make_service(ip="10.96.0.77", ports=ports), make_slice([make_endpoint(PODS["pod-2"])], ports=slice_ports)
        )
        before = read_tables(node.node, spawner)
        FLUSHES["iptables -t nat -F"](node)  # the tables stay, and with them the connection tracker
        with node.pods["pod-1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("", 40002))
            assert ask(node.pods["pod-1"], "10.96.0.77", 53, client=client) in FAILURES
            wait_until("the rules are back", lambda: read_tables(node.node, spawner) == before, timeout_s=10)
            wait_until(
                "an answer",
                lambda: ask(node.pods["pod-1"], "10.96.0.77", 53, client=client).startswith("pod-2"),
                timeout_s=10,
            )


def test_a_refused_restore_leaves_the_old_rules_and_heals(spawner: Spawner) -> None:
    with real_node(spawner, replace(CONFIG, sync_period_s=0.1)) as node:
        node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
        (chain,) = [c for c in read_tables(node.node, spawner)["nat"] if c.startswith("KUBE-SEP-")]
        # Somebody's rule leads to our chain, so it cannot be deleted when the endpoint goes.
        node.iptables().restore(f"*nat\n:MINE - [0:0]\n-A MINE -j {chain}\nCOMMIT\n".encode())
        with pytest.raises(KernelError, match=r"iptables.*busy"):
            node.put(make_slice([make_endpoint(PODS["pod-3"])]))
        assert ask(node.pods["pod-1"], "10.96.0.77", 80).startswith("pod-2")
        node.iptables().restore(b"*nat\n:MINE - [0:0]\n-X MINE\nCOMMIT\n")
        wait_until(
            "the new endpoint serves",
            lambda: ask(node.pods["pod-1"], "10.96.0.77", 80).startswith("pod-3"),
            timeout_s=10,
        )


def test_foreign_rules_stay(node: RealNode) -> None:
    node.iptables().restore(b"*nat\n:MINE - [0:0]\n-A MINE -s 192.0.2.1 -j ACCEPT\nCOMMIT\n")
    node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
    node.delete("web")
    assert len(read_tables(node.node, node.spawner)["nat"]["MINE"]) == 1


def test_sysctls_are_the_nodes_own(node: RealNode) -> None:
    assert read_sysctl(node.node, "net.ipv4.conf.all.route_localnet") == "1"
    assert read_sysctl(node.external, "net.ipv4.conf.all.route_localnet") == "0"
    assert read_sysctl(node.node, "net.netfilter.nf_conntrack_tcp_timeout_established") == "86400"


def test_the_check_changes_nothing(node: RealNode) -> None:
    before = node.iptables().save()
    view = replace(make_view(), node=NodeView("node-1"))
    node.iptables().restore(check_text(view).encode())
    after = node.iptables().save()
    assert parse_save(after) == parse_save(before)


def test_ipv6_rules_are_taken_by_the_kernel(spawner: Spawner) -> None:
    ns = Netns.create("six", ipv6=True)
    config = ProxyConfig(families=(6,), cluster_cidrs=("fd00:10:244::/56",))
    service = make_service(
        ip="fd00:10:96::10",
        type="NodePort",
        sessionAffinity="ClientIP",
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
    )
    empty = make_service("none", "fd00:10:96::11")
    item = make_slice([make_endpoint("fd00:10:244::2"), make_endpoint("fd00:10:244::3")], addressType="IPv6")
    view = make_view(config=config, family=6)
    target = IptablesTarget(ns, spawner, config)

    async def run() -> bool:
        snapshot = make_map([service, empty, item], 6).snapshot()
        await target.apply(IptablesDialect().plan_full(snapshot, view, await target.read(6)))
        return await target.is_intact(view)

    try:
        assert asyncio.run(run())
        saved = Iptables(ns, spawner).save(family=6)
        assert "--to-destination [fd00:10:244::2]:8080" in saved
        assert "icmp6-port-unreachable" in saved
    finally:
        ns.close()
