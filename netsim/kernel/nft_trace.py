"""The kernel's rule trace in one namespace: a table that marks some packets, and the messages about what rules did.

The table has an owner, this module's socket, and goes with it, whatever ends the process (NFT_TABLE_F_OWNER, Linux
5.12). Its chains come before all others' (raw is -300), so that every rule that a marked packet meets is reported. The
mark (skb->nf_trace) goes with the packet until it leaves the namespace (skb_scrub_packet). Legacy iptables honours it
too: `nf_log`.

For answers of a shape nobody knows beforehand, the table learns: a packet that matches is to be answered by one with
its addresses and ports the other way round. It learns behind all NAT (postrouting and input, 300), and looks up
before all NAT.

Sources: include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nf_tables_trace.c, nf_tables_api.c.
"""

import contextlib
import errno as errors
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netsim.kernel import nft_wire as wire
from netsim.kernel.netlink_port import bind_alone
from netsim.kernel.packet_match import Pattern, compare, encode_pattern, expression, load_payload
from netsim.kernel.rtnl_socket import SocketSource
from netsim.kernel.rtnl_wire import (
    HEADER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    nested,
    parse_attributes,
    text,
    walk_messages,
)
from netsim.model.errors import FeatureMissing, KernelError

TABLE_PREFIX = "netsim-trace-"  # the rest tells traces apart that run side by side
_BEFORE_ALL, _AFTER_ALL = -350, 300
_INET, _IPV4, _IPV6 = 1, 2, 10  # NFPROTO_*
FAMILY_NAMES = {_INET: "inet", _IPV4: "ip", _IPV6: "ip6", 7: "bridge", 5: "netdev", 3: "arp"}
FAMILY_NUMBERS = {name: number for number, name in FAMILY_NAMES.items()}
_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting", 5: "ingress"}
_OTHER_HOOKS = {"netdev": {0: "ingress", 1: "egress"}, "arp": {0: "input", 1: "output", 2: "forward"}}
_TRACE_GROUP = 9  # NFNLGRP_NFTRACE
_NETLINK_NETFILTER = 12
_NFT_MSG_TRACE = 17
_TABLE_OWNER = 0x2
_SET_EVAL = 0x20
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 18
_BUFFER_BYTES = 4 << 20
_MOST_LEARNED = 1024
_META_NFTRACE, _META_NFPROTO = 12, 15
_DYNSET_UPDATE = 1
_NETWORK, _TRANSPORT = 1, 2
_REGISTER = 8  # NFT_REG32_00
_KINDS = {1: "policy", 2: "return", 3: "rule"}
_VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat", 0xFFFFFFFF: "continue", 0xFFFFFFFE: "break"}
_TARGETED = {0xFFFFFFFD: "jump", 0xFFFFFFFC: "goto", 0xFFFFFFFB: "return"}
_VERDICT_BITS = 0xFF  # NF_VERDICT_MASK; what is above is an errno or a queue's number


@dataclass(frozen=True, slots=True)
class TraceMessage:
    """One NFT_MSG_TRACE: a rule that matched, the end of a chain that was jumped to, or a chain's policy."""

    packet_id: int
    family: str
    table: str
    chain: str
    kind: str
    handle: int
    verdict: str
    packet: (
        bytes  # from the network header on, at most 20 bytes of the transport header; of a base chain's first message
    )
    index_in: int
    index_out: int
    mark: int | None


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """What a chain is: ``hook`` "" and ``priority`` None for one that is only jumped to."""

    hook: str
    priority: int | None


@dataclass(frozen=True, slots=True)
class Learning:
    """How a packet's answer is recognised: by family, and whether the packet is inside VXLAN."""

    family: int  # 4 or 6
    inside_vxlan: bool


_VXLAN_INNER = 8 + 8 + 14  # from the outer UDP header to the inner IP header (RFC 7348)
_ADDRESSES = {4: (12, 16, 4), 6: (8, 24, 16)}  # source, destination, length
_HEADER_BYTES = {4: 20, 6: 40}


