"""Decoding frames: never an exception, and the same as what scapy built, whole or cut."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.observe.decode import decode_frame, decode_network
from netsim.observe.path import Packet
from netsim.testing.packets import ICMP, IP, TCP, UDP, VXLAN, Ether, IPv6, Raw

ports = st.integers(1, 65535).filter(lambda number: number not in (4789, 8472))
ipv4 = st.integers(1, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
ipv6 = st.integers(1, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
ttls = st.integers(1, 255)
FLAGS = {"S": "SYN", "SA": "SYN,ACK", "RA": "RST,ACK", "FA": "FIN,ACK", "A": "ACK", "R": "RST"}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_packet_or_none(data: bytes) -> None:
    decode_frame(data)
    decode_network(data)
    decode_frame(b"\0" * 12 + b"\x08\x00" + data)
    decode_frame(b"\0" * 12 + b"\x86\xdd" + data)


@st.composite
def built(draw: st.DrawFn) -> tuple[Any, Packet]:
    """A scapy packet from IP on, and what is to be read of it."""
    six = draw(st.booleans())
    source, destination, ttl = draw(ipv6 if six else ipv4), draw(ipv6 if six else ipv4), draw(ttls)
    ip = IPv6(src=source, dst=destination, hlim=ttl) if six else IP(src=source, dst=destination, ttl=ttl)
    sport, dport = draw(ports), draw(ports)
    if draw(st.booleans()):
        flags = draw(st.sampled_from(sorted(FLAGS)))
        packet = ip / TCP(sport=sport, dport=dport, flags=flags, seq=draw(st.integers(0, 2**32 - 1)))
        expected = Packet(source, destination, "tcp", sport, dport, note=FLAGS[flags], ttl=ttl)
    else:
        packet = ip / UDP(sport=sport, dport=dport) / Raw(draw(st.binary(max_size=40)))
        expected = Packet(source, destination, "udp", sport, dport, ttl=ttl)
    return packet, expected


def told(packet: Packet) -> tuple[Any, ...]:
    names = ("source", "destination", "protocol", "source_port", "destination_port", "note", "ttl")
    return tuple(getattr(packet, name) for name in names)


@given(built())
def test_what_scapy_built_is_read(case: tuple[Any, Packet]) -> None:
    packet, expected = case
    data = bytes(packet)
    decoded = decode_network(data)
    assert decoded is not None
    assert told(decoded.packet) == told(expected)
    assert decoded.packet.length == len(data)
    framed = decode_frame(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet))
    assert framed is not None
    assert framed.packet.source_mac == "02:00:00:00:00:01"
    assert told(framed.packet) == told(expected)


@given(built(), st.integers(0, 2**24 - 1), st.booleans())
def test_inside_vxlan(inner: tuple[Any, Packet], vni: int, six: bool) -> None:
    carried, expected = inner
    ip = IPv6(src="fd00::1", dst="fd00::2") if six else IP(src="172.18.0.2", dst="172.18.0.3")
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    within = Ether(src="02:00:00:00:00:08", dst="02:00:00:00:00:09")
    decoded = decode_frame(bytes(link / ip / UDP(sport=5, dport=8472) / VXLAN(vni=vni, flags=8) / within / carried))
    assert decoded is not None
    assert decoded.packet.outer is not None
    assert told(decoded.packet) == told(expected)
    assert (decoded.packet.outer.source, decoded.packet.outer.destination_port) == (ip.src, 8472)
    assert decoded.packet.vni == vni
    assert (decoded.packet.destination_mac, decoded.packet.outer.source_mac) == (within.dst, link.src)


@given(built(), st.integers(0, 80))
def test_cut_frames_say_less_and_nothing_else(case: tuple[Any, Packet], length: int) -> None:
    packet, expected = case
    decoded = decode_network(bytes(packet)[:length])
    if decoded is not None:
        assert (decoded.packet.source, decoded.packet.destination) == (expected.source, expected.destination)
        assert decoded.packet.source_port in (0, expected.source_port)


@pytest.mark.parametrize(("kind", "code", "note"), [(3, 3, "port unreachable"), (11, 0, "time exceeded")])
def test_icmp_errors_quote(kind: int, code: int, note: str) -> None:
    about = IP(src="10.0.0.1", dst="10.0.0.2", ttl=7) / TCP(sport=40000, dport=80, seq=77)
    decoded = decode_network(
        bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=kind, code=code) / Raw(bytes(about)[:28]))
    )
    assert decoded is not None
    assert decoded.is_error
    assert decoded.packet.note == note
    assert decoded.quoted is not None
    assert told(decoded.quoted.packet)[:5] == ("10.0.0.1", "10.0.0.2", "tcp", 40000, 80)


@given(st.integers(1280, 65535))
def test_icmp_errors_about_the_size_have_the_next_links_mtu(mtu: int) -> None:
    four = IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(bytes(28))
    six = IPv6(src="fd00::2", dst="fd00::1", nh=58) / Raw(b"\2\0\0\0" + mtu.to_bytes(4) + bytes(48))
    found = [decode_network(bytes(packet)) for packet in (four, six)]
    assert [one.mtu for one in found if one is not None] == [mtu, mtu]


def test_echoes_have_their_identifier_for_ports() -> None:
    decoded = decode_network(bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=8, id=4711)))
    assert decoded is not None
    assert (decoded.packet.note, decoded.packet.source_port, decoded.packet.destination_port) == (
        "echo request",
        4711,
        4711,
    )
