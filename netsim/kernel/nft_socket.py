"""The nf_tables socket of a namespace: one transaction at a time, nothing read back but failures.

A transaction is one datagram, and so no larger than the socket's send buffer. Root in the machine's first user
namespace gets any size; others as much as net.core.wmem_max allows, 416 KiB by default and so some 7,000 elements: what
is larger goes in several transactions then, in its order. See `NftSocket.commit`.
"""

import errno as errors
import os
import socket
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence

from netsim.kernel import nft_wire as wire
from netsim.kernel.rtnl_socket import SocketSource
from netsim.kernel.rtnl_wire import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    parse_attributes,
    text,
    walk_messages,
)
from netsim.model.errors import FeatureMissing, KernelError
from netsim.ruleset import nft

_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_CAP_ACK = 270, 11, 10
_RECEIVE_BYTES = 1 << 20
_NLMSGERR_ATTR_MSG = 1
_NETLINK_NETFILTER = 12
_SO_SNDBUFFORCE = 32
_BATCH_BYTES = 128  # begin and end of a batch, and what netlink_sendmsg keeps back


class NftSocket:
    """Edits of tables in one namespace. Kept open between transactions: the kernel waits for an RCU grace period,
    some 15 ms, when such a socket is closed. Not for several threads at once.
    """

    def __init__(self, ns: SocketSource) -> None:
        """Raises FeatureMissing on a kernel without nf_tables, KernelError."""
        self._where = ns.name
        try:
            opened = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise FeatureMissing("nft", f"netlink socket: {error.strerror}", where=ns.name) from None
        self._socket = opened
        self._close = weakref.finalize(self, opened.close)  # for owners that are forgotten and not closed
        opened.bind((0, 0))
        opened.setblocking(False)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._sequence = 1

    def close(self) -> None:
        """May be repeated."""
        self._close()

    def commit(self, edits: Iterable[nft.Edit], table: str, family: int, *, most_bytes: int | None = None) -> int:
        """Make all edits or none; how many transactions that took: one, unless they are larger than one may be.

        ``most_bytes``: what one may be, for tests. Raises KernelError naming the edit refused; where it took several
        transactions those before it are done.
        """
        requests = wire.encode_edits(edits, table, family)
        size = sum(map(len, requests))
        most = most_bytes or self._make_room(size)
        parts = [requests] if size <= most else list(_split(requests, most))
        for part in parts:
            self._send(part, family)
        return len(parts)

    def _send(self, requests: Sequence[wire.Request], family: int) -> None:
        if not requests:
            return
        first = self._sequence + 1
        data = wire.encode_batch(requests, family, self._sequence)
        self._sequence = (self._sequence + len(requests) + 2) & 0x7FFFFFFF
        try:
            self._socket.send(data)
        except OSError as error:
            words = f"nf_tables: {len(data)} bytes: {error.strerror}"
            raise KernelError(words, errno=error.errno or 0, where=self._where) from None
        self._check(requests, first)

    def _make_room(self, size: int) -> int:
        """See to it that the send buffer holds so much, where that may be; how much it holds."""
        wanted = size + _BATCH_BYTES
        if self._room() < wanted:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, wanted)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
        return self._room() - _BATCH_BYTES

    def _room(self) -> int:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def _check(self, requests: Sequence[wire.Request], first: int) -> None:
        """The kernel answered before `send` returned: an error for each message refused, and the last one's answer."""
        answered = False
        for kind, _flags, sequence, body in self._answers():
            if kind != NLMSG_ERROR:
                continue
            number = -struct.unpack_from("=i", body)[0]
            position = sequence - first
            if number:
                self._drain()
                raise self._error(number, body, requests[position].edit if 0 <= position < len(requests) else None)
            answered = answered or position == len(requests) - 1
        if not answered:
            raise KernelError("nf_tables: the kernel did not answer", errno=errors.EIO, where=self._where)

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS: more refusals than fit; some of them are there
                if error.errno != errors.ENOBUFS:
                    raise
                continue
            yield from walk_messages(data)

    def _drain(self) -> None:
        for _ in self._answers():
            pass

    def _error(self, number: int, body: bytes, edit: object) -> KernelError:
        words = os.strerror(number)
        extra = parse_attributes(body, 4 + HEADER.size).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
        what = str(edit).split("\n", 1)[0] if edit is not None else "commit"
        message = f"nf_tables: {what}: {words}" + (f" ({extra})" if extra else "")
        return KernelError(message, errno=number, where=self._where)

    # --- reading: names and counts, never elements ---

    def dump(self, kind: int, table: str, family: int) -> list[dict[int, bytes]]:
        """The attributes of all chains, sets or rules (GETCHAIN, GETSET, GETRULE) of a table."""
        found = self._query(kind, text(1, table), family, dump=True)
        return [one for one in found if one.get(1, b"").rstrip(b"\0").decode() == table]

    def has_tables(self, family: int) -> bool:
        """Whether there is any table of the family, whoever's. Raises KernelError."""
        return bool(self._query(wire.GETTABLE, b"", family, dump=True))

    def get(self, kind: int, body: bytes, family: int) -> dict[int, bytes] | None:
        """One object's attributes, or None when it is not there."""
        try:
            return next(iter(self._query(kind, body, family, dump=False)), None)
        except KernelError as error:
            if error.errno == errors.ENOENT:
                return None
            raise

    def _query(self, kind: int, body: bytes, family: int, *, dump: bool) -> list[dict[int, bytes]]:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else NLM_F_ACK)
        content = wire.generic(family) + body
        number = wire.SUBSYSTEM << 8 | kind
        self._socket.send(HEADER.pack(HEADER.size + len(content), number, flags, self._sequence, 0) + content)
        found: list[dict[int, bytes]] = []
        for answer, _flags, sequence, data in self._answers():
            if sequence != self._sequence or answer == NLMSG_DONE:
                continue
            if answer == NLMSG_ERROR:
                number = -struct.unpack_from("=i", data)[0]
                if number:
                    raise self._error(number, data, None)
            else:
                found.append(parse_attributes(data, 4))
        return found


def _split(requests: Sequence[wire.Request], most_bytes: int) -> Iterator[Sequence[wire.Request]]:
    """The requests in parts that are each no larger than ``most_bytes``."""
    start = size = 0
    for at, request in enumerate(requests):
        size += len(request)
        if size > most_bytes and at > start:
            yield requests[start:at]
            start, size = at, len(request)
    yield requests[start:]
