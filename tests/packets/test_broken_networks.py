"""Networks broken on purpose, one thing at a time: trace says where a packet was lost, and by what.

Each breakage is a few commands run in a node or a pod, as a person or a faulty program would. The cluster is of the
test's own, or what is broken is mended afterwards; either way no other test sees it.
"""

import re
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from netsim.cluster.handle import Cluster
from netsim.kernel.conntrack import ASSURED, SEEN_REPLY
from netsim.observe.explain.answer import render_explanation
from netsim.observe.explain.predict import Explanation
from netsim.observe.path import Path
from netsim.observe.pathtext import render_text
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from tests.packets.breakages import BREAKAGES, CLIENT, N2, TO_WEB, Breakage
from tests.packets.breakages6 import BREAKAGES_6
from tests.packets.world import make_pod, make_service

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_CREATE = 0x1, 0x400
CONFIRMED = 1 << 3
UNMODELLED = {"traffic control drops: a queue too small for any packet"}  # explain has no queues


def make_world(cluster: Cluster) -> dict[str, str]:
    """Pods, Services, and the words that breakages are written with."""
    ns = "default"
    deaf = make_service("deaf", app="web")
    for port in deaf["spec"]["ports"]:
        port["targetPort"] = 9998
    local = make_service("local", app="web", type="NodePort", externalTrafficPolicy="Local")
    pods = [
        make_pod("client", node="node-1"),
        make_pod("beside", node="node-1", app="beside"),
        make_pod("web", node="node-2", app="web"),
    ]
    services = [make_service(app, app=app) for app in ("web", "beside", "nobody")]
    cluster.apply([*pods, *services, deaf, local], namespace=ns)
    nodes = {node["name"]: node for node in cluster.status()["nodes"]}
    web_cidr = nodes["node-2"]["podCIDR"]
    links = {
        (where, link.name): link for where in ("node/node-2", f"pod/{ns}/beside") for link in cluster.interfaces(where)
    }
    vxlan = links.get(("node/node-2", "vxlan0"))
    return {
        "ns": ns,
        "web_ip": pod_ip(cluster, "web"),
        "client_ip": pod_ip(cluster, "client"),
        "web_cidr": web_cidr,
        "client_cidr": nodes["node-1"]["podCIDR"],
        "unused_ip": str(ip_network(web_cidr)[200]),
        "wrong_gateway": str(ip_network(nodes["node-1"]["podCIDR"])[250]),
        "node1_ip": node_ip(cluster, "node-1"),
        "node2_ip": node_ip(cluster, "node-2"),
        "node3_ip": node_ip(cluster, "node-3"),
        "web_service": cluster_ip(cluster, "web"),
        "local_port": str(node_port(cluster, "local")),
        "beside_mac": links[f"pod/{ns}/beside", "eth0"].mac,
        "vxlan2_mac": vxlan.mac if vxlan is not None else "",
    }


def break_network(cluster: Cluster, breakage: Breakage, words: Mapping[str, str]) -> None:
    for place, command in breakage.commands:
        cluster.exec(place.format(**words), ["sh", "-c", command.format(**words)], check=True)


def check_verdict(breakage: Breakage, path: Path, words: Mapping[str, str]) -> None:
    told = render_text(path, everything=True)
    verdict = path.verdict
    assert verdict.outcome in breakage.outcome.split("|"), told
    assert re.fullmatch(breakage.place.format(**words), verdict.place), told
    assert re.search(breakage.cause.format(**words), verdict.cause), told
    assert path.hops[-1].kind == "loss" or any(hop.kind == "loss" for hop in path.hops) or "re" in verdict.outcome, told


@pytest.fixture
def netsim_options(netsim_options: dict[str, Any]) -> dict[str, Any]:
    return {**netsim_options, "nodes": 3, "fresh": True}


def choose(mode: str, network: str, breakages: Sequence[Breakage] = BREAKAGES) -> pytest.MarkDecorator:
    """The breakages that are possible there."""
    possible = [b for b in breakages if b.mode in ("", mode) and b.network in ("", network)]
    return pytest.mark.parametrize("breakage", possible, ids=lambda breakage: breakage.name)


