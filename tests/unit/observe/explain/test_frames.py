"""Rules of families bridge and netdev in a world in memory: where they see a packet, and as what."""

from typing import Any

import pytest

from netsim.observe.explain.nft_value import share_of_draw
from netsim.observe.nft_listing import parse_listing
from netsim.observe.path import Path
from tests.unit.observe.explain.worlds import (
    CLIENT,
    DROP,
    FROM_NODE,
    MAC,
    NODE,
    OTHER,
    SERVER,
    TO_NODE,
    TO_POD,
    change,
    draw,
    explain,
    header,
    make_chain,
    make_known,
    make_rules,
    make_tunnel,
    meta,
    the_path,
    with_nft,
)

# hook -> place, family, device or ports that the frame has there (in, out), who asks whom, on which leg it is lost
HOOKS: dict[str, tuple[str, str, str, str, tuple[str, str, int], str]] = {
    "ingress of a port": (NODE, "netdev", "veth2", "", TO_POD, "there"),
    "ingress of a bridge": (NODE, "netdev", "cni0", "", TO_NODE, "there"),
    "ingress of the target": (SERVER, "netdev", "eth0", "", TO_POD, "there"),
    "egress of the source": (CLIENT, "netdev", "", "eth0", TO_POD, "there"),
    "egress of a port": (NODE, "netdev", "", "veth3", TO_POD, "there"),
    "egress of a bridge": (NODE, "netdev", "", "cni0", FROM_NODE, "there"),
    "egress of lo": (NODE, "netdev", "", "lo", (NODE, "10.244.0.1", 0), "there"),
    "ingress of lo": (NODE, "netdev", "lo", "", (NODE, "10.244.0.1", 0), "there"),
    "prerouting": (NODE, "bridge", "veth2", "", TO_POD, "there"),
    "prerouting of the answer": (NODE, "bridge", "veth3", "", TO_POD, "back"),
    "input": (NODE, "bridge", "veth2", "", TO_NODE, "there"),
    "forward": (NODE, "bridge", "veth2", "veth3", TO_POD, "there"),
    "forward of the answer": (NODE, "bridge", "veth3", "veth2", TO_POD, "back"),
    "output": (NODE, "bridge", "", "veth3", FROM_NODE, "there"),
    "postrouting": (NODE, "bridge", "", "veth3", TO_POD, "there"),
    "postrouting of what the place sends": (NODE, "bridge", "", "veth3", FROM_NODE, "there"),
}


@pytest.mark.parametrize("filtered", ["0", "1"], ids=["alone", "br_netfilter"])
@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_sees_what_passes_there_and_nothing_else(name: str, filtered: str) -> None:
    place, family, came_by, leaves_by, question, leg = HOOKS[name]
    hook = name.split(maxsplit=1)[0]

    def ask(first: str, second: str) -> Path:
        statements = [meta("iifname", first), meta("oifname", second), DROP]
        device = came_by or leaves_by
        world = with_nft(make_chain(family, hook, *statements, devices=[device]), place)
        sysctls = {**world.places[NODE].sysctls, "bridge.bridge-nf-call-iptables": filtered}
        return the_path(change(world, NODE, sysctls=sysctls), question)

    path = ask(came_by, leaves_by)
    assert (path.verdict.outcome, path.verdict.place) == ("dropped", place)
    assert f"{family} t c: the rule counter" in path.verdict.cause
    last = [hop for hop in path.hops if hop.kind == "hook"][-1]
    assert (last.hook, last.leg, last.place) == (hook, leg, place)
    assert [(rule.family, rule.verdict) for rule in last.rules] == [(family, "drop")]
    assert path.hops[-1].kind == "loss"
    for other in (("veth9", leaves_by), (came_by, "veth9")):
        assert ask(*other).verdict.outcome != "dropped"


def test_what_is_dropped_before_a_device_does_not_leave_by_it_and_what_came_in_did() -> None:
    def crossed(hook: str) -> list[str]:
        device = "veth3" if hook == "egress" else "veth2"
        path = the_path(with_nft(make_chain("netdev", hook, DROP, devices=[device])))
        return [f"{hop.direction} {hop.interface}" for hop in path.hops if hop.kind == "interface"]

    assert crossed("ingress") == ["out eth0", "in veth2"]
    assert crossed("egress") == ["out eth0", "in veth2"]


@pytest.mark.parametrize(
    ("devices", "lost"),
    [(["veth2"], True), (["veth3", "veth2"], True), (["veth*"], True), (["veth3"], False), (["eth*"], False)],
)
@pytest.mark.parametrize("family", ["netdev", "inet"])
def test_ingress_is_of_the_devices_that_its_chain_names(family: str, devices: list[str], lost: bool) -> None:
    # To the node: the answer of a pod would come in by veth3.
    path = the_path(with_nft(make_chain(family, "ingress", DROP, devices=devices)), TO_NODE)
    assert (path.verdict.outcome == "dropped") is lost


def test_a_policy_drops_and_a_dormant_table_does_not() -> None:
    tables = make_chain("bridge", "forward")
    tables["bridge", "t"].chains["c"].policy = "drop"
    assert "bridge t c: policy drop" in the_path(with_nft(tables)).verdict.cause
    tables["bridge", "t"].flags = ("dormant",)
    assert the_path(with_nft(tables)).verdict.outcome == "delivered"


