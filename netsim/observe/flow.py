"""Which packets are the probe's, and which leg of its way each is on. Pure.

Of a TCP handshake the path is about two packets: the SYN there, and what answers it. What follows (the ACK, the end of
the connection) takes the same ways and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from netsim.observe.decode import FIRST_FRAGMENT, VXLAN_PORTS, Decoded, decode_frame, decode_network
from netsim.observe.evidence import Evidence, RuleEvent, Sighting
from netsim.observe.path import Leg, Packet

_Endpoint = tuple[str, int]
_ECHO_LEGS: dict[str, Leg] = {"echo request": "there", "echo reply": "back"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A sighting that belongs to the probe's way."""

    sighting: Sighting
    decoded: Decoded
    leg: Leg

    @property
    def place(self) -> str:
        return self.sighting.place

    @property
    def packet(self) -> Packet:
        return self.decoded.packet

    @property
    def incoming(self) -> bool:
        return self.sighting.direction == "in"

    @property
    def outer(self) -> bool:
        """Seen inside a tunnel's packet."""
        return self.packet.outer is not None


@dataclass(frozen=True, slots=True)
class Traced:
    """A rule event that belongs to the probe's way, with the packet that it is about."""

    event: RuleEvent
    decoded: Decoded
    leg: Leg
    outer: bool  # about the tunnel's packet
    position: int = -1  # in the evidence


def tuple_of(packet: Packet) -> tuple[str, int, str, int]:
    """Source, its port, destination, its port."""
    return packet.source, packet.source_port, packet.destination, packet.destination_port


class Flow:
    """Tells legs apart. Learns from what it is shown in the order of time: addresses change on the way."""

    def __init__(self, evidence: Evidence) -> None:
        question = evidence.question
        self._protocol = question.protocol
        self._isn: int | None = None
        self._sources: set[_Endpoint] = set()
        self._targets: set[_Endpoint] = {(question.address, question.port)}
        self._tunnels: dict[tuple[str, int, str, int], Leg] = {}
        self._answered = False

    def read_sightings(self, sightings: Sequence[Sighting]) -> list[Seen]:
        """Those of the two legs, in the same order."""
        found = []
        for sighting in sightings:
            decoded = decode_frame(sighting.frame)
            leg = None if decoded is None else self._leg_of(decoded, learn=True)
            if decoded is None or leg is None:
                continue
            if decoded.packet.outer is not None:
                self._tunnels[tuple_of(decoded.packet.outer)] = leg
            found.append(Seen(sighting, decoded, leg))
        return found

    def read_events(self, events: Sequence[RuleEvent]) -> list[Traced]:
        """Those of the two legs, in the same order. Call after `read_sightings`."""
        found = []
        last: dict[tuple[str, int], bytes] = {}
        for position, event in enumerate(events):
            # The kernel gives the packet with a chain's first event only (nft_trace_notify, packet_dumped).
            key = (event.place, event.packet_id)
            data = last[key] = event.packet or last.get(key, b"")
            decoded = decode_network(data)
            if decoded is None:
                continue
            packet = decoded.packet
            tunnel = packet.outer or packet
            outer = packet.outer is not None or (tunnel.protocol == "udp" and tunnel.destination_port in VXLAN_PORTS)
            leg = self._tunnels.get(tuple_of(tunnel)) if outer else self._leg_of(decoded, learn=False)
            if leg is None and packet.outer is not None:
                leg = self._leg_of(decoded, learn=False)
            if leg is not None:
                found.append(Traced(event, decoded, leg, outer, position))
        return found

    def _leg_of(self, decoded: Decoded, *, learn: bool) -> Leg | None:
        packet = decoded.packet
        leg: Leg | None = None
        if decoded.is_error:
            return self._leg_of_error(decoded)
        if packet.protocol in ("icmp", "icmpv6"):
            if self._protocol != "icmp":
                return None
            leg = _ECHO_LEGS.get(packet.note.removesuffix(FIRST_FRAGMENT))
        elif packet.protocol == "tcp":
            leg = self._leg_of_segment(decoded)
        elif packet.protocol == self._protocol:
            leg = self._leg_of_datagram(packet, learn)
        if learn and leg == "there":
            self._sources.add((packet.source, packet.source_port))
            self._targets.add((packet.destination, packet.destination_port))
        return leg

    def _leg_of_segment(self, decoded: Decoded) -> Leg | None:
        flags = decoded.packet.note
        if flags == "SYN":
            self._isn = decoded.sequence if self._isn is None else self._isn
            return "there"
        if flags == "SYN,ACK":
            return "back"
        if "RST" in flags and self._isn is not None and decoded.acknowledged == (self._isn + 1) % 2**32:
            return "back"  # the target's refusal; the probe's own RST acknowledges something else
        return None

    def _leg_of_datagram(self, packet: Packet, learn: bool) -> Leg | None:
        source, target = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
        if target in self._targets and (source in self._sources or not self._sources):
            return "there"
        if target in self._sources and source in self._targets:
            self._answered = self._answered or learn
            return "back"
        known = source in self._sources or target in self._targets
        answer = target in self._sources or source in self._targets
        if known != answer:  # one end is known: the other has just been rewritten
            return "there" if known else "back"
        if not learn:
            return None
        return "back" if self._answered else "there"  # both ends rewritten between two sightings

    def _leg_of_error(self, decoded: Decoded) -> Leg | None:
        """An error about what went there comes back; one about the answer is no part of either leg, nor one about the
        reset with which a client meets an answer from somebody that it did not ask.
        """
        if decoded.quoted is not None and not decoded.quoted.fragment:
            quoted = decoded.quoted
            packet = quoted.packet
            if packet.protocol in ("tcp", "udp", "sctp"):
                source, target = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
                probe = source in self._sources or target in self._targets
                answer = (source in self._targets and target in self._sources) or "RST" in packet.note
                return "back" if packet.protocol == self._protocol and probe and not answer else None
            echo = _ECHO_LEGS.get(packet.note.removesuffix(FIRST_FRAGMENT))
            return "back" if self._protocol == "icmp" and echo != "back" else None
        # Cut before the quoted addresses, as in the rule trace: it goes to one that probed.
        return "back" if decoded.packet.destination in {address for address, _ in self._sources} else None
