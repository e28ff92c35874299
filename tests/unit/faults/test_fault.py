"""Requests for faults: what is taken, and what is refused in which words."""

from typing import Any

import pytest

from netsim.faults.fault import describe_values, find_conflict, parse_fault, render_fault
from netsim.faults.manager import parse_signal
from netsim.model.errors import UsageError


def loss(place: str = "pod/web", **values: object) -> dict[str, Any]:
    return {"kind": "loss", "places": [place], "percent": 5, **values}


def test_a_fault_names_places_in_full() -> None:
    fault = parse_fault(loss(direction="in") | {"for": "10s"})
    assert fault.places == ("pod/default/web",)
    assert (fault.percent, fault.direction, fault.duration_s) == (5.0, "in", 10.0)


def test_what_is_not_said_is_left_out() -> None:
    assert parse_fault(loss(direction=None) | {"for": None}) == parse_fault(loss())


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"kind": "fire"}, 'there is no fault "fire"'),
        ({}, 'there is no fault "None"'),
        ({"kind": "loss", "places": ["pod/web"]}, '"percent" is missing'),
        ({"kind": "link-down", "places": ["pod/web"], "percent": 5}, '"percent" is not among its values'),
        ({"kind": "link-down", "places": []}, "where?"),
        ({"kind": "link-down"}, "where?"),
        ({"kind": "link-down", "places": ["web"]}, '"web" is no place'),
        ({"kind": "link-down", "places": ["pod/a", "pod/default/a"]}, "is named twice"),
        ({"kind": "stop", "places": ["pod/web"]}, "not at pod/default/web"),
        ({"kind": "partition", "sets": [["node/a"]]}, "needs two sets"),
        ({"kind": "partition", "sets": [["node/a"], []]}, "needs two sets"),
        ({"kind": "partition", "sets": "node/a"}, "needs two sets"),
        ({"kind": "partition", "sets": [["node/a"], ["node/b", "node/a"]]}, "node/a is named twice"),
        ({"kind": "partition", "sets": [["node/a"], ["pod/b"]]}, "not at pod/default/b"),
        ({"kind": "mtu", "places": ["pod/a"], "mtu": 67}, "mtu: 67 is none"),
        ({"kind": "mtu", "places": ["pod/a"], "mtu": "1500.5"}, "is none"),
        ({"kind": "mtu", "places": ["pod/a"], "mtu": 65536}, "is none"),
        ({"kind": "mtu", "places": ["pod/a"], "mtu": True}, "is none"),
        ({"kind": "delay", "places": ["pod/a"], "delay": "0s"}, "delays nothing"),
        ({"kind": "delay", "places": ["pod/a"], "delay": "1ms", "jitter": "2ms"}, "jitter is larger"),
        (loss(direction="up"), "direction: 'up' is none"),
        (loss() | {"for": "0s"}, "for 0 seconds is none"),
        (loss() | {"for": "soon"}, "for: 'soon' is no duration"),
    ],
)
def test_what_is_refused(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_fault(request_)
    assert words in raised.value.message


def test_reordering_has_a_delay_of_its_own() -> None:
    assert parse_fault({"kind": "reorder", "places": ["pod/a"], "percent": 25}).delay_s == 0.01


def test_the_same_at_one_place_in_one_direction_is_a_conflict() -> None:
    active = [parse_fault(loss(direction="in"))]
    assert find_conflict(parse_fault(loss()), active) == (active[0], "pod/default/web")
    assert find_conflict(parse_fault(loss(direction="in")), active) is not None
    assert find_conflict(parse_fault(loss(direction="out")), active) is None
    assert find_conflict(parse_fault(loss("pod/other")), active) is None
    assert find_conflict(parse_fault({"kind": "rate", "places": ["pod/web"], "rate": "1mbit"}), active) is None


def test_reorder_and_delay_share_netems_one_delay() -> None:
    delay = parse_fault({"kind": "delay", "places": ["pod/a"], "delay": "1ms"})
    assert find_conflict(parse_fault({"kind": "reorder", "places": ["pod/a"], "percent": 5}), [delay]) is not None


def test_partitions_may_overlap() -> None:
    one = parse_fault({"kind": "partition", "sets": [["node/a"], ["node/b"]]})
    assert find_conflict(one, [one]) is None


def test_in_words() -> None:
    assert describe_values(parse_fault(loss())) == "5% both ways"
    delay = parse_fault({"kind": "delay", "places": ["pod/a"], "delay": "50ms", "jitter": 0.01, "direction": "out"})
    assert describe_values(delay) == "50ms ± 10ms out"
    partition = parse_fault({"kind": "partition", "sets": [["node/a", "node/b"], "node/c"], "one_way": True})
    assert describe_values(partition) == "node/a,node/b -> node/c"
    assert describe_values(parse_fault({"kind": "stop", "places": ["node/a"]})) == ""
    rendered = render_fault(partition, 0.0)
    assert rendered["sets"] == [["node/a", "node/b"], ["node/c"]]
    assert rendered["remainingS"] is None


@pytest.mark.parametrize(("text", "number"), [(None, 9), ("TERM", 15), ("sigusr1", 10), ("9", 9), (1, 1)])
def test_signals(text: object, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["BANG", "0", "99", "_DFL"])
def test_what_is_no_signal(text: object) -> None:
    with pytest.raises(UsageError, match="there is no signal"):
        parse_signal(text)
