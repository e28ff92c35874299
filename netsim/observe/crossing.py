"""A frame at an interface of a place, and bringing what the taps of several places saw into one order. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from netsim.observe.pcapng import LINKTYPE_ETHERNET

MERGE_WINDOW_NS = 10_000_000  # how far apart two sightings of one frame may be; a hop takes microseconds
_MERGE_REMEMBERED = 4096


@dataclass(slots=True, eq=False)
class Interface:
    """One interface of a place while a capture runs."""

    number: int  # in order of appearance, from 0
    place: str  # "pod/default/web", "node/node-1", "host/external", "fabric"
    name: str  # "eth0"
    netns: str  # the place's network namespace in the sandbox's `ip netns list`
    mac: str = ""
    linktype: int = LINKTYPE_ETHERNET
    packets: int = 0
    gone: bool = False

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


class Crossing(NamedTuple):
    """One frame crossing one interface."""

    time_ns: int  # CLOCK_REALTIME of the one machine, whatever the place
    interface: Interface
    outgoing: bool  # as seen from the place's namespace
    data: bytes  # from the Ethernet header on, possibly cut
    length: int  # bytes on the wire

    @property
    def place(self) -> str:
        return self.interface.place

    @property
    def direction(self) -> str:
        """``out`` or ``in``."""
        return "out" if self.outgoing else "in"


class Sorter:
    """Holds crossings back until nothing older can come any more, and gives them out by time."""

    def __init__(self) -> None:
        self._held: list[Crossing] = []

    def __len__(self) -> int:
        return len(self._held)

    def add(self, crossings: Iterable[Crossing]) -> None:
        """Those of one tap, in its order, which equal times keep."""
        self._held += crossings

    def release(self, before_ns: int | None = None) -> list[Crossing]:
        """Everything older than ``before_ns``, or everything, by time."""
        held = self._held
        held.sort(key=itemgetter(0))  # mostly in order already, which list.sort makes use of
        if before_ns is None or not held or held[-1].time_ns < before_ns:
            self._held = []
            return held
        low, high = 0, len(held)
        while low < high:
            middle = (low + high) // 2
            if held[middle].time_ns < before_ns:
                low = middle + 1
            else:
                high = middle
        self._held = held[low:]
        return held[:low]


class Merger:
    """Leaves of each frame only its first crossing: further ones are byte for byte the same, at other interfaces, and
    soon after. A router's other side is another frame: addresses of the link and the TTL differ there.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[int, set[tuple[int, bool]]]] = {}

    def first_only(self, crossings: Iterable[Crossing]) -> list[Crossing]:
        """Of ``crossings``, by time, those that are the first of their frame."""
        kept = []
        for crossing in crossings:
            at = (crossing.interface.number, crossing.outgoing)
            known = self._seen.get(crossing.data)
            # The same bytes at the same interface in the same direction are a frame that was sent twice.
            if known is not None and crossing.time_ns - known[0] <= MERGE_WINDOW_NS and at not in known[1]:
                known[1].add(at)
                continue
            self._seen[crossing.data] = (crossing.time_ns, {at})
            kept.append(crossing)
        if len(self._seen) > _MERGE_REMEMBERED and kept:
            oldest = kept[-1].time_ns - MERGE_WINDOW_NS
            self._seen = {data: seen for data, seen in self._seen.items() if seen[0] >= oldest}
        return kept
