"""Ways as lines, names for addresses, and lines side by side."""

from dataclasses import replace

import pytest

from netsim.experiment.renaming import Renamer, name_objects
from netsim.experiment.shape import align, list_way, seen_address
from netsim.observe.path import Path, Question, Verdict
from tests.unit.observe.test_path_json import make_path


def test_a_way_is_places_and_what_happens_there() -> None:
    path = make_path()
    lines = list_way(path)
    places = [line for line in lines if not line.startswith((" ", "("))]
    assert places
    assert set(places) <= {hop.place for hop in path.hops}
    assert lines[-1].startswith(f"({path.verdict.outcome}")
    without = list_way(path, rules=False)
    assert set(without) <= {*lines, *without}
    assert not any(rule.text in line for line in without for hop in path.hops for rule in hop.rules)


def test_ports_by_chance_are_left_out() -> None:
    path = make_path()
    client = path.hops[0].packet.source_port
    moved = tuple(
        replace(hop, packet=replace(hop.packet, source_port=4711)) if hop.packet.source_port == client else hop
        for hop in path.hops
    )
    assert client != 4711
    assert list_way(replace(path, hops=moved)) == list_way(path)


def test_a_rule_that_lost_it_is_not_named_where_rules_are_left_out() -> None:
    question = Question("node/a", "10.0.0.1:80", "tcp", "10.0.0.1", 80)
    verdict = Verdict("rejected", "node/a", "ip kube-proxy reject-chain: reject")
    path = Path(question, (), verdict)
    assert list_way(path) == ["(rejected by node/a: ip kube-proxy reject-chain: reject)"]
    assert list_way(path, rules=False) == ["(rejected by node/a: by a rule)"]
    lost = replace(path, verdict=Verdict("dropped", "node/a", "no route to 10.0.0.1"))
    assert list_way(lost, rules=False) == ["(dropped at node/a: no route to 10.0.0.1)"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:80", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("[fd00::1]:80", "fd00::1"),
        ("fd00::1", "fd00::1"),
        ("", ""),
    ],
)
def test_the_address_that_was_seen(text: str, address: str) -> None:
    path = replace(make_path(), seen_source=text)
    assert seen_address(path) == address


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("to 10.0.0.1:80", "to pod/a:80"),
        ("10.0.0.10 110.0.0.1 10.0.0.1.2", "10.0.0.10 110.0.0.1 10.0.0.1.2"),
        ("-s 10.0.0.1/32 -d 10.0.0.0/24", "-s pod/a -d podCIDR of node/n"),
        ("10.0.0.1/24", "pod/a/24"),
        ("fd00::1 [fd00::1]:80 fd00::12", "pod/a [pod/a]:80 fd00::12"),
        ("172.18.0.2", "172.18.0.2"),
        ("-j KUBE-SEP-MQ4W7Q2CV67URU6Q in veth33c39239e5a", "-j KUBE-SEP-* in veth*"),
        ("KUBE-SVC-LOLE4ISW44XBNF3G", "KUBE-SVC-LOLE4ISW44XBNF3G"),
    ],
)
def test_addresses_get_names(text: str, renamed: str) -> None:
    names = {
        "10.0.0.1": "pod/a", "fd00::1": "pod/a", "172.18.0.2": "node/n", "10.0.0.0/24": "podCIDR of node/n"
    }  # fmt: skip
    assert Renamer(names, ("pod/", "podCIDR"))(text) == renamed


def test_services_are_named_without_a_port_too() -> None:
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    assert name_objects([], [], [service])["10.96.0.9"] == "svc/default/web"


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ([], []),
        ([["a", "b"]], [("a",), ("b",)]),
        ([["a", "b"], ["a", "b"]], [("a", "a"), ("b", "b")]),
        ([["a", "x", "b"], ["a", "y", "b"]], [("a", "a"), ("x", "y"), ("b", "b")]),
        ([["a", "b"], ["a", "y", "z", "b"]], [("a", "a"), (None, "y"), (None, "z"), ("b", "b")]),
        ([["a"], ["b"], ["b"]], [("a", "b", None), (None, None, "b")]),
        ([["a"], ["a", "n"], ["a", "n"]], [("a", "a", "a"), (None, "n", "n")]),
        ([[], ["a"]], [(None, "a")]),
    ],
)
def test_lines_side_by_side(columns: list[list[str]], rows: list[tuple[str | None, ...]]) -> None:
    found = align(columns)
    for at, column in enumerate(columns):
        assert [row[at] for row in found if row[at] is not None] == column  # nothing is lost, and in order
    if columns != [["a"], ["b"], ["b"]]:
        assert found == rows
