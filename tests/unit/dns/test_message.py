"""DNS on the wire: sizes, truncation, EDNS0, and packets that are no queries."""

import struct

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.dns.message import reply_to
from netsim.dns.records import NOERROR, NXDOMAIN, Answer, Record, Soa, Srv

MANY = 200


def resolve(name: str, record_type: str) -> Answer:
    asked = name.lower().rstrip(".")
    if asked == "web.cluster.local" and record_type == "A":
        return Answer(NOERROR, (Record(asked, "A", "10.96.0.20"),))
    if asked == "many.cluster.local":
        return Answer(NOERROR, tuple(Record(asked, "A", f"10.244.0.{i}") for i in range(MANY)))
    if asked == "srv.cluster.local":
        hosts = [f"pod-{i}.srv.cluster.local" for i in range(4)]
        return Answer(
            NOERROR,
            tuple(Record(asked, "SRV", Srv(0, 25, 80, host)) for host in hosts),
            additional=tuple(Record(host, "A", "10.244.0.1") for host in hosts) * 10,
        )
    soa = Record("cluster.local", "SOA", Soa("ns.dns.cluster.local", "hostmaster.cluster.local", 7))
    return Answer(NXDOMAIN, authority=(soa,), outside=not asked.endswith("cluster.local"))


def exchange(query: dnslib.DNSRecord, *, tcp: bool = False) -> dnslib.DNSRecord:
    packed = reply_to(query.pack(), resolve, domain="cluster.local", tcp=tcp)
    assert packed is not None
    return dnslib.DNSRecord.parse(packed)


def question(name: str, record_type: str = "A", *, udp_bytes: int = 0) -> dnslib.DNSRecord:
    query = dnslib.DNSRecord.question(name, record_type)
    if udp_bytes:
        query.add_ar(dnslib.EDNS0(udp_len=udp_bytes))
    return query


def test_a_reply_carries_id_question_and_authority() -> None:
    query = question("WeB.cluster.local")
    reply = exchange(query)
    assert reply.header.id == query.header.id
    assert (reply.header.qr, reply.header.aa, reply.header.ra, reply.header.rd) == (1, 1, 1, 1)
    assert [str(rr.rdata) for rr in reply.rr] == ["10.96.0.20"]
    assert reply.rr[0].rname.label[0] == b"WeB"  # resolvers that mix upper and lower case compare
    assert reply.rr[0].ttl == 5


def test_what_does_not_exist_comes_with_the_soa() -> None:
    reply = exchange(question("nope.cluster.local"))
    assert reply.header.rcode == NXDOMAIN
    assert str(reply.auth[0].rname) == "cluster.local."
    assert reply.auth[0].rtype == dnslib.QTYPE.SOA


def test_a_long_answer_is_cut_for_udp_and_whole_by_tcp() -> None:
    for udp_bytes, limit in ((0, 512), (100, 512), (1000, 1000), (65000, 1232)):
        query = question("many.cluster.local", udp_bytes=udp_bytes)
        packed = reply_to(query.pack(), resolve, domain="cluster.local")
        assert packed is not None
        assert limit - 20 < len(packed) <= limit
        reply = dnslib.DNSRecord.parse(packed)
        assert reply.header.tc == 1
        assert len(reply.questions) == 1
        assert 0 < len(reply.rr) < MANY
    whole = exchange(question("many.cluster.local"), tcp=True)
    assert (whole.header.tc, len(whole.rr)) == (0, MANY)


def test_leaving_out_additional_records_is_no_truncation() -> None:
    reply = exchange(question("srv.cluster.local", "SRV"))
    assert (reply.header.tc, len(reply.rr), len(reply.ar)) == (0, 4, 0)


def test_edns_is_answered_with_edns_and_says_why_names_outside_are_unknown() -> None:
    reply = exchange(question("example.com", udp_bytes=4096))
    (opt,) = reply.ar
    assert opt.rtype == dnslib.QTYPE.OPT
    (option,) = opt.rdata
    assert option.code == 15
    assert b"no upstream" in option.data
    assert not exchange(question("example.com")).ar


def test_an_unknown_edns_version_is_bad_version() -> None:
    query = dnslib.DNSRecord.question("web.cluster.local")
    query.add_ar(dnslib.EDNS0(version=1, udp_len=1232))
    reply = exchange(query)
    assert (reply.ar[0].ttl >> 24, reply.rr) == (1, [])


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0), 1),  # a question is promised, none is there
        (struct.pack("!HHHHHH", 7, 0x0100, 0, 0, 0, 0), 1),  # no question
        (struct.pack("!HHHHHH", 7, 0x2800, 0, 0, 0, 0), 4),  # UPDATE
        (dnslib.DNSRecord(q=dnslib.DNSQuestion("version.bind", dnslib.QTYPE.TXT, 3)).pack(), 5),  # class CHAOS
    ],
)
def test_what_is_not_understood_gets_its_rcode(packet: bytes, rcode: int) -> None:
    packed = reply_to(packet, resolve, domain="cluster.local")
    assert packed is not None
    number, flags = struct.unpack_from("!HH", packed)
    assert number == struct.unpack_from("!H", packet)[0]
    assert flags & 0x8000
    assert flags & 0xF == rcode


@pytest.mark.parametrize("packet", [b"", b"short", struct.pack("!HHHHHH", 7, 0x8000, 0, 0, 0, 0)])
def test_replies_and_scraps_are_not_answered(packet: bytes) -> None:
    assert reply_to(packet, resolve, domain="cluster.local") is None


@given(st.binary(max_size=80))
def test_no_packet_is_too_strange(packet: bytes) -> None:
    query = bytearray(dnslib.DNSRecord.question("web.cluster.local").pack())
    query[12 : 12 + len(packet)] = packet
    for candidate in (packet, bytes(query)):
        reply = reply_to(candidate, resolve, domain="cluster.local")
        assert reply is None or (reply[:2] == candidate[:2] and reply[2] & 0x80)
