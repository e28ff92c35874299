"""Evidence of a probe as a path: the one ordered list of what happened to it, there and back. Pure but for the Reader.

Within a place the order is: interfaces it came by, prerouting, route, input or forward, postrouting, interfaces it left
by; a packet that starts there has output and then the route. Between two points where the packet is known, what differs
is a rewrite: destinations change at prerouting and output, sources at postrouting and input, on both legs
(nf_nat_packet, net/netfilter/nf_nat_core.c).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netsim.model.errors import KernelError
from netsim.observe.evidence import Evidence, Reader
from netsim.observe.flooding import without_copies
from netsim.observe.flow import Flow, Seen, tuple_of
from netsim.observe.journey import Journey, Pass, Stage, build_journey
from netsim.observe.lookup import REFUSALS
from netsim.observe.path import FABRIC, Hop, Leg, Packet, Path
from netsim.observe.rulehits import find_new_destination, read_hits
from netsim.observe.tuples import find_entry
from netsim.observe.verdict import Case, judge
from netsim.observe.virtual_hits import find_virtual_hit


def assemble(evidence: Evidence, reader: Reader, names: Mapping[str, str]) -> Path:
    """The path of the probe that this evidence is of. ``names`` of addresses and of "address:port". Blocking: it asks
    the kernel for routes.
    """
    flow = Flow(evidence)
    seen = flow.read_sightings(evidence.sightings)
    journey = build_journey(evidence.question.source, seen, flow.read_events(evidence.events))
    journey = replace(journey, there=without_copies(journey.there, reader), back=without_copies(journey.back, reader))
    writer = _Writer(evidence, reader)
    there = writer.write("there", journey.there)
    back = writer.write("back", journey.back)
    case = Case(evidence, reader, journey, tuple(there), tuple(back))
    judgement = judge(case)
    loss = [judgement.loss] if judgement.loss is not None else []
    hops = [*there, *loss, *back] if loss and loss[0].leg == "there" else [*there, *back, *loss]
    notes = [*evidence.notes, *writer.notes]
    if journey.earlier:
        notes.append(f"{journey.earlier} earlier probes got less far; this is the way of the one after them")
    return Path(
        question=evidence.question,
        hops=tuple(hops),
        verdict=judgement.verdict,
        answered_by=judgement.answered_by,
        seen_source=judgement.seen_source,
        names=_names_in(hops, names),
        notes=tuple(dict.fromkeys(notes)),
        elapsed_ms=evidence.elapsed_ms,
    )


@dataclass(slots=True)
class _Point:
    """Somewhere in a place where the packet is known."""

    packet: Packet
    seen: Seen | None = None
    stage: Stage | None = None


class _Writer:
    """Turns passes into hops."""

    def __init__(self, evidence: Evidence, reader: Reader) -> None:
        self.notes: list[str] = []
        self._evidence = evidence
        self._reader = reader
        self._tracked: set[str] = set()  # places whose conntrack entry is told already
        self._sent: Packet | None = None  # what the source sent, before anything was done to it

    def write(self, leg: Leg, passes: Sequence[Pass]) -> list[Hop]:
        hops: list[Hop] = []
        for number, one in enumerate(passes):
            points = _list_points(one)
            if not points:
                continue
            if leg == "there" and number == 0:
                points = self._from_question(points)
            hops += self._write_tunnel(one, passes[number - 1] if number else None, points[0].packet, hops)
            hops += self._write_points(one, points)
        if leg == "back" and hops:
            hops += self._write_last_rewrites(hops[-1])
        return hops

    def _from_question(self, points: list[_Point]) -> list[_Point]:
        """What was sent, where the first that was seen of it is something else already."""
        question, first = self._evidence.question, points[0].packet
        port = question.port or first.destination_port
        self._sent = replace(first, destination=question.address, destination_port=port)
        if self._evidence.source_port and question.protocol != "icmp":
            self._sent = replace(self._sent, source_port=self._evidence.source_port)
        if tuple_of(self._sent)[2:] != tuple_of(first)[2:]:
            return [_Point(self._sent), *points]
        self._sent = first
        return points

    def _write_tunnel(self, one: Pass, before: Pass | None, packet: Packet, hops: Sequence[Hop]) -> Iterator[Hop]:
        if before is None or before.place != one.place or before.outer == one.outer or not hops:
            return
        kind = "encapsulate" if one.outer else "decapsulate"
        yield Hop(one.place, one.leg, "rewrite", packet, rewrite=kind, before=hops[-1].packet)  # type: ignore[arg-type]

    def _write_points(self, one: Pass, points: Sequence[_Point]) -> Iterator[Hop]:
        wanted, told = self._takes_route(one), False
        tracked = one.stay is not None or (bool(one.ins) and one.place != FABRIC)
        if wanted and self._ends_at_output(points):
            told = True  # what is sent has its route before output; only what output rewrites is routed once more
            yield from self._write_route(one, points[0].packet)
        elif wanted and not one.ins and _leaves(points[0]):
            told = True  # no rule there saw it
            yield from self._write_route(one, points[0].packet)
        for number, point in enumerate(points):
            follows = points[number + 1].packet if number + 1 < len(points) else self._final(one, point.packet)
            leaves = point.stage is None and point.seen is not None and not point.seen.incoming
            now = point.packet
            hop = self._with_virtual(one, _write_point(one, point, self._evidence), now, follows)
            if hop is not None:
                yield hop
                now = hop.packet
            for changed in _rewrites(one, now, follows, sources=False):
                yield changed
                now = changed.packet
            if wanted and not told and _is_routed_after(one, points, number):
                told = True
                yield from self._write_route(one, now)
            for changed in _rewrites(one, now, follows, sources=True):
                yield changed
                now = changed.packet
            next_leaves = number + 1 < len(points) and _leaves(points[number + 1])
            if tracked and not leaves and (next_leaves or number + 1 == len(points)):
                yield from self._write_conntrack(one, points[0].packet, now)

    def _with_virtual(self, one: Pass, hop: Hop | None, now: Packet, follows: Packet) -> Hop | None:
        """The hook's hop, with the virtual server of IPVS that rewrites next: it has a hook of its own, unseen."""
        if hop is None or hop.kind != "hook" or one.leg == "back":
            return hop
        hit = find_virtual_hit(self._evidence.ipvs.get(one.place, ()), now, follows)
        return hop if hit is None else replace(hop, rules=(*hop.rules, hit))

    def _ends_at_output(self, points: Sequence[_Point]) -> bool:
        """Whether a rule at output let the packet go no further."""
        stage = points[-1].stage
        if stage is None or stage.hook != "output" or stage.of_frames:
            return False
        hits = read_hits(stage, self._evidence.rules, self._evidence.elements)
        return bool(hits) and hits[-1].verdict in ("drop", "reject")

    def _final(self, one: Pass, packet: Packet) -> Packet:
        """What a packet becomes that no interface shows any more: conntrack says it, of a lost one its last rule."""
        if one.outs or one.outer or one.leg == "back":
            return packet
        entry = find_entry(self._entries(one.place), packet)
        if entry is not None:
            return replace(packet, destination=entry.reply[0], destination_port=entry.reply[1])
        stages = one.stay.stages if one.stay is not None else []
        hits = read_hits(stages[-1], self._evidence.rules, self._evidence.elements) if stages else ()
        found = find_new_destination(hits)
        return replace(packet, destination=found[0], destination_port=found[1]) if found else packet

    def _entries(self, place: str) -> Sequence[str]:
        return self._evidence.conntrack.get(place, ())

    def _takes_route(self, one: Pass) -> bool:
        """A bridge's own frames have no route; who routes makes the TTL one less."""
        if one.ins and one.outs:
            return one.ins[-1].packet.ttl != one.outs[0].packet.ttl or one.ins[-1].outer != one.outs[0].outer
        if one.ins:
            local = one.ins[-1].packet.outer or one.ins[-1].packet
            met_packets = one.stay is not None and not all(stage.of_frames for stage in one.stay.stages)
            return met_packets or local.destination in self._addresses(one.place)
        return True

    def _addresses(self, place: str) -> Mapping[str, str]:
        try:
            return self._reader.addresses(place)
        except KernelError as error:
            self.notes.append(f"addresses of {place}: {error.message}")
            return {}

    def _write_route(self, one: Pass, packet: Packet) -> Iterator[Hop]:
        header = packet.outer if one.outer and packet.outer is not None else packet
        came_by = one.ins[-1].sighting.interface if one.ins else ""
        if came_by == "lo":
            came_by = ""  # to route lookups a packet from this host itself comes by no interface
        try:
            route = self._reader.route(
                one.place, header.source, header.destination, interface_in=came_by, mark=packet.mark or 0
            )
        except KernelError as error:
            if error.errno not in REFUSALS:  # those are the verdict's business
                self.notes.append(f"route in {one.place}: {error.message}")
            return
        if route:
            yield Hop(one.place, one.leg, "route", packet, route=route)

    def _write_conntrack(self, one: Pass, first: Packet, now: Packet) -> Iterator[Hop]:
        entries = self._entries(one.place)
        if one.place in self._tracked or one.leg == "back" or one.outer or not entries:
            return
        entry = find_entry(entries, first)
        if entry is None:
            return
        self._tracked.add(one.place)
        yield Hop(one.place, one.leg, "conntrack", now, conntrack=entry.text)

    def _write_last_rewrites(self, last: Hop) -> Iterator[Hop]:
        """At the input of the source itself nothing shows what an answer becomes, but its socket took it."""
        sent, reply = self._sent, self._evidence.reply
        if sent is None or last.place != self._evidence.question.source or last.packet.protocol != sent.protocol:
            return
        if reply.result not in ("connected", "answered", "refused"):
            return
        source, source_port, destination, destination_port = tuple_of(sent)
        packet, before = last.packet, last.packet
        if source and (packet.destination, packet.destination_port) != (source, source_port):
            packet = replace(packet, destination=source, destination_port=source_port)
            yield Hop(last.place, "back", "rewrite", packet, rewrite="un-snat", before=before)
            before = packet
        if (packet.source, packet.source_port) != (destination, destination_port):
            packet = replace(packet, source=destination, source_port=destination_port)
            yield Hop(last.place, "back", "rewrite", packet, rewrite="un-dnat", before=before)


