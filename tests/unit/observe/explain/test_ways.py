"""Predicted ways through a world in memory: what is right, and what each broken thing makes of it."""

from dataclasses import replace

import pytest

from netsim.observe.explain.state import Link, Neighbour, NextHop, Route
from netsim.observe.path import Outcome, Path
from netsim.observe.rules.model import Virtual
from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, VirtualServer
from tests.unit.observe.explain.worlds import (
    CLIENT,
    NODE,
    SERVER,
    SERVICE,
    MemoryWorld,
    change,
    crossed,
    explain,
    make_rules,
    make_world,
)


def the_path(world: MemoryWorld, address: str = "10.96.0.1", port: int = 80, source: str = CLIENT) -> Path:
    found = explain(world, address, port, source)
    assert len(found.ways) == 1
    assert found.complete
    return found.path


def test_a_service_on_the_same_bridge_is_translated_there_and_back() -> None:
    path = the_path(make_world())
    assert path.verdict.outcome == "delivered"
    assert (path.answered_by, path.seen_source) == (SERVER, "10.244.0.2")
    assert crossed(path, "there") == [f"{CLIENT} eth0", f"{NODE} veth2", f"{NODE} veth3", f"{SERVER} eth0"]
    assert [(hop.rewrite, hop.place) for hop in path.hops if hop.rewrite] == [("dnat", NODE), ("un-dnat", NODE)]
    back = [hop.packet for hop in path.hops if hop.leg == "back"][-1]
    assert (back.source, back.source_port, back.note) == ("10.96.0.1", 80, "SYN,ACK")


def test_a_pod_that_meets_itself_is_masqueraded_and_hairpinned() -> None:
    path = the_path(make_world(), source=SERVER)
    assert (path.verdict.outcome, path.seen_source) == ("delivered", "10.244.0.1")
    assert crossed(path, "there") == [f"{SERVER} eth0", f"{NODE} veth3", f"{NODE} veth3", f"{SERVER} eth0"]


def test_a_ping_and_the_node_itself() -> None:
    assert the_path(make_world(), "10.244.0.3", 0).verdict.outcome == "delivered"
    assert crossed(the_path(make_world(), "10.244.0.3", 8080, NODE), "there") == [
        f"{NODE} cni0",
        f"{NODE} veth3",
        f"{SERVER} eth0",
    ]


def _without_hairpin(world: MemoryWorld) -> MemoryWorld:
    links = [replace(link, hairpin=False) for link in world.places[NODE].links]
    return change(world, NODE, links=links)


def _down(world: MemoryWorld) -> MemoryWorld:
    links = [replace(link, up=link.name != "veth3") for link in world.places[NODE].links]
    return change(world, NODE, links=links)


def _stale(world: MemoryWorld) -> MemoryWorld:
    stale = Neighbour(2, "10.244.0.1", "0a:00:00:00:00:99", "stale")
    return change(world, CLIENT, neighbours=[stale])


def _sysctl(world: MemoryWorld, **values: str) -> MemoryWorld:
    names = {name.replace("__", "."): value for name, value in values.items()}
    return change(world, NODE, sysctls={**world.places[NODE].sysctls, **names})


DROPS = SERVICE + "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
REJECTS = SERVICE + "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"
BROKEN: dict[str, tuple[MemoryWorld, str, int, str, Outcome, str, str]] = {
    "nobody listens": (make_world(), "10.244.0.3", 81, CLIENT, "refused", SERVER, "nobody listens on tcp port 81"),
    "no route": (
        change(make_world(), CLIENT, routes=[]), "10.96.0.1", 80, CLIENT, "no route", CLIENT, "no route to host",
    ),
    "a blackhole": (
        change(make_world(), CLIENT, routes=[Route("0.0.0.0/0", "blackhole", 254)]),
        "10.96.0.1", 80, CLIENT, "no route", CLIENT, "blackhole",
    ),
    "the node has no route": (make_world(), "192.0.2.1", 80, CLIENT, "no route", NODE, "no route to 192.0.2.1"),
    "no forwarding": (
        change(make_world(make_rules("")), NODE, sysctls={}),
        "192.0.2.1", 80, CLIENT, "dropped", NODE, "forwards nothing",
    ),
    "no hairpin": (_without_hairpin(make_world()), "10.96.0.1", 80, SERVER, "dropped", NODE, "hairpin"),
    "no hairpin, nothing learned": (
        change(_without_hairpin(make_world()), NODE, forwarding=[]), "10.96.0.1", 80, SERVER, "dropped", NODE, "hairpin"
    ),
    "a port that is down": (_down(make_world()), "10.96.0.1", 80, CLIENT, "dropped", NODE, "veth3 is down"),
    "a stale neighbour": (_stale(make_world()), "10.244.0.1", 80, CLIENT, "dropped", CLIENT, "0a:00:00:00:00:99"),
    "a policy that drops": (make_world(make_rules(DROPS)), "10.96.0.1", 80, CLIENT, "dropped", NODE, "policy DROP"),
    "a rule that refuses": (make_world(make_rules(REJECTS)), "10.96.0.1", 80, CLIENT, "rejected", NODE, "REJECT"),
    "br_netfilter off: the answer is not translated back": (
        _sysctl(make_world(), **{"bridge__bridge-nf-call-iptables": "0"}),
        "10.96.0.1", 80, CLIENT, "dropped", CLIENT, "comes from 10.244.0.3 port 8080",
    ),
    "connection tracking is full": (
        change(make_world(), NODE, flows=100, flows_max=100), "10.96.0.1", 80, CLIENT, "dropped", NODE, "table full",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name: str) -> None:
    world, address, port, source, outcome, place, words = BROKEN[name]
    verdict = the_path(world, address, port, source).verdict
    assert (verdict.outcome, verdict.place) == (outcome, place)
    assert words in verdict.cause


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a policy that drops", "iptables-save"),
        ("a rule that refuses", "iptables-save"),
        ("connection tracking is full", ""),
    ],
)
def test_where_a_rule_stands_is_told_as_trace_tells_it(name: str, command: str) -> None:
    world, address, port, source, *_ = BROKEN[name]
    assert the_path(world, address, port, source).verdict.next == (
        f"netsim exec {NODE} -- {command}" if command else ""
    )


