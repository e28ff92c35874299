"""The way of one packet, as data: what `trace` saw and what `explain` predicts, in the same words. Pure.

A path is one flat, ordered list of hops, there and back. A place is "pod/NAMESPACE/NAME", "node/NAME", "host/NAME" or
"fabric", as on the command line (`netsim.model.where`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

FABRIC = "fabric"  # the node network's own namespace, which is no WHERE of the command line

Leg = Literal["there", "back"]
HopKind = Literal["interface", "hook", "route", "rewrite", "conntrack", "loss"]
Outcome = Literal["delivered", "refused", "rejected", "dropped", "no reply", "no route"]


@dataclass(frozen=True, slots=True)
class Packet:
    """What a packet's headers say at one point of its way."""

    source: str
    destination: str
    protocol: str  # tcp, udp, icmp, icmpv6, sctp
    source_port: int = 0  # of icmp echo: the identifier, in both
    destination_port: int = 0
    note: str = ""  # "SYN", "SYN,ACK", "RST,ACK", "echo request", "port unreachable", ...
    ttl: int | None = None  # IPv6: hop limit; None where it is not known
    mark: int | None = None  # skb->mark, where it is known
    source_mac: str = ""
    destination_mac: str = ""
    length: int = 0  # bytes of the IP packet
    outer: "Packet | None" = None  # VXLAN: what it travels in
    vni: int | None = None


@dataclass(frozen=True, slots=True)
class RuleHit:
    """One rule (or a chain's policy) that the packet met and that matched."""

    family: str  # ip, ip6, inet, bridge, netdev
    table: str
    chain: str
    text: str  # as nft or iptables prints it; of a policy "policy accept"
    verdict: (
        str  # "accept", "drop", "reject", "continue", "return", "jump NAME", "goto NAME", "dnat", "masquerade", ...
    )
    backend: Literal["nft", "iptables-nft", "iptables-legacy", "ipvs"] = "nft"
    handle: int | None = None  # nft's handle, or the rule's number in its chain (iptables, from 1)
    element: str = ""  # the map or set element that decided, where one did: "10.96.0.10 . tcp . 80 : goto cluster-2"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step. Which of the fields below `packet` is set goes by `kind`."""

    place: str
    leg: Leg
    kind: HopKind
    packet: Packet  # as it is after this step
    interface: str = ""  # interface: its name
    direction: Literal["", "in", "out"] = ""  # interface: as seen from the namespace
    hook: str = ""  # hook: prerouting, input, forward, output, postrouting, ingress, egress
    rules: tuple[RuleHit, ...] = ()  # hook: in the order the packet met them
    route: str = ""  # route: as `ip route` prints the entry that decided: "10.244.2.0/24 via 172.18.0.3 dev eth0"
    rewrite: Literal["", "dnat", "snat", "un-dnat", "un-snat", "encapsulate", "decapsulate"] = ""
    before: Packet | None = None  # rewrite
    conntrack: str = ""  # conntrack: the entry, as conntrack -L prints it
    reason: str = ""  # loss: what lost it, in words; see Verdict
    time_ns: int | None = None  # of CLOCK_REALTIME, where a clock saw it


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the probe.

    delivered: it came to a process that answered. refused: the target's own kernel said nobody listens (TCP RST, ICMP
    port unreachable from where the packet was to go). rejected: a rule sent the refusal. dropped: lost, and known where
    and by what. no route: a kernel had no way on. no reply: it came to the end of its way, or out of sight, and nothing
    came back.
    """

    outcome: Outcome
    place: str = ""  # where it was decided
    cause: str = ""  # by what, in one line: the rule's text, the kernel's drop reason, "no route to host", ...
    next: str = ""  # what to look at or do, where that can be said


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked."""

    source: str  # a place
    target: str  # as it was written: "svc/default/web:80", "pod/default/web-1", "172.18.0.2:30080"
    protocol: Literal["tcp", "udp", "icmp"]
    address: str  # the address the probe was sent to
    port: int = 0  # 0 for icmp
    size: int = 0  # bytes that a udp or icmp probe carries; 0: as many as it is known by


@dataclass(frozen=True, slots=True)
class Path:
    """The answer: a whole way there and back."""

    question: Question
    hops: tuple[Hop, ...]
    verdict: Verdict
    answered_by: str = ""  # the place that answered
    seen_source: str = ""  # the client's "address:port" as the far end saw it
    names: Mapping[str, str] = field(
        default_factory=dict
    )  # address, or "address:port" of a Service -> "svc/default/web", ...
    notes: tuple[str, ...] = ()  # what could not be seen, and why: "drop reasons: tracefs is not readable"
    elapsed_ms: float | None = None


def with_notes(path: Path, notes: Iterable[str]) -> Path:
    """The path, with ``notes`` before its own."""
    return replace(path, notes=(*notes, *path.notes))


def join_end(address: str, port: int) -> str:
    """``address:port``, of IPv6 with brackets (RFC 3986); without a port the address alone."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def look_at(place: str, command: str) -> str:
    """How to look for oneself. The fabric is no WHERE, but what a shell in the sandbox is in."""
    return f"echo '{command}' | netsim shell" if place == FABRIC else f"netsim exec {place} -- {command}"


def look_at_rule(place: str, rule: RuleHit) -> str:
    """How to look at a rule among its neighbours; nothing for what is no rule in a table, such as a full one."""
    if rule.backend == "ipvs":
        return look_at(place, "ipvsadm -L -n")
    return look_at(place, _name_tool(rule)) if rule.table else ""


def _name_tool(rule: RuleHit) -> str:
    """What prints it: iptables has a program for each family and for the tables of its older back end."""
    if not rule.backend.startswith("iptables"):
        return "nft list ruleset"
    program = "ip6tables" if rule.family == "ip6" else "iptables"
    return f"{program}{'-legacy' if rule.backend == 'iptables-legacy' else ''}-save"
