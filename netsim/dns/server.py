"""A DNS server on UDP and TCP sockets of one network namespace, run by the event loop of the caller."""

import asyncio
import logging
import socket
import struct

from netsim.dns.message import TCP_MAX_BYTES, Resolve, reply_to
from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError

PORT = 53
TCP_IDLE_S = 10.0  # RFC 7766 6.2.3: "on the order of a few seconds"
TCP_MAX_CONNECTIONS = 256

_BURST = 64  # datagrams answered before other work gets its turn: one costs about 0.1 ms
_ANCILLARY_BYTES = 64
_IP_PKTINFO = 8  # include/uapi/linux/in.h; Python's socket module has no name for it before 3.14
_PKTINFO = {socket.AF_INET: (socket.IPPROTO_IP, _IP_PKTINFO), socket.AF_INET6: (socket.IPPROTO_IPV6, 50)}

log = logging.getLogger("netsim.dns")


class DnsServer:
    """Answers on ``port`` of every address of a namespace. ``start`` makes one."""

    def __init__(self, resolve: Resolve, domain: str) -> None:
        self._resolve = resolve
        self._domain = domain
        self._udp: list[socket.socket] = []
        self._tcp: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls,
        netns: Netns,
        resolve: Resolve,
        *,
        domain: str,
        port: int = PORT,
        families: tuple[socket.AddressFamily, ...] = (socket.AF_INET,),
    ) -> "DnsServer":
        """A server that listens when this returns. Raises KernelError (the port is taken, no permission)."""
        server = cls(resolve, domain)
        try:
            for family in families:
                await server._listen(netns, family, port)
        except OSError as error:
            await server.stop()
            raise KernelError(
                f"cannot listen on DNS port {port}: {error.strerror or error}",
                errno=error.errno or 0,
                where=netns.name,
            ) from error
        return server

    @property
    def is_listening(self) -> bool:
        """False once it is stopped."""
        return bool(self._udp)

    async def stop(self) -> None:
        """Close every socket and connection; may be repeated."""
        loop = asyncio.get_running_loop()
        for udp in self._udp:
            loop.remove_reader(udp)
            udp.close()
        self._udp.clear()
        for tcp in self._tcp:
            tcp.close()
        self._tcp.clear()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self, netns: Netns, family: socket.AddressFamily, port: int) -> None:
        udp, tcp = netns.socket(family, socket.SOCK_DGRAM), netns.socket(family, socket.SOCK_STREAM)
        self._udp.append(udp)
        try:
            for one in (udp, tcp):
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            level, option = _PKTINFO[family]
            # IPV6_RECVPKTINFO (49) asks for what arrives as IPV6_PKTINFO (50); IPv4 has one number for both.
            udp.setsockopt(level, 49 if family == socket.AF_INET6 else option, 1)
            udp.bind(("", port))
            tcp.bind(("", udp.getsockname()[1]))
            self._tcp.append(await asyncio.start_server(self._accept, sock=tcp, backlog=TCP_MAX_CONNECTIONS))
        except BaseException:
            tcp.close()
            raise
        asyncio.get_running_loop().add_reader(udp, self._readable, udp)

    def _readable(self, udp: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                packet, ancillary, _flags, peer = udp.recvmsg(TCP_MAX_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error about an earlier reply; the next datagram is unharmed
                log.debug("receiving: %s", error)
                continue
            reply = self._reply(packet, tcp=False)
            if reply is None:
                continue
            try:
                # From the address that was asked: on a node with several, the kernel would choose another, and the
                # client (or its NAT entry) would not know the reply.
                udp.sendmsg([reply], _reply_source(ancillary), 0, peer)
            except OSError as error:  # the client's route is gone, or its socket: UDP owes nobody a reply
                log.debug("replying to %s: %s", peer, error)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= TCP_MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError) as error:
            log.debug("TCP connection ended: %r", error)  # by its client, by idleness, or by stop()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(TCP_IDLE_S):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                packet = await reader.readexactly(length)
            reply = self._reply(packet, tcp=True)
            if reply is None:
                return
            writer.write(struct.pack("!H", len(reply)) + reply)
            await writer.drain()

    def _reply(self, packet: bytes, *, tcp: bool) -> bytes | None:
        return reply_to(packet, self._resolve, domain=self._domain, tcp=tcp)


def _reply_source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message that sends from the address a datagram came to (ip(7), IP_PKTINFO; ipv6(7))."""
    for level, kind, data in ancillary:
        if (level, kind) == _PKTINFO[socket.AF_INET]:
            # struct in_pktinfo: interface, local address, header's destination; replies route freely (interface 0).
            return [(level, kind, struct.pack("=I4s4s", 0, data[4:8], data[4:8]))]
        if (level, kind) == _PKTINFO[socket.AF_INET6]:
            return [(level, kind, data[:16] + b"\0" * 4)]  # struct in6_pktinfo: address, interface
    return []
