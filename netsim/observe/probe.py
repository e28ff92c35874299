"""One real packet exchange, sent from a place by an ordinary socket of the kernel, and how it went for that socket."""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Literal, Self

from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError
from netsim.observe.evidence import Reply
from netsim.observe.path import Question
from netsim.observe.signature import Signature

Result = Literal["connected", "answered", "refused", "unreachable", "timeout", "failed"]

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# include/uapi/linux/tcp.h: a socket's first sequence number can be chosen, as CRIU does to restore connections.
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
_REPAIR_ON, _REPAIR_OFF_NO_PROBES = 1, -1
_SEND_QUEUE = 2
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ECHO_REQUEST = {4: 8, 6: 128}
_ECHO_REPLY = {4: 0, 6: 129}
_ICMP6_FILTER, _IPV6_HEADER_BYTES, _IPV4_HEADER_BYTES = 1, 40, 20
_RECEIVE_BYTES = 65536
_PATIENCE_S = 0.01
_UNREACHABLE = frozenset(
    (
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENONET,
        errno.EPROTO,
        errno.ENOPROTOOPT,
    )
)
_REFUSED = frozenset((errno.ECONNREFUSED, errno.ECONNRESET))


class Probe:
    """Opened, with its source port known, before anything is sent; closed when everything has been looked at."""

    def __init__(self, ns: Netns, question: Question, signature: Signature) -> None:
        """Raises KernelError."""
        self._question = question
        self._signature = signature
        self._icmp = signature.protocol == "icmp"
        self.source_port = 0
        self._is_lost: Callable[[], bool] = lambda: False
        family = _FAMILIES[signature.family]
        try:
            self._socket = self._open(ns, family)
            self._socket.setblocking(False)
            self._prepare(family)
        except OSError as error:
            raise KernelError(f"probe: {error.strerror or error}", errno=error.errno or 0, where=ns.name) from error

    def send(self, timeout_s: float, is_lost: Callable[[], bool]) -> Reply:
        """Send, wait for the answer. What the kernel says about it is in the reply.

        ``is_lost`` is asked every few milliseconds while nothing comes, and ends the waiting by True; what it raises
        comes out of here.
        """
        self._is_lost = is_lost
        start = time.monotonic()
        try:
            result, data = self._exchange(timeout_s)
        except OSError as error:
            number = error.errno or 0
            elapsed_ms = (time.monotonic() - start) * 1000
            return Reply(_result_of(number), error.strerror or str(error), number, elapsed_ms)
        return Reply(result, elapsed_ms=(time.monotonic() - start) * 1000, data=data)

    def close(self) -> None:
        """May be repeated. A TCP connection is cut off, so that neither end keeps it."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _open(self, ns: Netns, family: int) -> socket.socket:
        match self._signature.protocol:
            case "tcp":
                return ns.socket(family, socket.SOCK_STREAM)
            case "udp":
                return ns.socket(family, socket.SOCK_DGRAM)
            case _:
                number = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
                return ns.socket(family, socket.SOCK_RAW, number)

    def _prepare(self, family: int) -> None:
        sock = self._socket
        if self._icmp:
            self.source_port = int.from_bytes(os.urandom(2), "big") or 1
        else:
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
            self.source_port = sock.getsockname()[1]
        # ICMP errors about what we sent are ours to know, also those that TCP would only remember.
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        if self._signature.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _SEND_QUEUE)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ, struct.pack("=I", self._signature.sequence))
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF_NO_PROBES)

    def _exchange(self, timeout_s: float) -> tuple[Result, bytes]:
        target = (self._question.address, self._question.port)
        deadline = time.monotonic() + timeout_s
        if self._signature.protocol == "tcp":
            return self._connect(target, deadline), b""
        self._socket.connect((target[0], 0) if self._icmp else target)
        try:
            self._socket.send(self._echo_request() if self._icmp else self._signature.payload)
        except PermissionError:
            # A rule of this host kept it from leaving. One that rejects has told the socket why, which says more.
            told = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if told:
                raise OSError(told, os.strerror(told)) from None
            raise
        while self._wait(select.POLLIN, deadline):
            data = self._socket.recv(_RECEIVE_BYTES)
            if not self._icmp or self._is_reply(data):
                return "answered", data
        return "timeout", b""

    def _connect(self, target: tuple[str, int], deadline: float) -> Result:
        number = self._socket.connect_ex(target)
        if number == errno.EINPROGRESS:
            if not self._wait(select.POLLOUT, deadline):
                self._give_up()
                return "timeout"
            number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._give_up()
            raise OSError(number, os.strerror(number))
        return "connected"

    def _give_up(self) -> None:
        """A connection that has not come about: closing sends nothing, and nothing is sent again a second later, also
        where an ICMP error was for the kernel no reason to end it (tcp_v4_err, sk_err_soft).
        """
        self.close()

    def _wait(self, event: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            if poll.poll(min(left_s, _PATIENCE_S) * 1000):
                return True
            if left_s <= _PATIENCE_S or self._is_lost():
                return False

    def _echo_request(self) -> bytes:
        kind = _ECHO_REQUEST[self._signature.family]
        body = struct.pack("!HH", self.source_port, 1) + self._signature.payload
        # Of ICMPv6 the kernel sets the checksum, which covers addresses (RFC 3542); 0 stands in its place.
        checksum = 0 if kind == 128 else _checksum(struct.pack("!BBH", kind, 0, 0) + body)
        return struct.pack("!BBH", kind, 0, checksum) + body

    def _is_reply(self, data: bytes) -> bool:
        """A raw socket sees all ICMP of its peer; of IPv4 with the IP header."""
        family = self._signature.family
        at = (data[0] & 15) * 4 if family == 4 and data else 0
        return data[at : at + 1] == bytes((_ECHO_REPLY[family],)) and self._signature.tag in data


def _result_of(number: int) -> Result:
    if number in _REFUSED:
        return "refused"
    return "unreachable" if number in _UNREACHABLE else "failed"


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