# Two of the four combinations have every breakage; a cluster of its own for each is what costs time here.
@pytest.mark.netsim(proxy_mode="iptables", pod_network="routes")
@choose("iptables", "routes")
def test_the_cause_is_named_in_iptables_mode(breakage: Breakage, cluster: Cluster) -> None:
    check_cause(breakage, cluster)


@pytest.mark.netsim(proxy_mode="nftables", pod_network="vxlan")
@choose("nftables", "vxlan")
def test_the_cause_is_named_in_nftables_mode_over_vxlan(breakage: Breakage, cluster: Cluster) -> None:
    check_cause(breakage, cluster)


@pytest.mark.netsim(proxy_mode="nftables", pod_network="routes", ip_family="ipv6")
@choose("nftables", "routes", BREAKAGES_6)
def test_the_cause_is_named_in_ipv6(breakage: Breakage, cluster: Cluster) -> None:
    check_cause(breakage, cluster)


def check_cause(breakage: Breakage, cluster: Cluster) -> None:
    """By a trace; and explain, which sends nothing, predicts the same outcome in the same place."""
    words = make_world(cluster)
    source, target = breakage.source.format(**words), breakage.target.format(**words)
    options: dict[str, Any] = {"protocol": breakage.protocol, "size_bytes": breakage.size}
    before = cluster.trace(source, target, **options)
    break_network(cluster, breakage, words)
    if breakage.name not in UNMODELLED:
        check_prediction(breakage, cluster.explain(source, target, **options), words)
    path = cluster.trace(source, target, **options)
    check_verdict(breakage, path, words)
    if breakage.commands:
        assert before.verdict != path.verdict, "it was no other before anything was broken"


def check_prediction(breakage: Breakage, found: Explanation, words: Mapping[str, str]) -> None:
    for way in found.ways:
        told = render_explanation(found)
        assert way.path.verdict.outcome in breakage.outcome.split("|"), told
        assert re.fullmatch(breakage.place.format(**words), way.path.verdict.place), told


def test_there_are_at_least_twenty() -> None:
    assert len({breakage.name for breakage in BREAKAGES}) >= 20


def fill_conntrack(cluster: Cluster, where: str) -> None:
    """Entries up to the kernel's limit, all of them assured: those are not thrown out early (early_drop)."""
    limit = int(cluster.exec(where, ["cat", "/proc/sys/net/netfilter/nf_conntrack_max"], check=True).stdout)
    with cluster.socket(where, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as channel:
        batch: list[bytes] = []
        for number in range(limit + 1000):
            batch.append(make_entry(number))
            if len(batch) == 200:
                channel.send(b"".join(batch))
                batch.clear()


def make_entry(number: int) -> bytes:
    """IPCTNL_MSG_CT_NEW of a UDP flow (include/uapi/linux/netfilter/nfnetlink_conntrack.h)."""
    one, other = struct.pack("!I", 0x0A000000 + number // 60000), b"\x0a\xff\x00\x01"
    port = struct.pack("!H", 1 + number % 60000)
    first = nested(1, nested(1, attribute(1, one), attribute(2, other)), make_ports(port, b"\0\x09"))
    answer = nested(2, nested(1, attribute(1, other), attribute(2, one)), make_ports(b"\0\x09", port))
    status = attribute(3, struct.pack("!I", SEEN_REPLY | ASSURED | CONFIRMED))
    body = b"\x02\0\0\0" + first + answer + status + attribute(7, struct.pack("!I", 600))
    return struct.pack("=IHHII", 16 + len(body), 0x100, NLM_F_REQUEST | NLM_F_CREATE, 0, 0) + body


def make_ports(source: bytes, destination: bytes) -> bytes:
    return nested(2, attribute(1, b"\x11"), attribute(2, source), attribute(3, destination))


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(parts))


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


@pytest.mark.slow
@pytest.mark.netsim(proxy_mode="iptables", pod_network="routes")
def test_trace_names_a_full_connection_tracking_table(cluster: Cluster) -> None:
    words = make_world(cluster)
    fill_conntrack(cluster, N2)
    path = cluster.trace(CLIENT.format(**words), TO_WEB.format(**words))
    assert (path.verdict.outcome, path.verdict.place) == ("dropped", N2), render_text(path)
    assert "connection tracking table is full" in path.verdict.cause, render_text(path)