# The Service's address is translated between chains of these priorities; forward and postrouting come behind it.
@pytest.mark.parametrize(
    ("hook", "priority", "address"),
    [
        ("prerouting", -300, "10.96.0.1"),
        ("prerouting", 0, "10.96.0.1"),
        ("prerouting", 1, "10.244.0.3"),
        ("forward", -300, "10.244.0.3"),
        ("forward", 300, "10.244.0.3"),
        ("postrouting", 300, "10.244.0.3"),
    ],
)
def test_br_netfilter_has_its_place_among_the_chains(hook: str, priority: int, address: str) -> None:
    for seen in ("10.96.0.1", "10.244.0.3"):
        table = make_chain("bridge", hook, header("ip", "daddr", seen), DROP, priority=priority)
        outcome = the_path(with_nft(table), (CLIENT, "10.96.0.1", 80)).verdict.outcome
        assert outcome == ("dropped" if seen == address else "delivered")


def test_rules_of_packets_that_drop_come_before_a_chain_behind_br_netfilter() -> None:
    drops = make_rules("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")
    for priority, family in ((-1, "bridge"), (1, "ip")):
        tables = make_chain("bridge", "forward", DROP, priority=priority)
        path = the_path(with_nft(tables, world=make_known(drops)))
        assert path.verdict.cause.startswith(family + " ")


def test_chains_go_by_priority() -> None:
    accept = make_chain("bridge", "forward", {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 5}}, priority=-300)
    drop = make_chain("bridge", "forward", meta("mark", 5), DROP, priority=-200)
    both = {("bridge", "a"): drop["bridge", "t"], ("bridge", "b"): accept["bridge", "t"]}
    assert the_path(with_nft(both)).verdict.outcome == "dropped"
    drop["bridge", "t"].chains["c"].priority = -301
    assert the_path(with_nft(both)).verdict.outcome == "delivered"


def test_a_frame_is_sent_where_its_new_address_says() -> None:
    mangle = {"key": {"payload": {"protocol": "ether", "field": "daddr"}}, "value": MAC[NODE]}
    for tables, up in (
        (make_chain("bridge", "prerouting", {"mangle": mangle}), True),
        (make_chain("bridge", "x"), False),
    ):
        path = the_path(with_nft(tables))
        crossed = [hop.interface for hop in path.hops if hop.leg == "there" and hop.place == NODE and hop.interface]
        assert crossed == (["veth2", "cni0", "cni0", "veth3"] if up else ["veth2", "veth3"])
        assert path.verdict.outcome == "delivered"


FRAMES: dict[str, tuple[Any, bool]] = {
    "ibrname": (meta("ibrname", "cni0"), True),
    "obrname": (meta("obrname", "cni0"), True),
    "not obrname": (meta("obrname", "cni0", "!="), False),
    "another bridge": (meta("ibrname", "br9"), False),
    "meta protocol ip": (meta("protocol", "ip"), True),
    "ether type ip": (header("ether", "type", "ip"), True),
    "ether type arp": (header("ether", "type", "arp"), False),
    "ether saddr": (header("ether", "saddr", MAC[CLIENT]), True),
    "ether daddr": (header("ether", "daddr", MAC[CLIENT]), False),
    "arp operation": (header("arp", "operation", "request"), False),
    "ip saddr": (header("ip", "saddr", "10.244.0.2"), True),
    "ip6 saddr": (header("ip6", "saddr", "fd00::2"), False),
    "tcp dport": (header("tcp", "dport", 8080), True),
    "udp dport": (header("udp", "dport", 8080), False),
    "pkttype other": (meta("pkttype", "other"), True),
    "pkttype host": (meta("pkttype", "host"), False),
    "l4proto": (meta("l4proto", "tcp"), True),
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_a_bridge_knows_of_a_frame(name: str) -> None:
    condition, matches = FRAMES[name]
    path = the_path(with_nft(make_chain("bridge", "forward", meta("oifname", "veth3"), condition, DROP)))
    assert (path.verdict.outcome == "dropped") is matches


def test_what_can_not_be_known_of_a_frame_is_followed_both_ways() -> None:
    known = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}
    found = explain(with_nft(make_chain("bridge", "forward", meta("oifname", "veth3"), known, DROP)), *TO_POD[1:])
    assert {way.path.verdict.outcome for way in found.ways} == {"delivered", "dropped"}
    assert found.notes == (
        'not modelled: nft ct state in family bridge, in the rule "the rule counter"; followed both ways',
    )


