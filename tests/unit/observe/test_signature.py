"""What a probe is told by: in Python and as a packet filter the same packets, whatever scapy makes of them."""

import random
import struct
import warnings
from typing import Any

import pytest

from netsim.kernel.bpf import BpfProgram
from netsim.kernel.packet_match import ETHER_BYTES, compile_filter
from netsim.observe.signature import DNS_PORT, Answers, Protocol, make_signature

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.dns import DNS
    from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
    from scapy.layers.inet6 import (
        ICMPv6DestUnreach,
        ICMPv6EchoReply,
        ICMPv6EchoRequest,
        ICMPv6PacketTooBig,
        IPv6,
        IPv6ExtHdrFragment,
        fragment6,
    )
    from scapy.layers.l2 import ARP, Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

SEED = 20261123
NUMBER = 0x1234ABCD
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "icmp")
CASES = [(protocol, family) for protocol in PROTOCOLS for family in (4, 6)]
EVERY = pytest.mark.parametrize(("protocol", "family"), CASES, ids=[f"{p}-IPv{f}" for p, f in CASES])


def ether() -> Any:
    """With both addresses: without them scapy would ask the machine's own network for them."""
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def network(family: int, *, back: bool = False) -> Any:
    """An IP header of the probe's way there, or back."""
    ends = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}[family]
    source, destination = reversed(ends) if back else ends
    return {4: IP, 6: IPv6}[family](src=source, dst=destination)


def probes_of(protocol: Protocol, family: int, number: int = NUMBER) -> list[Any]:
    """The packets that are the probe's: its own, its answers', and errors about it."""
    signature = make_signature(protocol, family, 80, number)
    there, back = network(family), network(family, back=True)
    if protocol == "tcp":
        own = there / TCP(sport=4000, dport=80, flags="S", seq=signature.sequence)
        others = [
            back / TCP(sport=80, dport=4000, flags="SA", seq=77, ack=signature.sequence + 1),
            back / TCP(sport=80, dport=4000, flags="RA", seq=0, ack=signature.sequence + 1),
            there / TCP(sport=4000, dport=80, flags="A", seq=signature.sequence + 1, ack=78),
        ]
    elif protocol == "udp":
        own = there / UDP(sport=4000, dport=80) / Raw(signature.payload)
        others = [back / UDP(sport=80, dport=4000) / Raw(signature.tag)]
    else:
        request, reply = (ICMP(type=8), ICMP(type=0)) if family == 4 else (ICMPv6EchoRequest(), ICMPv6EchoReply())
        own = there / request / Raw(signature.payload)
        others = [back / reply / Raw(signature.payload)]
    if family == 4:
        errors = [back / ICMP(type=3, code=3) / own, back / ICMP(type=11) / own]
    else:
        errors = [back / ICMPv6DestUnreach() / own, back / ICMPv6PacketTooBig() / own]
    return [own, *others, *errors]


def in_vxlan(packet: Any, outer: int) -> Any:
    return network(outer) / UDP(sport=5555, dport=8472) / VXLAN(vni=1) / ether() / packet


def frame_of(packet: Any) -> bytes:
    return bytes(ether() / packet)


def run_filter(program: BpfProgram, frame: bytes) -> int:
    """The classic BPF machine, as far as these programs go (Documentation/networking/filter.rst)."""
    code = [struct.unpack_from("=HBBI", program.code, at) for at in range(0, len(program.code), 8)]
    accumulator = position = 0
    while True:
        operation, yes, no, k = code[position]
        position += 1
        if operation == 0x06:
            return k
        if operation == 0x80:
            accumulator = len(frame)
        elif operation in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[operation]
            if k + size > len(frame):
                return 0
            accumulator = int.from_bytes(frame[k : k + size], "big")
        else:
            held = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[operation]
            position += yes if held else no


@EVERY
def test_all_packets_of_a_probe_are_known(protocol: Protocol, family: int) -> None:
    signature = make_signature(protocol, family, 80, NUMBER)
    keep = compile_filter(signature.patterns, snaplen=99)
    for packet in probes_of(protocol, family):
        for one in (packet, in_vxlan(packet, 4), in_vxlan(packet, 6)):
            frame = frame_of(one)
            assert any(pattern.matches(frame[ETHER_BYTES:]) for pattern in signature.patterns), one
            assert run_filter(keep, frame) == 99, one


