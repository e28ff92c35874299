"""Paths as JSON: back again without loss, and as the schema that is shipped says."""

import json
from dataclasses import replace
from importlib.resources import files

from netsim.observe.path import Hop, Packet, Path, Question, RuleHit, Verdict
from netsim.observe.pathjson import parse_path, render_path, render_spread
from netsim.observe.spread import Spread
from tests.json_schema import find_faults

SCHEMA = json.loads(files("netsim.observe").joinpath("path.schema.json").read_text(encoding="utf-8"))
SYN = Packet("10.0.0.1", "10.96.0.1", "tcp", 40000, 80, note="SYN", ttl=64, mark=0x4000, source_mac="02:00:00:00:00:01")
RULE = RuleHit("ip", "nat", "PREROUTING", "-A PREROUTING -j X", "jump X", backend="iptables-nft", handle=7)


def make_path() -> Path:
    """One hop of each kind."""
    wrapped = replace(SYN, outer=Packet("172.18.0.2", "172.18.0.3", "udp", 5, 8472), vni=1)
    rewritten = replace(SYN, destination="10.244.0.3", destination_port=8080)
    hops = (
        Hop("pod/default/client", "there", "interface", SYN, interface="eth0", direction="out", time_ns=17),
        Hop("node/node-1", "there", "hook", SYN, hook="prerouting", rules=(RULE,)),
        Hop("node/node-1", "there", "rewrite", rewritten, rewrite="dnat", before=SYN),
        Hop("node/node-1", "there", "route", rewritten, route="10.244.0.0/24 dev cni0"),
        Hop("node/node-1", "there", "rewrite", wrapped, rewrite="encapsulate", before=rewritten),
        Hop("node/node-1", "there", "conntrack", rewritten, conntrack="tcp 6 ..."),
        Hop("node/node-1", "there", "loss", rewritten, reason="gone"),
    )
    question = Question("pod/default/client", "svc/default/web:80", "tcp", "10.96.0.1", 80)
    verdict = Verdict("dropped", "node/node-1", "gone", "look there")
    names = {"10.96.0.1:80": "svc/default/web:http"}
    return Path(question, hops, verdict, seen_source="10.0.0.1:40000", names=names, notes=("dim",), elapsed_ms=1.5)


def test_a_path_comes_back_from_json() -> None:
    path = make_path()
    assert parse_path(json.loads(json.dumps(render_path(path)))) == path


def test_a_path_without_anything_comes_back() -> None:
    path = Path(Question("node/n", "10.0.0.1", "icmp", "10.0.0.1"), (), Verdict("no reply"))
    assert parse_path(json.loads(json.dumps(render_path(path)))) == path


def test_defaults_are_left_out_and_lists_are_not() -> None:
    rendered = render_path(Path(Question("node/n", "10.0.0.1", "icmp", "10.0.0.1"), (), Verdict("no reply")))
    assert rendered == {
        "question": {"source": "node/n", "target": "10.0.0.1", "protocol": "icmp", "address": "10.0.0.1"},
        "hops": [],
        "verdict": {"outcome": "no reply"},
        "names": {},
        "notes": [],
    }


def test_paths_are_as_the_schema_says() -> None:
    assert find_faults(SCHEMA, json.loads(json.dumps(render_path(make_path())))) == []


def test_several_probes_are_as_the_schema_says() -> None:
    spread = Spread()
    spread.add(make_path())
    spread.add(make_path())
    rendered = json.loads(json.dumps(render_spread(spread)))
    assert find_faults(SCHEMA, rendered) == []
    assert (rendered["probes"], rendered["outcomes"], rendered["ways"][0]["count"]) == (2, {"dropped": 2}, 2)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    rendered = render_path(make_path())
    assert find_faults(SCHEMA, rendered | {"surprise": 1})
    assert find_faults(SCHEMA, {**rendered, "verdict": {"outcome": "lost"}})
    rendered["hops"][0]["packet"]["ttl"] = 300
    assert find_faults(SCHEMA, rendered)
