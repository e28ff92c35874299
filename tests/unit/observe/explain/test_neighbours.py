"""Asking for a neighbour in a world in memory: rules that see frames see the question and the answer, too."""

from typing import Any

import pytest

from netsim.observe.explain.neighbours import resolve
from netsim.observe.explain.state import Address
from netsim.observe.nft_listing import NftTables
from netsim.observe.rules.model import Rules
from tests.unit.observe.explain.worlds import (
    CLIENT,
    DROP,
    FROM_NODE,
    NODE,
    OTHER,
    SERVER,
    TO_NODE,
    change,
    draw,
    explain,
    header,
    make_chain,
    make_tunnel,
    make_world,
    meta,
    the_path,
    with_nft,
)

ARP = header("ether", "type", "arp")
DROPPED_QUESTIONS: dict[str, tuple[NftTables, str, str]] = {
    "all frames to a port": (make_chain("bridge", "output", meta("oifname", "veth3"), DROP), NODE, "the question"),
    "ARP to a port": (make_chain("bridge", "postrouting", ARP, DROP), NODE, "the question"),
    "at a device": (make_chain("netdev", "egress", ARP, DROP, devices=["veth3"]), NODE, "the question"),
    "in the pod": (make_chain("netdev", "ingress", ARP, DROP, devices=["eth0"]), SERVER, "the question"),
    "the bridge's own": (make_chain("netdev", "egress", ARP, DROP, devices=["cni0"]), NODE, "the question"),
    "by operation": (
        make_chain("bridge", "input", header("arp", "operation", "reply"), DROP), NODE, "the answer",
    ),
    "by address": (
        make_chain("bridge", "prerouting", header("arp", "saddr ip", "10.244.0.3"), DROP), NODE, "the answer",
    ),
    "of the pod": (make_chain("netdev", "egress", ARP, DROP, devices=["eth0"]), SERVER, "the answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPED_QUESTIONS)
def test_who_is_not_heard_of_does_not_answer(name: str) -> None:
    tables, place, what = DROPPED_QUESTIONS[name]
    alone = change(with_nft(tables, place), NODE, neighbours=[])
    verdict = the_path(alone, FROM_NODE).verdict
    assert (verdict.outcome, verdict.place) == ("no route", NODE)
    words = f"nobody on cni0 answers ARP for 10.244.0.3: {place} drops {what}: "
    assert verdict.cause.startswith(words), verdict.cause
    assert "t c: the rule counter" in verdict.cause


def test_who_is_known_need_not_be_asked_for() -> None:
    tables = make_chain("bridge", "output", ARP, DROP)
    assert the_path(with_nft(tables), FROM_NODE).verdict.outcome == "delivered"
    asked = change(with_nft(make_chain("bridge", "forward", DROP)), NODE, neighbours=[])
    assert the_path(asked, FROM_NODE).verdict.outcome == "delivered"  # the node itself asks


def test_pods_ask_for_each_other_through_the_bridge() -> None:
    world = change(with_nft(make_chain("bridge", "forward", ARP, DROP)), CLIENT, neighbours=[])
    assert the_path(world, TO_NODE).verdict.outcome == "delivered"
    verdict = the_path(world).verdict
    assert (verdict.outcome, verdict.place) == ("no route", CLIENT)
    assert f"{NODE} drops the question: bridge t c: the rule counter" in verdict.cause


def test_rules_of_packets_do_not_see_arp() -> None:
    tables = make_chain("inet", "ingress", DROP, devices=["eth0"])
    verdict = the_path(change(with_nft(tables, SERVER), NODE, neighbours=[]), FROM_NODE).verdict
    assert (verdict.outcome, verdict.place) == ("dropped", SERVER)


def test_a_question_lost_by_chance_is_asked_again() -> None:
    tables = make_chain("netdev", "egress", ARP, draw("<", 30, 100), DROP, devices=["veth3"])
    found = explain(change(with_nft(tables), NODE, neighbours=[]), "10.244.0.3", 8080, NODE)
    assert [way.path.verdict.outcome for way in found.ways] == ["delivered"]
    assert found.notes == (
        f"{NODE} may drop ARP or neighbour discovery, which is taken as heard: netdev t c: the rule counter",
    )


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (header("icmpv6", "type", "nd-neighbor-solicit"), False),
        (header("icmpv6", "type", "nd-neighbor-advert"), False),
        (header("ip6", "daddr", "ff02::1:ff00:3"), False),
        (header("ether", "daddr", "33:33:ff:00:00:03"), False),
        (meta("pkttype", "multicast"), False),
        (header("icmpv6", "type", "nd-router-solicit"), True),
        (ARP, True),
    ],
)
def test_neighbour_discovery_is_asked_by_frames_too(condition: dict[str, Any], found: bool) -> None:
    world = make_world(Rules(make_chain("bridge", "forward", condition, DROP)))
    world = change(world, CLIENT, addresses=[Address(2, "fd00::2", 64)])
    world = change(world, SERVER, addresses=[Address(2, "fd00::3", 64)])
    client = world.places[CLIENT]
    assert bool(resolve(world, client, client.by_name["eth0"], "fd00::3").mac) is found


def test_who_is_below_a_tunnel_is_asked_for_there() -> None:
    tables = make_chain("netdev", "ingress", ARP, DROP, devices=["eth0"])
    verdict = the_path(with_nft(tables, OTHER, make_tunnel()), (NODE, "10.9.0.2", 0)).verdict
    assert (verdict.outcome, verdict.place) == ("no route", NODE)
    assert f"nobody on eth0 answers ARP for 172.18.0.2: {OTHER} drops the question: netdev t c:" in verdict.cause
