"""The matrix's oracle itself: it knows no code of ours, and each line of the table of differences moves some cell."""

import ast
from pathlib import Path
from typing import Any

import pytest

from tests.packets import differences, oracle
from tests.packets.differences import DIFFERENCES, MODES
from tests.packets.oracle import Entry, Source, expect, expect_stray

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


@pytest.mark.parametrize("module", ["oracle", "differences", "cells"])
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
