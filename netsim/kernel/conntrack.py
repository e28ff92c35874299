"""Connection tracking of a namespace: list flows, delete flows.

On the wire by hand, as `rtnl_wire` and for its reasons. Sources:
include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.netns import Netns
from netsim.model.errors import FeatureMissing, KernelError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8
_NEW, _GET, _DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _MARK = 1, 2, 3, 4, 7, 8
_COUNTERS_ORIG, _COUNTERS_REPLY, _ID, _ZONE, _FILTER = 9, 10, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_ICMP = {4: "id", 5: "type", 6: "code", 7: "id", 8: "type", 9: "code"}  # 7 to 9: ICMPv6
_FILTER_PROTO_NUM = 1 << 3
_BATCH = 64
_RECEIVE_BYTES = 65536
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}
# enum tcp_conntrack (nf_conntrack_tcp.h)
_TCP_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT"),
    *("CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
)

# enum ip_conntrack_status (nf_conntrack_common.h)
SEEN_REPLY = 1 << 1
ASSURED = 1 << 2
SRC_NAT = 1 << 4
DST_NAT = 1 << 5
DYING = 1 << 9


@dataclass(frozen=True, slots=True)
class FlowTuple:
    """One direction of a flow, as the packets of that direction look on arrival; what a protocol has not is
    0.
    """

    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0

    def render(self, protocol: int) -> str:
        """In the words of conntrack(8)."""
        if protocol in (1, 58):
            rest = f"type={self.icmp_type} code={self.icmp_code} id={self.icmp_id}"
        else:
            rest = f"sport={self.source_port} dport={self.destination_port}"
        return f"src={self.source} dst={self.destination} {rest}"


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked connection. ``protocol`` is the IP protocol number; ``status`` the bits SEEN_REPLY,
    ASSURED, SRC_NAT, ...

    packets, bytes: (original, reply); zeros unless net.netfilter.nf_conntrack_acct is on. ``tcp_state`` as
    conntrack(8).
    """

    protocol: int
    original: FlowTuple
    reply: FlowTuple
    mark: int = 0
    status: int = 0
    timeout_s: int = 0
    tcp_state: str = ""
    packets: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    zone: int = 0
    id: int = 0

    def __str__(self) -> str:
        name = _PROTOCOLS.get(self.protocol, str(self.protocol))
        parts = [f"{name:<8} {self.protocol} {self.timeout_s}", self.tcp_state, self.original.render(self.protocol)]
        parts.append("" if self.status & SEEN_REPLY else "[UNREPLIED]")
        parts.append(self.reply.render(self.protocol))
        parts.append("[ASSURED]" if self.status & ASSURED else "")
        parts.append(f"mark={self.mark:#x}" if self.mark else "")
        return " ".join(part for part in parts if part)


