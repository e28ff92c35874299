"""Which address comes next: round robin from the last one reserved, as host-local does. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cni.ipam.ranges import Addr, Range, RangeSet, render_set
from cni.types import NO_ADDRESS, CniError


class Choice(NamedTuple):
    """An address of a range."""

    range: Range
    number: int

    @property
    def address(self) -> Addr:
        """The bare address."""
        return Addr(self.range.family, self.number)

    @property
    def cidr(self) -> str:
        """``10.244.1.5/24``."""
        return self.range.cidr(self.number)

    @property
    def gateway(self) -> Addr:
        """The gateway of the range."""
        return Addr(self.range.family, self.range.gateway)


def walk(ranges: RangeSet, last: Addr | None) -> Iterator[Choice]:
    """Every address of the set once, beginning after ``last`` (if that is in the set), without the gateways."""
    begin = next((i for i, r in enumerate(ranges) if last is not None and r.contains(last)), None)
    if begin is None or last is None:
        for one in ranges:
            yield from _span(one, one.start, one.end)
        return
    first = ranges[begin]
    yield from _span(first, last.number + 1, first.end)
    for one in ranges[begin + 1 :] + ranges[:begin]:
        yield from _span(one, one.start, one.end)
    yield from _span(first, first.start, last.number)


def _span(one: Range, start: int, end: int) -> Iterator[Choice]:
    for number in range(start, end + 1):
        if number != one.gateway:
            yield Choice(one, number)


def choose_next(ranges: RangeSet, last: Addr | None, is_taken: Callable[[Addr], bool]) -> Choice:
    """The next free address of a set; CniError NO_ADDRESS if none is left."""
    for choice in walk(ranges, last):
        if not is_taken(choice.address):
            return choice
    raise CniError(NO_ADDRESS, f"no IP addresses available in range set: {render_set(ranges)}")


def choose_requested(ranges: RangeSet, wanted: Addr, is_taken: Callable[[Addr], bool]) -> Choice:
    """The requested address, which lies in the set; CniError NO_ADDRESS if it is a gateway or taken."""
    one = next(r for r in ranges if r.contains(wanted))
    if wanted.number == one.gateway:
        raise CniError(NO_ADDRESS, f"requested IP {wanted} is the gateway of subnet {one.subnet}")
    if is_taken(wanted):
        words = f"requested IP address {wanted} is not available in range set {render_set(ranges)}"
        raise CniError(NO_ADDRESS, words)
    return Choice(one, wanted.number)


def choose_addresses(
    sets: Sequence[RangeSet],
    requested: Sequence[Addr],
    last: Callable[[int], Addr | None],
    is_taken: Callable[[Addr], bool],
) -> list[Choice]:
    """One address of each set, the requested ones where they belong; ``last`` gives the last reserved one of a set.

    CniError NO_ADDRESS if a set is exhausted or a requested address is taken, a gateway, or in no set that is left.
    """
    open_requests = list(dict.fromkeys(requested))
    choices: list[Choice] = []
    for index, ranges in enumerate(sets):
        wanted = next((a for a in open_requests if any(r.contains(a) for r in ranges)), None)
        if wanted is None:
            choices.append(choose_next(ranges, last(index), is_taken))
            continue
        open_requests.remove(wanted)
        choices.append(choose_requested(ranges, wanted, is_taken))
    if open_requests:
        left = ", ".join(str(a) for a in open_requests)
        offered = "; ".join(render_set(ranges) for ranges in sets)
        raise CniError(NO_ADDRESS, f"failed to allocate all requested IPs: {left}", f"range sets: {offered}")
    return choices
