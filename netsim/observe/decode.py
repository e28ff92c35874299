"""Headers of a captured frame, as the words of a path. Pure.

Small and own, because scapy takes over a second to import and a trace less than one. Whatever the bytes are, the answer
is a packet or None, never an exception: a frame may be cut anywhere, or be rubbish.

Sources: RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 7348 (VXLAN), IEEE 802.1Q.
"""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from netsim.observe.path import Packet

VXLAN_PORTS = frozenset({4789, 8472})  # IANA's, and Linux' own default
_ETHERTYPES = {0x0800: 4, 0x86DD: 6}
_VLAN_TAGS = frozenset({0x8100, 0x88A8})
_VLAN_DEPTH = 4
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_TCP_FLAGS = ((0x02, "SYN"), (0x04, "RST"), (0x01, "FIN"), (0x10, "ACK"))
_EXTENSIONS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options: length in units of 8 bytes
_FRAGMENT = 44
_EXTENSIONS_MAX = 8
FIRST_FRAGMENT = ", first fragment"  # how a note ends
_UNREACHABLE = {  # of ICMP type 3, by code (RFC 792, RFC 1812)
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "fragmentation needed",
    9: "network prohibited",
    10: "host prohibited",
    13: "administratively prohibited",
}
_UNREACHABLE_V6 = {  # of ICMPv6 type 1, by code (RFC 4443)
    0: "no route",
    1: "administratively prohibited",
    3: "address unreachable",
    4: "port unreachable",
    5: "source address failed policy",
    6: "reject route",
}
_ICMP_TYPES = {0: "echo reply", 5: "redirect", 8: "echo request", 11: "time exceeded", 12: "parameter problem"}
_ICMPV6_TYPES = {
    2: "packet too big",
    3: "time exceeded",
    4: "parameter problem",
    128: "echo request",
    129: "echo reply",
}
# A redirect (5) quotes the packet too, but is no answer to it: the packet goes on.
_ERRORS = frozenset({3, 11, 12})
_ERRORS_V6 = frozenset({1, 2, 3, 4})


@dataclass(frozen=True, slots=True)
class Decoded:
    """A packet, with what tells it from others. Of VXLAN, all but ``packet.outer`` is about the packet inside."""

    packet: Packet
    identification: int = 0  # IPv4; 0 for IPv6, which has none
    sequence: int = 0  # TCP
    acknowledged: int = 0  # TCP
    is_error: bool = False  # an ICMP error
    quoted: "Decoded | None" = None  # of an ICMP error: the packet that it is about, if that much is there
    fragment: bool = False  # not the first piece of a datagram: no ports
    mtu: int = 0  # of an ICMP error about the size: what the next link takes


def decode_frame(frame: bytes) -> Decoded | None:
    """What an Ethernet frame carries; None if that is not IP, or cut within the addresses."""
    return _decode_frame(frame, inside=False)


def decode_network(data: bytes) -> Decoded | None:
    """The same from the IP header on, as the rule trace has it."""
    if not data:
        return None
    return _decode_ip(data, data[0] >> 4, inside=False)


def _decode_frame(frame: bytes, *, inside: bool) -> Decoded | None:
    if len(frame) < 14:
        return None
    offset = 12
    kind = int.from_bytes(frame[offset : offset + 2])
    for _ in range(_VLAN_DEPTH):
        if kind not in _VLAN_TAGS:
            break
        offset += 4
        kind = int.from_bytes(frame[offset : offset + 2])
    version = _ETHERTYPES.get(kind)
    if version is None:
        return None
    decoded = _decode_ip(frame[offset + 2 :], version, inside=inside)
    if decoded is None:
        return None
    packet, to, by = decoded.packet, _mac(frame[0:6]), _mac(frame[6:12])
    if packet.outer is not None:  # the addresses of this frame are the outer packet's
        packet = replace(packet, outer=replace(packet.outer, source_mac=by, destination_mac=to))
    else:
        packet = replace(packet, source_mac=by, destination_mac=to)
    return replace(decoded, packet=packet)


def _decode_ip(data: bytes, version: int, *, inside: bool) -> Decoded | None:
    if version == 4:
        return _decode_ipv4(data, inside)
    return _decode_ipv6(data, inside) if version == 6 else None


def _decode_ipv4(data: bytes, inside: bool) -> Decoded | None:
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 0x0F) * 4
    if header < 20:
        return None
    length, identification, pieces = struct.unpack_from("!HHH", data, 2)
    offset, more = pieces & 0x1FFF, bool(pieces & 0x2000)
    packet = Packet(
        str(IPv4Address(data[12:16])),
        str(IPv4Address(data[16:20])),
        _PROTOCOLS.get(data[9], str(data[9])),
        ttl=data[8],
        length=length,
    )
    if offset:
        note = f"fragment at {offset * 8}"
        return Decoded(replace(packet, note=note), identification, fragment=True)
    decoded = replace(_decode_transport(packet, data[9], data[header:], inside), identification=identification)
    return _note_fragment(decoded) if more else decoded


