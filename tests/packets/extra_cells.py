"""Further axes, which concern some entries only: a table of cells of its own, counted like the big one.

Multiplied into the big matrix they would make it ten times as large, most of it nothing new. Each `Group` is a product
of its own axes; protocols and families multiply all of them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.packets.cells import (
    GATEWAY,
    HERE,
    LISTED,
    POLICIES,
    PORTS,
    SOURCES,
    STATES,
    THERE,
    Cell,
    EntryAxis,
    Manifest,
    make_ports,
    make_spec,
    service_name,
)
from tests.packets.differences import differs

ZONES = {HERE: "east", THERE: "west"}  # of the nodes
LABEL_ZONE = "topology.kubernetes.io/zone"


def _hint(zone: str = "", node: str = "") -> Manifest:
    return ({"forZones": [{"name": zone}]} if zone else {}) | ({"forNodes": [{"name": node}]} if node else {})


# Both endpoints are ready; what is hinted of each.
HINTS: dict[str, Mapping[str, Manifest]] = {
    "each its zone": {"web-1": _hint("east"), "web-2": _hint("west")},
    "each the other zone": {"web-1": _hint("west"), "web-2": _hint("east")},
    "a zone that no node is in": {"web-1": _hint("north"), "web-2": _hint("north")},
    "one has none": {"web-1": _hint("east")},
    "each its node": {"web-1": _hint(node=HERE), "web-2": _hint(node=THERE)},
    "nodes before zones": {"web-1": _hint("east", THERE), "web-2": _hint("west", HERE)},
    "trafficDistribution alone": {},
}
INSIDE = tuple(source for source in SOURCES if source != "outside")
BEYOND = 10  # each Service whose externalIP is a node's address has ports of its own there, so much apart
EXTRA_TYPES = {
    "sticky": "LoadBalancer",
    "hinted": "NodePort",
    "half guarded": "LoadBalancer",
    "proxied": "LoadBalancer",
    "on a node": "ClusterIP",
}


@dataclass(frozen=True)
class Group:
    """``only``: a line of the table of differences; modes that are not in it have none of these cells."""

    entries: tuple[EntryAxis, ...]
    policies: tuple[str, ...]
    states: tuple[str, ...]
    sources: tuple[str, ...]
    only: str = ""


ON_A_NODE = EntryAxis("externalIP", "on a node", at="its own address")
PROXIED = EntryAxis("load balancer's address of ipMode Proxy", "proxied")
AT_A_POD = EntryAxis("a NodePort's number", "nodeport", at="a pod")
GROUPS = {
    "affinity": Group(
        (
            EntryAxis("ClusterIP", "sticky"),
            EntryAxis("NodePort", "sticky", HERE),
            EntryAxis("externalIP", "sticky"),
            EntryAxis("LoadBalancer", "sticky"),
        ),
        ("Cluster",),
        ("mixed",),
        tuple(SOURCES),
    ),
    "hints": Group(
        (EntryAxis("ClusterIP", "hinted"), EntryAxis("NodePort", "hinted", HERE)),
        POLICIES,
        tuple(HINTS),
        ("a pod on node-1", "a pod on node-2", "node-1", "outside"),
    ),
    "NodePorts at a bridge": Group(
        (EntryAxis("NodePort", "nodeport", HERE, "cni0"),), POLICIES, ("none", "remote only", "mixed"), INSIDE
    ),
    "NodePorts at loopback": Group(
        (EntryAxis("NodePort", "nodeport", HERE, "lo"),), POLICIES, ("none", "remote only", "mixed"), (HERE,)
    ),
    "NodePorts at a pod": Group((AT_A_POD,), POLICIES[:1], ("mixed",), INSIDE),
    "no ranges elsewhere": Group(
        (EntryAxis("NodePort", "guarded", HERE), EntryAxis("externalIP", "guarded")),
        POLICIES,
        ("none", "mixed"),
        tuple(SOURCES),
    ),
    "ranges of one family": Group(
        (EntryAxis("LoadBalancer", "half guarded"),), POLICIES[:1], ("none", "mixed"), tuple(SOURCES)
    ),
    "ipMode Proxy": Group((PROXIED,), POLICIES[:1], ("mixed",), INSIDE),
    "an externalIP that is a node's": Group(
        (ON_A_NODE,),
        POLICIES,
        ("none", "remote only", "mixed"),
        tuple(SOURCES),
        "an externalIP may be a node's own address",
    ),
}


def choose_groups(mode: str) -> dict[str, Group]:
    return {name: group for name, group in GROUPS.items() if not group.only or differs(mode, group.only)}


def extra_cells(mode: str, protocols: Sequence[str], families: Sequence[int]) -> list[Cell]:
    cells = []
    for group in choose_groups(mode).values():
        axes = (group.entries, group.policies, group.states, group.sources, protocols, families)
        cells += [Cell(*values) for values in itertools.product(*axes)]
    return cells


def count_extra_cells(mode: str, protocols: Sequence[str], families: Sequence[int]) -> int:
    """By multiplication, not by counting what `extra_cells` made."""
    groups = choose_groups(mode).values()
    each = sum(len(g.entries) * len(g.policies) * len(g.states) * len(g.sources) for g in groups)
    return each * len(protocols) * len(families)


def extra_services() -> Iterator[tuple[str, str, str]]:
    """Kind, policy and state of each Service that only these cells need."""
    for group in GROUPS.values():
        kinds = dict.fromkeys(entry.service for entry in group.entries if entry.service in EXTRA_TYPES)
        yield from itertools.product(kinds, group.policies, group.states)


def endpoints_of(state: str) -> tuple[Mapping[str, str], Mapping[str, Manifest] | None]:
    """The endpoints with their conditions, and their hints."""
    return (STATES["mixed"], HINTS[state]) if state in HINTS else (STATES[state], None)


def make_extra_service(
    key: tuple[str, str, str],
    protocols: Sequence[str],
    families: Sequence[int],
    spare: Mapping[int, Iterator[str]],
    addresses: Mapping[tuple[str, int], str],
) -> Manifest:
    """One Service; ``addresses`` of the places, by family."""
    kind, policy, state = key
    ports = make_ports(protocols, _beyond(service_name(*key)))
    spec = make_spec(EXTRA_TYPES[kind], ports, families)
    if kind == "hinted":
        spec["internalTrafficPolicy"] = policy
    spec["externalTrafficPolicy"] = policy
    if kind == "sticky":
        spec |= {"sessionAffinity": "ClientIP", "externalIPs": [next(spare[family]) for family in families]}
    if kind == "half guarded":
        spec["loadBalancerSourceRanges"] = [f"{addresses[name, 4]}/32" for name in LISTED]
    if kind == "on a node":
        spec["externalIPs"] = [addresses[GATEWAY, family] for family in families]
    if state == "trafficDistribution alone":
        spec["trafficDistribution"] = "PreferClose"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": service_name(*key)}, "spec": spec}


def make_ingress(kind: str, families: Sequence[int], spare: Mapping[int, Iterator[str]]) -> list[dict[str, Any]]:
    """What a load balancer writes into the status."""
    return [{"ip": next(spare[family]), "ipMode": "Proxy" if kind == "proxied" else "VIP"} for family in families]


def port_of(cell: Cell) -> int:
    """The Service's port."""
    return PORTS[cell.protocol][0] + _beyond(cell.service)


def _beyond(service: str) -> int:
    names = [service_name(*key) for key in extra_services() if key[0] == ON_A_NODE.service]
    return BEYOND * (names.index(service) + 1) if service in names else 0
