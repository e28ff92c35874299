"""Sending and seeing real packets at any pod, node or external host, in scapy's words.

Only this module imports scapy (over a second): import it late. Scapy builds and decodes packets and nothing else. Its
own sockets and its routing and ARP look-ups are not used, because they would act in the namespace of *this* process;
packets leave and arrive through raw sockets that the cluster opened in the namespace concerned.

What is seen on a veth is what the kernel passes along, so two things differ from a cable: a transport checksum may
not be filled in yet (the kernel never does, when sender and receiver share it), and a segment may be larger than the
MTU (GSO).
"""

import os
import select
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

from netsim.model.errors import TimeoutExpired, UsageError
from netsim.testing.places import Places

with warnings.catch_warnings():
    # Scapy names algorithms that the installed cryptography deprecates; a test run with warnings as errors is not to
    # fail for that.
    warnings.simplefilter("ignore")
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, Ether
    from scapy.layers.vxlan import VXLAN  # importing it is also what makes scapy decode it
    from scapy.packet import Packet, Raw

__all__ = ["ARP", "ICMP", "IP", "TCP", "UDP", "VXLAN", "Ether", "IPv6", "Packets", "Raw", "Seen", "Sniffer"]

PACKET_OUTGOING = 4  # include/uapi/linux/if_packet.h
SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h; Python does not name it
SNAPLEN_BYTES = 1 << 17  # a GSO segment and its headers
RECEIVE_BUFFER_BYTES = 8 << 20

Match = Callable[[Any], bool]  # of a scapy packet


@dataclass(frozen=True)
class Seen:
    """One packet at one place. ``direction`` is ``in`` or ``out`` as the namespace at ``where`` sees it."""

    where: str
    interface: str
    direction: str
    time_s: float  # the kernel's own time stamp, since the epoch: comparable between all namespaces
    raw: bytes

    @cached_property
    def packet(self) -> Any:
        """The frame as scapy decodes it, from Ether on."""
        return Ether(self.raw)

    @property
    def ip(self) -> Any:
        """The IPv4 or IPv6 layer, None for other packets."""
        return self.packet.getlayer(IP) or self.packet.getlayer(IPv6)

    @property
    def src(self) -> str:
        return str(self.ip.src) if self.ip else ""

    @property
    def dst(self) -> str:
        return str(self.ip.dst) if self.ip else ""

    @property
    def ttl(self) -> int:
        """Time to live, or the IPv6 hop limit; 0 for what is not IP."""
        ip = self.ip
        if ip is None:
            return 0
        return int(ip.ttl if isinstance(ip, IP) else ip.hlim)

    @property
    def transport(self) -> Any:
        """The outermost TCP or UDP layer that is this packet's own (not the one quoted in an ICMP error), or None."""
        ip = self.ip
        return ip.payload if ip is not None and isinstance(ip.payload, TCP | UDP) else None

    @property
    def sport(self) -> int:
        return int(self.transport.sport) if self.transport else 0

    @property
    def dport(self) -> int:
        return int(self.transport.dport) if self.transport else 0

    @property
    def payload(self) -> bytes:
        """What the TCP segment or UDP datagram carries."""
        return bytes(self.transport.payload) if self.transport else b""

    @property
    def is_syn(self) -> bool:
        """The first packet of a TCP connection: SYN without ACK."""
        return isinstance(self.transport, TCP) and self.transport.flags.S and not self.transport.flags.A

    @property
    def is_syn_ack(self) -> bool:
        return isinstance(self.transport, TCP) and self.transport.flags.S and self.transport.flags.A

    def __str__(self) -> str:
        return f"{self.where} {self.interface} {self.direction:3} {self.packet.summary()} ttl {self.ttl}"