def plan_table(
    table: str, patterns: Sequence[Pattern], learn: Sequence[tuple[Learning, Sequence[Pattern]]] = ()
) -> bytes:
    """One transaction that makes the table: the same bytes for every namespace.

    ``table`` starts with `TABLE_PREFIX`. ``patterns`` mark packets; for each of ``learn`` the packets that match its
    patterns teach their answers.
    """
    first, last = [], []
    mark = expression("immediate", wire.number(1, _REGISTER), nested(2, attribute(1, b"\1\0\0\0")))
    mark += expression("meta", wire.number(2, _META_NFTRACE), wire.number(3, _REGISTER))
    requests = [wire.Request(wire.NEWTABLE, NLM_F_CREATE, text(1, table) + wire.number(2, _TABLE_OWNER), table)]
    first += [encode_pattern(pattern) + mark for pattern in patterns]
    for number, (how, taught_by) in enumerate(learn):
        name = f"replies-{how.family}{'-vxlan' if how.inside_vxlan else ''}"
        requests.append(_new_set(table, name, number + 1, how))
        key, register = _load_key(how, reverse=False)
        seen = expression("lookup", text(1, name), wire.number(2, register), wire.number(4, number + 1))
        first.append(_only(how) + key + seen + mark)
        key, register = _load_key(how, reverse=True)
        remember = expression(
            "dynset",
            text(1, name),
            wire.number(2, number + 1),
            wire.number(3, _DYNSET_UPDATE),
            wire.number(4, register),
        )
        last += [encode_pattern(pattern) + _only(how) + key + remember for pattern in taught_by]
    hooks = ((0, _BEFORE_ALL, first), (3, _BEFORE_ALL, first), (4, _AFTER_ALL, last), (1, _AFTER_ALL, last))
    for hook, priority, rules in hooks:
        if rules:
            requests += _new_chain(table, hook, priority, rules)
    return _batch(requests)


def plan_removal(table: str) -> bytes:
    return _batch([wire.Request(wire.DELTABLE, 0, text(1, table), table)])


def _new_chain(table: str, hook: int, priority: int, rules: Sequence[bytes]) -> list[wire.Request]:
    name, of_table = _HOOKS[hook], text(1, table)
    place = nested(4, wire.number(1, hook), wire.number(2, priority))
    made = [
        wire.Request(
            wire.NEWCHAIN, NLM_F_CREATE, of_table + text(3, name) + place + wire.number(5, 1) + text(7, "filter"), name
        )
    ]
    flags = NLM_F_CREATE | NLM_F_APPEND
    made += [wire.Request(wire.NEWRULE, flags, of_table + text(2, name) + nested(4, rule), name) for rule in rules]
    return made


def _new_set(table: str, name: str, number: int, how: Learning) -> wire.Request:
    length = 2 * _ADDRESSES[how.family][2] + 8
    body = text(1, table) + text(2, name) + wire.number(3, _SET_EVAL) + wire.number(4, 0) + wire.number(5, length)
    body += nested(9, wire.number(1, _MOST_LEARNED)) + wire.number(10, number)
    return wire.Request(wire.NEWSET, NLM_F_CREATE, body, name)


def _only(how: Learning) -> bytes:
    """What `_load_key` takes for granted."""
    if how.inside_vxlan:
        ether_type = {4: b"\x08\0", 6: b"\x86\xdd"}[how.family]
        protocol_at = _VXLAN_INNER + {4: 9, 6: 6}[how.family]
        return (
            load_payload(_REGISTER, _TRANSPORT, _VXLAN_INNER - 2, 2)
            + compare(_REGISTER, ether_type)
            + load_payload(_REGISTER, _TRANSPORT, protocol_at, 1)
            + compare(_REGISTER, b"\x11")
        )
    family = bytes(({4: _IPV4, 6: _IPV6}[how.family],))
    found = expression("meta", wire.number(1, _REGISTER), wire.number(2, _META_NFPROTO)) + compare(_REGISTER, family)
    found += expression("meta", wire.number(1, _REGISTER), wire.number(2, 16))
    return found + compare(_REGISTER, b"\x11")


def _load_key(how: Learning, *, reverse: bool) -> tuple[bytes, int]:
    """Addresses and ports of this packet, or of its answer, into registers; and the first register."""
    source, destination, length = _ADDRESSES[how.family]
    if how.inside_vxlan:
        header, base, ports = _TRANSPORT, _VXLAN_INNER, _VXLAN_INNER + _HEADER_BYTES[how.family]
    else:
        header, base, ports = _NETWORK, 0, 0
    addresses = (destination, source) if reverse else (source, destination)
    out, register = b"", _REGISTER
    for at in addresses:
        out += load_payload(register, header, base + at, length)
        register += length // 4
    for at in (2, 0) if reverse else (0, 2):
        out += load_payload(register, _TRANSPORT, ports + at, 2)
        register += 1
    return out, _REGISTER