class Conntrack:
    """Connection tracking of one namespace. Blocking, quick; not for several threads at once."""

    def __init__(self, ns: Netns) -> None:
        """Opens a socket in ``ns``. Raises KernelError."""
        self.ns = ns
        try:
            self._socket = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"netfilter socket: {error.strerror}", errno=error.errno or 0, where=ns.name) from error
        self._sequence = 0

    def flows(self, *, family: int = socket.AF_UNSPEC, protocol: int = 0) -> list[Flow]:
        """The flows there are now, of one address family (AF_INET, AF_INET6) and IP protocol, or of all.

        Raises KernelError, FeatureMissing.
        """
        attributes = b""
        if protocol and family:
            # Linux 5.8 and later leave the others out of the dump; the kernel wants the family for that.
            number = wire.nested(_TUPLE_PROTO, wire.attribute(_PROTO_NUM, bytes((protocol,))))
            flags = wire.u32(1, _FILTER_PROTO_NUM) + wire.u32(2, 0)
            attributes = wire.nested(_TUPLE_ORIG, number) + wire.nested(_FILTER, flags)
        try:
            flows = [_parse_flow(body) for body in self._dump(family, attributes)]
        except KernelError as error:
            if not attributes or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            flows = [_parse_flow(body) for body in self._dump(family, b"")]  # before 5.8: all, and choose here
        return [flow for flow in flows if protocol in (0, flow.protocol)]

    def find(self, protocol: int, one: FlowTuple) -> Flow | None:
        """The flow that has these addresses and ports in one of its directions. Raises KernelError, FeatureMissing.

        By the kernel's own hash: it takes as long among a million flows as among one.
        """
        self._sequence += 1
        family, _ = wire.parse_ip(one.source)
        attributes = wire.nested(_TUPLE_ORIG, _render_tuple(Flow(protocol, one, one)))
        self._socket.send(_message(_GET, wire.NLM_F_ACK, self._sequence, family, attributes))
        found: Flow | None = None
        while True:
            for kind, _flags, sequence, body in wire.walk_messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind == _NEW:
                    found = _parse_flow(body)
                    continue
                code = -int.from_bytes(body[:4], "little", signed=True)
                if code not in (0, errno.ENOENT):
                    raise self._error(code)
                return found

    def delete(self, flow: Flow) -> bool:
        """Forget a flow; False when it was gone already. Raises KernelError."""
        return self.delete_all((flow,)) == 1

    def delete_all(self, flows: Sequence[Flow]) -> int:
        """Forget flows, many in one call; returns how many were still there. Raises KernelError."""
        deleted = 0
        for start in range(0, len(flows), _BATCH):
            part = flows[start : start + _BATCH]
            first = self._sequence + 1
            self._sequence += len(part)
            messages = [self._delete_message(flow, first + i) for i, flow in enumerate(part)]
            self._socket.send(b"".join(messages))
            deleted += self._read_acknowledgements(first, part)
        return deleted

    def close(self) -> None:
        """Close the socket; may be repeated."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _delete_message(self, flow: Flow, sequence: int) -> bytes:
        family, _ = wire.parse_ip(flow.original.source)
        attributes = wire.nested(_TUPLE_ORIG, _render_tuple(flow))
        attributes += wire.attribute(_ID, struct.pack(">I", flow.id))  # not one that took its place since
        if flow.zone:
            attributes += wire.attribute(_ZONE, struct.pack(">H", flow.zone))
        return _message(_DELETE, wire.NLM_F_ACK, sequence, family, attributes)

    def _read_acknowledgements(self, first: int, flows: Sequence[Flow]) -> int:
        deleted, pending, refused = 0, len(flows), ""
        number = 0
        while pending:
            for kind, _flags, sequence, body in wire.walk_messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind != wire.NLMSG_ERROR or not first <= sequence < first + len(flows):
                    continue
                pending -= 1
                code = -int.from_bytes(body[:4], "little", signed=True)
                if code == 0:
                    deleted += 1
                elif code != errno.ENOENT:
                    number, refused = code, str(flows[sequence - first])
        if refused:
            raise KernelError(f"delete flow {refused}: {os.strerror(number)}", errno=number, where=self.ns.name)
        return deleted

    def _dump(self, family: int, attributes: bytes) -> Iterator[bytes]:
        self._sequence += 1
        self._socket.send(_message(_GET, wire.NLM_F_DUMP, self._sequence, family, attributes))
        while True:
            for kind, _flags, sequence, body in wire.walk_messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind == _NEW:
                    yield body
                    continue
                code = -int.from_bytes(body[:4], "little", signed=True) if kind == wire.NLMSG_ERROR else 0
                if code:
                    raise self._error(code)
                return

    def _error(self, code: int) -> KernelError | FeatureMissing:
        if code == errno.EINVAL and not os.path.exists("/proc/sys/net/netfilter"):
            return FeatureMissing(
                "conntrack", "no connection tracking in this kernel", hint="modprobe nf_conntrack_netlink"
            )
        return KernelError(f"list flows: {os.strerror(code)}", errno=code, where=self.ns.name)


def _message(kind: int, flags: int, sequence: int, family: int, attributes: bytes) -> bytes:
    body = struct.pack(">BBH", family, 0, 0) + attributes
    header = wire.HEADER.pack(wire.HEADER.size + len(body), kind, flags | wire.NLM_F_REQUEST, sequence, 0)
    return header + body


def _render_tuple(flow: Flow) -> bytes:
    one = flow.original
    family, source = wire.parse_ip(one.source)
    _, destination = wire.parse_ip(one.destination)
    first = 1 if family == socket.AF_INET else 3
    addresses = wire.nested(_TUPLE_IP, wire.attribute(first, source), wire.attribute(first + 1, destination))
    protocol = wire.attribute(_PROTO_NUM, bytes((flow.protocol,)))
    if flow.protocol in (1, 58):
        base = 4 if flow.protocol == 1 else 7
        protocol += wire.attribute(base, struct.pack(">H", one.icmp_id))
        protocol += wire.attribute(base + 1, bytes((one.icmp_type,))) + wire.attribute(
            base + 2, bytes((one.icmp_code,))
        )
    else:
        protocol += wire.attribute(_SRC_PORT, struct.pack(">H", one.source_port))
        protocol += wire.attribute(_DST_PORT, struct.pack(">H", one.destination_port))
    return addresses + wire.nested(_TUPLE_PROTO, protocol)


def _number(attributes: dict[int, bytes], kind: int) -> int:
    """A big-endian number, as this subsystem has them, unlike rtnetlink."""
    return int.from_bytes(attributes.get(kind, b""), "big")


def _parse_flow(body: bytes) -> Flow:
    attributes = wire.parse_attributes(body, 4)
    protocol, original = _parse_tuple(attributes[_TUPLE_ORIG])
    _, reply = _parse_tuple(attributes[_TUPLE_REPLY])
    counters = [wire.parse_attributes(attributes.get(kind, b"")) for kind in (_COUNTERS_ORIG, _COUNTERS_REPLY)]
    tcp = wire.parse_attributes(wire.parse_attributes(attributes.get(_PROTOINFO, b"")).get(1, b""))
    state = _number(tcp, 1)
    return Flow(
        protocol=protocol,
        original=original,
        reply=reply,
        mark=_number(attributes, _MARK),
        status=_number(attributes, _STATUS),
        timeout_s=_number(attributes, _TIMEOUT),
        tcp_state=_TCP_STATES[state] if tcp and state < len(_TCP_STATES) else "",
        packets=(_number(counters[0], 1), _number(counters[1], 1)),
        bytes=(_number(counters[0], 2), _number(counters[1], 2)),
        zone=_number(attributes, _ZONE),
        id=_number(attributes, _ID),
    )


def _parse_tuple(data: bytes) -> tuple[int, FlowTuple]:
    parts = wire.parse_attributes(data)
    addresses = wire.parse_attributes(parts[_TUPLE_IP])
    protocol = wire.parse_attributes(parts[_TUPLE_PROTO])
    icmp = {name: _number(protocol, kind) for kind, name in _ICMP.items() if kind in protocol}
    one = FlowTuple(
        source=wire.render_ip(addresses[1] if 1 in addresses else addresses[3]),
        destination=wire.render_ip(addresses[2] if 2 in addresses else addresses[4]),
        source_port=_number(protocol, _SRC_PORT),
        destination_port=_number(protocol, _DST_PORT),
        icmp_type=icmp.get("type", 0),
        icmp_code=icmp.get("code", 0),
        icmp_id=icmp.get("id", 0),
    )
    return _number(protocol, _PROTO_NUM), one