class Sniffer:
    """Collects packets at one interface from ``__enter__`` on.

    When the ``with`` block is entered the socket is open and bound: no packet caused after that is missed. The kernel
    queues a packet on the socket while the packet passes, so what has happened has been seen: ``seen`` reads the queue
    to its end first. A thread reads it too, so that it does not overflow and ``wait_for`` wakes up.
    """

    def __init__(self, cluster: Places, where: str, interface: str = "eth0", *, match: Match | None = None) -> None:
        self.where = where
        self.interface = interface
        self._cluster = cluster
        self._match = match
        self._seen: list[Seen] = []
        self._changed = threading.Condition()  # guards _seen and _sock
        self._sock: socket.socket | None = None
        self._stop_fd = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Sniffer":
        sock = self._sock = self._cluster.packet_socket(self.where, self.interface)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setblocking(False)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        name = f"sniffer {self.where} {self.interface}"
        arguments = (sock.fileno(), self._stop_fd)
        self._thread = threading.Thread(target=self._collect, args=arguments, name=name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.eventfd_write(self._stop_fd, 1)
        if self._thread is not None:
            self._thread.join()
        os.close(self._stop_fd)
        with self._changed:
            self._drain()
            if self._sock is not None:
                self._sock.close()
                self._sock = None

    def seen(self, match: Callable[[Seen], bool] | None = None) -> list[Seen]:
        """What came by until now, oldest first, of which ``match`` holds."""
        with self._changed:
            self._drain()
            found = list(self._seen)
        if self._match is not None:
            found = [seen for seen in found if self._match(seen.packet)]
        return [seen for seen in found if match is None or match(seen)]

    def wait_for(
        self, match: Callable[[Seen], bool], *, count: int = 1, timeout_s: float = 5.0, what: str = "a packet"
    ) -> list[Seen]:
        """The first ``count`` packets of which ``match`` holds. Raises TimeoutExpired showing what came instead."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                known = len(self._seen)
            found = self.seen(match)
            if len(found) >= count:
                return found[:count]
            with self._changed:
                if len(self._seen) == known and not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutExpired(
                        f"{what} ({count}) did not come within {timeout_s:g} s; seen: {self._told()}",
                        where=f"{self.where} {self.interface}",
                    )

    def first(self, match: Callable[[Seen], bool], *, timeout_s: float = 5.0, what: str = "a packet") -> Seen:
        """The first packet of which ``match`` holds; waits for it."""
        return self.wait_for(match, timeout_s=timeout_s, what=what)[0]

    def _told(self) -> str:
        lines = [str(seen) for seen in self._seen[-30:]]
        return "\n  " + "\n  ".join(lines) if lines else "nothing"

    def _collect(self, socket_fd: int, stop_fd: int) -> None:
        poll = select.poll()
        poll.register(socket_fd, select.POLLIN)
        poll.register(stop_fd, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if stop_fd in ready:
                return
            with self._changed:
                self._drain()

    def _drain(self) -> None:
        """Read what the kernel has queued. The caller holds ``_changed``."""
        count = len(self._seen)
        while self._sock is not None:
            try:
                raw, control, _, address = self._sock.recvmsg(SNAPLEN_BYTES, socket.CMSG_SPACE(16))
            except OSError:  # nothing more (EAGAIN), or the interface has gone away with its namespace (ENETDOWN)
                break
            direction = "out" if address[2] == PACKET_OUTGOING else "in"
            self._seen.append(Seen(self.where, self.interface, direction, _time_stamp_s(control), raw))
        if len(self._seen) > count:
            self._changed.notify_all()


def _time_stamp_s(control: list[tuple[int, int, bytes]]) -> float:
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            return float(seconds + nanoseconds / 1e9)
    return time.time()


class Packets:
    """Senders and sniffers in the namespaces of one cluster. ``where`` is ``pod/[NS/]NAME``, ``node/NAME`` or
    ``host/NAME``.
    """

    def __init__(self, cluster: Places) -> None:
        self._cluster = cluster

    def sniffer(self, where: str, interface: str = "eth0", *, match: Match | None = None) -> Sniffer:
        """A Sniffer to be used as a context manager; ``match`` is asked of scapy packets, None keeps all."""
        return Sniffer(self._cluster, where, interface, match=match)

    def sniff(
        self,
        where: str,
        interface: str = "eth0",
        *,
        match: Match | None = None,
        count: int = 1,
        timeout_s: float = 5.0,
    ) -> list[Seen]:
        """Wait for ``count`` packets that come from now on. To see what your own action causes, use ``sniffer``."""
        with self.sniffer(where, interface, match=match) as sniffer:
            return sniffer.wait_for(lambda _: True, count=count, timeout_s=timeout_s)

    def send(self, where: str, packet: Packet, interface: str = "eth0") -> None:
        """Send one scapy packet from ``where``.

        From IP on, the kernel there routes it and finds the next hop's MAC address, as it does for its own packets
        (raw socket with IP_HDRINCL, raw(7)). From Ether on, it goes out of ``interface`` as it is. A source address
        that is not given is the interface's own. Raises UsageError for a frame without a destination MAC address.
        """
        packet = packet.copy()
        self._fill_source(where, packet, interface)
        if isinstance(packet, Ether):
            with self._cluster.packet_socket(where, interface) as sock:
                sock.send(bytes(packet))
            return
        if not isinstance(packet, IP):
            raise UsageError(f"{packet.summary()}: give a packet from Ether or IP on")
        with self._cluster.socket(where, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.sendto(bytes(packet), (packet.dst, 0))

    def _fill_source(self, where: str, packet: Packet, interface: str) -> None:
        """Set what scapy would otherwise look up in the routes and neighbours of this process's own namespace."""
        own = next((i for i in self._cluster.interfaces(where) if i.name == interface), None)
        if own is None:
            raise UsageError(f"no interface {interface}", where=where)
        if isinstance(packet, Ether):
            if "dst" not in packet.fields:
                raise UsageError(f"{packet.summary()}: Ether needs a dst", where=where)
            if "src" not in packet.fields:
                packet.src = own.mac
        ip = packet.getlayer(IP)
        if ip is not None and "src" not in ip.fields:
            addresses = [a.split("/")[0] for a in own.addresses if ":" not in a]
            if not addresses:
                raise UsageError(f"{interface} has no IPv4 address; give IP a src", where=where)
            ip.src = addresses[0]
