"""What one network namespace is made of, as far as it decides about packets. Pure data, as read from the kernel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from netsim.observe.rules.model import Rules


@dataclass(frozen=True, slots=True)
class Link:
    """A link. ``master``: the index of the bridge it is a port of. vni, port and local are a VXLAN device's."""

    index: int
    name: str
    kind: str  # "veth", "bridge", "vxlan", "" for lo, ...
    mac: str = ""
    mtu: int = 1500
    up: bool = True  # by its administrator
    carrier: bool = True
    master: int = 0
    hairpin: bool = False
    isolated: bool = False
    port_state: int = 3  # of a bridge port: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking
    nf_call: frozenset[int] = frozenset()  # of a bridge: IP versions for which nf_call_iptables of its own is on
    vlan_filtering: bool = False
    vni: int = 0
    port: int = 0
    local: str = ""
    qdisc: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    index: int
    address: str
    prefix: int
    scope: int = 0
    secondary: bool = False
    tentative: bool = False  # an IPv6 address that may not be used (yet)


@dataclass(frozen=True, slots=True)
class NextHop:
    index: int
    via: str = ""
    weight: int = 1
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """``kind``: unicast, local, broadcast, blackhole, unreachable, prohibit, throw, multicast, anycast."""

    destination: str  # 0.0.0.0/0 for the default
    kind: str
    table: int
    hops: tuple[NextHop, ...] = ()
    source: str = ""
    priority: int = 0
    scope: int = 0
    tos: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """``ip rule``. An empty field asks for nothing."""

    priority: int
    family: int
    action: str  # lookup, blackhole, unreachable, prohibit, goto, nop
    table: int = 0
    source: str = ""
    destination: str = ""
    interface_in: str = ""
    interface_out: str = ""
    mark: int = 0
    mask: int = 0
    inverted: bool = False
    goto: int = 0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """``state``: permanent, noarp, reachable, stale, delay, probe, failed, incomplete."""

    index: int
    address: str
    mac: str
    state: str
    proxy: bool = False


@dataclass(frozen=True, slots=True)
class Forwarding:
    """An entry of a bridge's or a VXLAN device's forwarding database. ``remote``: a VTEP. ``own``: the bridge's MAC."""

    index: int  # the port, or the VXLAN device
    mac: str
    master: int = 0
    remote: str = ""
    own: bool = False
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes what was not asked for. ``address`` is "0.0.0.0" or "::" for any."""

    protocol: str  # tcp, udp
    address: str
    port: int
    index: int = 0  # the interface it is bound to
    v6only: bool = True


@dataclass
class Place:
    """One namespace. ``sysctls``: dotted names below ``net.``, as "ipv4.ip_forward"."""

    name: str
    links: Sequence[Link] = ()
    addresses: Sequence[Address] = ()
    routes: Sequence[Route] = ()
    policy: Sequence[PolicyRule] = ()
    neighbours: Sequence[Neighbour] = ()
    forwarding: Sequence[Forwarding] = ()
    listeners: Sequence[Listener] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    recent: Mapping[str, frozenset[str]] = field(default_factory=dict)  # list of the match "recent" -> addresses
    flows: int = 0  # entries in the connection tracking table
    flows_max: int = 0
    notes: Sequence[str] = ()
    # Answers given before: a place does not change while it is asked about.
    decisions: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def by_index(self) -> Mapping[int, Link]:
        return {link.index: link for link in self.links}

    @cached_property
    def by_name(self) -> Mapping[str, Link]:
        return {link.name: link for link in self.links}

    def link_name(self, index: int) -> str:
        link = self.by_index.get(index)
        return link.name if link else ""

    def sysctl(self, name: str, default: int = 0) -> int:
        """A number."""
        value = self.sysctls.get(name, "")
        return int(value) if value.lstrip("-").isdigit() else default

    def interface_sysctl(self, family: int, interface: str, name: str, default: int = 0) -> int:
        """``net.ipv4.conf.eth0.NAME``; the kernel's ``all`` is asked for apart, since what it means differs."""
        return self.sysctl(f"ipv{family}.conf.{interface}.{name}", default)

    @cached_property
    def own_addresses(self) -> frozenset[str]:
        return frozenset(address.address for address in self.addresses)


class World(Protocol):
    """The places a packet may come to. Read when they are first asked for. May raise KernelError."""

    def place(self, name: str) -> Place:
        """The state of a place."""
        ...

    def peer(self, place: str, index: int) -> tuple[str, int] | None:
        """The other end of a veth: place and index; None where it is in no place that is known."""
        ...