def _decode_ipv6(data: bytes, inside: bool) -> Decoded | None:
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    number, offset, position, more = data[6], 40, 0, False
    for _ in range(_EXTENSIONS_MAX):
        if number in _EXTENSIONS and len(data) >= offset + 8:
            number, offset = data[offset], offset + 8 + data[offset + 1] * 8
        elif number == _FRAGMENT and len(data) >= offset + 8:
            position = int.from_bytes(data[offset + 2 : offset + 4]) & 0xFFF8
            more = bool(data[offset + 3] & 1)
            number, offset = data[offset], offset + 8
        else:
            break
    packet = Packet(
        str(IPv6Address(data[8:24])),
        str(IPv6Address(data[24:40])),
        _PROTOCOLS.get(number, str(number)),
        ttl=data[7],
        length=40 + int.from_bytes(data[4:6]),
    )
    if position:
        return Decoded(replace(packet, note=f"fragment at {position}"), fragment=True)
    decoded = _decode_transport(packet, number, data[offset:], inside)
    return _note_fragment(decoded) if more else decoded


def _note_fragment(decoded: Decoded) -> Decoded:
    """A datagram's first piece, which has its ports; of a tunnel's the packet inside is told."""
    if decoded.packet.outer is not None:
        return decoded
    note = f"{decoded.packet.note}{FIRST_FRAGMENT}".removeprefix(", ")
    return replace(decoded, packet=replace(decoded.packet, note=note))


def _decode_transport(packet: Packet, number: int, data: bytes, inside: bool) -> Decoded:
    if number in (1, 58):
        return _decode_icmp(packet, number, data, inside)
    if number not in (6, 17, 132) or len(data) < 4:
        return Decoded(packet)
    source, destination = struct.unpack_from("!HH", data)
    packet = replace(packet, source_port=source, destination_port=destination)
    if number == 6 and len(data) >= 14:
        sequence, acknowledged = struct.unpack_from("!II", data, 4)
        note = ",".join(name for bit, name in _TCP_FLAGS if data[13] & bit)
        return Decoded(replace(packet, note=note), sequence=sequence, acknowledged=acknowledged)
    if number == 17 and destination in VXLAN_PORTS and not inside and len(data) >= 16 and data[8] & 0x08:
        carried = _decode_frame(data[16:], inside=True)
        if carried is not None:
            return replace(carried, packet=replace(carried.packet, outer=packet, vni=int.from_bytes(data[12:15])))
    return Decoded(packet)


def _decode_icmp(packet: Packet, number: int, data: bytes, inside: bool) -> Decoded:
    if len(data) < 2:
        return Decoded(packet)
    kind, code = data[0], data[1]
    old = number == 1
    if (kind in (0, 8) and old) or (kind in (128, 129) and not old):
        identifier = int.from_bytes(data[4:6]) if len(data) >= 6 else 0
        note = (_ICMP_TYPES if old else _ICMPV6_TYPES)[kind]
        return Decoded(replace(packet, note=note, source_port=identifier, destination_port=identifier))
    packet = replace(packet, note=_describe_icmp(kind, code, old))
    if kind not in (_ERRORS if old else _ERRORS_V6):
        return Decoded(packet)
    return Decoded(packet, is_error=True, quoted=_decode_quoted(data[8:]), mtu=_read_mtu(packet.note, data))


def _read_mtu(note: str, data: bytes) -> int:
    """RFC 1191 and RFC 4443, 3.2."""
    at = {"fragmentation needed": 6, "packet too big": 4}.get(note, len(data))
    return int.from_bytes(data[at:8])


def _decode_quoted(body: bytes) -> Decoded | None:
    """The packet an error quotes; of that nothing is looked into further."""
    if not body:
        return None
    version = body[0] >> 4
    number = body[9] if version == 4 and len(body) > 9 else body[6] if version == 6 and len(body) > 6 else None
    if number in (1, 58):  # an error is never about an error (RFC 1122, 3.2.2), so this does not go on and on
        header = (body[0] & 0x0F) * 4 if version == 4 else 40
        if body[header : header + 1] not in (b"\x00", b"\x08", b"\x80", b"\x81"):
            return None
    return _decode_ip(body, version, inside=True)


def _describe_icmp(kind: int, code: int, old: bool) -> str:
    if old and kind == 3:
        return _UNREACHABLE.get(code, f"unreachable, code {code}")
    if not old and kind == 1:
        return _UNREACHABLE_V6.get(code, f"unreachable, code {code}")
    return (_ICMP_TYPES if old else _ICMPV6_TYPES).get(kind, f"type {kind} code {code}")


def _mac(data: bytes) -> str:
    return data.hex(":")
