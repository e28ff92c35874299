"""By what a probe is told from all other traffic, wherever it is met and whatever NAT did to it. Pure.

TCP: the sequence number of the first SYN is chosen, so each packet of the handshake and of the end has it, or the one
after it, as sequence or acknowledgement number. UDP and ping: a tag in the payload; an answer that does not repeat it
is known by addresses and ports: those of a packet with the tag, the other way round. An ICMP error quotes the packet.
Each of these also inside VXLAN. A number of another connection matches with a chance of one in a billion.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from netsim.kernel.nft_trace import Learning
from netsim.kernel.packet_match import ETHER_BYTES, IP_BYTES, Pattern, Test, equals

Protocol = Literal["tcp", "udp", "icmp"]

DNS_PORT = 53
TAG_BYTES = 15  # "netsim-" and 8 hexadecimal digits
_NUMBERS = {"tcp": {4: 6, 6: 6}, "udp": {4: 17, 6: 17}, "icmp": {4: 1, 6: 58}}
_UDP, _UDP_BYTES, _ICMP_BYTES, _VXLAN_BYTES = 17, 8, 8, 8
_ICMP = {4: 1, 6: 58}
_ERROR_TYPES = {4: (3, 12), 6: (1, 4)}  # destination unreachable to parameter problem; echo is not among them
_PROTOCOL_AT = {4: 9, 6: 6}
_ETHER_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_VXLAN_PORTS = (4789, 8472)  # IANA's, and Linux' own default
_VXLAN_INNER = _UDP_BYTES + _VXLAN_BYTES + ETHER_BYTES
_TCP_SPAN = 3  # SYN and FIN take a number each; no data is sent
_FRAGMENT, _FRAGMENT_BYTES = 44, 8  # IPv6's header of a datagram's pieces (RFC 8200, 4.5)
_IPV6_LEAST_MTU_BYTES = 1280  # RFC 8200, 5
_ECHO = b"echo "  # agnhost's netexec answers "echo WORD" with the word


@dataclass(frozen=True, slots=True)
class Signature:
    """``tag``: what a payload holds. ``sequence``: TCP's first number, which leaves room for `_TCP_SPAN` more."""

    protocol: Protocol
    family: int  # 4 or 6
    port: int
    tag: bytes
    sequence: int
    size: int = 0  # of the payload, where it is to be larger than what it needs

    @property
    def payload(self) -> bytes:
        """What the probe sends."""
        if self.protocol == "udp" and self.port == DNS_PORT:
            return _dns_query(self.tag).ljust(self.size, b"\0")
        needed = _ECHO + self.tag if self.protocol == "udp" else self.tag
        return needed.ljust(self.size, b"-")

    @property
    def _tag_offsets(self) -> tuple[int, ...]:
        """Where in a payload the tag is, of the probe and of what answers with it."""
        at = self.payload.index(self.tag)
        return (at,) if at == 0 or self.port == DNS_PORT else (at, 0)

    @property
    def _may_be_cut(self) -> bool:
        """Whether it may travel in pieces that look different: of IPv4 the first one does not."""
        size = IP_BYTES[6] + _UDP_BYTES + len(self.payload)
        return self.family == 6 and self.protocol != "tcp" and size > _IPV6_LEAST_MTU_BYTES

    @property
    def own_patterns(self) -> tuple[Pattern, ...]:
        """The probe, its answers and the errors about it."""
        return tuple(self._own_patterns())

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The same, on their own and inside VXLAN."""
        own = self.own_patterns
        return (*own, *(_in_vxlan(pattern, self.family) for pattern in own))

    def taught_by(self, *, vxlan: bool) -> tuple[tuple[Learning, tuple[Pattern, ...]], ...]:
        """UDP: the packets whose answers are to be recognised."""
        if self.protocol != "udp":
            return ()
        probe = Pattern(_UDP, (self._tag_test(self._tag_offsets[0]),), (self.family,))
        plain = Learning(self.family, False), (probe,)
        inside = Learning(self.family, True), (_in_vxlan(probe, self.family),)
        return (plain, inside) if vxlan else (plain,)

    def capture_patterns(self, source_port: int, *, vxlan: bool) -> tuple[Pattern, ...]:
        """What is the probe's for certain. UDP: also what is sent to ``source_port``, the probe's own."""
        answer = Pattern(_UDP, (equals(2, struct.pack("!H", source_port)),), (self.family,))
        own = (*self.own_patterns, *(self._with_pieces([answer]) if self.protocol == "udp" else ()))
        return (*own, *(_in_vxlan(pattern, self.family) for pattern in own)) if vxlan else own

    def maybe_patterns(self, *, vxlan: bool) -> tuple[Pattern, ...]:
        """UDP: all that might be an answer with other addresses and ports, of which `Answers` keeps those that are."""
        if self.protocol != "udp":
            return ()
        every = self._with_pieces([Pattern(_UDP, (), (self.family,))])
        if not vxlan:
            return every
        # Not all that VXLAN carries, which may be every connection between two nodes: only the datagrams in it.
        gaps = [0, *(edge for port in _VXLAN_PORTS for edge in (port - 1, port + 1)), 65535]
        ranges = zip(gaps[::2], gaps[1::2], strict=True)
        other = [
            Pattern(_UDP, (Test(2, struct.pack("!H", low), struct.pack("!H", high)),), (self.family,))
            for low, high in ranges
        ]
        return (*(_in_vxlan(pattern, self.family) for pattern in every), *self._with_pieces(other))

    def _own_patterns(self) -> Iterator[Pattern]:
        number, family = _NUMBERS[self.protocol][self.family], (self.family,)
        own = self._with_pieces([Pattern(number, (shape,), family) for shape in self._shapes()])
        yield from own
        quoted = _ICMP_BYTES + IP_BYTES[self.family]
        low, high = _ERROR_TYPES[self.family]
        error = Test(0, bytes((low,)), bytes((high,)))
        for one in own:
            about = equals(_ICMP_BYTES + _PROTOCOL_AT[self.family], bytes((one.protocol,)))
            tests = (error, about, *(test.shifted(quoted) for test in one.tests))
            yield Pattern(_ICMP[self.family], tests, family)

    def _with_pieces(self, patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
        return (*patterns, *(_first_piece(pattern) for pattern in patterns if self._may_be_cut))

    def _shapes(self) -> Iterator[Test]:
        if self.protocol == "tcp":
            last = struct.pack("!I", self.sequence + _TCP_SPAN)
            yield Test(4, struct.pack("!I", self.sequence), last)  # sequence number
            yield Test(8, struct.pack("!I", self.sequence + 1), last)  # acknowledgement number
        else:
            yield from (self._tag_test(at) for at in self._tag_offsets)

    def _tag_test(self, at: int) -> Test:
        header = _UDP_BYTES if self.protocol == "udp" else _ICMP_BYTES
        return equals(header + at, self.tag)


def make_signature(protocol: Protocol, family: int, port: int, number: int, size: int = 0) -> Signature:
    """``number``: 32 bits, by which this probe differs from others. ``size``: bytes of its payload, if that many."""
    return Signature(protocol, family, port, b"netsim-%08x" % number, min(number, 0xFFFFFFFF - _TCP_SPAN), size)


def _first_piece(pattern: Pattern) -> Pattern:
    """The same packet as the first fragment of an IPv6 datagram: its offset is 0, whatever its flags."""
    header = (equals(0, bytes((pattern.protocol,))), Test(2, b"\0\0", b"\0\7"))
    return Pattern(_FRAGMENT, (*header, *(test.shifted(_FRAGMENT_BYTES) for test in pattern.tests)), pattern.families)


def _in_vxlan(pattern: Pattern, family: int) -> Pattern:
    """The same packet inside VXLAN, which runs over either family.

    Its port is not looked at: it may be another one, and what is inside says enough.
    """
    inner = _VXLAN_INNER + IP_BYTES[family]
    tests = [
        equals(_VXLAN_INNER - 2, _ETHER_TYPES[family]),
        equals(_VXLAN_INNER + _PROTOCOL_AT[family], bytes((pattern.protocol,))),
    ]
    return Pattern(_UDP, (*tests, *(test.shifted(inner) for test in pattern.tests)))


def _dns_query(tag: bytes) -> bytes:
    """A real question (RFC 1035): the address of TAG.invalid, a name that nobody has (RFC 6761).

    Recursion is not desired, so that a server answers and asks no other server about it.
    """
    labels = b"".join(bytes((len(label),)) + label for label in (tag, b"invalid"))
    return tag[-2:] + struct.pack("!HHHHH", 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


Flow = tuple[bytes, bytes]  # source address and port, destination address and port


class Answers:
    """Which captured frames are the probe's, its answers' or errors about it. Takes frames in the order of time."""

    def __init__(self, signature: Signature) -> None:
        self._patterns = tuple(signature.patterns)
        self._learns = signature.protocol == "udp"
        self._expected: set[Flow] = set()

    def accept(self, frame: bytes) -> bool:
        """``frame`` from its Ethernet header on."""
        packet = frame[ETHER_BYTES:]
        if any(pattern.matches(packet) for pattern in self._patterns):
            flow = _udp_flow(packet) if self._learns else None
            if flow is not None:
                self._expected.add((flow[1], flow[0]))
            return True
        return self._learns and _udp_flow(packet) in self._expected


def _udp_flow(packet: bytes) -> Flow | None:
    """Of VXLAN that of the packet inside."""
    family = packet[0] >> 4 if packet else 0
    start = IP_BYTES.get(family, 0)
    if not start or len(packet) < start + _UDP_BYTES:
        return None
    protocol = packet[_PROTOCOL_AT[family]]
    if family == 6 and protocol == _FRAGMENT and packet[start + 2 : start + 4] <= b"\0\7":
        protocol, start = packet[start], start + _FRAGMENT_BYTES
    if protocol != _UDP or len(packet) < start + _UDP_BYTES:
        return None
    if int.from_bytes(packet[start + 2 : start + 4], "big") in _VXLAN_PORTS:
        return _udp_flow(packet[start + _VXLAN_INNER :])
    source, destination = (12, 16) if family == 4 else (8, 24)
    length = 4 if family == 4 else 16
    return (
        packet[source : source + length] + packet[start : start + 2],
        packet[destination : destination + length] + packet[start + 2 : start + 4],
    )
