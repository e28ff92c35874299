"""Compact rtnetlink for the pod's path: message builders (pure) and the socket that sends many of them at once.

A veth pair on a bridge costs the kernel about 0.8 ms; what Python adds on top is some 8 µs for each message.
Every builder returns a ``Message`` whose ``str`` is the ``ip`` command it equals, so a plan can be printed,
tested and executed::

    with Rtnl(node) as rtnl:
        rtnl.batch([new_veth("veth1", peer="eth0", peer_netns_fd=pod.fd, master=3)])
"""

import errno as errors
import socket

from netsim.kernel import rtnl_read as read
from netsim.kernel import rtnl_wire as wire
from netsim.kernel.rtnl_socket import Channel
from netsim.kernel.rtnl_wire import Message, attribute, nested, u32
from netsim.model.errors import KernelError

LinkRef = int | str  # a link by its index or by its name


class Rtnl(Channel):
    """A NETLINK_ROUTE socket in a namespace, the given or the calling thread's. Not for several threads at once."""

    def link(self, ref: LinkRef) -> read.Link | None:
        """One link by index or name, None if there is none."""
        index, name = _split(ref)
        body = wire.LINK.pack(0, 0, index, 0, 0) + name
        body += u32(wire.IFLA_EXT_MASK, wire.RTEXT_FILTER_SKIP_STATS)
        try:
            bodies = self.query(wire.RTM_GETLINK, body, f"ip link show {ref}", dump=False)
        except KernelError as error:
            if error.errno == errors.ENODEV:
                return None
            raise
        return read.parse_link(bodies[0])

    def links(self, *, master: int = 0) -> list[read.Link]:
        """All links, or a bridge's ports."""
        body = wire.LINK.pack(0, 0, 0, 0, 0) + u32(wire.IFLA_EXT_MASK, wire.RTEXT_FILTER_SKIP_STATS)
        if master:
            body += u32(wire.IFLA_MASTER, master)
        return [read.parse_link(b) for b in self.query(wire.RTM_GETLINK, body, "ip link show")]

    def addresses(self, *, index: int = 0, family: int = 0) -> list[read.Address]:
        """All addresses, or those of one link or family."""
        body = wire.ADDRESS.pack(family, 0, 0, 0, index)
        return [read.parse_address(b) for b in self.query(wire.RTM_GETADDR, body, "ip address show")]

    def routes(self, *, family: int = 0, table: int = wire.RT_TABLE_MAIN) -> list[read.Route]:
        """The routes of one table; ``table`` 0: of all."""
        body = wire.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        found = [read.parse_route(b) for b in self.query(wire.RTM_GETROUTE, body, "ip route show")]
        return [r for r in found if table in (0, r.table)]

    def neighbours(self, *, index: int = 0, family: int = 0) -> list[read.Neighbour]:
        """All neighbour entries, or those of one link or family; family AF_BRIDGE gives forwarding entries."""
        body = wire.NEIGHBOUR.pack(family, 0, 0, 0, 0)
        found = [read.parse_neighbour(b) for b in self.query(wire.RTM_GETNEIGH, body, "ip neighbour show")]
        return [n for n in found if index in (0, n.ifindex)]


def _split(link: LinkRef) -> tuple[int, bytes]:
    """(index, IFLA_IFNAME attribute) of a reference to a link: one of them is empty."""
    return (link, b"") if isinstance(link, int) else (0, wire.text(wire.IFLA_IFNAME, link))


def _dev(link: LinkRef) -> str:
    return f"dev if{link}" if isinstance(link, int) else f"dev {link}"


