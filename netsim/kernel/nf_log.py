"""The rule trace of legacy iptables, which has no messages of its own: it logs packets that carry skb->nf_trace.

The logger is a sysctl of each namespace, and is what the kernel's own log is not: one that namespaces other than the
machine's may use. With nfnetlink_log a listener on group 0 gets each "TRACE: nat:PREROUTING:rule:1 " with the packet.
Sources: net/ipv4/netfilter/ip_tables.c (trace_packet), net/netfilter/nfnetlink_log.c,
include/uapi/linux/netfilter/nfnetlink_log.h.
"""

import contextlib
import errno as errors
import os
import re
import socket
import struct
from dataclasses import dataclass

from netsim.kernel.netlink_port import bind_alone
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl_wire import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    attribute,
    parse_attributes,
    walk_messages,
)
from netsim.kernel.sysctl import read_sysctl, write_sysctl
from netsim.model.errors import KernelError

_NETLINK_NETFILTER = 12
_PACKET, _CONFIG = 4 << 8, 4 << 8 | 1  # NFNL_SUBSYS_ULOG
_COMMAND, _MODE, _THRESHOLD = 1, 2, 5  # NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH
_BIND, _UNBIND = 1, 2
_COPY_PACKET = 2
_COPIED_BYTES = 256
_GROUP = 0  # the one that has no rule naming another
_HEADER, _MARK, _INDEX_IN, _INDEX_OUT, _PAYLOAD, _PREFIX = 1, 2, 4, 5, 9, 10  # NFULA_*
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
_RECEIVE_BYTES = 1 << 18
_LOGGER = "nfnetlink_log"
_NONE = "NONE"
_FAMILIES = {socket.AF_INET: "ip", socket.AF_INET6: "ip6"}
_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
_WORDS = re.compile(r"TRACE: (?P<table>[^:]+):(?P<chain>.+):(?P<kind>rule|return|policy):(?P<number>\d+) ")
_TABLE_LISTS = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One rule of legacy iptables that matched. ``number`` is the rule's in its chain, from 1."""

    family: str  # ip, ip6
    table: str
    chain: str
    kind: str  # rule, return, policy
    number: int
    hook: str
    packet: bytes  # from the network header on
    index_in: int
    index_out: int
    mark: int


def has_legacy_rules(ns: Netns) -> bool:
    """Whether legacy iptables, IPv4's or IPv6's, has any table there. Raises KernelError."""
    with ns.entered():
        return any(_read(path).strip() for path in _TABLE_LISTS)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (FileNotFoundError, PermissionError):  # no ip_tables in this kernel, or not root
        return ""
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}", errno=error.errno or 0) from error


class TraceLog:
    """Listens in one namespace, and has its logger set until it is stopped. Not for several threads at once."""

    def __init__(self, ns: Netns) -> None:
        """Raises KernelError: also where somebody else has the group already."""
        self._ns = ns
        self._before: dict[str, str] = {}
        self._bound = False
        self._logged: list[LogMessage] = []
        self.lost = False
        try:
            self._socket = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"packet log: {error.strerror}", errno=error.errno or 0, where=ns.name) from error
        try:
            bind_alone(self._socket)
            self._socket.setblocking(False)
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._configure(_COMMAND, bytes((_BIND,)))
            self._bound = True
            self._configure(_MODE, struct.pack("!IBx", _COPIED_BYTES, _COPY_PACKET))
            self._configure(_THRESHOLD, struct.pack("!I", 1))  # each at once, and not a hundred together or in a second
            for family in _FAMILIES:
                self._set_logger(f"net.netfilter.nf_log.{int(family)}")
        except OSError as error:
            self.close()
            raise KernelError(f"packet log: {error.strerror}", errno=error.errno or 0, where=ns.name) from error
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[LogMessage]:
        """What came since the last call. Does not wait."""
        self._receive()
        logged, self._logged = self._logged, []
        return logged

    def stop(self) -> None:
        """The logger is again what it was; what was logged can still be read. May be repeated.

        A process that is killed takes netsim's namespaces with it, and the sysctl is theirs.
        """
        if self._bound:
            self._bound = False
            with contextlib.suppress(OSError, KernelError):  # closing does it too, only later
                self._configure(_COMMAND, bytes((_UNBIND,)))
        before, self._before = self._before, {}
        for name, value in before.items():
            with contextlib.suppress(KernelError):  # the namespace lost IPv6, say
                write_sysctl(self._ns, name, value)

    def close(self) -> None:
        """May be repeated."""
        self.stop()
        self._socket.close()

    def _set_logger(self, name: str) -> None:
        before = read_sysctl(self._ns, name)
        if before != _LOGGER:
            write_sysctl(self._ns, name, _LOGGER)
            self._before[name] = before or _NONE

    def _configure(self, kind: int, value: bytes) -> None:
        content = struct.pack("!BBH", 0, 0, _GROUP) + attribute(kind, value)
        self._socket.send(HEADER.pack(HEADER.size + len(content), _CONFIG, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + content)
        number = self._receive()
        if number:
            raise OSError(number, os.strerror(number))

    def _receive(self) -> int:
        """Take what is there; the errno of what was refused, or 0. The kernel answers before `send` returns."""
        refused = 0
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return refused
            except OSError as error:
                if error.errno != errors.ENOBUFS:
                    raise KernelError(
                        f"packet log: {error.strerror}", errno=error.errno or 0, where=self._ns.name
                    ) from None
                self.lost = True
                continue
            for kind, _flags, _sequence, body in walk_messages(data):
                if kind == NLMSG_ERROR:
                    refused = -struct.unpack_from("=i", body)[0]
                elif kind == _PACKET and (message := parse_message(body)) is not None:
                    self._logged.append(message)


def parse_message(body: bytes) -> LogMessage | None:
    """An NFULNL_MSG_PACKET, from its struct nfgenmsg on; None where it is no trace."""
    found = parse_attributes(body, 4)
    words = _WORDS.match(found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace") + " ")
    family = _FAMILIES.get(socket.AddressFamily(body[0])) if body[0] in (socket.AF_INET, socket.AF_INET6) else None
    if words is None or family is None:
        return None
    hook = found.get(_HEADER, b"\0\0\xff")[2]  # struct nfulnl_msg_packet_hdr: protocol, hook
    return LogMessage(
        family=family,
        table=words["table"],
        chain=words["chain"],
        kind=words["kind"],
        number=int(words["number"]),
        hook=_HOOKS.get(hook, ""),
        packet=found.get(_PAYLOAD, b""),
        index_in=int.from_bytes(found.get(_INDEX_IN, b""), "big"),
        index_out=int.from_bytes(found.get(_INDEX_OUT, b""), "big"),
        mark=int.from_bytes(found.get(_MARK, b""), "big"),
    )
