"""The MAC address a packet is sent to: what the neighbour table says, or what asking around would find. Pure.

Who asks sends a frame, too: where rules of families bridge and netdev drop it or its answer, nobody is found; nor where
rules of ip6 and inet do, of either host, for neighbour discovery. It is asked three times (mcast_solicit), so what is
lost only by chance is taken as answered. Not looked at: rules of family arp, and what br_netfilter shows those of ip6.

Sources: net/core/neighbour.c, net/ipv4/arp.c (arp_solicit, arp_process), net/ipv6/ndisc.c.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address

from netsim.observe.explain.context import Chances, every_way
from netsim.observe.explain.discovery import COMING, LEAVING, filter_discovery
from netsim.observe.explain.frames import Filtered, FrameHook, Ports, filter_frame
from netsim.observe.explain.hooks import Hook
from netsim.observe.explain.packet import BROADCAST, Travel
from netsim.observe.explain.routing import choose_source, is_local
from netsim.observe.explain.state import Link, Place, World

_KNOWN = frozenset({"permanent", "noarp", "reachable", "stale", "delay", "probe"})
_MOST_WAYS = 64  # of one hook's rules


@dataclass(frozen=True, slots=True)
class Resolved:
    """The MAC address of a next hop, or "" and why there is none."""

    mac: str
    why: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """``lost``: the rule that ended its way. ``notes``: what was not certain on it."""

    packet: Travel
    lost: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reached:
    """An interface that a frame comes to, or would but for a rule."""

    place: Place
    link: Link
    frame: _Frame

    def is_at(self, place: Place, link: Link) -> bool:
        return (self.place.name, self.link.index) == (place.name, link.index)


def resolve(world: World, place: Place, link: Link, address: str) -> Resolved:
    """Whom a place sends to by a link, for an address that is on the link."""
    key = link.index, address
    found: Resolved | None = place.decisions.get(key)
    if found is None:
        found = place.decisions[key] = _resolve(world, place, link, address)
    return found


def _resolve(world: World, place: Place, link: Link, address: str) -> Resolved:
    for entry in place.neighbours:
        if entry.index == link.index and entry.address == address and entry.state in _KNOWN and not entry.proxy:
            return Resolved(entry.mac)
    if link.kind == "vxlan":
        return Resolved("", f"{link.name} asks nobody for {address}, and has no neighbour entry for it")
    question = _question(place, link, address)
    lost, notes = "", dict[str, None]()
    for there in _Walk(world).reach(place, link, _say(place, link, _Frame(question))):
        if there.is_at(place, link) or not _answers(there.place, there.link, address):
            continue
        heard = _hear(there.place, there.link, there.frame)
        answer = replace(heard, packet=_answer(question, there.link, address))
        said = _say(there.place, there.link, answer)
        came_back = (one.frame for one in _Walk(world).reach(there.place, there.link, said) if one.is_at(place, link))
        back = _hear(place, link, next(came_back, said))
        notes |= dict.fromkeys(back.notes)
        lost = back.lost
        if not lost:
            return Resolved(there.link.mac, notes=tuple(notes))
    words = "ARP" if ":" not in address else "neighbour discovery"
    why = f"nobody on {link.name} answers {words} for {address}" + (f": {lost}" if lost else "")
    return Resolved("", why, tuple(notes))


def _answers(place: Place, link: Link, address: str) -> bool:
    if ":" in address:
        return any(one.index == link.index and one.address == address for one in place.addresses)
    on_link = any(one.index == link.index and one.address == address for one in place.addresses)
    ignore = max(place.sysctl("ipv4.conf.all.arp_ignore"), place.interface_sysctl(4, link.name, "arp_ignore"))
    return on_link if ignore else is_local(place, address)


def _question(place: Place, link: Link, address: str) -> Travel:
    source = choose_source(place, link.index, address)
    if ":" not in address:
        return Travel(
            source, address, "arp", 0, 0, "request", source_mac=link.mac, destination_mac=BROADCAST, length=28
        )
    tail = ip_address(address).packed[-3:]  # of the solicited-node multicast address, RFC 4291, 2.7.1
    group = str(ip_address(bytes.fromhex("ff02" + "00" * 9 + "01ff") + tail))
    mac = "33:33:ff:" + tail.hex(":")  # RFC 2464, 7
    return Travel(source, group, "icmpv6", 0, 0, "nd-neighbor-solicit", 255, 0, link.mac, mac, length=72)


def _answer(question: Travel, link: Link, address: str) -> Travel:
    note = "reply" if question.is_arp else "nd-neighbor-advert"
    answer = replace(question, source=address, destination=question.source, note=note)
    return replace(answer, source_mac=link.mac, destination_mac=question.source_mac)


@dataclass(frozen=True, slots=True)
class _Step:
    """A frame that is to leave by a link; ``came_by``: the bridge port by which it came to the bridge."""

    place: Place
    link: Link
    frame: _Frame
    came_by: Link | None = None


class _Walk:
    """A frame that bridges send out of every port: to all, or one that they have not learned yet."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: set[tuple[str, int]] = set()
        self._waiting: list[_Step] = []

    def reach(self, place: Place, link: Link, frame: _Frame) -> Iterator[_Reached]:
        """Every interface that it comes to from a link, as far as that is of a known place; the nearest first."""
        self._waiting.append(_Step(place, link, frame))
        while self._waiting:
            yield from self._out_of(self._waiting.pop(0))

    def _out_of(self, step: _Step) -> Iterator[_Reached]:
        where, one, frame = step.place, step.link, step.frame
        if not one.up or (where.name, one.index) in self._seen:
            return
        self._seen.add((where.name, one.index))
        leaves = Ports(leaves_by=one.name)
        if one.kind == "bridge":
            frame = self._pass(where, "egress", frame, leaves)
            self._waiting += [_Step(where, port, frame) for port in ports_of(where, one)]
        elif one.kind == "veth" and (peer := self._world.peer(where.name, one.index)) is not None:
            if one.master:
                ports = Ports(step.came_by.name if step.came_by else "", one.name)
                frame = self._pass(where, "forward" if step.came_by else "output", frame, ports)
                frame = self._pass(where, "postrouting", frame, leaves)
            frame = self._pass(where, "egress", frame, leaves)
            other = self._world.place(peer[0])
            yield from self._into(other, other.by_index[peer[1]], frame)

    def _into(self, where: Place, one: Link, frame: _Frame) -> Iterator[_Reached]:
        if not one.up or (where.name, one.index) in self._seen:
            return
        self._seen.add((where.name, one.index))
        came = Ports(came_by=one.name)
        frame = self._pass(where, "ingress", frame, came)
        if not one.master:
            yield _Reached(where, one, frame)
            return
        bridge = where.by_index[one.master]
        frame = self._pass(where, "prerouting", frame, came)
        self._seen.add((where.name, bridge.index))
        others = (port for port in ports_of(where, bridge) if not (port.isolated and one.isolated))
        self._waiting += [_Step(where, port, frame, one) for port in others if port.index != one.index]
        up = self._pass(where, "ingress", self._pass(where, "input", frame, came), Ports(came_by=bridge.name))
        yield _Reached(where, bridge, up)

    def _pass(self, where: Place, hook: FrameHook, frame: _Frame, ports: Ports) -> _Frame:
        return _get_through(where, frame, lambda chances: filter_frame(where, chances, hook, frame.packet, ports))


