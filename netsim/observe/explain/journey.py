"""One packet's way through places, hop by hop, as the kernel would take it. Pure.

Sources: net/ipv4/ip_input.c, ip_forward.c, ip_output.c, icmp.c; for bridges `netsim.observe.explain.bridge`.
"""

from dataclasses import dataclass, replace
from typing import NoReturn

from netsim.observe.explain.bridge import enter_by_port, leave_by_bridge, send_by_port
from netsim.observe.explain.context import Answer, Chances
from netsim.observe.explain.filters import Filters
from netsim.observe.explain.frames import come_in, go_out
from netsim.observe.explain.hooks import Hook, Passage, Stay, Tracker
from netsim.observe.explain.neighbours import resolve
from netsim.observe.explain.packet import Travel, answer_to, error_about
from netsim.observe.explain.routing import Decision, check_source, choose_source, is_local, look_up
from netsim.observe.explain.state import Link, Place, World
from netsim.observe.explain.vxlan import encapsulate, take_out
from netsim.observe.path import Hop, Leg, Outcome, look_at, look_at_rule

_MAX_STEPS = 2000  # crossings of interfaces, both ways: what goes round and is not routed ends here
_NEXT_ROUTE = "ip route"


class Lost(Exception):
    """The packet goes no further. ``reply``: an error that is sent back to whoever sent it; ``by`` this link, whatever
    routes say, and where it is ``bridged`` through its bridge.
    """

    def __init__(
        self,
        outcome: Outcome,
        place: str,
        cause: str,
        *,
        hint: str = "",
        reply: Travel | None = None,
        stay: Stay | None = None,
        by: Link | None = None,
        bridged: bool = False,
    ) -> None:
        super().__init__(cause)
        self.outcome: Outcome = outcome
        self.place = place
        self.cause = cause
        self.hint = hint
        self.reply = reply
        self.stay = stay
        self.by = by
        self.bridged = bridged


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a packet was taken in, and as what."""

    place: Place
    packet: Travel
    link: Link


class Journey:
    """The hops of one question, there and back, in one of the ways that chance may take."""

    def __init__(self, world: World, chances: Chances, filters: dict[tuple[str, int], Filters]) -> None:
        self.world = world
        self.chances = chances
        self.tracker = Tracker(chances, filters)
        self.hops: list[Hop] = []
        self.leg: Leg = "there"
        self._steps = 0

    # --- telling ---

    def lose(
        self,
        outcome: Outcome,
        place: Place,
        packet: Travel,
        cause: str,
        *,
        hint: str = "",
        reply: Travel | None = None,
    ) -> NoReturn:
        """The way ends here. ``hint``: the command to look with, there."""
        self.hops.append(Hop(place.name, self.leg, "loss", packet.shown(), reason=cause))
        raise Lost(outcome, place.name, cause, hint=look_at(place.name, hint) if hint else "", reply=reply)

    def lose_frame(self, place: Place, packet: Travel, cause: str) -> NoReturn:
        """Nobody takes the frame: to blame is who gave it that address, the last that is not just a bridge's port."""
        senders = [hop.place for hop in self.hops if hop.kind == "interface" and hop.direction == "out"]
        self.hops.append(Hop(place.name, self.leg, "loss", packet.shown(), reason=cause))
        blamed = senders[-1] if senders else place.name
        raise Lost("dropped", blamed, cause, hint=look_at(blamed, "ip neigh"))

    def cross(self, place: Place, link: Link, direction: str, packet: Travel) -> None:
        """A frame on an interface."""
        for words in place.notes:
            self.chances.note(f"{place.name}: {words}")
        self._steps += 1
        if self._steps > _MAX_STEPS:
            self.lose("dropped", place, packet, f"it goes round in a circle: {_MAX_STEPS} interfaces crossed")
        self.hops.append(
            Hop(place.name, self.leg, "interface", packet.shown(), interface=link.name, direction=direction)  # type: ignore[arg-type]
        )

    def pass_hook(
        self,
        place: Place,
        hook: Hook,
        packet: Travel,
        stay: Stay,
        *,
        interface_in: str = "",
        interface_out: str = "",
        next_hop: str = "",
        ports: tuple[str, str] = ("", ""),
    ) -> Travel:
        """The packet after a hook's rules. Raises Lost."""
        passage = self.tracker.pass_hook(
            place,
            hook,
            packet,
            stay,
            interface_in=interface_in,
            interface_out=interface_out,
            next_hop=next_hop,
            ports=ports,
        )
        self._tell(place, hook, packet, passage)
        stay.stolen = passage.answer.verdict == "stolen"
        if passage.answer.verdict in ("drop", "reject"):
            self.refuse(place, passage.packet, passage.answer, stay)
        return passage.packet

    def _tell(self, place: Place, hook: Hook, packet: Travel, passage: Passage) -> None:
        after = passage.packet
        if passage.hits:
            self.hops.append(Hop(place.name, self.leg, "hook", after.shown(), hook=hook, rules=passage.hits))
        if passage.rewrite and passage.before is not None:
            self.hops.append(
                Hop(
                    place.name,
                    self.leg,
                    "rewrite",
                    after.shown(),
                    hook=hook,
                    rewrite=passage.rewrite,  # type: ignore[arg-type]
                    before=passage.before.shown(),
                )
            )
        if passage.new_flow:
            self.hops.append(Hop(place.name, self.leg, "conntrack", after.shown(), conntrack=passage.new_flow))

    def refuse(
        self, place: Place, packet: Travel, answer: Answer, stay: Stay | None = None, *, by: Link | None = None
    ) -> NoReturn:
        """A rule (or a full table) ends it. ``by``: of a frame, the link it came by. Raises Lost."""
        rule = answer.rule
        where = f"{rule.family} {rule.table} {rule.chain}: " if rule is not None and rule.table else ""
        cause = f"{where}{rule.text if rule else answer.verdict}"
        self.hops.append(Hop(place.name, self.leg, "loss", packet.shown(), rules=(rule,) if rule else (), reason=cause))
        hint = look_at_rule(place.name, rule) if rule is not None else ""
        if answer.verdict == "drop":
            raise Lost("dropped", place.name, cause, hint=hint)
        if rule is not None and rule.family in ("bridge", "netdev"):  # nf_reject_send_*, nft_reject_{bridge,netdev}.c
            words = answer.reply.replace("-", " ")
            tcp = answer.reply == "tcp reset"
            reply = answer_to(packet, "RST,ACK") if tcp else error_about(packet, packet.destination, words)
            reply = replace(reply, source_mac=packet.destination_mac, destination_mac=packet.source_mac)
            raise Lost("rejected", place.name, cause, hint=hint, reply=reply, by=by, bridged=rule.family == "bridge")
        stay = stay or Stay()
        if answer.reply == "tcp reset":
            reset = answer_to(packet, "RST,ACK")
            raise Lost("rejected", place.name, cause, hint=hint, reply=reset, stay=Stay(stay.flow, "related", True))
        source = packet.destination if is_local(place, packet.destination) else ""
        error = error_about(packet, source, answer.reply.replace("-", " "))
        raise Lost("rejected", place.name, cause, hint=hint, reply=error)

    # --- sending ---

    def send_reply(self, lost: Lost, reply: Travel) -> Arrival:
        """What is sent back where a packet was lost. Raises Lost."""
        place = self.world.place(lost.place)
        if lost.by is None:
            return self.send(place, reply, lost.stay or Stay())
        if lost.bridged:
            return send_by_port(self, place, lost.by, reply, Stay())
        return self.transmit(place, lost.by, reply, Stay())

    def send(self, place: Place, packet: Travel, stay: Stay | None = None, *, oif: int = 0) -> Arrival:
        """What the place itself sends. Raises Lost."""
        stay = stay or Stay()
        decision = self._route_out(place, packet, oif)
        if not packet.source:
            packet = replace(packet, source=_source_for(place, decision, packet.destination))
            if not packet.source:
                self.lose(
                    "no route", place, packet, f"no address to send from on {place.link_name(decision.hop.index)}"
                )
        out = "lo" if decision.kind == "local" else place.link_name(decision.hop.index)
        after = self.pass_hook(place, "output", packet, stay, interface_out=out)
        if stay.stolen:
            return self._send_on(place, after, stay, "")
        if (after.destination, after.mark) != (packet.destination, packet.mark):
            decision = self._route_out(place, after, oif)  # ip_route_me_harder
        return self._put_out(place, after, decision, stay)

    def _send_on(self, place: Place, packet: Travel, stay: Stay, came_in: str) -> Arrival:
        """ip_vs_nat_xmit: by the routes, and through OUTPUT (once more), whether it came in or is the place's own."""
        decision = self._route_out(place, packet, 0)
        if came_in and decision.kind != "local":
            packet = replace(packet, ttl=packet.ttl - 1)
        out = "lo" if decision.kind == "local" else place.link_name(decision.hop.index)
        after = self.pass_hook(place, "output", packet, stay, interface_out=out)
        if (after.destination, after.mark) != (packet.destination, packet.mark):
            decision = self._route_out(place, after, 0)
        return self._put_out(place, after, decision, stay, came_in)

    def _route_out(self, place: Place, packet: Travel, oif: int) -> Decision:
        decision = look_up(place, packet.destination, source=packet.source, mark=packet.mark, interface_out=oif)
        if decision.kind not in ("unicast", "local"):
            words = "no route to host" if decision.kind == "none" else f"the route says {decision.kind}"
            cause = f"{words}: {decision.text or packet.destination}"
            self.lose("no route", place, packet, cause, hint=_NEXT_ROUTE)
        decision = self._choose_hop(decision)
        self.hops.append(Hop(place.name, self.leg, "route", packet.shown(), route=decision.text))
        return decision

    def _choose_hop(self, decision: Decision) -> Decision:
        """One of several next hops: by a hash of the packet, which is chance to whoever does not know its ports."""
        if len(decision.hops) < 2:
            return decision
        total = sum(hop.weight for hop in decision.hops)
        turn = self.chances.choose([hop.weight / total for hop in decision.hops])
        return replace(decision, hops=(decision.hops[turn],))

    def _put_out(self, place: Place, packet: Travel, decision: Decision, stay: Stay, came_in: str = "") -> Arrival:
        """Postrouting, the neighbour's MAC address, and on to the wire."""
        local = decision.kind == "local"
        link = place.by_name["lo"] if local else place.by_index.get(decision.hop.index)
        if link is None:
            self.lose("dropped", place, packet, f"the route leads to no link: {decision.text}")
        next_hop = decision.hop.via or packet.destination if not local else packet.destination
        packet = self.pass_hook(
            place, "postrouting", packet, stay, interface_in=came_in, interface_out=link.name, next_hop=next_hop
        )
        if link.name == "lo":
            if not link.up:
                self.lose("dropped", place, packet, "lo is down")
            packet = come_in(self, place, link, go_out(self, place, link, packet))
            return self.receive_ip(place, link, packet, stay)
        packet = self._address_frame(place, link, packet, next_hop)
        return self.transmit(place, link, packet, stay)

    def _address_frame(self, place: Place, link: Link, packet: Travel, next_hop: str) -> Travel:
        mac, why = self.resolve(place, link, next_hop)
        if not mac:
            words = "host unreachable" if packet.family == 4 else "address unreachable"
            error = None if packet.is_error else error_about(packet, "", words)
            self.lose("no route", place, packet, why, hint="ip neigh", reply=error)
        return replace(packet, source_mac=link.mac, destination_mac=mac)

    def resolve(self, place: Place, link: Link, next_hop: str) -> tuple[str, str]:
        """The MAC address of a next hop, or "" and why there is none."""
        found = resolve(self.world, place, link, next_hop)
        for words in found.notes:
            self.chances.note(words)
        return found.mac, found.why

    def transmit(self, place: Place, link: Link, packet: Travel, stay: Stay) -> Arrival:
        """Out of a link of whatever kind. Raises Lost."""
        if not link.up:
            self.lose("dropped", place, packet, f"{link.name} is down", hint=_hint_up(link))
        if packet.length > link.mtu:
            self.lose(
                "dropped", place, packet, f"{packet.length} bytes are more than the MTU {link.mtu} of {link.name}"
            )
        if link.qdisc in ("netem", "blackhole"):
            self.chances.note(
                f"{place.name} {link.name}: what the queueing discipline {link.qdisc} does is not modelled"
            )
        packet = go_out(self, place, link, packet)
        if link.kind == "bridge":
            return leave_by_bridge(self, place, link, packet, stay)
        if link.kind == "vxlan":
            return encapsulate(self, place, link, packet)
        peer = self.world.peer(place.name, link.index)
        if link.kind != "veth" or peer is None:
            self.lose(
                "no reply", place, packet, f"{link.name} ({link.kind or 'no kind'}) leads to no place that is known"
            )
        there, index = peer
        other = self.world.place(there)
        far = other.by_index[index]
        if not far.up:
            self.lose("dropped", other, packet, f"{far.name} is down", hint=_hint_up(far))
        if there != place.name:
            packet = replace(packet, mark=0)  # skb_scrub_packet
        return self.receive(other, far, packet)

    # --- taking in ---

    def receive(self, place: Place, link: Link, packet: Travel) -> Arrival:
        """A frame comes in by a link. Raises Lost."""
        packet = come_in(self, place, link, packet)
        if link.master:
            return enter_by_port(self, place, link, packet)
        if packet.destination_mac and packet.destination_mac != link.mac:
            cause = f"the frame is for {packet.destination_mac}, {link.name} is {link.mac}: a stale neighbour entry?"
            self.lose_frame(place, packet, cause)
        return self.receive_ip(place, link, packet, Stay())

    def receive_ip(self, place: Place, link: Link, packet: Travel, stay: Stay, *, prerouted: bool = False) -> Arrival:
        """ip_rcv: prerouting, routing, and then up or on."""
        before = packet.destination
        if not prerouted:
            packet = self.pass_hook(place, "prerouting", packet, stay, interface_in=link.name)
        if link.name == "lo" and packet.destination == before:
            return self._deliver(place, link, packet, stay)  # it has its route from being sent
        decision = look_up(place, packet.destination, source=packet.source, mark=packet.mark, interface_in=link.name)
        if link.name != "lo":
            why = check_source(place, packet.source, packet.destination, link.name, packet.mark)
            if why and decision.kind != "none":
                self.lose("dropped", place, packet, f"{why} (source {packet.source}, by {link.name})")
        if decision.kind == "local":
            self.hops.append(Hop(place.name, self.leg, "route", packet.shown(), route=decision.text))
            return self._deliver(place, link, packet, stay)
        return self._forward(place, link, packet, decision, stay)

    def _forward(self, place: Place, link: Link, packet: Travel, decision: Decision, stay: Stay) -> Arrival:
        error = None
        if decision.kind == "blackhole":
            self.lose("no route", place, packet, decision.text, hint=_NEXT_ROUTE)
        if not _forwards(place, packet.family, link.name):
            cause = (
                f"{packet.destination} is not its own, and it forwards nothing (net.ipv{packet.family} forwarding is 0)"
            )
            self.lose("dropped", place, packet, cause, hint="sysctl net.ipv4.ip_forward")
        if decision.kind not in ("unicast",):
            words = {"prohibit": "communication prohibited"}.get(decision.kind, "net unreachable")
            if not packet.is_error:
                error = error_about(packet, "", words if packet.family == 4 else "no route")
            self.lose("no route", place, packet, f"no route to {packet.destination}", hint=_NEXT_ROUTE, reply=error)
        if packet.ttl <= 1:
            error = error_about(packet, "", "time exceeded")
            self.lose("dropped", place, packet, "its time to live ended: a loop?", reply=error)
        decision = self._choose_hop(decision)
        self.hops.append(Hop(place.name, self.leg, "route", packet.shown(), route=decision.text))
        packet = replace(packet, ttl=packet.ttl - 1)
        out = place.link_name(decision.hop.index)
        packet = self.pass_hook(place, "forward", packet, stay, interface_in=link.name, interface_out=out)
        return self._put_out(place, packet, decision, stay, link.name)

    def _deliver(self, place: Place, link: Link, packet: Travel, stay: Stay) -> Arrival:
        packet = self.pass_hook(place, "input", packet, stay, interface_in=link.name)
        if stay.stolen:
            return self._send_on(place, packet, stay, link.name)
        if packet.payload is not None:
            return take_out(self, place, packet)
        return Arrival(place, packet, link)


def _forwards(place: Place, family: int, interface: str) -> bool:
    if family == 4:
        return bool(place.interface_sysctl(4, interface, "forwarding", place.sysctl("ipv4.ip_forward")))
    return bool(place.sysctl("ipv6.conf.all.forwarding"))


def _source_for(place: Place, decision: Decision, destination: str) -> str:
    if decision.kind == "local":
        return decision.source or destination
    return decision.source or choose_source(place, decision.hop.index, decision.hop.via or destination)


def _hint_up(link: Link) -> str:
    return "ip link show " + link.name
