"""A captured frame in one line, for people who watch a terminal. Pure."""

from netsim.observe.decode import Decoded, decode_frame
from netsim.observe.path import Packet

_ETHERTYPES = {0x0806: "ARP", 0x8100: "VLAN", 0x88A8: "VLAN", 0x88CC: "LLDP", 0x0800: "IPv4", 0x86DD: "IPv6"}
_ARP = 0x0806
_ARP_END = 42  # Ethernet header 14, ARP for IPv4 over Ethernet 28 (RFC 826)


def describe_frame(data: bytes, length: int) -> str:
    """``10.244.1.2:40000 > 10.96.0.10:53 udp, ttl 64, 71 bytes``; what is not IP, by what it is."""
    decoded = decode_frame(data)
    if decoded is not None:
        return _describe(decoded, length)
    if len(data) < 14:
        return f"frame of {length} bytes, cut"
    kind = int.from_bytes(data[12:14])
    if kind == _ARP and len(data) >= _ARP_END:
        return _describe_arp(data)
    return f"{data[6:12].hex(':')} > {data[0:6].hex(':')} {_ETHERTYPES.get(kind, f'type 0x{kind:04x}')}, {length} bytes"


def _describe(decoded: Decoded, length: int) -> str:
    packet = decoded.packet
    text = _ends(packet)
    if packet.protocol == "tcp" and not decoded.fragment:
        text += f" seq {decoded.sequence}" + (f" ack {decoded.acknowledged}" if "ACK" in packet.note else "")
    if packet.ttl is not None:
        text += f", ttl {packet.ttl}"
    text += f", {length} bytes"
    if decoded.quoted is not None:
        text += f" (about {_ends(decoded.quoted.packet)})"
    if packet.outer is not None:
        text += f", in VXLAN {packet.vni} {_address(packet.outer.source)} > {_address(packet.outer.destination)}"
    return text


def _ends(packet: Packet) -> str:
    ports = packet.protocol in ("tcp", "udp", "sctp") and bool(packet.source_port or packet.destination_port)
    source = _address(packet.source, packet.source_port if ports else None)
    destination = _address(packet.destination, packet.destination_port if ports else None)
    text = f"{source} > {destination} {packet.protocol}"
    if packet.note:
        text += f" {packet.note}"
    if packet.protocol in ("icmp", "icmpv6") and packet.source_port:
        text += f" id {packet.source_port}"
    return text


def _address(address: str, port: int | None = None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _describe_arp(data: bytes) -> str:
    operation = int.from_bytes(data[20:22])
    sender, target = ".".join(map(str, data[28:32])), ".".join(map(str, data[38:42]))
    if operation == 1:
        return f"ARP who has {target}? tell {sender}"
    if operation == 2:
        return f"ARP {sender} is at {data[22:28].hex(':')}"
    return f"ARP operation {operation}"
