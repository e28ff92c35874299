"""What the kernel answers, parsed to small records. Pure: bytes in, values out."""

from typing import NamedTuple

from netsim.kernel import rtnl_wire as wire


class Link(NamedTuple):
    """A link. ``peer_index`` and ``peer_nsid`` are a veth's other end; nsid -1: in this namespace."""

    ifindex: int
    name: str
    mac: str
    mtu: int
    flags: int
    master: int
    kind: str
    peer_index: int
    peer_nsid: int
    promiscuity: int
    hairpin: bool
    isolated: bool
    vlan_filtering: bool
    alias: str = ""
    operstate: int = 0
    gso_max_segs: int = 0

    @property
    def up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & wire.IFF_UP)

    @property
    def running(self) -> bool:
        """Up in every sense: it passes packets (RFC 2863)."""
        return self.operstate == wire.IF_OPER_UP

    @property
    def promisc(self) -> bool:
        """Somebody asked for promiscuous mode by the flag."""
        return bool(self.flags & wire.IFF_PROMISC)


class Address(NamedTuple):
    """An address of a link, with its prefix length."""

    ifindex: int
    family: int
    address: str
    prefix: int

    @property
    def cidr(self) -> str:
        """``10.244.1.2/24``."""
        return f"{self.address}/{self.prefix}"


class Route(NamedTuple):
    """A route; ``dst`` is ``0.0.0.0/0`` for a default route, ``via`` empty where there is no gateway."""

    family: int
    dst: str
    via: str
    ifindex: int
    source: str
    table: int
    scope: int
    priority: int
    protocol: int
    kind: int
    mtu: int
    advmss: int


class Neighbour(NamedTuple):
    """A neighbour entry: link, address, MAC, state (NUD_*)."""

    ifindex: int
    family: int
    address: str
    mac: str
    state: int


def _number(attributes: dict[int, bytes], kind: int, default: int = 0) -> int:
    value = attributes.get(kind)
    return default if value is None else int.from_bytes(value, "little", signed=default < 0)


def _text(attributes: dict[int, bytes], kind: int) -> str:
    return attributes.get(kind, b"").split(b"\0", 1)[0].decode(errors="replace")


def _ip(attributes: dict[int, bytes], kind: int) -> str:
    value = attributes.get(kind, b"")
    return wire.render_ip(value) if len(value) in (4, 16) else ""


def _mac(attributes: dict[int, bytes], kind: int) -> str:
    value = attributes.get(kind, b"")
    return wire.render_mac(value) if value else ""


def parse_link(body: bytes) -> Link:
    """A link from an RTM_NEWLINK body."""
    _, _, index, flags, _ = wire.LINK.unpack_from(body)
    found = wire.parse_attributes(body, wire.LINK.size)
    info = wire.parse_attributes(found.get(wire.IFLA_LINKINFO, b""))
    data: dict[int, bytes] = {}
    port: dict[int, bytes] = {}
    kind = _text(info, wire.IFLA_INFO_KIND)
    if kind == "bridge":
        data = wire.parse_attributes(info.get(wire.IFLA_INFO_DATA, b""))
    if _text(info, wire.IFLA_INFO_SLAVE_KIND) == "bridge":
        port = wire.parse_attributes(info.get(wire.IFLA_INFO_SLAVE_DATA, b""))
    return Link(
        ifindex=index,
        name=_text(found, wire.IFLA_IFNAME),
        mac=_mac(found, wire.IFLA_ADDRESS),
        mtu=_number(found, wire.IFLA_MTU),
        flags=flags,
        master=_number(found, wire.IFLA_MASTER),
        kind=kind,
        peer_index=_number(found, wire.IFLA_LINK),
        peer_nsid=_number(found, wire.IFLA_LINK_NETNSID, -1),
        promiscuity=_number(found, wire.IFLA_PROMISCUITY),
        hairpin=bool(_number(port, wire.IFLA_BRPORT_MODE)),
        isolated=bool(_number(port, wire.IFLA_BRPORT_ISOLATED)),
        vlan_filtering=bool(_number(data, wire.IFLA_BR_VLAN_FILTERING)),
        alias=_text(found, wire.IFLA_IFALIAS),
        operstate=_number(found, wire.IFLA_OPERSTATE),
        gso_max_segs=_number(found, wire.IFLA_GSO_MAX_SEGS),
    )


def parse_address(body: bytes) -> Address:
    """An address from an RTM_NEWADDR body."""
    family, prefix, _, _, index = wire.ADDRESS.unpack_from(body)
    found = wire.parse_attributes(body, wire.ADDRESS.size)
    address = _ip(found, wire.IFA_LOCAL) or _ip(found, wire.IFA_ADDRESS)
    return Address(index, family, address, prefix)


def parse_route(body: bytes) -> Route:
    """A route from an RTM_NEWROUTE body."""
    family, prefix, _, _, table, protocol, scope, kind, _ = wire.ROUTE.unpack_from(body)
    found = wire.parse_attributes(body, wire.ROUTE.size)
    metrics = wire.parse_attributes(found.get(wire.RTA_METRICS, b""))
    anywhere = "::" if family == 10 else "0.0.0.0"
    return Route(
        family=family,
        dst=f"{_ip(found, wire.RTA_DST) or anywhere}/{prefix}",
        via=_ip(found, wire.RTA_GATEWAY),
        ifindex=_number(found, wire.RTA_OIF),
        source=_ip(found, wire.RTA_PREFSRC),
        table=_number(found, wire.RTA_TABLE) or table,
        scope=scope,
        priority=_number(found, wire.RTA_PRIORITY),
        protocol=protocol,
        kind=kind,
        mtu=_number(metrics, wire.RTAX_MTU),
        advmss=_number(metrics, wire.RTAX_ADVMSS),
    )


def parse_neighbour(body: bytes) -> Neighbour:
    """A neighbour entry from an RTM_NEWNEIGH body."""
    family, index, state, _, _ = wire.NEIGHBOUR.unpack_from(body)
    found = wire.parse_attributes(body, wire.NEIGHBOUR.size)
    return Neighbour(index, family, _ip(found, wire.NDA_DST), _mac(found, wire.NDA_LLADDR), state)
