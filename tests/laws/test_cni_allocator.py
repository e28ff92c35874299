"""Laws of the address allocator: whatever ranges, requests and history, no address twice and none lost."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.ipam.allocator import choose_addresses, choose_next, walk
from cni.ipam.ranges import Addr, Range, RangeSet, check_sets, parse_range
from cni.types import CniError

FIRST = {socket.AF_INET: int.from_bytes(socket.inet_aton("10.0.0.0"), "big"), socket.AF_INET6: 0xFD << 120}


@st.composite
def range_sets(draw: st.DrawFn) -> RangeSet:
    """One to three ranges of one family, apart from each other, some cut short."""
    family = draw(st.sampled_from(list(FIRST)))
    width = 32 if family == socket.AF_INET else 128
    ranges = []
    for index in range(draw(st.integers(1, 3))):
        bits = draw(st.integers(2, 6))
        network = FIRST[family] + (index << 8)
        body: dict[str, object] = {"subnet": f"{Addr(family, network)}/{width - bits}"}
        if draw(st.booleans()):
            low = draw(st.integers(0, (1 << bits) - 1))
            body["rangeStart"] = str(Addr(family, network + low))
            body["rangeEnd"] = str(Addr(family, network + draw(st.integers(low, (1 << bits) - 1))))
        if draw(st.booleans()):
            body["gateway"] = str(Addr(family, network + draw(st.integers(0, (1 << bits) - 1))))
        ranges.append(parse_range(body))
    return tuple(ranges)


def usable(ranges: RangeSet) -> set[int]:
    return {n for r in ranges for n in range(r.start, r.end + 1) if n != r.gateway}


@given(range_sets(), st.data())
def test_a_walk_meets_every_usable_address_once(ranges: RangeSet, data: st.DataObject) -> None:
    start = data.draw(st.none() | st.sampled_from(sorted(usable(ranges)) or [0]))
    met = [c.number for c in walk(ranges, None if start is None else Addr(ranges[0].family, start))]
    assert len(met) == len(set(met))
    assert set(met) == usable(ranges)


@given(range_sets())
def test_never_the_network_the_broadcast_or_the_gateway(ranges: RangeSet) -> None:
    for choice in walk(ranges, None):
        one = choice.range
        width = 32 if one.family == socket.AF_INET else 128
        last = one.network | ((1 << (width - one.prefix)) - 1)
        assert choice.number not in (one.network, one.gateway)
        assert choice.number != last or one.family == socket.AF_INET6
        assert one.network < choice.number <= last


@given(range_sets())
def test_a_pool_of_n_serves_exactly_n_and_all_differ(ranges: RangeSet) -> None:
    taken: set[int] = set()
    last: Addr | None = None
    for _ in usable(ranges):
        choice = choose_next(ranges, last, lambda a: a.number in taken)
        assert choice.number not in taken
        taken.add(choice.number)
        last = choice.address
    with pytest.raises(CniError, match="no IP addresses available in range set: "):
        choose_next(ranges, last, lambda a: a.number in taken)


@given(range_sets().filter(lambda r: len(usable(r)) > 1), st.lists(st.booleans(), max_size=60))
def test_adds_and_deletes_in_any_order_never_share_an_address(ranges: RangeSet, adds: list[bool]) -> None:
    living: list[int] = []
    last: Addr | None = None
    for is_add in adds:
        if is_add and len(living) < len(usable(ranges)):
            choice = choose_next(ranges, last, lambda a: a.number in living)
            assert choice.number not in living
            living.append(choice.number)
            last = choice.address
        elif living:
            living.pop(0)


@given(range_sets().filter(lambda r: len(usable(r)) > 2))
def test_an_address_given_back_is_the_last_to_be_given_again(ranges: RangeSet) -> None:
    first = choose_next(ranges, None, lambda a: False)
    met = []
    last = first.address
    for _ in range(len(usable(ranges)) - 1):
        choice = choose_next(ranges, last, lambda a: False)
        met.append(choice.number)
        last = choice.address
    assert first.number not in met


@given(range_sets().filter(lambda r: bool(usable(r))), st.data())
def test_a_requested_address_is_given_or_refused(ranges: RangeSet, data: st.DataObject) -> None:
    wanted = Addr(ranges[0].family, data.draw(st.sampled_from(sorted(usable(ranges)))))
    (choice,) = choose_addresses([ranges], [wanted], lambda i: None, lambda a: False)
    assert choice.address == wanted
    with pytest.raises(CniError, match="is not available in range set"):
        choose_addresses([ranges], [wanted], lambda i: None, lambda a: a == wanted)


@given(range_sets())
def test_a_requested_gateway_or_stranger_is_refused(ranges: RangeSet) -> None:
    for one in ranges:
        gateway = Addr(one.family, one.gateway)
        if one.contains(gateway):
            with pytest.raises(CniError, match="is the gateway of subnet"):
                choose_addresses([ranges], [gateway], lambda i: None, lambda a: False)
    stranger = Addr(ranges[0].family, FIRST[socket.AddressFamily(ranges[0].family)] + (9 << 8))
    if usable(ranges):
        with pytest.raises(CniError, match="failed to allocate all requested IPs"):
            choose_addresses([ranges], [stranger], lambda i: None, lambda a: False)


@given(range_sets(), range_sets())
def test_overlapping_sets_are_refused_whichever_comes_first(one: RangeSet, other: RangeSet) -> None:
    def shared(a: Range, b: Range) -> bool:
        return a.family == b.family and bool(set(range(a.start, a.end + 1)) & set(range(b.start, b.end + 1)))

    clash = any(shared(a, b) for a in one for b in other)
    for sets in ((one, other), (other, one)):
        if clash:
            with pytest.raises(CniError, match="overlaps with"):
                check_sets(sets)
        elif all(len(usable(s)) for s in sets):
            check_sets(sets)
