"""Recorded evidence is read as it was read when it was recorded. The texts beside it were looked at by eye."""

from dataclasses import replace

import pytest

from netsim.kernel.ipvs_connections import Connection
from netsim.observe.assemble import assemble
from netsim.observe.path import Path, RuleHit, Verdict
from netsim.observe.pathtext import render_text
from tests.unit.observe.recording import FOLDER, Lenient, Replay, load, replay

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_recorded_evidence_is_read_as_before(name: str) -> None:
    expected = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert render_text(replay(name), everything=True) + "\n" == expected


def test_there_are_recordings() -> None:
    assert len(NAMES) >= 5


def rewrites(path: Path) -> list[tuple[str, str, str]]:
    return [(hop.leg, hop.place, hop.rewrite) for hop in path.hops if hop.rewrite]


def test_rewrites_and_tunnels_are_where_they_happen() -> None:
    path = replay("nodeport-vxlan")
    assert rewrites(path) == [
        ("there", "node/node-1", "dnat"),
        ("there", "node/node-1", "snat"),
        ("there", "node/node-1", "encapsulate"),
        ("there", "node/node-2", "decapsulate"),
        ("back", "node/node-2", "encapsulate"),
        ("back", "node/node-1", "decapsulate"),
        ("back", "node/node-1", "un-snat"),
        ("back", "node/node-1", "un-dnat"),
    ]


def test_what_comes_back_to_the_node_that_asked_is_translated_back_whole() -> None:
    path = replay("node-udp-vxlan-nftables")
    assert rewrites(path)[-2:] == [("back", "node/node-1", "un-snat"), ("back", "node/node-1", "un-dnat")]
    first, last = path.hops[0].packet, path.hops[-1].packet
    assert (last.source, last.source_port) == (first.destination, first.destination_port)
    assert (last.destination, last.destination_port) == (first.source, first.source_port)


def test_a_virtual_server_that_rewrites_is_a_rule_that_was_met() -> None:
    evidence, answers, names = load("nodeport-vxlan")
    rewrite = next(hop for hop in replay("nodeport-vxlan").hops if hop.rewrite == "dnat")
    before, after = rewrite.before, rewrite.packet
    assert before is not None
    ends = [(before.source, before.source_port), (before.destination, before.destination_port)]
    ends += [(after.destination, after.destination_port)]
    line = str(Connection("TCP", *ends, "SYN_RECV", 59))
    other = str(Connection("TCP", ("10.0.0.9", 1), *ends[1:], "SYN_RECV", 59))
    path = assemble(replace(evidence, ipvs={"node/node-1": (other, line)}), Lenient(answers), names)
    hits = [(hop.hook, hit) for hop in path.hops for hit in hop.rules if hit.backend == "ipvs"]
    target = f"{before.destination}:{before.destination_port}"
    expected = RuleHit("ip", "", "", f"-t {target}", "dnat", "ipvs", element=f"{ends[2][0]}:{ends[2][1]}")
    assert hits == [("prerouting", expected)]
    assert f"ipvs: -t {target}  {{ {ends[2][0]}:{ends[2][1]} }}" in render_text(path)


def test_without_rule_events_the_rewrites_still_show() -> None:
    evidence, answers, names = load("nodeport-vxlan")
    path = assemble(replace(evidence, events=(), rules={}), Lenient(answers), names)
    assert [r for r in rewrites(path) if "cap" not in r[2]] == [
        r for r in rewrites(replay("nodeport-vxlan")) if "cap" not in r[2]
    ]
    assert path.verdict.outcome == "delivered"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 1, 2, 5])
def test_part_of_the_evidence_still_makes_a_path(name: str, keep: int) -> None:
    """What was not seen makes a path shorter, and breaks nothing."""
    evidence, answers, names = load(name)
    cut = replace(
        evidence, sightings=evidence.sightings[:keep], reply=replace(evidence.reply, result="timeout"), drops=()
    )
    path = assemble(cut, Lenient(answers), names)
    assert path.verdict.outcome != "delivered"
    assert path.hops[-1].kind == "loss"


def test_a_virtual_server_without_destinations_is_what_refused() -> None:
    evidence, answers, names = load("refused-by-node")
    assert replay("refused-by-node").verdict.outcome == "refused"
    [asked] = [key for key in answers if "idle_server" in key]
    path = assemble(evidence, Replay({**answers, asked: "-t 172.18.0.2:9"}), names)
    assert path.verdict == Verdict(
        "rejected",
        "node/node-1",
        "ipvs: -t 172.18.0.2:9 has no destination",
        "netsim exec node/node-1 -- ipvsadm -L -n",
    )
