"""One packet's way as a list of passes: each is one stay of the packet in one place, with what was seen there. Pure.

A probe that is lost is sent again, by the kernel or by the prober, so what was seen may hold several packets' ways: one
is chosen, the one that tells most. Sightings have the kernel's time; rule events have none, only an order within their
place, so they are brought to sightings by what is in the packets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from netsim.observe.flow import Seen, Traced, tuple_of
from netsim.observe.path import Leg

_ORDER = {"ingress": 0, "prerouting": 1, "output": 1, "input": 3, "forward": 3, "postrouting": 4, "egress": 5}
# br_netfilter: a frame's hooks are around a packet's of the same name. What is routed goes out by a bridge behind all.
_BRIDGE_ORDER = {"prerouting": 1, "input": 2, "forward": 3, "output": 4, "postrouting": 4}


@dataclass(slots=True)
class Stage:
    """A hook, with the rule events there. ``of_frames``: of families bridge and netdev."""

    hook: str
    of_frames: bool = False
    traced: list[Traced] = field(default_factory=list)

    @property
    def leaves_by(self) -> str:
        """Of frames that are about to leave: by which link."""
        leaving = self.of_frames and self.hook in ("forward", "output", "postrouting", "egress")
        return self.traced[0].event.interface_out if leaving else ""


@dataclass(slots=True)
class Stay:
    """One way of a packet through the hooks of a place."""

    place: str
    leg: Leg
    outer: bool
    stages: list[Stage] = field(default_factory=list)

    @property
    def first(self) -> Traced:
        return self.stages[0].traced[0]

    def stage(self, hook: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.hook == hook), None)


@dataclass(slots=True)
class Pass:
    """A packet in a place: interfaces by which it came, hooks, interfaces by which it left. ``copies``: hooks that only
    a copy of it met, of those that a bridge makes of a frame for more ports than one.
    """

    place: str
    leg: Leg
    ins: list[Seen] = field(default_factory=list)
    outs: list[Seen] = field(default_factory=list)
    stay: Stay | None = None
    copies: list[Stay] = field(default_factory=list)

    @property
    def outer(self) -> bool:
        """The kernel handled the tunnel's packet here, not the one inside."""
        seen = [*self.ins, *self.outs]
        return seen[0].outer if seen else self.stay is not None and self.stay.outer


@dataclass(frozen=True, slots=True)
class Journey:
    """The chosen packet's ways there and back. ``earlier``: how many probes were sent before it, and lost."""

    there: tuple[Pass, ...]
    back: tuple[Pass, ...]
    earlier: int = 0


def build_journey(source: str, seen: Sequence[Seen], traced: Sequence[Traced]) -> Journey:
    """The way of one probe that started at the place ``source``."""
    attempts = _split_attempts(source, seen)
    best = max(range(len(attempts)), key=lambda i: (_came_back(source, attempts[i]), len(attempts[i]), -i), default=0)
    chosen = attempts[best] if attempts else []
    stays = _group_stays(traced)
    legs = {}
    for leg in ("there", "back"):
        passes = _split_passes(leg, _without_repeats(s for s in chosen if s.leg == leg))
        legs[leg] = _join_stays(passes, [stay for stay in stays if stay.leg == leg])
    there, back = legs["there"], legs["back"]
    if not there:
        there = [Pass(stay.place, "there", stay=stay) for stay in stays if stay.leg == "there" and stay.place == source]
        there = there[:1]
    if not back:
        end = there[-1].place if there else source
        orphans = [stay for stay in stays if stay.leg == "back" and stay.place == end]
        back = [Pass(stay.place, "back", stay=stay) for stay in orphans[:1] if stay.stages[0].hook == "output"]
    return Journey(tuple(there), tuple(back), best)


def _split_attempts(source: str, seen: Sequence[Seen]) -> list[list[Seen]]:
    """What was seen, cut where the source sent once more."""
    attempts: list[list[Seen]] = []
    start = None
    for one in seen:
        key = (one.sighting.interface, one.packet.ttl, tuple_of(one.packet), one.outer)
        sent = one.leg == "there" and one.place == source and not one.incoming
        if start is None and sent:
            start = key
        if not attempts or (sent and key == start and attempts[-1]):
            attempts.append([])
        attempts[-1].append(one)
    return attempts


def _came_back(source: str, attempt: Sequence[Seen]) -> bool:
    return any(one.leg == "back" and one.place == source and one.incoming for one in attempt)


