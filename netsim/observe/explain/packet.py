"""A packet on its way through the model, and the connection tracking entries that it makes. Pure.

Ports that no one can know before a packet is sent (the client's own; what masquerading picks at random) have numbers of
the model's own, which `shown_port` turns into 0.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from netsim.observe.path import Packet

CLIENT_PORT = 40000  # stands for the client's ephemeral port, or a ping's identifier
RANDOM_PORTS = range(65000, 65536)  # stand for ports that masquerading picks
BROADCAST = "ff:ff:ff:ff:ff:ff"


class Tuple(NamedTuple):
    """One direction of a flow, as its packets look."""

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int

    def inverted(self) -> "Tuple":
        return Tuple(self.protocol, self.destination, self.destination_port, self.source, self.source_port)


@dataclass(slots=True)
class Flow:
    """A connection as one namespace tracks it; ``reply`` is what an answer has to look like."""

    original: Tuple
    reply: Tuple
    seen_reply: bool = False
    confirmed: bool = False
    dnat: bool = False
    snat: bool = False
    done: set[str] = field(default_factory=set)  # the kinds of NAT that were decided: "dnat", "snat"
    mark: int = 0
    ipvs: bool = False  # a connection of IPVS, which translates by itself

    def __str__(self) -> str:
        """As conntrack -L prints the tuples."""
        return f"{self.original.protocol} {_words(self.original)} {_words(self.reply)}"


def _words(one: Tuple) -> str:
    words = f"src={one.source} dst={one.destination}"
    if one.protocol.startswith("icmp"):
        return words
    ports = [(name, shown_port(port)) for name, port in (("sport", one.source_port), ("dport", one.destination_port))]
    return " ".join([words, *(f"{name}={port or '*'}" for name, port in ports)])


def shown_port(port: int) -> int:
    return 0 if port == CLIENT_PORT or port in RANDOM_PORTS else port


@dataclass(frozen=True, slots=True)
class Travel:
    """A packet. ``inner``: the tuple of the packet that an ICMP error is about, as it looked where it was lost."""

    source: str
    destination: str
    protocol: str  # tcp, udp, icmp, icmpv6; arp, whose note is its operation
    source_port: int
    destination_port: int
    note: str
    ttl: int = 64
    mark: int = 0
    source_mac: str = ""
    destination_mac: str = ""
    length: int = 60
    inner: Tuple | None = None
    payload: "Travel | None" = None  # VXLAN: what travels in it, by the network ``vni``
    vni: int = 0
    untracked: bool = False

    @property
    def family(self) -> int:
        return 6 if ":" in self.source or ":" in self.destination else 4

    @property
    def is_error(self) -> bool:
        return self.inner is not None

    @property
    def is_arp(self) -> bool:
        return self.protocol == "arp"

    @property
    def ether_type(self) -> str:
        """In nft's words."""
        return "arp" if self.is_arp else "ip6" if self.family == 6 else "ip"

    def key(self) -> Tuple:
        return Tuple(self.protocol, self.source, self.source_port, self.destination, self.destination_port)

    def shown(self) -> Packet:
        """In the words of a path, where what travels inside another is shown with that around it."""
        if self.payload is not None:
            return replace(self.payload.shown(), outer=replace(self, payload=None).shown(), vni=self.vni)
        return Packet(
            source=self.source,
            destination=self.destination,
            protocol=self.protocol,
            source_port=shown_port(self.source_port),
            destination_port=shown_port(self.destination_port),
            note=self.note,
            ttl=self.ttl,
            mark=self.mark,
            source_mac=self.source_mac,
            destination_mac=self.destination_mac,
            length=self.length,
        )


def answer_to(packet: Travel, note: str, ttl: int = 64) -> Travel:
    """The packet that goes back: a fresh one, its mark and MAC addresses gone."""
    return Travel(
        source=packet.destination,
        destination=packet.source,
        protocol=packet.protocol,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
        note=note,
        ttl=ttl,
        length=packet.length,
    )


def error_about(packet: Travel, source: str, note: str, ttl: int = 64) -> Travel:
    """An ICMP error from ``source`` to where the packet came from."""
    return Travel(
        source=source,
        destination=packet.source,
        protocol="icmp" if packet.family == 4 else "icmpv6",
        source_port=0,
        destination_port=0,
        note=note,
        ttl=ttl,
        length=packet.length + 28,
        inner=packet.key(),
    )


def translate(packet: Travel, kind: str, address: str, port: int) -> Travel:
    """With another source ("snat") or destination ("dnat"). Of an ICMP error the packet inside is translated the other
    way round (nf_nat_icmp_reply_translation, net/netfilter/nf_nat_proto.c).
    """
    if packet.inner is not None:
        inner = packet.inner
        if kind == "snat":
            return replace(packet, source=address, inner=inner._replace(destination=address, destination_port=port))
        return replace(packet, destination=address, inner=inner._replace(source=address, source_port=port))
    if kind == "snat":
        return replace(packet, source=address, source_port=port)
    return replace(packet, destination=address, destination_port=port)
