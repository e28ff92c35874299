"""The DNS server on real sockets in a namespace of its own."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import dnslib
import pytest

from netsim.dns.records import NOERROR, Answer, Record
from netsim.dns.server import DnsServer
from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError

pytestmark = pytest.mark.needs("root")

DOMAIN = "cluster.local"
MANY = 200
TIMEOUT_S = 10.0
LOOPBACK, OTHER = "127.0.0.1", "127.0.0.2"  # two addresses of one namespace


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns.create("dns") as ns:
        yield ns


def resolve(name: str, _record_type: str) -> Answer:
    count = MANY if name.startswith("many") else 1
    return Answer(NOERROR, tuple(Record(name.rstrip("."), "A", f"10.244.0.{i}") for i in range(count)))


@asynccontextmanager
async def running(ns: Netns) -> AsyncIterator[DnsServer]:
    server = await DnsServer.start(ns, resolve, domain=DOMAIN)
    try:
        yield server
    finally:
        await server.stop()


def in_loop(ns: Netns, client: Callable[[], Any]) -> Any:
    """What the blocking ``client`` returns while a server runs in ``ns``."""

    async def both() -> Any:
        async with running(ns):
            return await asyncio.to_thread(client)

    return asyncio.run(both())


def client_socket(ns: Netns, kind: int) -> socket.socket:
    sock = ns.socket(socket.AF_INET, kind)
    sock.settimeout(TIMEOUT_S)
    return sock


def ask_tcp(sock: socket.socket, name: str) -> dnslib.DNSRecord:
    query = dnslib.DNSRecord.question(name).pack()
    sock.sendall(struct.pack("!H", len(query)) + query)
    with sock.makefile("rb") as stream:
        (length,) = struct.unpack("!H", stream.read(2))
        return dnslib.DNSRecord.parse(stream.read(length))


def test_a_reply_comes_from_the_address_that_was_asked(ns: Netns) -> None:
    def ask() -> list[str]:
        sources = []
        with client_socket(ns, socket.SOCK_DGRAM) as sock:
            for address in (LOOPBACK, OTHER):
                sock.sendto(dnslib.DNSRecord.question("web.cluster.local").pack(), (address, 53))
                packet, (source, _port) = sock.recvfrom(4096)
                assert str(dnslib.DNSRecord.parse(packet).a.rdata) == "10.244.0.0"
                sources.append(source)
        return sources

    assert in_loop(ns, ask) == [LOOPBACK, OTHER]


def test_what_udp_cuts_tcp_has_whole_and_a_connection_serves_several_queries(ns: Netns) -> None:
    def ask() -> list[int]:
        with client_socket(ns, socket.SOCK_DGRAM) as udp:
            udp.sendto(dnslib.DNSRecord.question("many.cluster.local").pack(), (LOOPBACK, 53))
            assert dnslib.DNSRecord.parse(udp.recv(4096)).header.tc == 1
        with client_socket(ns, socket.SOCK_STREAM) as tcp:
            tcp.connect((LOOPBACK, 53))
            return [len(ask_tcp(tcp, name).rr) for name in ("many.cluster.local", "web.cluster.local")]

    assert in_loop(ns, ask) == [MANY, 1]


def test_a_burst_of_queries_is_answered_whole(ns: Netns) -> None:
    def ask() -> set[int]:
        with client_socket(ns, socket.SOCK_DGRAM) as sock:
            for number in range(MANY):
                query = dnslib.DNSRecord.question("web.cluster.local")
                query.header.id = number
                sock.sendto(query.pack(), (LOOPBACK, 53))
            return {dnslib.DNSRecord.parse(sock.recv(4096)).header.id for _ in range(MANY)}

    assert in_loop(ns, ask) == set(range(MANY))


def test_garbage_and_vanished_clients_do_not_stop_it(ns: Netns) -> None:
    def ask() -> str:
        with client_socket(ns, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (LOOPBACK, 53))
            sock.sendto(dnslib.DNSRecord.question("web.cluster.local").pack(), (LOOPBACK, 53))
        with client_socket(ns, socket.SOCK_STREAM) as tcp:  # half a message, then gone
            tcp.connect((LOOPBACK, 53))
            tcp.sendall(b"\x00\x40half")
        with client_socket(ns, socket.SOCK_DGRAM) as sock:
            sock.sendto(dnslib.DNSRecord.question("web.cluster.local").pack(), (LOOPBACK, 53))
            return str(dnslib.DNSRecord.parse(sock.recv(4096)).a.rdata)

    assert in_loop(ns, ask) == "10.244.0.0"


def test_a_taken_port_is_named_and_nothing_stays_open(ns: Netns) -> None:
    async def start_twice() -> None:
        async with running(ns):
            with pytest.raises(KernelError, match="cannot listen on DNS port 53") as caught:
                await DnsServer.start(ns, resolve, domain=DOMAIN)
            assert caught.value.where == "dns"
        async with running(ns) as server:  # all of it was let go
            assert server.is_listening

    asyncio.run(start_twice())


def test_after_stop_nobody_answers(ns: Netns) -> None:
    async def start_and_stop() -> None:
        server = await DnsServer.start(ns, resolve, domain=DOMAIN)
        with client_socket(ns, socket.SOCK_STREAM) as open_connection:
            await asyncio.to_thread(open_connection.connect, (LOOPBACK, 53))
            await asyncio.to_thread(ask_tcp, open_connection, "web.cluster.local")
            await server.stop()
            await server.stop()  # may be repeated
            assert await asyncio.to_thread(open_connection.recv, 1) == b""
        assert not server.is_listening
        with client_socket(ns, socket.SOCK_STREAM) as refused, pytest.raises(ConnectionRefusedError):
            refused.connect((LOOPBACK, 53))

    asyncio.run(start_and_stop())