def new_veth(
    name: str,
    *,
    peer: str,
    peer_netns_fd: int | None = None,
    mac: str = "",
    peer_mac: str = "",
    mtu: int = 0,
    master: int = 0,
    up: bool = True,
) -> Message:
    """A veth pair: ``name`` here, ``peer`` in ``peer_netns_fd`` (None: here too). 0 and "" leave a value to the kernel.

    The peer stays down: it cannot go up before its other end exists (ENOTCONN, veth_open in
    drivers/net/veth.c), and takes the first free index, 2 in a fresh namespace: the kernel heeds a wish
    only together with one for ``name``.
    """
    both = u32(wire.IFLA_MTU, mtu) if mtu else b""
    far = wire.LINK.pack(0, 0, 0, 0, 0) + wire.text(wire.IFLA_IFNAME, peer) + both
    words = f"ip link add {name}{f' address {mac}' if mac else ''}{f' mtu {mtu}' if mtu else ''}"
    words += f" master if{master}" if master else ""
    words += f"{' up' if up else ''} type veth peer name {peer}"
    if peer_mac:
        far += attribute(wire.IFLA_ADDRESS, wire.parse_mac(peer_mac))
        words += f" address {peer_mac}"
    if peer_netns_fd is not None:
        far += u32(wire.IFLA_NET_NS_FD, peer_netns_fd)
        words += f" netns /proc/self/fd/{peer_netns_fd}"
    body = wire.LINK.pack(0, 0, 0, up, up) + wire.text(wire.IFLA_IFNAME, name) + both
    if mac:
        body += attribute(wire.IFLA_ADDRESS, wire.parse_mac(mac))
    if master:
        body += u32(wire.IFLA_MASTER, master)
    body += nested(
        wire.IFLA_LINKINFO,
        wire.text(wire.IFLA_INFO_KIND, "veth"),
        nested(wire.IFLA_INFO_DATA, attribute(wire.VETH_INFO_PEER | wire.NLA_F_NESTED, far)),
    )
    return Message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, words)


def new_bridge(name: str, *, mac: str = "", mtu: int = 0, up: bool = True, vlan_filtering: bool = False) -> Message:
    """A bridge. Without ``mac`` its address changes with its ports (br_stp_recalculate_bridge_id, br_stp_if.c)."""
    body = wire.LINK.pack(0, 0, 0, up, up) + wire.text(wire.IFLA_IFNAME, name)
    words = f"ip link add {name}"
    if mac:
        body += attribute(wire.IFLA_ADDRESS, wire.parse_mac(mac))
        words += f" address {mac}"
    if mtu:
        body += u32(wire.IFLA_MTU, mtu)
        words += f" mtu {mtu}"
    info = wire.text(wire.IFLA_INFO_KIND, "bridge")
    words += f"{' up' if up else ''} type bridge"
    if vlan_filtering:
        info += nested(wire.IFLA_INFO_DATA, attribute(wire.IFLA_BR_VLAN_FILTERING, b"\1"))
        words += " vlan_filtering 1"
    body += nested(wire.IFLA_LINKINFO, info)
    return Message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, words)


def new_dummy(name: str) -> Message:
    """A dummy link, down: it carries nothing, but its addresses are the node's all the same."""
    body = wire.LINK.pack(0, 0, 0, 0, 0) + wire.text(wire.IFLA_IFNAME, name)
    body += nested(wire.IFLA_LINKINFO, wire.text(wire.IFLA_INFO_KIND, "dummy"))
    return Message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, f"ip link add {name} type dummy")


def set_link(  # noqa: PLR0913 - all that can be changed, and all have defaults
    link: LinkRef,
    *,
    up: bool | None = None,
    mtu: int = 0,
    master: int | None = None,
    mac: str = "",
    name: str = "",
    netns_fd: int | None = None,
    promisc: bool | None = None,
    alias: str | None = None,
    gso_max_segs: int = 0,
    group: int | None = None,
) -> Message:
    """Changes what is given. ``master`` 0 takes the link off its bridge; ``name`` renames, which needs the index."""
    if name and not isinstance(link, int):
        raise ValueError(f"to rename {link}, give its index")
    index, body = _split(link)
    words = f"ip link set {_dev(link)}"
    flags = change = 0
    for wanted, bit, word in ((up, wire.IFF_UP, ""), (promisc, wire.IFF_PROMISC, "promisc ")):
        if wanted is not None:
            flags |= bit if wanted else 0
            change |= bit
            words += f" {word}{('on' if wanted else 'off') if word else ('up' if wanted else 'down')}"
    if mtu:
        body += u32(wire.IFLA_MTU, mtu)
        words += f" mtu {mtu}"
    if master is not None:
        body += u32(wire.IFLA_MASTER, master)
        words += f" master if{master}" if master else " nomaster"
    if mac:
        body += attribute(wire.IFLA_ADDRESS, wire.parse_mac(mac))
        words += f" address {mac}"
    if name:
        body += wire.text(wire.IFLA_IFNAME, name)
        words += f" name {name}"
    if alias is not None:
        body += attribute(wire.IFLA_IFALIAS, alias.encode())
        words += f' alias "{alias}"'
    if gso_max_segs:
        body += u32(wire.IFLA_GSO_MAX_SEGS, gso_max_segs)
        words += f" gso_max_segs {gso_max_segs}"
    if group is not None:
        body += u32(wire.IFLA_GROUP, group)
        words += f" group {group}"
    if netns_fd is not None:
        body += u32(wire.IFLA_NET_NS_FD, netns_fd)
        words += f" netns /proc/self/fd/{netns_fd}"
    return Message(wire.RTM_SETLINK, 0, wire.LINK.pack(0, 0, index, flags, change) + body, words)


