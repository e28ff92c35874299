"""The stub resolver: names to try, and answers that can't be trusted."""

import asyncio
import socket
import struct

import dnslib
import pytest

from netsim.kubelet.builtin.resolve import TYPE_A, Resolver, parse_answer, plan_names, render_query


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("web", ["web.a", "web.b", "web"]),
        ("web.shop", ["web.shop", "web.shop.a", "web.shop.b"]),
        ("web.", ["web"]),
    ],
)
def test_search_list(host: str, names: list[str]) -> None:
    assert plan_names(host, ["a", "b"], 1) == names


def test_a_query_and_its_answer() -> None:
    query = dnslib.DNSRecord.parse(render_query(7, "web.shop.svc", TYPE_A))
    assert (query.header.id, str(query.q.qname), query.q.qtype) == (7, "web.shop.svc.", TYPE_A)
    reply = query.reply()
    reply.add_answer(*dnslib.RR.fromZone("web.shop.svc. 5 IN CNAME x.y.\nx.y. 5 IN A 10.0.0.1\nx.y. 5 IN A 10.0.0.2"))
    assert parse_answer(bytes(reply.pack()), 7, TYPE_A) == ["10.0.0.1", "10.0.0.2"]
    assert parse_answer(bytes(reply.pack()), 8, TYPE_A) == []  # another's


def test_broken_answers_are_no_answers() -> None:
    query = dnslib.DNSRecord.question("web")
    reply = query.reply()
    reply.add_answer(*dnslib.RR.fromZone("web. 5 IN A 10.0.0.1"))
    whole = bytes(reply.pack())
    for length in range(len(whole)):
        assert parse_answer(whole[:length], query.header.id, TYPE_A) == []
    assert parse_answer(struct.pack("!6H", 1, 0x8000, 1, 1, 0, 0) + b"\xc0", 1, TYPE_A) == []


@pytest.mark.parametrize(("families", "loopback"), [((4,), "127.0.0.1"), ((6,), "::1"), ((4, 6), "127.0.0.1")])
def test_no_host_is_this_pod_in_its_primary_family(families: tuple[int, ...], loopback: str) -> None:
    def open_socket(family: int, kind: int) -> socket.socket:
        raise AssertionError("nobody has to be asked")

    resolver = Resolver({"families": families}, open_socket)
    assert asyncio.run(resolver.first("")) == loopback
    assert asyncio.run(resolver.first("[fd00::5]")) == "fd00::5"
