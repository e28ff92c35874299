"""The nf_tables socket of a namespace: one transaction at a time, nothing read back but failures."""

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

    def commit(self, edits: Iterable[nft.Edit], table: str, family: int) -> int:
        """Make all edits or none; how many bytes went to the kernel. Raises KernelError naming the edit refused."""
        return self.send(wire.encode_edits(edits, table, family), family)

    def send(self, requests: Sequence[wire.Request], family: int) -> int:
        """As `commit`, of messages encoded before."""
        if not requests:
            return 0
        first = self._sequence + 1
        data = wire.encode_batch(requests, family, self._sequence)
        self._sequence = (self._sequence + len(requests) + 2) & 0x7FFFFFFF
        self._make_room(len(data))
        try:
            self._socket.send(data)
        except OSError as error:
            hint = ""
            if error.errno == errors.EMSGSIZE:
                hint = "without root a transaction is limited by net.core.wmem_max; raise it"
            raise KernelError(
                f"nf_tables: {len(data)} bytes: {error.strerror}", errno=error.errno or 0, where=self._where, hint=hint
            ) from None
        self._check(requests, first)
        return len(data)

    def _make_room(self, length: int) -> None:
        """A transaction is one datagram, so the send buffer must hold it whole."""
        wanted = length + 4096
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= wanted:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, 32, wanted)  # SO_SNDBUFFORCE
        except PermissionError:  # not in the first user namespace: as much as net.core.wmem_max allows
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)

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
