"""The matrix's oracle itself: it knows no code of ours, and each line of the table of differences moves some cell."""

import ast
from pathlib import Path
from typing import Any

import pytest

from tests.packets import differences, oracle
from tests.packets.asking import Report
from tests.packets.cells import Cell
from tests.packets.differences import DIFFERENCES, MODES
from tests.packets.extra_cells import GROUPS, HINTS, ZONES, choose_groups
from tests.packets.oracle import Answer, Entry, Source, expect, expect_stray, has_entry
from tests.packets.probes import Seen

FOLDER = Path(oracle.__file__).parent
PODS = {"web-1": "node-1", "web-2": "node-2"}
SOURCES = (
    Source("web-1", "pod", "node-1", "10.244.0.2"),
    Source("client-2", "pod", "node-2", "10.244.1.3"),
    Source("node-1", "node", "node-1", "172.18.0.2"),
    Source("outside", "outside", "", "203.0.113.2"),
)
ENTRIES = (
    Entry("ClusterIP", "node-1", "10.96.0.9"),
    Entry("NodePort", "node-2", "172.18.0.3"),
    Entry("LoadBalancer", "node-1", "192.0.2.1"),
)


@pytest.mark.parametrize("module", ["oracle", "differences", "cells", "extra_cells"])
def test_it_imports_nothing_of_the_product(module: str) -> None:
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in names if name.split(".")[0] in ("proxy", "cni") or name.startswith("netsim.ruleset")}


def all_answers(mode: str) -> list[Any]:
    """A small matrix: expectations only."""
    answers: list[Any] = [expect_stray(mode, allocated, source) for allocated in (True, False) for source in SOURCES]
    for policy in ("Cluster", "Local"):
        spec = {f"{side}TrafficPolicy": policy for side in ("internal", "external")}
        service = {"spec": {**spec, "loadBalancerSourceRanges": ["10.244.0.0/16"]}}
        for ready in ((), ("web-1",), ("web-2",), ("web-1", "web-2")):
            endpoints = [{"targetRef": {"name": name}, "nodeName": PODS[name]} for name in ready]
            for source in SOURCES:
                for entry in ENTRIES:
                    answers.append(expect(mode, service, [{"endpoints": endpoints}], source, entry))
    nearby = (Entry("NodePort", "node-1", "10.244.0.1", "other"), Entry("NodePort", "node-1", "127.0.0.1", "loopback"))
    spec = {"externalTrafficPolicy": "Local"}
    for entry in (*nearby, Entry("NodePort", "node-1", "::1", "loopback")):
        for ready in ((), ("web-2",)):
            endpoints = [{"targetRef": {"name": name}, "nodeName": PODS[name]} for name in ready]
            answers.append(expect(mode, {"spec": spec}, [{"endpoints": endpoints}], SOURCES[2], entry))
    answers.append(has_entry(mode, Entry("externalIP", "node-1", "172.18.0.2", "node")))
    # The same without source ranges, behind which a node's own packets never come to the other rules.
    for source in SOURCES:
        answers.append(expect(mode, {"spec": {}}, [{"endpoints": []}], source, ENTRIES[2]))
    return answers


@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_difference_moves_a_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in DIFFERENCES[name].modes:
        as_it_is = all_answers(mode)
        with monkeypatch.context() as patch:
            patch.setattr(
                oracle, "differs", lambda mode, other: False if other == name else differences.differs(mode, other)
            )
            assert all_answers(mode) != as_it_is, f"{name!r} makes no difference in mode {mode}"


def test_a_mode_or_difference_that_is_not_there_is_an_error() -> None:
    assert set(MODES) >= {mode for difference in DIFFERENCES.values() for mode in difference.modes}
    with pytest.raises(KeyError):
        differences.differs("ebpf", next(iter(DIFFERENCES)))
    with pytest.raises(KeyError):
        differences.differs("ipvs", "no such line")


@pytest.mark.parametrize(
    ("hints", "here", "there"),
    [
        ("each its zone", {"web-1"}, {"web-2"}),
        ("each the other zone", {"web-2"}, {"web-1"}),
        ("a zone that no node is in", {"web-1", "web-2"}, {"web-1", "web-2"}),
        ("one has none", {"web-1", "web-2"}, {"web-1", "web-2"}),
        ("each its node", {"web-1"}, {"web-2"}),
        ("nodes before zones", {"web-2"}, {"web-1"}),
        ("trafficDistribution alone", {"web-1", "web-2"}, {"web-1", "web-2"}),
    ],
)
def test_hints(hints: str, here: set[str], there: set[str]) -> None:
    """The oracle's own words about KEP-2433 and KEP-3015."""
    endpoints = [
        {"targetRef": {"name": pod}, "nodeName": node, "hints": HINTS[hints].get(pod, {})} for pod, node in PODS.items()
    ]
    for source, servers in ((SOURCES[0], here), (SOURCES[1], there)):
        fates = expect("nftables", {"spec": {}}, [{"endpoints": endpoints}], source, ENTRIES[0], ZONES)
        assert {fate.endpoint for fate in fates if isinstance(fate, Answer)} == servers


def test_a_sticky_cell_shows_one_result_and_another_all() -> None:
    sticky, other = (Cell(entry, "Cluster", "mixed", "outside", "tcp", 4) for entry in GROUPS["affinity"].entries[:2])
    both = frozenset({Seen("web-1", "10.0.0.1", True), Seen("web-2", "10.0.0.1", True)})
    one = set(list(both)[:1])
    report = Report({sticky: one, other: set(both)}, {sticky: both, other: both}, frozenset({sticky}))
    assert report.wrong() == []
    for asked in (set(both), set(), {"silence"}):
        report.asked[sticky] = asked
        assert len(report.wrong()) == 1, asked
    report.asked |= {sticky: one, other: one}
    assert len(report.wrong()) == 1


def test_every_group_is_some_modes() -> None:
    assert {name for mode in MODES for name in choose_groups(mode)} == set(GROUPS)
