"""Laws of the API server: patches, allocators, names."""

from ipaddress import IPv4Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.apiserver.allocation import AlreadyAllocated, NotInRange, NumberAllocator, RangeFull
from netsim.apiserver.patching.json_patch import json_patch
from netsim.apiserver.patching.merge import merge_patch
from netsim.apiserver.patching.strategic import strategic_merge
from netsim.model.cidrs import CidrAllocator, CidrsExhausted

SCALARS = st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab", max_size=2))
KEYS = st.sampled_from(["a", "b", "c", "~/x"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)


def same(left: Any, right: Any) -> bool:
    """JSON equality, where true is not 1."""
    return repr(_sorted(left)) == repr(_sorted(right))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def merge_diff(old: Any, new: Any) -> Any:
    """The merge patch from ``old`` to ``new`` (RFC 7386, section 1)."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if key not in old or not same(old[key], value):
            patch[key] = merge_diff(old.get(key), value)
    return patch


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_of_the_difference_leads_there(old: Any, new: Any) -> None:
    before = repr(old)
    assert same(merge_patch(old, merge_diff(old, new)), new)
    assert repr(old) == before


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_applied_twice_is_applied_once(document: Any, patch: Any) -> None:
    once = merge_patch(document, patch)
    assert same(merge_patch(once, patch), once)


@given(OBJECTS, OBJECTS)
def test_without_lists_that_merge_a_strategic_patch_is_a_merge_patch(document: Any, patch: Any) -> None:
    assert same(strategic_merge(document, patch, "unknown type"), merge_patch(document, patch))


@given(OBJECTS, KEYS, JSON)
def test_json_patch_add_then_test_then_remove(document: Any, key: str, value: Any) -> None:
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    added = json_patch(
        document, [{"op": "add", "path": pointer, "value": value}, {"op": "test", "path": pointer, "value": value}]
    )
    assert same(added, {**document, key: value})
    removed = json_patch(added, [{"op": "remove", "path": pointer}])
    assert same(removed, {k: v for k, v in document.items() if k != key})


NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


@given(NAMES, NAMES, st.data())
def test_a_strategic_merge_gives_every_name_once_and_keeps_the_asked_order(live: Any, patched: Any, data: Any) -> None:
    order = data.draw(st.permutations(patched))
    document = {"containers": [{"name": name, "image": "old"} for name in live]}
    patch = {
        "containers": [{"name": name, "image": "new"} for name in patched],
        "$setElementOrder/containers": [{"name": name} for name in order],
    }
    result = strategic_merge(document, patch, "PodSpec")["containers"]
    names = [item["name"] for item in result]
    assert sorted(names) == sorted(set(live) | set(patched))
    assert [name for name in names if name in patched] == list(order)
    assert [name for name in names if name not in patched] == [name for name in live if name not in patched]
    assert all(item["image"] == ("new" if item["name"] in patched else "old") for item in result)


ACTIONS = st.lists(st.tuples(st.sampled_from(["any", "take", "release"]), st.integers(95, 125)), max_size=80)


@given(ACTIONS, st.integers(0, 25))
def test_an_allocator_never_gives_a_number_twice(actions: list[tuple[str, int]], reserved: int) -> None:
    allocator, held = NumberAllocator(100, 120, reserved), set[int]()
    for action, number in actions:
        if action == "release":
            allocator.release(number)
            held.discard(number)
        elif action == "take":
            if not 100 <= number <= 120:
                with pytest.raises(NotInRange):
                    allocator.take(number)
            elif number in held:
                with pytest.raises(AlreadyAllocated):
                    allocator.take(number)
            else:
                allocator.take(number)
                held.add(number)
        elif len(held) == 21:
            with pytest.raises(RangeFull):
                allocator.take_next()
        else:
            given_number = allocator.take_next()
            assert given_number not in held
            assert 100 <= given_number <= 120
            held.add(given_number)
        assert allocator.free() == 21 - len(held)


CIDR_ACTIONS = st.lists(st.tuples(st.sampled_from(["allocate", "occupy", "release"]), st.integers(0, 15)), max_size=60)


@given(CIDR_ACTIONS)
def test_a_cidr_allocator_never_gives_an_address_twice(actions: list[tuple[str, int]]) -> None:
    network = IPv4Network("10.244.0.0/20")
    shares = list(network.subnets(new_prefix=24))
    allocator, held = CidrAllocator(network, 24), set[Any]()
    for action, index in actions:
        if action == "occupy":
            allocator.occupy(str(shares[index]))
            held.add(shares[index])
        elif action == "release":
            allocator.release(shares[index])
            held.discard(shares[index])
        elif len(held) == 16:
            with pytest.raises(CidrsExhausted):
                allocator.allocate()
        else:
            found = allocator.allocate()
            assert not any(found.overlaps(other) for other in held)
            assert found.subnet_of(network)
            held.add(found)


@given(st.integers(20, 30))
def test_occupying_a_cidr_of_any_size_keeps_its_addresses(prefix: int) -> None:
    allocator = CidrAllocator(IPv4Network("10.244.0.0/20"), 24)
    occupied = ip_network(f"10.244.0.0/{prefix}")
    allocator.occupy(occupied)
    try:
        while True:
            assert not allocator.allocate().overlaps(occupied)
    except CidrsExhausted:
        pass