@EVERY
def test_packets_of_other_probes_and_of_other_traffic_are_not(protocol: Protocol, family: int) -> None:
    signature = make_signature(protocol, family, 80, NUMBER)
    keep = compile_filter(signature.patterns, snaplen=99)
    others = [probe for other, version in CASES for probe in probes_of(other, version, NUMBER + 0x100)]
    others += [probe for other, version in CASES for probe in probes_of(other, version) if other != protocol]
    others += [in_vxlan(packet, 4) for packet in others]
    for packet in (*others, network(4) / UDP() / Raw(b"x" * 500), network(4) / TCP()):
        frame = frame_of(packet)
        assert not any(pattern.matches(frame[ETHER_BYTES:]) for pattern in signature.patterns), packet
        assert run_filter(keep, frame) == 0, packet
    assert run_filter(keep, bytes(ether() / ARP(hwsrc="02:00:00:00:00:01", psrc="10.0.0.1"))) == 0


@EVERY
def test_python_and_the_filter_agree_on_every_cut_and_on_rubbish(protocol: Protocol, family: int) -> None:
    chance = random.Random(SEED)
    signature = make_signature(protocol, family, 80, NUMBER)
    keep = compile_filter(signature.patterns, snaplen=1)
    agreed = {True: 0, False: 0}
    for packet in probes_of(protocol, family):
        whole = frame_of(in_vxlan(packet, chance.choice((4, 6))) if chance.random() < 0.5 else packet)
        variants = [whole[:length] for length in range(ETHER_BYTES + 1, len(whole) + 1)]
        for _ in range(200):
            spoilt = bytearray(whole)
            spoilt[chance.randrange(ETHER_BYTES, len(spoilt))] = chance.randrange(256)
            variants.append(bytes(spoilt))
        for frame in variants:
            # The IP version is in both headers; they agree in any frame a kernel makes.
            if {0x0800: 4, 0x86DD: 6}[int.from_bytes(frame[12:14], "big")] != frame[14] >> 4:
                continue
            known = any(pattern.matches(frame[ETHER_BYTES:]) for pattern in signature.patterns)
            assert bool(run_filter(keep, frame)) == known, frame.hex()
            agreed[known] += 1
    assert min(agreed.values()) > 100, agreed


def cut(packet: Any) -> list[Any]:
    """The pieces that a link of 1,400 bytes makes of it."""
    if packet.version == 4:
        return list(fragment(packet, 1368))
    whole = packet.copy()
    whole.payload = IPv6ExtHdrFragment(id=7) / packet.payload
    return list(fragment6(whole, 1400))


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
@pytest.mark.parametrize("family", [4, 6])
def test_of_a_probe_in_pieces_the_first_is_known(protocol: Protocol, family: int) -> None:
    signature = make_signature(protocol, family, 80, NUMBER, 3000)
    keep = compile_filter(signature.patterns, snaplen=99)
    header = {"udp": UDP(sport=4000, dport=80), "icmp": ICMP(type=8) if family == 4 else ICMPv6EchoRequest()}[protocol]
    pieces = cut(network(family) / header / Raw(signature.payload))
    assert len(pieces) == 3
    error = {4: ICMP(type=3, code=4), 6: ICMPv6PacketTooBig()}[family]
    known = [[pieces[0], network(family, back=True) / error / Raw(bytes(pieces[0])[:600])], pieces[1:]]
    for packets, expected in zip(known, (True, False), strict=True):
        for packet in (*packets, *(in_vxlan(one, 4) for one in packets)):
            frame = frame_of(packet)
            assert any(pattern.matches(frame[ETHER_BYTES:]) for pattern in signature.patterns) == expected, packet
            assert bool(run_filter(keep, frame)) == expected, packet


