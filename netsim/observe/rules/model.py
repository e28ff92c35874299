"""What is read of a namespace's rules, what is asked for, and what is answered. Pure data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from netsim.observe.iptables_save import SavedTables
from netsim.observe.nft_listing import NftTables
from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, VirtualServer

Kind = Literal["chain", "map", "set", "ipset", "server"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One way to a Service. ``address`` "": any address of the node's own (a NodePort)."""

    kind: str  # "ClusterIP", "externalIP", "LoadBalancer", "NodePort", "health check"
    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.kind} {address}:{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Line:
    """A rule, an element or a destination, as the tool prints it; counters where the kernel keeps any."""

    text: str
    packets: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that stand in one chain, map, set, or virtual server. ``way``: a base chain or one on the way from it, of
    which only the lines that lead on are shown; ``shared``: other Services use it too.
    """

    backend: str  # nft, iptables-nft, iptables-legacy, ipset, ipvs
    family: str  # ip, ip6, inet
    table: str  # "" of ipset and ipvs
    kind: Kind
    name: str
    lines: tuple[Line, ...]
    way: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Virtual:
    """A virtual server of IPVS, as read."""

    server: VirtualServer
    reals: Mapping[RealServer, RealState]


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of one namespace, as read from the kernel."""

    nft: NftTables = field(default_factory=dict)
    iptables: Mapping[tuple[str, str], SavedTables] = field(default_factory=dict)  # backend, family -> tables
    ipsets: Mapping[str, Sequence[str]] = field(default_factory=dict)  # name -> elements
    ipvs: Mapping[ServerKey, Virtual] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what could not be read, and why


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What serves a Service on one node."""

    node: str
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """The answer of ``netsim rules``. ``service``: "svc/NAMESPACE/NAME"."""

    service: str
    entries: tuple[Entry, ...]
    nodes: tuple[NodeRules, ...]
