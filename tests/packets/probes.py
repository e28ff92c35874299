"""Many small requests at once, and what became of each: one loop, no threads.

Clients and servers are sockets in the cluster's namespaces. A server answers with its own name and the address it sees;
a client takes an answer, a refusal, or silence. Waiting for silence costs nothing, since all wait together.
"""

import errno
import fcntl
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns
from tests.features import missing_feature

REFUSED = "refused"
SILENCE = "silence"
IN_FLIGHT = 300  # sockets; a process may commonly have 1,024 descriptors
_SIOCGSKNS = 0x894C  # include/uapi/asm-generic/sockios.h: the namespace a socket lives in
KINDS = {  # protocol: type and protocol of its sockets
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # include/uapi/linux/in.h, in6.h
# Every request has a port of its own. With ports by chance two of a client's flows through two Services to one endpoint
# soon have the same, and IPVS, which keeps the client's port, takes the answer to the second for one to the first.
_SOURCE_PORTS = range(33000, 61000)
_REFUSALS = (errno.ECONNREFUSED,)
T = TypeVar("T")


def choose_protocols() -> tuple[str, ...]:
    """Those that this machine's kernel has."""
    return tuple(name for name in KINDS if name != "sctp" or missing_feature("sctp") is None)


def open_netns(cluster: Cluster, where: str) -> Netns:
    """The namespace of a place, by a socket in it: thousands of sockets then cost two system calls each."""
    with cluster.socket(where, socket.AF_INET, socket.SOCK_DGRAM) as found:
        return Netns(where, fcntl.ioctl(found, _SIOCGSKNS))


@dataclass(frozen=True)
class Seen:
    """A server got the request: which, and from what address. ``answered``: the client got its answer."""

    server: str
    address: str
    answered: bool


Result = Seen | str  # or REFUSED, SILENCE, or the words of another error


@dataclass(frozen=True)
class Request:
    """What to send. ``patience_s``: how long until no answer is silence."""

    source: Netns
    address: str
    port: int
    protocol: str
    patience_s: float


@dataclass
class _Try:
    number: int
    request: Request
    sock: socket.socket
    deadline: float


class Prober:
    """Servers that listen until `close`, and `run` for clients."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._servers: list[socket.socket] = []
        self._arrived: dict[int, tuple[str, str]] = {}  # datagrams by their number
        self._waiting: dict[int, _Try] = {}
        self._results: dict[int, Result] = {}
        self._number = 0

    def serve(self, name: str, ns: Netns, protocol: str, port: int, family: int, address: str = "") -> None:
        """Answer at ``address``, by default every one."""
        kind, number = KINDS[protocol]
        sock = ns.socket(_AF[family], kind, number)
        self._servers.append(sock)
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:  # connections of a test before may be in TIME-WAIT at the same address
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address or ("::" if family == 6 else "0.0.0.0"), port))
        if protocol == "udp":
            self._selector.register(sock, selectors.EVENT_READ, lambda: self._answer_datagrams(name, sock))
        else:
            sock.listen(1024)
            self._selector.register(sock, selectors.EVENT_READ, lambda: self._answer_connections(name, sock))

    def close(self) -> None:
        for sock in self._servers:
            sock.close()
        self._selector.close()

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """What became of each, in their order."""
        first, pending = self._number, deque(requests)
        while pending or self._waiting:
            while pending and len(self._waiting) < IN_FLIGHT:
                self._start(pending.popleft())
            for key, _ in self._selector.select(self._next_deadline_s()):
                key.data()
            self._expire()
        results = [self._results[number] for number in range(first, self._number)]
        self._results.clear()
        self._arrived.clear()
        return results

    def _start(self, request: Request) -> None:
        number, self._number = self._number, self._number + 1
        kind, protocol = KINDS[request.protocol]
        sock = request.source.socket(_AF[6 if ":" in request.address else 4], kind, protocol)
        sock.setblocking(False)
        sock.bind((_choose_source(sock, request), _SOURCE_PORTS[number % len(_SOURCE_PORTS)]))
        attempt = _Try(number, request, sock, time.monotonic() + request.patience_s)
        self._waiting[number] = attempt
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._receive(attempt))
        try:
            code = sock.connect_ex((request.address, request.port))
            if code not in (0, errno.EINPROGRESS):
                self._finish(attempt, _name_error(code))
            elif request.protocol == "udp":
                sock.send(str(number).encode())
        except PermissionError:
            return  # a rule dropped it in OUTPUT: for a datagram the kernel says so at once, to a client it is silence
        except OSError as error:
            self._finish(attempt, _name_error(error.errno or 0))

    def _receive(self, attempt: _Try) -> None:
        code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # recv(2) of SCTP would not say it
        if code:
            self._finish(attempt, _name_error(code))
            return
        try:
            text = attempt.sock.recv(200).decode()
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(attempt, _name_error(error.errno or 0))
            return
        server, _, address = text.partition(" ")
        self._finish(attempt, Seen(server, address, answered=True) if text else "closed without an answer")

    def _finish(self, attempt: _Try, result: Result) -> None:
        self._selector.unregister(attempt.sock)
        attempt.sock.close()
        del self._waiting[attempt.number]
        self._results[attempt.number] = result

    def _next_deadline_s(self) -> float:
        earliest = min((attempt.deadline for attempt in self._waiting.values()), default=0.0)
        return max(0.0, earliest - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        for attempt in [attempt for attempt in self._waiting.values() if attempt.deadline < now]:
            arrived = self._arrived.get(attempt.number)
            self._finish(attempt, Seen(*arrived, answered=False) if arrived else SILENCE)

    def _answer_datagrams(self, name: str, sock: socket.socket) -> None:
        for data, peer in _until_empty(lambda: sock.recvfrom(200)):
            self._arrived[int(data)] = name, peer[0]
            sock.sendto(f"{name} {peer[0]}".encode(), peer)

    def _answer_connections(self, name: str, sock: socket.socket) -> None:
        for accepted, peer in _until_empty(sock.accept):
            with accepted:
                accepted.send(f"{name} {peer[0]}".encode())


def _choose_source(sock: socket.socket, request: Request) -> str:
    """The address to bind a client to: any.

    But SCTP tells its peer all addresses of its host, which no translator of addresses touches, so whoever speaks it
    through one binds to a single address: here that which the routes give, as they do for the others. Of a refusal it
    hears only where it asks for errors (sctp_v4_err, net/sctp/input.c).
    """
    v6 = ":" in request.address
    if request.protocol != "sctp":
        return "::" if v6 else "0.0.0.0"
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    with request.source.socket(sock.family, socket.SOCK_DGRAM, 0) as other:
        other.connect((request.address, request.port))
        return str(other.getsockname()[0])


def _until_empty(receive: Callable[[], T]) -> Iterable[T]:
    while True:
        try:
            yield receive()
        except (
            OSError
        ):  # empty; or one client's connection ended first, or an ICMP error: the next event brings the rest
            return


def _name_error(number: int) -> str:
    if number in _REFUSALS:
        return REFUSED
    return errno.errorcode.get(number, str(number))