def test_a_reverse_path_filter_names_the_way_back() -> None:
    world = make_world()
    node = world.places[NODE]
    world = change(
        world,
        NODE,
        links=[*node.links, Link(9, "eth0", "veth", "0a:00:00:00:00:09")],
        routes=[*node.routes, Route("10.244.0.2/32", "unicast", 254, (NextHop(9),))],
        sysctls={**node.sysctls, "ipv4.conf.all.rp_filter": "1"},
    )
    verdict = the_path(world, "10.244.0.1", 80).verdict
    assert (verdict.outcome, verdict.place) == ("dropped", NODE)
    assert "the way back to 10.244.0.2 is by eth0, not cni0 (rp_filter=1)" in verdict.cause


def test_chance_is_taken_every_way() -> None:
    first = "-A SVC -p tcp -m statistic --mode random --probability 0.25 -j DNAT --to-destination 10.244.0.9:8080\n"
    spread = SERVICE.replace("-A SVC -p tcp", f"{first}-A SVC -p tcp")
    found = explain(make_world(make_rules(spread)))
    assert [(round(way.probability, 2), way.path.verdict.outcome) for way in found.ways] == [
        (0.75, "delivered"),
        (0.25, "dropped"),
    ]


def test_what_is_not_modelled_is_followed_both_ways_and_told() -> None:
    strange = SERVICE + "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m bpf --bytecode 1 -j DROP\nCOMMIT\n"
    found = explain(make_world(make_rules(strange)))
    assert {way.path.verdict.outcome for way in found.ways} == {"delivered", "dropped"}
    assert any("--bytecode" in note for note in found.notes)


def _with_virtual_server(*reals: str) -> MemoryWorld:
    """The Service by IPVS: its address is the node's own, and POSTROUTING masquerades what goes to its pods."""
    masquerade = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -d 10.244.0.3/32 -j MASQUERADE\nCOMMIT\n"
    virtual = Virtual(VirtualServer(), {RealServer(real, 8080): RealState() for real in reals})
    servers = {ServerKey("tcp", "10.96.0.1", 80): virtual}
    world = make_world(replace(make_rules(masquerade), ipvs=servers))
    node = world.places[NODE]
    dummy = Link(9, "kube-ipvs0", "dummy", "0a:00:00:00:00:09")
    own = Route("10.96.0.1/32", "local", 255, (NextHop(9),), "10.96.0.1")
    return change(world, NODE, links=[*node.links, dummy], routes=[*node.routes, own])


def test_a_virtual_server_translates_and_sends_on() -> None:
    path = the_path(_with_virtual_server("10.244.0.3"))
    assert (path.verdict.outcome, path.seen_source) == ("delivered", "10.244.0.1")
    hits = [hit for hop in path.hops for hit in hop.rules if hit.backend == "ipvs"]
    assert [(hit.text, hit.element) for hit in hits] == [("-t 10.96.0.1:80 -s rr", "-r 10.244.0.3:8080 -m")]
    assert [hop.rewrite for hop in path.hops if hop.rewrite] == ["dnat", "snat", "un-snat", "un-dnat"]
    own = the_path(_with_virtual_server("10.244.0.3"), source=NODE)
    assert (own.verdict.outcome, own.answered_by) == ("delivered", SERVER)


def test_a_virtual_server_spreads_and_refuses_without_destinations() -> None:
    found = explain(_with_virtual_server("10.244.0.3", "10.244.0.9"))
    assert [(way.probability, way.path.verdict.outcome) for way in found.ways] == [
        (0.5, "delivered"),
        (0.5, "no route"),
    ]
    verdict = the_path(_with_virtual_server()).verdict
    assert (verdict.outcome, verdict.place) == ("rejected", NODE)
    assert "no destination" in verdict.cause
