"""The socket below ``Rtnl``: sends batches, reads acknowledgements and dumps, turns refusals into KernelError."""

import errno as errors
import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.rtnl_wire import Message
from netsim.model.errors import KernelError

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_BATCH_MESSAGES = 128  # acknowledgements of one send have to fit the receive buffer: some 800 bytes of it each
_RECEIVE_BYTES = 65536  # the kernel fills at most 32 KiB for a dump


class SocketSource(Protocol):
    """What Rtnl needs of a ``netsim.kernel.netns.Netns``."""

    @property
    def name(self) -> str: ...
    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket: ...


class BatchError(KernelError):
    """Some messages of a batch failed. ``failures`` has (position in the batch, errno, text) of each."""

    def __init__(self, failures: Sequence[tuple[int, int, str]], total: int, where: str) -> None:
        position, number, message = failures[0]
        later = [text for _, _, text in failures[1:]]
        if later:
            message += f" (and {len(later)} of {total - position - 1} later operations: {later[0]})"
        super().__init__(message, errno=number, where=where)
        self.failures = tuple(failures)


class Channel:
    """One netlink socket in a namespace, of NETLINK_ROUTE unless told. Not for several threads at once."""

    def __init__(self, ns: SocketSource | None = None, protocol: int = socket.NETLINK_ROUTE) -> None:
        """Opens the socket, in ``ns`` or where the calling thread is; KernelError if the kernel refuses."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._where = ns.name if ns else ""
        try:
            opened = (
                ns.socket(socket.AF_NETLINK, kind, protocol) if ns else socket.socket(socket.AF_NETLINK, kind, protocol)
            )
        except OSError as error:
            raise KernelError(f"netlink socket: {error.strerror}", errno=error.errno or 0, where=self._where) from None
        opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._socket = opened
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket; may be repeated."""
        self._socket.close()

    def batch(self, messages: Sequence[Message]) -> None:
        """Sends all and reads every acknowledgement; the kernel goes on after a failure.

        Raises BatchError with the first failure's words and all failures, by position.
        """
        failures: list[tuple[int, int, str]] = []
        for start in range(0, len(messages), _BATCH_MESSAGES):
            self._send(messages[start : start + _BATCH_MESSAGES], start, failures)
        if failures:
            raise BatchError(sorted(failures), len(messages), self._where)

    def _send(self, messages: Sequence[Message], start: int, failures: list[tuple[int, int, str]]) -> None:
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join([m.encode(first + i) for i, m in enumerate(messages)]))
        pending = len(messages)
        while pending:
            for kind, flags, sequence, body in wire.walk_messages(self._socket.recv(_RECEIVE_BYTES)):
                position = sequence - first
                if kind != wire.NLMSG_ERROR or not 0 <= position < len(messages):
                    continue  # an echo, or the answer to a request that was given up
                pending -= 1
                number = -int.from_bytes(body[:4], "little", signed=True)
                if number:
                    words = _words(number, flags, body)
                    failures.append((start + position, number, f"{messages[position].text}: {words}"))

    def query(self, kind: int, body: bytes, text: str, *, dump: bool = True) -> list[bytes]:
        """The bodies of the answers to one request; KernelError if it fails. A torn dump is taken again."""
        for _ in range(10):
            bodies, consistent = self._query(kind, body, text, dump)
            if consistent:
                return bodies
        raise KernelError(f"{text}: changed during ten reads in a row", errno=errors.EAGAIN, where=self._where)

    def _query(self, kind: int, body: bytes, text: str, dump: bool) -> tuple[list[bytes], bool]:
        self._sequence += 1
        flags = wire.NLM_F_REQUEST | (wire.NLM_F_DUMP if dump else wire.NLM_F_ACK)
        self._socket.send(wire.HEADER.pack(wire.HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        bodies: list[bytes] = []
        consistent = True
        while True:
            for answer, flags, sequence, content in wire.walk_messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                consistent = consistent and not flags & wire.NLM_F_DUMP_INTR
                if answer not in (wire.NLMSG_ERROR, wire.NLMSG_DONE):
                    bodies.append(content)
                    continue
                number = -int.from_bytes(content[:4], "little", signed=True)
                if number > 0:
                    words = _words(number, flags, content)
                    raise KernelError(f"{text}: {words}", errno=number, where=self._where)
                return bodies, consistent


def _words(number: int, flags: int, body: bytes) -> str:
    """The kernel's words in an NLMSG_ERROR: the errno's and, where there is one, the extended acknowledgement."""
    words = os.strerror(number)
    if flags & wire.NLM_F_ACK_TLVS:
        offset = 4 + wire.HEADER.size
        if not flags & wire.NLM_F_CAPPED:
            offset = 4 + int.from_bytes(body[4:8], "little")
        extra = wire.parse_attributes(body, offset).get(wire.NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
        if extra:
            words = f"{words} ({extra.rstrip('.')})"
    return words
