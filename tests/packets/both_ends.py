"""The packets of probes as scapy saw them at the ends, and as paths tell them: the same words for both.

A wave is some probes under way together, watched by sniffers of its own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from netsim.observe.path import Packet, Path
from netsim.testing.packets import ICMP, TCP, UDP, IPv6, Packets, Seen, Sniffer
from tests.packets.cells import PORTS, STRAY_PORT

_ANSWERING = (PORTS["tcp"][1], PORTS["udp"][1], STRAY_PORT)
_ERRORS, _ERRORS_V6 = (3, 11, 12), (b"\1", b"\2", b"\3", b"\4")  # unreachable, too big, time exceeded, ...


class Crossing(NamedTuple):
    """A packet at an end's eth0. ``note``: a segment's flags, "datagram", "error"; of an error there are no ports."""

    place: str
    direction: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    ttl: int
    note: str


class Ends:
    """Sniffers at eth0 of the ends, for the time of one wave."""

    def __init__(self, sniffers: Sequence[Sniffer]) -> None:
        self._sniffers = sniffers
        self.errors: list[str] = []  # at length, for people: of a crossing that is one little is left

    def sighted(self) -> Counter[Crossing]:
        """As scapy reads them: datagrams, errors about probes, and of each handshake the SYN and what answered it.

        A segment that is sent again, because its answer is lost, is the same one; what answers a SYN of an earlier
        wave is no part of this one.
        """
        seen = [one for sniffer in self._sniffers for one in sniffer.seen()]
        begun = {int(one.transport.seq) for one in seen if one.is_syn}
        found: Counter[Crossing] = Counter()
        segments = set()
        for one in seen:
            if isinstance(one.transport, UDP):
                found[_crossing(one, "datagram")] += 1
            elif isinstance(one.transport, TCP):
                note = _note_of(one, begun)
                if note:
                    segments.add((_crossing(one, note), int(one.transport.seq)))
            elif _is_error(one):
                found[_crossing(one, "error")] += 1
                quoted = one.packet.getlayer("UDP in ICMP") or one.packet.getlayer("TCP in ICMP")
                self.errors.append(
                    f"{one.where} {one.direction}: {one.packet.summary()} {quoted.sport} > {quoted.dport}"
                )
        return found + Counter(crossing for crossing, _ in segments)


@contextmanager
def watch_ends(packets: Packets, places: Iterable[str]) -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends([stack.enter_context(packets.sniffer(place)) for place in places])


def told(paths: Iterable[Path], places: Iterable[str]) -> Counter[Crossing]:
    """What the paths say of eth0 of these places."""
    wanted = set(places)
    found: Counter[Crossing] = Counter()
    for path in paths:
        for hop in path.hops:
            if hop.kind == "interface" and hop.interface == "eth0" and hop.place in wanted:
                packet = hop.packet
                ends = packet.source, packet.source_port, packet.destination, packet.destination_port
                found[Crossing(hop.place, hop.direction, *ends, packet.ttl or 0, _note_told(packet))] += 1
    return found


def _note_told(packet: Packet) -> str:
    if packet.protocol == "tcp":
        return packet.note
    return "datagram" if packet.protocol == "udp" else "error"


def _crossing(one: Seen, note: str) -> Crossing:
    return Crossing(one.where, one.direction, one.src, one.sport, one.dst, one.dport, one.ttl, note)


def _note_of(one: Seen, begun: set[int]) -> str:
    """A segment that is part of a path, else ""."""
    segment = one.transport
    if one.is_syn:
        return "SYN"
    if (int(segment.ack) - 1) % 2**32 not in begun:
        return ""
    if one.is_syn_ack:
        return "SYN,ACK"
    refuses = segment.flags.R and segment.flags.A and int(segment.seq) == 0  # RFC 9293, 3.5.2: answer to a SYN
    return "RST,ACK" if refuses else ""


def _is_error(one: Seen) -> bool:
    """About a probe: one that a client sends about an answer that it did not expect is no part of a path, nor one about
    the reset that is such an answer's end, or about other protocols, which the ground was prepared with.
    """
    ip, datagram, segment = one.ip, one.packet.getlayer("UDP in ICMP"), one.packet.getlayer("TCP in ICMP")
    quoted = datagram or segment
    if ip is None or quoted is None or quoted.sport in _ANSWERING or (segment is not None and segment.flags.R):
        return False
    if isinstance(ip, IPv6):
        return ip.nh == 58 and bytes(ip.payload)[:1] in _ERRORS_V6
    return isinstance(ip.payload, ICMP) and ip.payload.type in _ERRORS
