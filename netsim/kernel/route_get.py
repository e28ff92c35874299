"""What the kernel would do with a packet now: its route, and the entry that decides (`ip route get fibmatch`).

Sources: rtnetlink(7); include/uapi/linux/rtnetlink.h; iproute2's ip/iproute.c, whose words these are.
"""

import errno as errors
import socket
import struct

from netsim.kernel import rtnl_read as read
from netsim.kernel import rtnl_wire as wire
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl
from netsim.model.errors import KernelError

_SOURCE, _INDEX_IN, _MULTIPATH, _MARK = 2, 3, 9, 16  # RTA_*
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH
_KINDS = {
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
}
_PROTOCOLS = {1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp"}
_SCOPES = {200: "site", 253: "link", 254: "host", 255: "nowhere"}
_TABLES = {253: "default", 255: "local"}
_REFUSING = {
    errors.EHOSTUNREACH: 7,
    errors.EACCES: 8,
    errors.EINVAL: 6,
}  # what a lookup that ends at such a route fails with
_STATES = {0x01: "INCOMPLETE", 0x02: "REACHABLE", 0x04: "STALE", 0x08: "DELAY", 0x10: "PROBE", 0x20: "FAILED",
           0x40: "NOARP", 0x80: "PERMANENT"}  # fmt: skip


def read_route(ns: Netns, source: str, destination: str, *, interface_in: str = "", mark: int = 0) -> str:
    """The entry that decides, as ``ip route get fibmatch`` prints it; "" if there is no route.

    With ``interface_in`` the question is about a packet that comes in there. Raises KernelError, with EXDEV where the
    kernel would not believe the source address (rp_filter), or EINVAL where it may not come from outside.
    """
    family, packed = wire.parse_ip(destination)
    bits = len(packed) * 8
    body = wire.ROUTE.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    body += wire.attribute(wire.RTA_DST, packed)
    if source:
        body += wire.attribute(_SOURCE, wire.parse_ip(source)[1])
    if mark:
        body += wire.u32(_MARK, mark)
    words = f"ip route get {destination}" + (f" from {source}" if source else "")
    words += f" iif {interface_in}" if interface_in else ""
    with ns.entered():
        if interface_in:
            try:
                body += wire.u32(_INDEX_IN, socket.if_nametoindex(interface_in))
            except OSError:
                raise KernelError(f"{words}: no such interface", errno=errors.ENODEV, where=ns.name) from None
        with Rtnl() as rtnl:
            try:
                found = rtnl.query(wire.RTM_GETROUTE, body, words, dump=False)
            except KernelError as error:
                if error.errno == errors.ENETUNREACH:
                    return ""
                refusing = _refusing_route(rtnl, family, packed, _REFUSING.get(error.errno, 0))
                if refusing is None:
                    raise KernelError(error.message, errno=error.errno, where=ns.name) from None
                return _render(refusing)
        return _render(read.parse_route(found[0])) + _nexthops(found[0]) if found else ""


def _refusing_route(rtnl: Rtnl, family: int, destination: bytes, kind: int) -> read.Route | None:
    """The longest route of a kind that leads nowhere; the lookup fails there, and does not say which it was."""
    if not kind:
        return None
    value, width = int.from_bytes(destination, "big"), len(destination) * 8
    best: tuple[int, read.Route] | None = None
    for route in rtnl.routes(family=family):
        _, network, length = wire.parse_cidr(route.dst)
        same = (value ^ int.from_bytes(network, "big")) >> (width - length) == 0
        if route.kind == kind and same and (best is None or length > best[0]):
            best = length, route
    return best[1] if best else None


def _render(route: read.Route) -> str:
    address, _, length = route.dst.partition("/")
    whole = "128" if ":" in address else "32"
    dst = "default" if length == "0" else address if length == whole else route.dst
    words = [_KINDS.get(route.kind, ""), dst]
    words += ["via", route.via] if route.via else []
    words += ["dev", _interface(route.ifindex)] if route.ifindex else []
    words += ["table", _TABLES.get(route.table, str(route.table))] if route.table != wire.RT_TABLE_MAIN else []
    words += ["proto", _PROTOCOLS.get(route.protocol, str(route.protocol))] if route.protocol not in (0, 3) else []
    words += ["scope", _SCOPES[route.scope]] if route.scope in _SCOPES else []
    words += ["src", route.source] if route.source else []
    words += ["metric", str(route.priority)] if route.priority else []
    words += ["mtu", str(route.mtu)] if route.mtu else []
    return " ".join(word for word in words if word)


def _nexthops(body: bytes) -> str:
    """Of a route with several: " nexthop via A dev B weight 1 ..." (struct rtnexthop: length, flags, hops, index)."""
    data = wire.parse_attributes(body, wire.ROUTE.size).get(_MULTIPATH, b"")
    text, at = "", 0
    while at + 8 <= len(data):
        length, _flags, hops, index = struct.unpack_from("=HBBi", data, at)
        gateway = wire.parse_attributes(data[at : at + length], 8).get(wire.RTA_GATEWAY, b"")
        via = f" via {wire.render_ip(gateway)}" if gateway else ""
        text += f" nexthop{via} dev {_interface(index)} weight {hops + 1}"
        at += max(8, (length + 3) & ~3)
    return text


def _interface(index: int) -> str:
    """In the calling thread's namespace."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"if{index}"


def read_neighbour(ns: Netns, address: str, interface: str) -> str:
    """A neighbour entry, as ``ip neighbour`` prints it; "" if there is none. Raises KernelError."""
    family, _ = wire.parse_ip(address)
    with ns.entered():
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            return ""
        with Rtnl() as rtnl:
            found = [one for one in rtnl.neighbours(index=index, family=family) if one.address == address]
    if not found:
        return ""
    state = " ".join(word for bit, word in _STATES.items() if found[0].state & bit) or "NONE"
    return f"{address} dev {interface}" + (f" lladdr {found[0].mac}" if found[0].mac else "") + f" {state}"
