"""Copies of a frame that a bridge sent to more than it was for, taken out of a packet's way. Pure but for the Reader.

A bridge that has not learned a link address sends the frame out of every port (IEEE 802.1Q, 8.8.8): all hear it, one
takes it, and the way goes on there. The others are no part of it.
"""

import re
from collections.abc import Container, Sequence

from netsim.observe.evidence import Reader
from netsim.observe.flow import Seen, tuple_of
from netsim.observe.journey import Pass

_MAC = re.compile(r"\blink/ether (\S+)")
_INDEX = re.compile(r"^(\d+): ")
_PEER = re.compile(r"@if(\d+)\b")


class Links:
    """`Reader.link`, asked once for each interface."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[tuple[str, str], str] = {}

    def __call__(self, place: str, interface: str) -> str:
        key = (place, interface)
        if key not in self._known:
            self._known[key] = self._reader.link(place, interface)
        return self._known[key]


def without_copies(passes: Sequence[Pass], reader: Reader) -> tuple[Pass, ...]:
    """The passes of one leg without places that merely heard it, and without ports that lead to those."""
    links = Links(reader)
    passes = _gathered(passes, links)
    overheard = [one for one in passes if is_overheard(one, links)]
    kept = _joined([one for one in passes if one not in overheard], links)
    later = [one for one in passes[passes.index(kept[-1]) :] if one in overheard] if kept else []
    if later and kept[-1].outs and not _lose_by_rule(kept[-1], len(later), links):
        kept.append(later[0])  # it left and nobody took it: where it was heard is where it was lost
    for number, one in enumerate(kept):
        follower = kept[number + 1] if number + 1 < len(kept) else None
        _keep_port(one, follower, links)
        if follower is not None:
            _keep_hooks(one, {seen.sighting.interface for seen in one.outs})
    return tuple(kept)


def _gathered(passes: Sequence[Pass], links: Links) -> list[Pass]:
    """What a bridge sent out of its ports as one pass: a copy may arrive elsewhere before the next one is sent."""
    gathered: list[Pass] = []
    for one in passes:
        begun = next((p for p in reversed(gathered) if p.place == one.place and p.outer == one.outer), None)
        if begun is not None and begun.outs and not one.ins and _are_copies(one, begun.outs[-1], links):
            begun.outs += one.outs
            begun.stay = begun.stay or one.stay
            begun.copies += one.copies
        else:
            gathered.append(one)
    return gathered


def _are_copies(one: Pass, sent: Seen, links: Links) -> bool:
    """Whether all that left is what the bridge had ``sent`` already, out of further ports."""
    same = all(
        tuple_of(seen.packet) == tuple_of(sent.packet) and seen.packet.ttl == sent.packet.ttl for seen in one.outs
    )
    return same and all(" master " in links(one.place, seen.sighting.interface) for seen in one.outs)


def is_overheard(one: Pass, links: Links) -> bool:
    """Whether the place only heard a frame for somebody else's link address."""
    if one.outs or not one.ins:
        return False
    last = one.ins[-1]
    header = last.packet.outer or last.packet
    link = links(one.place, last.sighting.interface)
    own, mac = _MAC.search(link), header.destination_mac
    if own is None or not mac or " master " in link or int(mac[:2], 16) & 1:
        return False
    return own[1] != mac


def _keep_port(one: Pass, follower: Pass | None, links: Links) -> None:
    """Of several ports a bridge sent it out of, the one that leads to where it went on."""
    ports = [seen for seen in one.outs if " master " in links(one.place, seen.sighting.interface)]
    if len(ports) < 2:
        return
    wanted = _find_port(one, ports, follower, links) or ports[0]
    one.outs = [seen for seen in one.outs if seen not in ports or seen is wanted]


def _find_port(one: Pass, ports: Sequence[Seen], follower: Pass | None, links: Links) -> Seen | None:
    if follower is None or not follower.ins:
        return None
    peer = _PEER.search(links(follower.place, follower.ins[0].sighting.interface))
    for seen in ports:
        index = _INDEX.match(links(one.place, seen.sighting.interface))
        if peer is not None and index is not None and index[1] == peer[1]:
            return seen
    return None


def _keep_hooks(one: Pass, ports: Container[str]) -> None:
    """Of the hooks of copies those of the one that left by one of these ports."""
    if one.stay is None or not one.copies:
        return
    common = [stage for stage in one.stay.stages if not stage.leaves_by]
    for stay in (one.stay, *one.copies):
        own = [stage for stage in stay.stages if stage.leaves_by]
        if own and own[0].leaves_by in ports:
            one.stay.stages = [*common, *(stage for stage in stay.stages if stage not in common)]
            return


def _lose_by_rule(one: Pass, overheard: int, links: Links) -> bool:
    """Whether a rule for frames lost it on its way to a port: then all that left by others are copies, of which so many
    were overheard.
    """
    ports = [seen for seen in one.outs if " master " in links(one.place, seen.sighting.interface)]
    names = {seen.sighting.interface for seen in ports}
    if one.stay is None or len(ports) > overheard:
        return False
    for stay in (one.stay, *one.copies):
        last = stay.stages[-1]
        if last.leaves_by and last.leaves_by not in names and last.traced[-1].event.verdict == "drop":
            _keep_hooks(one, {last.leaves_by})
            one.outs = [seen for seen in one.outs if seen not in ports]
            return True
    return False


def _joined(passes: Sequence[Pass], links: Links) -> list[Pass]:
    """Passes of one stay that a copy's arrival elsewhere had cut in two."""
    joined: list[Pass] = []
    for one in passes:
        last = joined[-1] if joined else None
        cut = last is not None and last.place == one.place and last.outer == one.outer and not one.ins and last.ins
        if last is not None and cut and (not last.outs or _are_copies(one, last.outs[-1], links)):
            last.outs += one.outs
            last.stay = last.stay or one.stay
            last.copies += one.copies
            continue
        joined.append(one)
    return joined
