"""DNS messages: the bytes of a query to the bytes of its reply (RFC 1035, EDNS0 RFC 6891). Pure."""

import struct
from collections.abc import Callable

import dnslib

from netsim.dns.records import Answer, Record, Soa, Srv

Resolve = Callable[[str, str], Answer]  # (name, record type) -> the answer

UDP_MAX_BYTES = 512  # RFC 1035 4.2.1, without EDNS0
EDNS_MAX_BYTES = 1232  # what fits an IPv6 packet of 1280 bytes; CoreDNS's and BIND's default
TCP_MAX_BYTES = 65535

_HEADER_BYTES = 12
_FORMERR, _SERVFAIL, _NOTIMP, _REFUSED = 1, 2, 4, 5
_BADVERS_HIGH = 1  # rcode 16 is 1 in the OPT record's upper bits and 0 in the header
_EDE_OPTION, _EDE_NOT_AUTHORITATIVE = 15, 20  # RFC 8914

_RDATA = {"A": dnslib.A, "AAAA": dnslib.AAAA, "CNAME": dnslib.CNAME, "PTR": dnslib.PTR, "NS": dnslib.NS}


def reply_to(packet: bytes, resolve: Resolve, *, domain: str, tcp: bool = False) -> bytes | None:
    """The reply to ``packet``, or None where none is due (no DNS query at all).

    A reply that is too long for UDP keeps the records that fit and says so (TC), so that the client asks again by
    TCP.
    """
    if len(packet) < _HEADER_BYTES or packet[2] & 0x80:  # too short, or a reply: answering those makes loops
        return None
    try:
        query = dnslib.DNSRecord.parse(packet)
    except (dnslib.DNSError, ValueError, IndexError, struct.error, AttributeError):
        return _error(packet, _FORMERR)
    if query.header.opcode != 0:
        return _error(packet, _NOTIMP)
    if len(query.questions) != 1:
        return _error(packet, _FORMERR)
    opt = next((extra for extra in query.ar if extra.rtype == dnslib.QTYPE.OPT), None)
    reply = _reply(query, opt, resolve, domain)
    packed: bytes = reply.pack()
    limit = TCP_MAX_BYTES if tcp else _udp_limit(opt)
    return packed if len(packed) <= limit else _truncate(reply, limit)


def _reply(query: dnslib.DNSRecord, opt: dnslib.RR | None, resolve: Resolve, domain: str) -> dnslib.DNSRecord:
    header = dnslib.DNSHeader(id=query.header.id, qr=1, aa=1, rd=query.header.rd, ra=1)
    reply = dnslib.DNSRecord(header, questions=query.questions)
    question = query.questions[0]
    options: list[dnslib.EDNSOption] = []
    version = (opt.ttl >> 16) & 0xFF if opt is not None else 0
    if version != 0:
        header.aa = 0
        reply.add_ar(dnslib.EDNS0(ext_rcode=_BADVERS_HIGH, udp_len=EDNS_MAX_BYTES))
        return reply
    if question.qclass not in (dnslib.CLASS.IN, 255):
        header.aa, header.rcode = 0, _REFUSED
    else:
        found = resolve(str(question.qname), _type_name(question.qtype))
        header.rcode = found.rcode
        for record in found.answers:
            reply.add_answer(_rr(record, question.qname))
        for record in found.authority:
            reply.add_auth(_rr(record, question.qname))
        for record in found.additional:
            reply.add_ar(_rr(record, question.qname))
        if found.outside:
            text = f"no upstream: only names in {domain} exist here".encode()
            options = [dnslib.EDNSOption(_EDE_OPTION, struct.pack("!H", _EDE_NOT_AUTHORITATIVE) + text)]
    if opt is not None:
        reply.add_ar(dnslib.EDNS0(udp_len=EDNS_MAX_BYTES, opts=options))
    return reply


def _udp_limit(opt: dnslib.RR | None) -> int:
    """The most bytes the client takes by UDP: an OPT record's class is its size (RFC 6891 6.1.2)."""
    return min(max(int(opt.rclass), UDP_MAX_BYTES), EDNS_MAX_BYTES) if opt is not None else UDP_MAX_BYTES


def _truncate(reply: dnslib.DNSRecord, limit: int) -> bytes:
    """The reply with as many answers as fit: musl before 1.2.4 never asks by TCP, and uses what it gets."""
    opts = [extra for extra in reply.ar if extra.rtype == dnslib.QTYPE.OPT]
    extras = [extra for extra in reply.ar if extra.rtype != dnslib.QTYPE.OPT]
    # Additional records are a courtesy: leaving them out is no truncation (RFC 2181 9).
    if reply.rr and extras:
        packed: bytes = dnslib.DNSRecord(reply.header, questions=reply.questions, rr=reply.rr, ar=opts).pack()
        if len(packed) <= limit:
            return packed
    low, high = 0, len(reply.rr)
    reply.header.tc = 1
    best = _with_answers(reply, 0, opts)
    while low < high:
        middle = (low + high + 1) // 2
        packed = _with_answers(reply, middle, opts)
        if len(packed) <= limit:
            low, best = middle, packed
        else:
            high = middle - 1
    return best


def _with_answers(reply: dnslib.DNSRecord, count: int, opts: list[dnslib.RR]) -> bytes:
    packed: bytes = dnslib.DNSRecord(reply.header, questions=reply.questions, rr=reply.rr[:count], ar=opts).pack()
    return packed


def _error(packet: bytes, rcode: int) -> bytes:
    """A reply of nothing but a header: the query's id, opcode and RD with ``rcode``."""
    number, flags = struct.unpack_from("!HH", packet)
    return struct.pack("!HHHHHH", number, 0x8000 | (flags & 0x7900) | rcode, 0, 0, 0, 0)


def _type_name(number: int) -> str:
    name = dnslib.QTYPE.forward.get(number)
    return str(name) if name else f"TYPE{number}"


def _rr(record: Record, asked: dnslib.DNSLabel) -> dnslib.RR:
    # The owner keeps the upper and lower case of the question: resolvers that mix them (0x20) compare.
    owner = asked if asked == record.name else record.name
    return dnslib.RR(owner, getattr(dnslib.QTYPE, record.type), ttl=record.ttl_s, rdata=_rdata(record))


def _rdata(record: Record) -> dnslib.RD:
    data = record.data
    if isinstance(data, Srv):
        return dnslib.SRV(data.priority, data.weight, data.port, data.target)
    if isinstance(data, Soa):
        times = (data.serial, data.refresh, data.retry, data.expire, data.minimum)
        return dnslib.SOA(data.mname, data.rname, times)
    if record.type == "TXT":
        return dnslib.TXT(data)
    return _RDATA[record.type](data)