def set_bridge_port(link: LinkRef, *, hairpin: bool | None = None, isolated: bool | None = None) -> Message:
    """Changes a bridge's port. As slave data, which takes the port's name too; IFLA_PROTINFO would need its index."""
    index, body = _split(link)
    words = f"ip link set {_dev(link)} type bridge_slave"
    data = b""
    for wanted, kind, word in (
        (hairpin, wire.IFLA_BRPORT_MODE, "hairpin"),
        (isolated, wire.IFLA_BRPORT_ISOLATED, "isolated"),
    ):
        if wanted is not None:
            data += attribute(kind, b"\1" if wanted else b"\0")
            words += f" {word} {'on' if wanted else 'off'}"
    info = wire.text(wire.IFLA_INFO_SLAVE_KIND, "bridge") + nested(wire.IFLA_INFO_SLAVE_DATA, data)
    body += nested(wire.IFLA_LINKINFO, info)
    return Message(wire.RTM_NEWLINK, 0, wire.LINK.pack(0, 0, index, 0, 0) + body, words)


def del_link(link: LinkRef) -> Message:
    """Deletes a link; of a veth pair both ends."""
    index, body = _split(link)
    return Message(wire.RTM_DELLINK, 0, wire.LINK.pack(0, 0, index, 0, 0) + body, f"ip link delete {_dev(link)}")


def del_group(group: int) -> Message:
    """Deletes all links of a group at once: the kernel waits for its RCU grace periods once, and not for each link.

    Source: net/core/rtnetlink.c, rtnl_group_dellink. ENODEV where there are none.
    """
    body = wire.LINK.pack(0, 0, 0, 0, 0) + u32(wire.IFLA_GROUP, group)
    return Message(wire.RTM_DELLINK, 0, body, f"ip link delete group {group}")


def _address(cidr: str, index: int, nodad: bool) -> bytes:
    family, packed, prefix = wire.parse_cidr(cidr)
    body = wire.ADDRESS.pack(family, prefix, 0, wire.RT_SCOPE_UNIVERSE, index)
    body += attribute(wire.IFA_LOCAL, packed) + attribute(wire.IFA_ADDRESS, packed)
    if family == socket.AF_INET and prefix < 31:  # RFC 3021: a /31 has no broadcast address
        last = int.from_bytes(packed, "big") | ((1 << (32 - prefix)) - 1)
        body += attribute(wire.IFA_BROADCAST, last.to_bytes(4, "big"))
    if family == socket.AF_INET6 and nodad:
        body += u32(wire.IFA_FLAGS, wire.IFA_F_NODAD)
    return body


def new_address(cidr: str, index: int, *, nodad: bool = True) -> Message:
    """An address on a link. ``nodad``: IPv6 is usable at once, without the second that detecting duplicates takes."""
    words = f"ip address add {cidr} dev if{index}{' nodad' if nodad and ':' in cidr else ''}"
    return Message(wire.RTM_NEWADDR, wire.NLM_F_CREATE | wire.NLM_F_EXCL, _address(cidr, index, nodad), words)


def del_address(cidr: str, index: int) -> Message:
    """Removes an address from a link."""
    return Message(wire.RTM_DELADDR, 0, _address(cidr, index, False), f"ip address delete {cidr} dev if{index}")