@pytest.mark.parametrize("family", [4, 6])
def test_an_answer_in_pieces_is_known_by_its_first(family: int) -> None:
    signature = make_signature("udp", family, 81, NUMBER, 3000)
    probe = cut(network(family) / UDP(sport=4000, dport=81) / Raw(signature.payload))[0]
    answer = cut(network(family, back=True) / UDP(sport=81, dport=4000) / Raw(b"-" * 3000))
    elsewhere = cut(network(family, back=True) / UDP(sport=81, dport=4001) / Raw(b"-" * 3000))[0]
    answers = Answers(signature)
    frames = [frame_of(packet) for packet in (answer[0], probe, *answer, elsewhere)]
    assert [answers.accept(frame) for frame in frames] == [False, True, True, False, False, False]
    certain, maybe = signature.capture_patterns(4000, vxlan=True), signature.maybe_patterns(vxlan=True)
    assert run_filter(compile_filter(certain, snaplen=99), frame_of(answer[0])) == 99
    for packet in (elsewhere, in_vxlan(elsewhere, 4)):
        assert run_filter(compile_filter(maybe, snaplen=99, but=certain), frame_of(packet)) == 99


def test_an_answer_without_the_tag_is_known_after_the_probe_and_not_before() -> None:
    signature = make_signature("udp", 4, 81, NUMBER)
    probe = frame_of(network(4) / UDP(sport=4000, dport=81) / Raw(signature.payload))
    answer = frame_of(network(4, back=True) / UDP(sport=81, dport=4000) / Raw(b"hello"))
    stranger = frame_of(network(4, back=True) / UDP(sport=81, dport=4001) / Raw(b"hello"))
    answers = Answers(signature)
    assert [answers.accept(frame) for frame in (answer, probe, answer, stranger)] == [False, True, True, False]
    inside = Answers(signature)
    probe, answer = (bytes(ether() / in_vxlan(Raw(frame[ETHER_BYTES:]), 4)) for frame in (probe, answer))
    # Raw inside VXLAN's Ethernet header: scapy then writes an unknown type, so it is set here.
    probe, answer = (frame.replace(b"\x90\x00" + frame[64:65], b"\x08\x00" + frame[64:65]) for frame in (probe, answer))
    assert [inside.accept(frame) for frame in (probe, answer)] == [True, True]


def test_taps_keep_what_may_be_an_answer_but_not_all_that_vxlan_carries() -> None:
    signature = make_signature("udp", 4, 81, NUMBER)
    certain = signature.capture_patterns(4000, vxlan=True)
    keep = compile_filter(signature.maybe_patterns(vxlan=True), snaplen=99, but=certain)
    own = network(4, back=True) / UDP(sport=81, dport=4000) / Raw(b"hello")
    assert run_filter(keep, frame_of(own)) == 0, "the other tap has it"
    assert run_filter(compile_filter(certain, snaplen=99), frame_of(own)) == 99
    answer = network(4, back=True) / UDP(sport=81, dport=4001) / Raw(b"hello")
    assert run_filter(keep, frame_of(answer)) == 99
    assert run_filter(keep, frame_of(in_vxlan(answer, 6))) == 99
    assert run_filter(keep, frame_of(in_vxlan(network(4) / TCP(sport=1, dport=2), 4))) == 0
    assert run_filter(keep, frame_of(network(4) / TCP(sport=1, dport=2))) == 0


def test_the_question_to_a_dns_server_is_one() -> None:
    signature = make_signature("udp", 4, DNS_PORT, NUMBER)
    question = DNS(signature.payload)
    assert question.qd[0].qname == signature.tag + b".invalid."
    assert (question.qr, question.rd, question.qdcount) == (0, 0, 1)
    answer = bytes(DNS(id=question.id, qr=1, qd=question.qd, rcode=3))
    packet = bytes(network(4, back=True) / UDP(sport=53, dport=4000) / Raw(answer))
    assert any(pattern.matches(packet) for pattern in signature.patterns)


@pytest.mark.parametrize("number", [0, 1, 0xFFFFFFFD, 0xFFFFFFFF])
def test_sequence_numbers_at_the_edges(number: int) -> None:
    signature = make_signature("tcp", 4, 80, number)
    syn = bytes(network(4) / TCP(flags="S", seq=signature.sequence))
    assert any(pattern.matches(syn) for pattern in signature.patterns)
    last = bytes(network(4, back=True) / TCP(flags="A", seq=1, ack=signature.sequence + 2))
    assert any(pattern.matches(last) for pattern in signature.patterns)
