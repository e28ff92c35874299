"""The ipsets of the ipvs mode: names and types, entries, and the language of ``ipset restore``.

Source: kubernetes pkg/proxy/ipvs/ipset.go, pkg/proxy/ipvs/util/ipset.go.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netsim.model.errors import InputError

LOOP_BACK = "KUBE-LOOP-BACK"
CLUSTER_IP = "KUBE-CLUSTER-IP"
EXTERNAL_IP = "KUBE-EXTERNAL-IP"
EXTERNAL_IP_LOCAL = "KUBE-EXTERNAL-IP-LOCAL"
LOAD_BALANCER = "KUBE-LOAD-BALANCER"
LOAD_BALANCER_LOCAL = "KUBE-LOAD-BALANCER-LOCAL"
LOAD_BALANCER_FW = "KUBE-LOAD-BALANCER-FW"
LOAD_BALANCER_SOURCE_IP = "KUBE-LOAD-BALANCER-SOURCE-IP"
LOAD_BALANCER_SOURCE_CIDR = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
NODE_PORT = {"tcp": "KUBE-NODE-PORT-TCP", "udp": "KUBE-NODE-PORT-UDP", "sctp": "KUBE-NODE-PORT-SCTP-HASH"}
NODE_PORT_LOCAL = {
    "tcp": "KUBE-NODE-PORT-LOCAL-TCP",
    "udp": "KUBE-NODE-PORT-LOCAL-UDP",
    "sctp": "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
}
HEALTH_CHECK_NODE_PORT = "KUBE-HEALTH-CHECK-NODE-PORT"
IPVS_IPS = "KUBE-IPVS-IPS"

_IP_PORT, _IP_PORT_IP, _IP_PORT_NET, _PORTS, _IP = (
    "hash:ip,port",
    "hash:ip,port,ip",
    "hash:ip,port,net",
    "bitmap:port",
    "hash:ip",
)
TYPES: Mapping[str, str] = {
    LOOP_BACK: _IP_PORT_IP,
    CLUSTER_IP: _IP_PORT,
    EXTERNAL_IP: _IP_PORT,
    EXTERNAL_IP_LOCAL: _IP_PORT,
    LOAD_BALANCER: _IP_PORT,
    LOAD_BALANCER_LOCAL: _IP_PORT,
    LOAD_BALANCER_FW: _IP_PORT,
    LOAD_BALANCER_SOURCE_IP: _IP_PORT_IP,
    LOAD_BALANCER_SOURCE_CIDR: _IP_PORT_NET,
    NODE_PORT["tcp"]: _PORTS,
    NODE_PORT["udp"]: _PORTS,
    NODE_PORT["sctp"]: _IP_PORT,
    NODE_PORT_LOCAL["tcp"]: _PORTS,
    NODE_PORT_LOCAL["udp"]: _PORTS,
    NODE_PORT_LOCAL["sctp"]: _IP_PORT,
    HEALTH_CHECK_NODE_PORT: _PORTS,
    IPVS_IPS: _IP,
}
NAME_MAX_BYTES = 31  # IPSET_MAXNAMELEN - 1, include/uapi/linux/netfilter/ipset/ip_set.h
MAX_ELEMENTS = 1 << 20  # upstream takes the tool's 65,536, which 20,000 Services with a few ports come near to


class Entry(NamedTuple):
    """One element of one set, as ``ipset save`` writes it."""

    set: str
    element: str


def set_name(name: str, family: int) -> str:
    """``KUBE-CLUSTER-IP``, ``KUBE-6-CLUSTER-IP``; cut off as upstream does (pkg/proxy/ipvs/ipset.go, NewIPSet):
    KUBE-6-LOAD-BALANCER-SOURCE-CID.
    """
    return name if family == 4 else name.replace("KUBE-", "KUBE-6-", 1)[:NAME_MAX_BYTES]


def create_line(name: str, family: int) -> str:
    """The line that makes a set; with -exist no error where it is there."""
    kind = TYPES[name]
    if kind == _PORTS:
        return f"create {set_name(name, family)} {kind} range 0-65535"
    family_word = "inet" if family == 4 else "inet6"
    return f"create {set_name(name, family)} {kind} family {family_word} maxelem {MAX_ELEMENTS}"


def split_cidr(cidr: str) -> tuple[str, ...]:
    """The elements that a set of networks needs for one: it takes no /0, and writes a whole address without /32."""
    base, _, length = cidr.partition("/")
    if length == "0":
        return ("0.0.0.0/1", "128.0.0.0/1") if ":" not in cidr else ("::/1", "8000::/1")
    return (base,) if length == ("128" if ":" in cidr else "32") else (cidr,)


def render_changes(create: bool, gone: Iterable[Entry], come: Iterable[Entry], family: int) -> str:
    """The input of ``ipset restore``."""
    lines = [create_line(name, family) for name in TYPES] if create else []
    lines += [f"del {set_name(entry.set, family)} {entry.element}" for entry in sorted(gone)]
    lines += [f"add {set_name(entry.set, family)} {entry.element}" for entry in sorted(come)]
    return "".join(f"{line}\n" for line in lines)


def choose_counts(counts: Mapping[str, int], family: int) -> dict[str, int]:
    """Of the numbers of entries of all sets those of ours of one family, by their IPv4 names."""
    return {name: counts[own] for name in TYPES if (own := set_name(name, family)) in counts}


def parse_save(text: str, family: int) -> dict[str, frozenset[str]]:
    """Of ``ipset save``'s output our sets of one family, by their IPv4 names, with their elements.

    Raises InputError where a set of ours has another type: somebody else made it.
    """
    ours = {set_name(name, family): name for name in TYPES}
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        name, _, rest = rest.partition(" ")
        if name not in ours:
            continue
        if verb == "create":
            kind = rest.partition(" ")[0]
            if kind != TYPES[ours[name]]:
                raise InputError(f"the ipset {name} is {kind}, not {TYPES[ours[name]]}", hint=f"ipset destroy {name}")
            found[ours[name]] = set()
        elif verb == "add":
            found.setdefault(ours[name], set()).add(rest.partition(" ")[0])
    return {name: frozenset(elements) for name, elements in found.items()}