def _without_repeats(seen: Iterable[Seen]) -> list[Seen]:
    """An answer that is not heard is sent again, too: the first of each."""
    known, kept = set(), []
    for one in seen:
        key = (one.place, one.sighting.interface, one.sighting.direction, one.packet.ttl, tuple_of(one.packet))
        if (*key, one.outer) not in known:
            known.add((*key, one.outer))
            kept.append(one)
    return kept


def _split_passes(leg: Leg, seen: Sequence[Seen]) -> list[Pass]:
    passes: list[Pass] = []
    for one in seen:
        last = passes[-1] if passes else None
        new = last is None or last.place != one.place or last.outer != one.outer or (one.incoming and last.outs)
        if new or last is None:
            last = Pass(one.place, leg)
            passes.append(last)
        (last.ins if one.incoming else last.outs).append(one)
    return passes


def _group_stays(traced: Sequence[Traced]) -> list[Stay]:
    """Events of one packet's way through one place's hooks, in their order."""
    stays: list[Stay] = []
    current: dict[tuple[str, Leg, bool], Stay] = {}
    for one in traced:
        key = (one.event.place, one.leg, one.outer)
        stay = current.get(key)
        if stay is None or not _goes_on(stay, one):
            stay = current[key] = Stay(*key)
            stays.append(stay)
        of_frames = is_of_frames(one)
        if not stay.stages or (stay.stages[-1].hook, stay.stages[-1].of_frames) != (one.event.hook, of_frames):
            stay.stages.append(Stage(one.event.hook, of_frames))
        stay.stages[-1].traced.append(one)
    return stays


def is_of_frames(one: Traced) -> bool:
    """Whether a rule is of a family that sees frames."""
    return one.event.family in ("bridge", "netdev")


def _order(one: Traced) -> int:
    return (_BRIDGE_ORDER if one.event.family == "bridge" else _ORDER).get(one.event.hook, 0)


def _goes_on(stay: Stay, one: Traced) -> bool:
    """Whether the event can be the next of this stay."""
    last = stay.stages[-1]
    previous = last.traced[-1]
    before, after = _order(previous), _order(one)
    if before > after or (before == after and last.hook != one.event.hook and one.event.family != "bridge"):
        return False
    if previous.decoded.identification != one.decoded.identification:
        return False
    return before != after or one.event.packet_id in (previous.event.packet_id, 0)


def _join_stays(passes: list[Pass], stays: Sequence[Stay]) -> list[Pass]:
    """Give each pass its stay; one at the leg's end whose packet no interface saw becomes a pass of its own."""
    left = list(stays)
    for one in passes:
        found = next((stay for stay in left if _belongs(stay, one)), None)
        if found is not None:
            one.stay = found
            left.remove(found)
            one.copies = [stay for stay in left if _is_copy(stay, found)]
            left = [stay for stay in left if stay not in one.copies]
    if not passes:
        return passes
    last = passes[-1]
    beyond = [
        s for s in left if s.place == last.place and s.first.event.hook == "output" and s.outer and not last.outer
    ]
    if beyond and last.outs:
        passes.append(Pass(last.place, last.leg, stay=beyond[0]))
    return passes


def _is_copy(stay: Stay, first: Stay) -> bool:
    """Whether a bridge made the packet of one stay from that of another, to send it out of one more port."""
    if not stay.stages[0].leaves_by or (stay.place, stay.leg, stay.outer) != (first.place, first.leg, first.outer):
        return False
    leaving = next((stage.traced[0] for stage in first.stages if stage.leaves_by), first.stages[-1].traced[-1])
    one, other = stay.first.decoded, leaving.decoded
    same = (one.identification, one.packet.ttl) == (other.identification, other.packet.ttl)
    return same and tuple_of(one.packet) == tuple_of(other.packet)


def _belongs(stay: Stay, one: Pass) -> bool:
    if stay.place != one.place or stay.outer != one.outer:
        return False
    sent_here = stay.first.event.hook in ("output", "postrouting") and stay.stage("prerouting") is None
    seen = one.ins[0] if one.ins else one.outs[0] if one.outs else None
    frames = stay.stages[0].of_frames
    if seen is None or (not frames and bool(one.ins) == (stay.first.event.hook == "output")):
        return False
    packet = seen.packet.outer if seen.outer else seen.packet
    met = stay.first.decoded.packet.outer or stay.first.decoded.packet
    if packet is None:
        return False
    if not seen.outer and seen.decoded.identification != stay.first.decoded.identification:
        return False
    if sent_here:
        return True  # addresses may have been rewritten since
    if stay.first.event.hook == "prerouting":
        return tuple_of(packet) == tuple_of(met) and packet.ttl == met.ttl
    return packet.source == met.source