def _list_points(one: Pass) -> list[_Point]:
    """Where the packet is known in one pass, in order."""
    stages = list(one.stay.stages) if one.stay is not None else []
    ins = [_Point(seen.packet, seen=seen) for seen in one.ins]
    outs = [_Point(seen.packet, seen=seen) for seen in one.outs]
    points, on_port = ins[:], 1
    sample = next(iter([*one.ins, *one.outs]), None)
    for stage in stages:
        point = _Point(_packet_at(stage, sample), stage=stage)
        if stage.hook in ("prerouting", "input") and len(ins) > 1 and _is_on_port(one, stage):
            points.insert(on_port, point)
            on_port += 1
        elif one.outs and stage.leaves_by not in ("", one.outs[0].sighting.interface):  # it left by the bridge before
            outs.insert(_find_out(outs, stage.leaves_by), point)
        else:
            points.append(point)
    return points + outs


def _find_out(points: Sequence[_Point], link: str) -> int:
    found = (
        number for number, one in enumerate(points) if one.seen is not None and one.seen.sighting.interface == link
    )
    return next(found, len(points))


def _is_on_port(one: Pass, stage: Stage) -> bool:
    """Whether a hook was passed on the bridge's port, before the bridge itself had the packet: that of frames, and by
    br_netfilter prerouting.

    The trace's packet number has the interface in it by which the packet came last (nft_trace_init), so it is another
    one after the bridge has passed the packet up. Without later events the rewrite between both interfaces says it.
    """
    if stage.of_frames or stage.hook == "input":
        return stage.of_frames
    if tuple_of(one.ins[0].packet) != tuple_of(one.ins[-1].packet):
        return True
    later = one.stay.stages[one.stay.stages.index(stage) + 1 :] if one.stay is not None else []
    later = [other for other in later if not other.of_frames]
    return bool(later) and later[0].traced[0].event.packet_id != stage.traced[0].event.packet_id


