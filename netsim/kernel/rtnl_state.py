"""Everything a namespace's routing and bridging is made of, as dumps of rtnetlink: attributes by number, unread.

Beside `rtnl_read`, whose few fields are the hot path's: here whoever explains a packet's way gets all of them.
Sources: include/uapi/linux/rtnetlink.h, if_link.h, fib_rules.h, neighbour.h, net_namespace.h.
"""

import struct
from typing import NamedTuple

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl_socket import Channel

_RTM_GETRULE, _RTM_GETNSID = 34, 90
_AF_BRIDGE = 7
_NETNSA_NSID, _NETNSA_FD = 1, 3
# struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
_RULE = struct.Struct("=BBBBBBBBI")


class Dumped(NamedTuple):
    """One answer: the fields of its fixed header, and its attributes."""

    header: tuple[int, ...]
    attributes: dict[int, bytes]


class StateChannel(Channel):
    """Dumps of one namespace."""

    def dump_links(self) -> list[Dumped]:
        """header: family, type, index, flags, change."""
        body = wire.LINK.pack(0, 0, 0, 0, 0) + wire.u32(wire.IFLA_EXT_MASK, wire.RTEXT_FILTER_SKIP_STATS)
        return _parse(self.query(wire.RTM_GETLINK, body, "ip link"), wire.LINK)

    def dump_addresses(self) -> list[Dumped]:
        """header: family, prefix length, flags, scope, index."""
        return _parse(self.query(wire.RTM_GETADDR, wire.ADDRESS.pack(0, 0, 0, 0, 0), "ip address"), wire.ADDRESS)

    def dump_routes(self, family: int) -> list[Dumped]:
        """Of all tables; header: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
        body = wire.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        return _parse(self.query(wire.RTM_GETROUTE, body, "ip route"), wire.ROUTE)

    def dump_rules(self, family: int) -> list[Dumped]:
        """header: family, dst_len, src_len, tos, table, 0, 0, action, flags."""
        return _parse(self.query(_RTM_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "ip rule"), _RULE)

    def dump_neighbours(self) -> list[Dumped]:
        """header: family, index, state, flags, type."""
        body = wire.NEIGHBOUR.pack(0, 0, 0, 0, 0)
        return _parse(self.query(wire.RTM_GETNEIGH, body, "ip neighbour"), wire.NEIGHBOUR)

    def dump_forwarding(self) -> list[Dumped]:
        """Forwarding databases of bridges and VXLAN devices; header as of neighbours."""
        body = wire.NEIGHBOUR.pack(_AF_BRIDGE, 0, 0, 0, 0)
        return _parse(self.query(wire.RTM_GETNEIGH, body, "bridge fdb"), wire.NEIGHBOUR)

    def nsid_of(self, other: Netns) -> int:
        """The number that this namespace has for another; -1 for none: no link leads there."""
        body = struct.pack("=Bxxx", 0) + wire.u32(_NETNSA_FD, other.fd)
        answer = self.query(_RTM_GETNSID, body, "ip netns list-id", dump=False)[0]
        found = wire.parse_attributes(answer, 4).get(_NETNSA_NSID, b"\xff\xff\xff\xff")
        return int.from_bytes(found, "little", signed=True)


def _parse(bodies: list[bytes], header: struct.Struct) -> list[Dumped]:
    return [Dumped(header.unpack_from(body), wire.parse_attributes(body, header.size)) for body in bodies]