@pytest.mark.parametrize(
    ("condition", "share"),
    [
        (draw("<", 300_000, 1_000_000), 0.3),
        (draw("<=", 29, 100), 0.3),
        (draw(">=", 30, 100), 0.7),
        (draw(">", 29, 100), 0.7),
        (draw("==", 0, 4), 0.25),
        (draw("!=", 0, 4), 0.75),
        (draw("==", {"range": [10, 20]}, 100, 10), 0.11),
        (draw("!=", {"range": [0, 20]}, 100, 10), 0.89),
        (draw("==", {"set": [{"range": [10, 20]}, 30, 500]}, 100, 10), 0.12),
        (draw("<", 100, 100), 1.0),
        (draw(">", 100, 100), 0.0),
        ({"match": {"op": "==", "left": {"jhash": {"expr": None, "mod": 2}}, "right": 1}}, 0.5),
        (meta("mark", 3), None),
        (draw("==", "@numbers", 4), None),
    ],
)
def test_a_comparison_of_chance_is_one_choice(condition: dict[str, Any], share: float | None) -> None:
    match = condition["match"]
    found = share_of_draw(match["left"], match["op"], match["right"])
    assert found == (share if share is None else pytest.approx(share))


def test_loss_by_chance_is_told_with_its_odds() -> None:
    tables = make_chain("netdev", "egress", draw("<", 300_000, 1_000_000), DROP, devices=["veth3"])
    found = explain(with_nft(tables), *TO_POD[1:])
    assert [(round(way.probability, 6), way.path.verdict.outcome) for way in found.ways] == [
        (0.7, "delivered"),
        (0.3, "dropped"),
    ]
    assert (found.complete, found.notes) == (True, ())


@pytest.mark.parametrize(
    ("family", "hook", "devices"), [("netdev", "ingress", ["veth2"]), ("bridge", "prerouting", [])]
)
def test_a_refusal_goes_back_by_the_link_that_the_frame_came_by(family: str, hook: str, devices: list[str]) -> None:
    """The node has no route to anybody, and needs none."""
    reject = make_chain(family, hook, header("tcp", "dport", 8080), {"reject": {"type": "tcp reset"}}, devices=devices)
    path = the_path(change(with_nft(reject), NODE, routes=[]))
    assert (path.verdict.outcome, path.verdict.place) == ("rejected", NODE)
    assert "hear" not in path.verdict.cause
    assert [f"{hop.place} {hop.interface}" for hop in path.hops if hop.leg == "back" and hop.interface] == [
        f"{NODE} veth2",
        f"{CLIENT} eth0",
    ]


# --- VXLAN ------------------------------------------------------------------------------------------------------------

PING, TUNNEL = header("icmp", "type", "echo-request"), header("udp", "dport", 8472)


@pytest.mark.parametrize(
    ("place", "hook", "device", "condition", "lost"),
    [
        (NODE, "egress", "vxlan0", PING, True),
        (NODE, "egress", "eth0", TUNNEL, True),
        (OTHER, "ingress", "eth0", TUNNEL, True),
        (OTHER, "ingress", "vxlan0", PING, True),
        (NODE, "egress", "vxlan0", TUNNEL, False),
        (NODE, "egress", "eth0", PING, False),
        (OTHER, "ingress", "eth0", PING, False),
        (OTHER, "ingress", "vxlan0", TUNNEL, False),
    ],
)
def test_a_tunnels_packet_is_met_below_and_its_own_inside(
    place: str, hook: str, device: str, condition: Any, lost: bool
) -> None:
    world = with_nft(make_chain("netdev", hook, condition, DROP, devices=[device]), place, make_tunnel())
    verdict = the_path(world, (NODE, "10.9.0.2", 0)).verdict
    assert (verdict.outcome, verdict.place) == (("dropped", place) if lost else ("delivered", OTHER))


# --- reading ----------------------------------------------------------------------------------------------------------

TEXT = """table netdev t { # handle 2
	chain i { # handle 1
		comment "of \\"device x priority"
		type filter hook ingress devices = { eth0, lo } priority filter - 5; policy drop;
		tcp dport 80 counter packets 3 bytes 9 drop comment "device z priority" # handle 3
	}

	chain e { # handle 2
		type filter hook egress device "lo" priority filter; policy accept;
	}

	chain plain { # handle 4
	}
}
"""


@pytest.mark.parametrize(
    ("dev", "words", "devices"),
    [(None, TEXT, ("eth0", "lo")), ("eth1", "", ("eth1",)), (["eth1", "eth2"], TEXT, ("eth1", "eth2"))],
)
def test_devices_are_read_from_json_where_it_has_them_and_from_text(
    dev: Any, words: str, devices: tuple[str, ...]
) -> None:
    written = "" if dev is None else f', "dev": {dev!r}'.replace("'", '"')
    base = '"family": "netdev", "table": "t", "type": "filter", "prio": 0, "policy": "accept"'
    rule = '{"rule": {"family": "netdev", "table": "t", "chain": "i", "handle": 3, "expr": []}}'
    listing = f"""{{"nftables": [
        {{"table": {{"family": "netdev", "name": "t"}}}},
        {{"chain": {{"name": "i", "hook": "ingress", {base}{written}}}}},
        {{"chain": {{"name": "e", "hook": "egress", {base}}}}}, {rule}
    ]}}"""
    chains = parse_listing(listing, words)["netdev", "t"].chains
    assert chains["i"].devices == devices
    if words:
        assert chains["e"].devices == ("lo",)
        assert chains["i"].rules[0].words == 'tcp dport 80 counter drop comment "device z priority"'