def _packet_at(stage: Stage, sample: Seen | None) -> Packet:
    """The packet as a hook's first rule met it. The tunnel's packet has no inside in the trace: taken from a frame."""
    first = stage.traced[0]
    packet, mark = first.decoded.packet, stage.traced[-1].event.mark
    if first.outer and packet.outer is None:
        if sample is not None and sample.packet.outer is not None:
            return replace(sample.packet, outer=replace(packet, mark=mark))
        return packet
    return replace(packet, mark=mark)


def _leaves(point: _Point) -> bool:
    return point.seen is not None and not point.seen.incoming


def _is_routed_after(one: Pass, points: Sequence[_Point], number: int) -> bool:
    """Whether the routing decision falls between this point and the next."""
    if number + 1 == len(points):
        return not one.outs
    point, follows = points[number], points[number + 1]
    if follows.seen is not None and follows.seen.incoming:
        return False
    if follows.stage is not None:
        if follows.stage.of_frames:
            return follows.stage.hook in ("output", "postrouting", "egress")
        if follows.stage.hook in ("prerouting", "output"):
            return False
        if point.seen is None and point.stage is None:
            return True
        return point.stage is None or point.stage.hook in ("prerouting", "output")
    return True  # it leaves next


def _write_point(one: Pass, point: _Point, evidence: Evidence) -> Hop | None:
    if point.seen is not None:
        sighting = point.seen.sighting
        return Hop(
            one.place,
            one.leg,
            "interface",
            point.packet,
            interface=sighting.interface,
            direction=sighting.direction,
            time_ns=sighting.time_ns,
        )
    if point.stage is not None:
        hits = read_hits(point.stage, evidence.rules, evidence.elements)
        return Hop(one.place, one.leg, "hook", point.packet, hook=point.stage.hook, rules=hits)
    return None