def _batch(requests: Sequence[wire.Request]) -> bytes:
    """As `nft_wire.encode_batch`, for family inet, from sequence number 0 on."""
    edge = struct.pack("=BBH", 0, 0, socket.htons(wire.SUBSYSTEM))
    head = struct.pack("=BBH", _INET, 0, 0)
    parts = [HEADER.pack(HEADER.size + len(edge), wire.BATCH_BEGIN, NLM_F_REQUEST, 0, 0), edge]
    for index, request in enumerate(requests):
        flags = request.flags | NLM_F_REQUEST | (NLM_F_ACK if index == len(requests) - 1 else 0)
        length = HEADER.size + len(head) + len(request.body)
        parts += (HEADER.pack(length, wire.SUBSYSTEM << 8 | request.kind, flags, index, 0), head, request.body)
    parts += (HEADER.pack(HEADER.size + len(edge), wire.BATCH_END, NLM_F_REQUEST, len(requests), 0), edge)
    return b"".join(parts)


class RuleTrace:
    """The rule trace of one namespace, and questions about its rules, by one socket. Not for several threads at once.

    Closing takes an RCU grace period, some 15 ms, so it is for a moment when nobody waits.
    """

    def __init__(self, ns: SocketSource) -> None:
        """Listens from now on. Raises FeatureMissing on a kernel without nf_tables, KernelError."""
        self._where = ns.name
        self._messages: list[TraceMessage] = []
        self._sequence = 1 << 16  # apart from a transaction's numbers
        self.lost = False  # messages were lost, because more came than the buffer holds
        try:
            self._socket = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise FeatureMissing("nft", f"netlink socket: {error.strerror}", where=ns.name) from None
        try:
            bind_alone(self._socket, 1 << (_TRACE_GROUP - 1))
            self._socket.setblocking(False)
            with contextlib.suppress(PermissionError):  # the default holds some hundred messages
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except OSError as error:
            self._socket.close()
            raise KernelError(f"rule trace: {error.strerror}", errno=error.errno or 0, where=ns.name) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def install(self, batch: bytes) -> None:
        """Make `plan_table`'s table. Raises KernelError; nothing is there then."""
        self._commit(batch, "rule trace")

    def remove(self, table: str) -> None:
        """Take the table away now; closing does so too. Raises KernelError."""
        self._commit(plan_removal(table), "end of the rule trace")

    def read(self) -> list[TraceMessage]:
        """What came since the last call, but for what tables of traces did. Does not wait.

        It is of all packets that anybody marks in the namespace, by rules of their own or in a trace beside this one.
        """
        for _ in self._receive():
            pass
        messages, self._messages = self._messages, []
        return messages

    def chain(self, family: str, table: str, chain: str) -> ChainInfo | None:
        """Raises KernelError; None if there is no such chain (any more)."""
        found = self._ask(wire.GETCHAIN, text(1, table) + text(3, chain), FAMILY_NUMBERS[family])
        if not found:
            return None
        hook = parse_attributes(found[0].get(4, b""))
        if not hook:
            return ChainInfo("", None)
        words = _OTHER_HOOKS.get(family, _HOOKS).get(int.from_bytes(hook[1], "big"), "?")
        return ChainInfo(words, int.from_bytes(hook[2], "big", signed=True))

    def rules(self, family: str, table: str, chain: str) -> list[tuple[int, bytes]]:
        """Handle and program (NFTA_RULE_EXPRESSIONS) of every rule of a chain, in order. Raises KernelError."""
        number = FAMILY_NUMBERS[family]
        found = self._ask(wire.GETRULE, text(1, table) + text(2, chain), number, dump=True)
        return [
            (int.from_bytes(one[3], "big"), one.get(4, b""))
            for one in found
            if _name(one, 1) == table and _name(one, 2) == chain
        ]

    def set_info(self, family: str, table: str, name: str) -> dict[int, bytes] | None:
        """The attributes of a set (NFTA_SET_*). Raises KernelError."""
        return next(iter(self._ask(wire.GETSET, text(1, table) + text(2, name), FAMILY_NUMBERS[family])), None)

    def element(self, family: str, table: str, name: str, key: bytes) -> dict[int, bytes] | None:
        """The element of a set that has (or, of intervals, holds) a key: its NFTA_SET_ELEM_*. Raises KernelError."""
        body = text(1, table) + text(2, name) + nested(3, nested(1, nested(1, attribute(1, key))))
        found = self._ask(wire.GETSETELEM, body, FAMILY_NUMBERS[family])
        elements = parse_attributes(found[0].get(3, b"")) if found else {}
        return parse_attributes(elements[1]) if elements else None

    def close(self) -> None:
        """May be repeated."""
        self._socket.close()

    # --- the socket ---

    def _commit(self, batch: bytes, what: str) -> None:
        self._send(batch, what)
        answered = False
        for sequence, number, _body in self._receive():
            if sequence >> 16:
                continue
            if number:
                raise KernelError(f"{what}: {os.strerror(number)}", errno=number, where=self._where)
            answered = True
        if not answered:
            raise KernelError(f"{what}: the kernel did not answer", errno=errors.EIO, where=self._where)

    def _ask(self, kind: int, body: bytes, family: int, *, dump: bool = False) -> list[dict[int, bytes]]:
        self._sequence += 1
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else NLM_F_ACK)
        content = struct.pack("=BBH", family, 0, 0) + body
        head = HEADER.pack(HEADER.size + len(content), wire.SUBSYSTEM << 8 | kind, flags, self._sequence, 0)
        self._send(head + content, "rule query")
        found: list[dict[int, bytes]] = []
        for sequence, number, answer in self._receive():
            if sequence != self._sequence:
                continue
            if number and number != errors.ENOENT:
                raise KernelError(f"rule query: {os.strerror(number)}", errno=number, where=self._where)
            if answer:
                found.append(parse_attributes(answer, 4))
        return found

    def _send(self, data: bytes, what: str) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(f"{what}: {error.strerror}", errno=error.errno or 0, where=self._where) from None

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """What is there: trace messages are put aside; of all others number, errno and content.

        The kernel answers before `send` returns, and goes on with a dump while it is read.
        """
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errors.ENOBUFS:
                    raise KernelError(
                        f"rule trace: {error.strerror}", errno=error.errno or 0, where=self._where
                    ) from None
                self.lost = True
                continue
            for kind, _flags, sequence, body in walk_messages(data):
                if kind == wire.SUBSYSTEM << 8 | _NFT_MSG_TRACE:
                    message = parse_message(body)
                    if not message.table.startswith(TABLE_PREFIX):
                        self._messages.append(message)
                elif kind == NLMSG_ERROR:
                    yield sequence, -struct.unpack_from("=i", body)[0], b""
                elif kind != NLMSG_DONE:
                    yield sequence, 0, body


