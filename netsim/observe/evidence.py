"""What was seen of one probe, before anybody makes sense of it: frames, rules, drops, its own socket. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from netsim.observe.path import Question

RuleKey = tuple[str, str, str, str, int]  # place, family, table, chain, handle (legacy iptables: number, from 1)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One frame of the probe (or of an answer to it) on one interface."""

    place: str
    interface: str
    direction: Literal["in", "out"]
    time_ns: int  # CLOCK_REALTIME, by the kernel
    frame: bytes  # from the Ethernet header on (lo has one too), possibly cut
    length: int  # bytes on the wire


@dataclass(frozen=True, slots=True)
class RuleEvent:
    """One message of the kernel's rule trace. Events of one place are in the order the kernel sent them."""

    place: str
    packet_id: int  # NFTA_TRACE_ID: one packet's stay in one namespace and family; legacy iptables: 0
    backend: Literal["nft", "iptables-nft", "iptables-legacy"]
    family: str  # ip, ip6, inet, bridge, netdev
    table: str
    chain: str
    kind: Literal["rule", "return", "policy"]
    handle: int  # 0 for return and policy
    verdict: str  # "accept", "drop", "continue", "jump NAME", "goto NAME", "return", "stolen", ... ; legacy: ""
    hook: str  # prerouting, input, forward, output, postrouting; of netdev ingress, egress
    priority: int | None
    packet: bytes  # from the network header on, as the rule saw it, possibly cut; b"" where the kernel gave none
    interface_in: str
    interface_out: str
    mark: int | None


@dataclass(frozen=True, slots=True)
class Drop:
    """One event of skb:kfree_skb while the probe was under way in the context of its sender."""

    time_ns: int  # CLOCK_REALTIME
    reason: str  # the kernel's name: NETFILTER_DROP, IP_INNOROUTES, NEIGH_FAILED, ...
    function: str  # where in the kernel, "nf_hook_slow+0x9a"; "" where symbols are not readable


@dataclass(frozen=True, slots=True)
class Reply:
    """What the probe's own socket met."""

    result: Literal["connected", "answered", "refused", "unreachable", "timeout", "failed"]
    error: str = ""  # the kernel's words
    errno: int = 0
    elapsed_ms: float = 0.0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen of one probe."""

    question: Question
    source_port: int  # the probe's own; icmp: its identifier
    reply: Reply
    sightings: tuple[Sighting, ...]  # of all places, by time
    events: tuple[RuleEvent, ...]
    drops: tuple[Drop, ...]
    rules: Mapping[RuleKey, str]  # the text of each rule in `events`
    conntrack: Mapping[str, tuple[str, ...]]  # place -> the probe's entries, as conntrack -L prints them
    notes: tuple[str, ...]  # what could not be looked at, and why
    elapsed_ms: float
    elements: Mapping[int, str] = field(
        default_factory=dict
    )  # position in `events` -> the map or set element that decided
    ipvs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # place -> connections, as ipvsadm -Lnc


class Reader(Protocol):
    """Questions to the kernel that come up while evidence is made sense of. Blocking; raises KernelError."""

    def route(self, place: str, source: str, destination: str, *, interface_in: str = "", mark: int = 0) -> str:
        """The route the kernel would take now, as `ip route get fibmatch` prints it; "" if there is none."""
        ...

    def addresses(self, place: str) -> Mapping[str, str]:
        """Every local address of the place, and its interface."""
        ...

    def neighbour(self, place: str, address: str, interface: str) -> str:
        """The neighbour entry, as `ip neigh` prints it; "" if there is none."""
        ...

    def forwarding(self, place: str, mac: str) -> Mapping[str, str]:
        """The interfaces by which forwarding databases (`bridge fdb`) send frames for a link address, each with the
        address that a VXLAN device sends to, "" of a bridge's port.
        """
        ...

    def link(self, place: str, interface: str) -> str:
        """The interface in the words of `ip link`: "7: veth1@if2 veth mtu 1500 link/ether 0a:58:... master cni0
        NO-CARRIER"; "" if there is none.
        """
        ...

    def holder(self, mac: str) -> tuple[str, str] | None:
        """The place and interface whose link address it is, among the places that are looked at; a port is none."""
        ...

    def setting(self, place: str, name: str) -> str:
        """A sysctl of the place's network namespace, "net.ipv4.ip_forward"; "" if there is none."""
        ...

    def idle_server(self, place: str, protocol: str, address: str, port: int) -> str:
        """The virtual server of IPVS at an address, as ipvsadm writes it, where it has no destination to send to; "" if
        it has one, and if there is no such server.
        """
        ...