def _rewrites(one: Pass, now: Packet, then: Packet, *, sources: bool) -> Iterator[Hop]:
    if now.protocol != then.protocol or (now.outer is None) != (then.outer is None):
        return
    old, new = tuple_of(now), tuple_of(then)
    if sources and old[:2] != new[:2]:
        packet = replace(now, source=then.source, source_port=then.source_port)
        kind = "snat" if one.leg == "there" else "un-dnat"
    elif not sources and old[2:] != new[2:]:
        packet = replace(now, destination=then.destination, destination_port=then.destination_port)
        kind = "dnat" if one.leg == "there" else "un-snat"
    else:
        return
    yield Hop(one.place, one.leg, "rewrite", packet, rewrite=kind, before=now)  # type: ignore[arg-type]


def _names_in(hops: Sequence[Hop], names: Mapping[str, str]) -> dict[str, str]:
    """The names of what occurs on the path, and no others."""
    found: dict[str, str] = {}
    for hop in hops:
        for packet in (hop.packet, hop.before, hop.packet.outer):
            if packet is None:
                continue
            ends = ((packet.source, packet.source_port), (packet.destination, packet.destination_port))
            for address, port in ends:
                joined = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                found |= {key: names[key] for key in (address, joined) if key in names}
    return found


__all__ = ["Journey", "assemble"]