def _say(place: Place, link: Link, frame: _Frame) -> _Frame:
    """What leaves a host of what it asks or answers."""
    return _pass_host(place, LEAVING, frame, Ports(leaves_by=link.name))


def _hear(place: Place, link: Link, frame: _Frame) -> _Frame:
    """What a host takes in of what came to it."""
    return _pass_host(place, COMING, frame, Ports(came_by=link.name))


def _pass_host(place: Place, hooks: Sequence[Hook], frame: _Frame, ports: Ports) -> _Frame:
    for hook in hooks:
        run = partial(filter_discovery, place, hook=hook, packet=frame.packet, ports=ports)
        frame = _get_through(place, frame, run)
    return frame


def _get_through(where: Place, frame: _Frame, run: Callable[[Chances], Filtered]) -> _Frame:
    """The frame after a hook, if it can get through at all."""
    if frame.lost:
        return frame
    notes: dict[str, None] = dict.fromkeys(frame.notes)
    passed: Filtered | None = None
    words = ""
    for chances, found in every_way(run, _MOST_WAYS):
        notes |= dict.fromkeys(chances.notes)
        if found.end is None:
            passed = passed or found
        elif (rule := found.end.rule) is not None:
            words = f"{rule.family} {rule.table} {rule.chain}: {rule.text}"
    if passed is None:
        what = "question" if frame.packet.note in ("request", "nd-neighbor-solicit") else "answer"
        return _Frame(frame.packet, f"{where.name} drops the {what}: {words}", tuple(notes))
    if words:
        notes[f"{where.name} may drop ARP or neighbour discovery, which is taken as heard: {words}"] = None
    return _Frame(passed.packet, notes=tuple(notes))


def ports_of(place: Place, bridge: Link) -> list[Link]:
    """The ports of a bridge that forward."""
    return [link for link in place.links if link.master == bridge.index and link.port_state == 3 and link.up]
