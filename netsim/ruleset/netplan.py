"""Link, address and route configuration as data: what `ip` would be told, decided before anything is done.

``str`` of an operation is the equivalent command, so that one object serves execution, tests and teaching.
``netsim.kernel.netplan`` carries a plan out.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is up."""

    netns: str
    name: str
    mac: str
    mtu: int

    def __str__(self) -> str:
        return f"ip -n {self.netns} link add {self.name} address {self.mac} mtu {self.mtu} up type bridge"


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair between two namespaces; ``master`` is a bridge on this end, which is up.

    The other end can't be made up in the same step: the kernel opens it before it knows its peer (ENOTCONN, veth_open
    in drivers/net/veth.c).
    """

    netns: str
    name: str
    peer_netns: str
    peer: str
    peer_mac: str
    mtu: int
    master: str = ""

    def __str__(self) -> str:
        master = f" master {self.master}" if self.master else ""
        return (
            f"ip -n {self.netns} link add {self.name} mtu {self.mtu}{master} up type veth "
            f"peer {self.peer} netns {self.peer_netns} address {self.peer_mac} mtu {self.mtu}"
        )


@dataclass(frozen=True, slots=True)
class Up:
    """A link switched on."""

    netns: str
    link: str

    def __str__(self) -> str:
        return f"ip -n {self.netns} link set {self.link} up"


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN device (RFC 7348) without learning: every peer is told to it, as flannel does."""

    netns: str
    name: str
    mac: str
    vni: int
    port: int
    local: str
    link: str
    mtu: int

    def __str__(self) -> str:
        return (
            f"ip -n {self.netns} link add {self.name} address {self.mac} mtu {self.mtu} up type vxlan "
            f"id {self.vni} dstport {self.port} local {self.local} dev {self.link} nolearning"
        )


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its prefix length on a link."""

    netns: str
    link: str
    address: str

    def __str__(self) -> str:
        return f"ip -n {self.netns} addr add {self.address} dev {self.link}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route; ``onlink`` takes the gateway as reachable though no address of the link says so."""

    netns: str
    destination: str  # CIDR, or "default"
    via: str = ""
    link: str = ""
    onlink: bool = False

    def __str__(self) -> str:
        via = f" via {self.via}" if self.via else ""
        link = f" dev {self.link}" if self.link else ""
        return f"ip -n {self.netns} route replace {self.destination}{via}{link}{' onlink' if self.onlink else ''}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry."""

    netns: str
    link: str
    address: str
    mac: str

    def __str__(self) -> str:
        return f"ip -n {self.netns} neigh replace {self.address} lladdr {self.mac} dev {self.link} nud permanent"


@dataclass(frozen=True, slots=True)
class ForwardingEntry:
    """Behind which node a MAC address lives (the VXLAN device's forwarding database)."""

    netns: str
    link: str
    mac: str
    remote: str

    def __str__(self) -> str:
        return f"bridge -n {self.netns} fdb replace {self.mac} dev {self.link} dst {self.remote} self permanent"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting of one network namespace; ``key`` is dotted, under ``net``."""

    netns: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"ip netns exec {self.netns} sysctl -w {self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class NftRules:
    """nftables commands."""

    netns: str
    text: str

    def __str__(self) -> str:
        return f"ip netns exec {self.netns} nft -f - <<'EOF'\n{self.text}EOF"


Operation = Bridge | Veth | Up | Vxlan | Address | Route | Neighbour | ForwardingEntry | Sysctl | NftRules
Plan = tuple[Operation, ...]
