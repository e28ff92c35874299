from typing import Any

import pytest

from netsim.model.objects import Object
from proxy.topology import Choice, choose_endpoints
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice

EXTERNAL_LOCAL = {"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}
INTERNAL_LOCAL = {"internalTrafficPolicy": "Local"}
ZONE_A = {"hints": {"forZones": [{"name": "a"}]}}
ZONE_B = {"hints": {"forZones": [{"name": "b"}]}}
NODE_1 = {"hints": {"forNodes": [{"name": "node-1"}], "forZones": [{"name": "b"}]}}
NODE_2 = {"hints": {"forNodes": [{"name": "node-2"}], "forZones": [{"name": "a"}]}}


def choose(endpoints: list[Object], spec: dict[str, Any], node: str = "node-1", zone: str = "") -> Choice:
    (entry,) = make_map([make_service(**spec), make_slice(endpoints)]).snapshot().entries.values()
    return choose_endpoints(entry, node, zone)


def numbers(choice: Choice) -> tuple[list[int], list[int], list[int], bool]:
    """The last number of each address: cluster, local, reachable, has_any."""
    sets = (choice.cluster, choice.local, choice.reachable)
    cluster, local, reachable = ([int(e.ip.rpartition(".")[2]) for e in endpoints] for endpoints in sets)
    return cluster, local, reachable, choice.has_any


def ep(number: int, node: str, state: str = "ready", **more: Any) -> Object:
    return make_endpoint(f"10.244.1.{number}", node, state, **more)


@pytest.mark.parametrize(
    ("endpoints", "spec", "expected"),
    [
        ([], {}, ([], [], [], False)),
        ([ep(1, "node-1"), ep(2, "node-2")], {}, ([1, 2], [], [1, 2], True)),
        ([ep(1, "node-1", "unready")], {}, ([], [], [], False)),
        ([ep(1, "node-1", "gone")], {}, ([], [], [], False)),
        ([ep(1, "node-1", "terminating"), ep(2, "node-2")], {}, ([2], [], [2], True)),
        ([ep(1, "node-1", "terminating"), ep(2, "node-2", "gone")], {}, ([1], [], [1], True)),
        # Local is worked out on its own: this node's terminating endpoint serves it, though others are ready.
        (
            [ep(1, "node-1", "terminating"), ep(2, "node-2")],
            EXTERNAL_LOCAL,
            ([2], [1], [1, 2], True),
        ),
        ([ep(1, "node-1"), ep(2, "node-2")], EXTERNAL_LOCAL, ([1, 2], [1], [1, 2], True)),
        ([ep(2, "node-2")], EXTERNAL_LOCAL, ([2], [], [2], True)),
        ([ep(1, "node-1"), ep(2, "node-2")], INTERNAL_LOCAL, ([], [1], [1], True)),
        ([ep(2, "node-2")], INTERNAL_LOCAL, ([], [], [], True)),
        ([ep(2, "node-2", "terminating")], INTERNAL_LOCAL, ([], [], [], True)),
        ([ep(2, "node-2", "unready")], INTERNAL_LOCAL, ([], [], [], False)),
    ],
)
def test_chosen_endpoints(endpoints: list[Object], spec: dict[str, Any], expected: Any) -> None:
    assert numbers(choose(endpoints, spec)) == expected


@pytest.mark.parametrize(
    ("endpoints", "zone", "expected"),
    [
        ([ep(1, "n", **ZONE_A), ep(2, "n", **ZONE_B)], "a", [1]),
        ([ep(1, "n", **ZONE_A), ep(2, "n", **ZONE_B)], "", [1, 2]),  # the node does not know its zone
        ([ep(1, "n", **ZONE_A), ep(2, "n", **ZONE_B)], "c", [1, 2]),  # nobody is hinted for it
        ([ep(1, "n", **ZONE_A), ep(2, "n")], "a", [1, 2]),  # one without hints switches them off
        ([ep(1, "n", **ZONE_A), ep(2, "n", "unready")], "a", [1]),  # but only ready ones count
        ([ep(1, "n", **NODE_1), ep(2, "n", **NODE_2)], "a", [1]),  # the node goes before the zone
        ([ep(1, "n", **ZONE_B), ep(2, "n", **NODE_2)], "a", [2]),  # not all have node hints: zones
        ([ep(1, "n", "terminating", **ZONE_A), ep(2, "n", "terminating", **ZONE_B)], "a", [1, 2]),
    ],
)
def test_hints(endpoints: list[Object], zone: str, expected: list[int]) -> None:
    assert numbers(choose(endpoints, {}, zone=zone))[0] == expected


def test_hints_do_not_apply_to_local() -> None:
    endpoints = [ep(1, "node-1", **ZONE_B), ep(2, "node-2", **ZONE_A)]
    assert numbers(choose(endpoints, EXTERNAL_LOCAL, zone="a")) == ([2], [1], [1, 2], True)


def test_nodes_with_the_same_answer_share_it() -> None:
    endpoints = [ep(1, "node-1")]
    (entry,) = make_map([make_service(**EXTERNAL_LOCAL), make_slice(endpoints)]).snapshot().entries.values()
    assert choose_endpoints(entry, "node-2") is choose_endpoints(entry, "node-3")
    assert choose_endpoints(entry, "node-2") is not choose_endpoints(entry, "node-1")