def _route(  # noqa: PLR0913 - long and flat: a line or two for each property that a route may have
    dst: str,
    *,
    via: str,
    index: int,
    source: str,
    table: int,
    scope: int | None,
    priority: int,
    mtu: int,
    advmss: int,
    onlink: bool,
    protocol: int = wire.RTPROT_BOOT,
) -> tuple[bytes, str]:
    if dst == "default":
        dst = "::/0" if ":" in (via or source) else "0.0.0.0/0"
    family, packed, prefix = wire.parse_cidr(dst)
    if scope is None:
        scope = wire.RT_SCOPE_UNIVERSE if via or family == socket.AF_INET6 else wire.RT_SCOPE_LINK
    body = wire.ROUTE.pack(
        family,
        prefix,
        0,
        0,
        table if table < 256 else 0,
        protocol,
        scope,
        wire.RTN_UNICAST,
        wire.RTNH_F_ONLINK if onlink else 0,
    )
    words = dst
    if prefix:
        body += attribute(wire.RTA_DST, packed)
    if via:
        body += attribute(wire.RTA_GATEWAY, wire.parse_ip(via)[1])
        words += f" via {via}"
    if index:
        body += u32(wire.RTA_OIF, index)
        words += f" dev if{index}"
    if source:
        body += attribute(wire.RTA_PREFSRC, wire.parse_ip(source)[1])
        words += f" src {source}"
    if priority:
        body += u32(wire.RTA_PRIORITY, priority)
        words += f" metric {priority}"
    if table != wire.RT_TABLE_MAIN:
        body += u32(wire.RTA_TABLE, table)
        words += f" table {table}"
    metrics = b""
    for kind, value, word in ((wire.RTAX_MTU, mtu, "mtu"), (wire.RTAX_ADVMSS, advmss, "advmss")):
        if value:
            metrics += u32(kind, value)
            words += f" {word} {value}"
    if metrics:
        body += nested(wire.RTA_METRICS, metrics)
    return body, words + (" onlink" if onlink else "")


def new_route(  # noqa: PLR0913 - a route has that many properties, and all have defaults
    dst: str,
    *,
    via: str = "",
    index: int = 0,
    source: str = "",
    table: int = wire.RT_TABLE_MAIN,
    scope: int | None = None,
    priority: int = 0,
    mtu: int = 0,
    advmss: int = 0,
    onlink: bool = False,
    replace: bool = False,
) -> Message:
    """A route to ``dst``, a CIDR or ``default``; without ``via`` straight out of link ``index``."""
    body, words = _route(
        dst,
        via=via,
        index=index,
        source=source,
        table=table,
        scope=scope,
        priority=priority,
        mtu=mtu,
        advmss=advmss,
        onlink=onlink,
    )
    flags = wire.NLM_F_CREATE | (wire.NLM_F_REPLACE if replace else wire.NLM_F_EXCL)
    return Message(wire.RTM_NEWROUTE, flags, body, f"ip route {'replace' if replace else 'add'} {words}")


def del_route(dst: str, *, via: str = "", index: int = 0, table: int = wire.RT_TABLE_MAIN) -> Message:
    """Removes a route; gateway and link narrow it down."""
    body, words = _route(
        dst,
        via=via,
        index=index,
        source="",
        table=table,
        scope=wire.RT_SCOPE_NOWHERE,
        priority=0,
        mtu=0,
        advmss=0,
        onlink=False,
        protocol=0,
    )
    return Message(wire.RTM_DELROUTE, 0, body, f"ip route delete {words}")


def new_neighbour(address: str, mac: str, index: int, *, replace: bool = True) -> Message:
    """A permanent neighbour entry."""
    family, packed = wire.parse_ip(address)
    body = wire.NEIGHBOUR.pack(family, index, wire.NUD_PERMANENT, 0, 0)
    body += attribute(wire.NDA_DST, packed) + attribute(wire.NDA_LLADDR, wire.parse_mac(mac))
    flags = wire.NLM_F_CREATE | (wire.NLM_F_REPLACE if replace else wire.NLM_F_EXCL)
    words = f"ip neighbour {'replace' if replace else 'add'} {address} lladdr {mac} dev if{index}"
    return Message(wire.RTM_NEWNEIGH, flags, body, words)


def del_neighbour(address: str, index: int) -> Message:
    """Removes a neighbour entry."""
    family, packed = wire.parse_ip(address)
    body = wire.NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(wire.NDA_DST, packed)
    return Message(wire.RTM_DELNEIGH, 0, body, f"ip neighbour delete {address} dev if{index}")


def new_forwarding_entry(mac: str, index: int, remote: str) -> Message:
    """A permanent entry of a VXLAN device's own forwarding database: ``mac`` lives behind ``remote``."""
    packed = wire.parse_ip(remote)[1]
    body = wire.NEIGHBOUR.pack(socket.AF_BRIDGE, index, wire.NUD_PERMANENT, wire.NTF_SELF, 0)
    body += attribute(wire.NDA_LLADDR, wire.parse_mac(mac)) + attribute(wire.NDA_DST, packed)
    words = f"bridge fdb replace {mac} dev if{index} dst {remote} self permanent"
    return Message(wire.RTM_NEWNEIGH, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, body, words)
