"""Expectations against facts."""

from typing import Any

import pytest

from netsim.experiment.checks import find_fault, holds, spell_wanted
from netsim.experiment.facts import describe_latencies


@pytest.mark.parametrize(
    ("fact", "wanted", "result"),
    [
        ("delivered", "delivered", True),
        ("delivered", "deliver", False),
        ("pod/default/web-1", "pod/default/web-*", True),
        ("pod/default/web-1", "web", False),
        ("[fd00::1]", "[fd00::1]", True),
        ("f", "[fd00::1]", False),
        ("a\nb", "a*b", True),
        ("delivered", {"not": "dropped"}, True),
        ("delivered", {"anyOf": ["refused", "deli*"]}, True),
        ("delivered", {"contains": "liver"}, True),
        ("delivered", {"not": "refused", "contains": "x"}, False),
        (5, 5, True),
        (5.0, {"atMost": 5}, True),
        (5.1, {"atMost": 5}, False),
        (5, {"atLeast": 1, "atMost": 4}, False),
        (5, {"not": 5}, False),
        (["a", "b", "c"], "b", True),
        (["a", "b", "c"], ["a", "c"], True),
        (["a", "b", "c"], ["c", "a"], False),
        (["a", "a"], ["a", "a"], True),
        (["a"], ["a", "a"], False),
        (["a", "b"], {"not": "b"}, False),
        (["a", "b"], {"exactly": ["a", "b"]}, True),
        (["a", "b"], {"exactly": ["a"]}, False),
        ([], {"exactly": []}, True),
        ([], {"not": "x"}, True),
        (["x y", "z"], {"contains": "y"}, True),
    ],
)
def test_holds(fact: Any, wanted: Any, result: bool) -> None:
    kind: Any = "number" if isinstance(fact, int | float) else "text" if isinstance(fact, str) else "list"
    assert not find_fault(kind, wanted)
    assert holds(fact, wanted) is result


@pytest.mark.parametrize(
    ("fact", "wanted", "words"),
    [
        ("text", 5, "must be text"),
        ("number", True, "must be a number"),
        ("number", "5", "must be a number"),
        ("number", {"contains": "5"}, "can't be asked"),
        ("text", {"atMost": 5}, "can't be asked"),
        ("text", {}, "is empty"),
        ("list", [], "must be text"),
        ("list", {"exactly": "a"}, "must be a list"),
        ("text", {"contains": 1}, "must be text"),
        ("number", {"atMost": "x"}, "atMost: must be a number"),
    ],
)
def test_what_can_not_be_wanted(fact: Any, wanted: Any, words: str) -> None:
    assert words in find_fault(fact, wanted)


def test_expectations_in_words() -> None:
    assert spell_wanted("verdict", "delivered") == "verdict is delivered"
    assert spell_wanted("through", ["a", "b"]) == "through has a, then b"
    assert spell_wanted("p99Ms", {"atMost": 5, "atLeast": 1}) == "p99Ms at most 5 and at least 1"
    assert spell_wanted("rewrites", {"exactly": []}) == "rewrites exactly nothing"


def test_percentiles_are_times_that_were_measured() -> None:
    facts = describe_latencies([float(at) for at in range(100, 0, -1)], {"timed out": 2})
    assert facts == {
        "count": 100, "errors": 2, "p50Ms": 50.0, "p90Ms": 90.0, "p99Ms": 99.0, "maxMs": 100.0, "meanMs": 50.5
    }  # fmt: skip
    assert describe_latencies([], {"refused": 3}) == {"count": 0, "errors": 3}
    assert describe_latencies([7.0], {})["p50Ms"] == 7.0