def parse_message(body: bytes) -> TraceMessage:
    """An NFT_MSG_TRACE, from its struct nfgenmsg on."""
    found = parse_attributes(body, 4)
    kind = _KINDS.get(_number(found, 4), "rule")
    return TraceMessage(
        packet_id=_number(found, 6),
        family=FAMILY_NAMES.get(body[0], str(body[0])),
        table=_name(found, 1),
        chain=_name(found, 2),
        kind=kind,
        handle=int.from_bytes(found.get(3, b""), "big"),
        verdict=_verdict(found)
        if kind == "rule"
        else _VERDICTS.get(_number(found, 16), "")
        if kind == "policy"
        else "return",
        packet=found.get(8, b"") + found.get(9, b""),
        index_in=_number(found, 10),
        index_out=_number(found, 12),
        mark=_number(found, 14) if 14 in found else None,
    )


def _verdict(found: dict[int, bytes]) -> str:
    parts = parse_attributes(found.get(5, b""))
    code = _number(parts, 1)
    if code in _TARGETED:
        return f"{_TARGETED[code]} {_name(parts, 2)}".rstrip()
    return _VERDICTS.get(code) or _VERDICTS.get(code & _VERDICT_BITS, str(code))


def _number(attributes: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(attributes.get(kind, b""), "big")


def _name(attributes: dict[int, bytes], kind: int) -> str:
    return attributes.get(kind, b"").rstrip(b"\0").decode(errors="replace")
