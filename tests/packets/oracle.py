"""What the API promises about a packet: computed from a Service and its EndpointSlices, as text, and from who asks.

Shares no code with ``proxy/``, and knows no rules, chains or sets. Sources: the API's documentation of
internalTrafficPolicy, externalTrafficPolicy, externalIPs, loadBalancerSourceRanges, EndpointConditions and
EndpointHints (k8s.io/api core/v1, discovery/v1), KEP-1669 (terminating endpoints), KEP-2086 (internalTrafficPolicy),
KEP-2433 and KEP-3015 (hints), KEP-1860 (ipMode), and for what the API leaves open, such as who is masqueraded, the
outcomes of upstream's code. Where its modes differ: ``differences``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any, Literal

from tests.packets.differences import differs

Object = Mapping[str, Any]
Locality = Literal["", "node", "other", "loopback"]
EntryKind = Literal["ClusterIP", "NodePort", "externalIP", "LoadBalancer"]
NOWHERE: Mapping[str, str] = MappingProxyType({})  # no node has a zone
OUTSIDE = ""  # the "node" of a source outside the cluster


@dataclass(frozen=True)
class Source:
    """Who asks: a pod on a node, a node itself, or a host outside; and from which address.

    ``podlike``: a node asks from an address of the pod network, and so counts as a pod, which is told by its address.
    """

    name: str
    kind: Literal["pod", "node", "outside"]
    node: str
    address: str
    podlike: bool = False


@dataclass(frozen=True)
class Entry:
    """Which of a Service's addresses is asked. ``node`` is the node whose rules a packet meets that comes from outside
    or, for a NodePort, from anywhere. ``local``: the address is that node's own, namely its "node" address, an "other"
    one of it, or "loopback"; of a NodePort it always is.
    """

    kind: EntryKind
    node: str
    address: str
    local: Locality = ""


@dataclass(frozen=True)
class Endpoint:
    name: str
    node: str
    usable: bool
    ready: bool
    for_zones: frozenset[str]
    for_nodes: frozenset[str]


CLIENT = "the client"
SERVICE = "the service address"


@dataclass(frozen=True)
class Answer:
    """``endpoint`` gets the packet, and sees it come from the client (`CLIENT`), from a node that masquerades, by its
    name, or from the address that was asked (`SERVICE`).

    ``lost``: its answer goes back to the client by a way that does not lead through the node which translated the
    address, and there nobody knows what it answers.
    """

    endpoint: str
    sees: str
    lost: bool = False


REFUSED = "refused"
SILENCE = "silence"
Fate = Answer | str


def expect(
    mode: str,
    service: Object,
    slices: Iterable[Object],
    source: Source,
    entry: Entry,
    zones: Mapping[str, str] = NOWHERE,
) -> frozenset[Fate]:
    """All that may become of a packet, each of which must happen when it is sent often enough. With session affinity a
    client meets one of them for ever. ``zones``: of the nodes.
    """
    endpoints = [endpoint for piece in slices for endpoint in _read_endpoints(piece)]
    node = _first_node(source, entry)
    if entry.kind == "NodePort" and not _is_node_port_address(mode, entry):
        here = _choose(endpoint for endpoint in endpoints if endpoint.node == node)
        lacks = service["spec"].get("externalTrafficPolicy") == "Local" and _choose(endpoints) and not here
        drops = lacks and differs(mode, "NodePorts lacking endpoints are barred on every local address")
        return frozenset({SILENCE if drops else REFUSED})  # nobody listens there
    return _at_node(mode, service, endpoints, source, entry, node, zones)


def has_entry(mode: str, entry: Entry) -> bool:
    """Whether a mode can be asked there at all."""
    foreign = entry.kind != "NodePort" and entry.local
    return not foreign or differs(mode, "an externalIP may be a node's own address")


def expect_elsewhere(source: Source) -> frozenset[Fate]:
    """What becomes of a packet that is left alone and goes by the routes to a host outside, called "outside": to a load
    balancer's address of ipMode Proxy, whose load balancer wants to see it itself.
    """
    return frozenset({Answer("outside", source.node if source.kind == "pod" else CLIENT)})


def expect_stray(mode: str, allocated: bool, source: Source) -> frozenset[Fate]:
    """What becomes of a packet to the service network that no Service asks for, from inside the cluster: to a port that
    the Service of an ``allocated`` address does not have, or to an address of none. Left alone it goes by the routes to
    a host outside, called "outside", and from a pod like all that leaves the cluster: masqueraded.
    """
    if allocated and differs(mode, "other ports of a ClusterIP are refused"):
        return frozenset({REFUSED})
    if not allocated and differs(mode, "unallocated service addresses are dropped"):
        return frozenset({SILENCE})
    return expect_elsewhere(source)


def _is_node_port_address(mode: str, entry: Entry) -> bool:
    if entry.local == "loopback":
        return _is_ipv4(entry) and differs(mode, "NodePorts answer on 127.0.0.1")
    return entry.local != "other" or not differs(mode, "NodePorts answer on the Node's addresses alone")


def _first_node(source: Source, entry: Entry) -> str:
    """Where a packet first meets rules about this address: every node knows all service addresses, but a node's address
    and port are that node's alone.
    """
    return entry.node if entry.kind == "NodePort" or source.kind == "outside" else source.node


def _read_endpoints(piece: Object) -> Iterable[Endpoint]:
    """Conditions as EndpointSlice v1 has them: ready and serving unset are true, terminating unset is false. Not ready
    but serving counts only while terminating.
    """
    for endpoint in piece["endpoints"]:
        conditions = endpoint.get("conditions", {})
        ready = conditions.get("ready", True)
        draining = conditions.get("serving", True) and conditions.get("terminating", False)
        hints = endpoint.get("hints", {})
        for_zones, for_nodes = (
            frozenset(hint["name"] for hint in hints.get(key, ())) for key in ("forZones", "forNodes")
        )
        name = endpoint["targetRef"]["name"]
        yield Endpoint(name, endpoint["nodeName"], ready or draining, ready, for_zones, for_nodes)


def _choose(endpoints: Iterable[Endpoint]) -> Sequence[Endpoint]:
    """KEP-1669: ready ones; where there are none, those that terminate and still serve."""
    usable = [endpoint for endpoint in endpoints if endpoint.usable]
    return [endpoint for endpoint in usable if endpoint.ready] or usable


def _prefer_near(chosen: Sequence[Endpoint], node: str, zones: Mapping[str, str]) -> Sequence[Endpoint]:
    """EndpointHints: they count when all of them have some and one is for this node, or else for its zone."""
    if not all(endpoint.ready for endpoint in chosen):
        return chosen
    for place, hints in (
        (node, [endpoint.for_nodes for endpoint in chosen]),
        (zones.get(node, ""), [endpoint.for_zones for endpoint in chosen]),
    ):
        near = [endpoint for endpoint, names in zip(chosen, hints, strict=True) if place in names]
        if near and all(hints):
            return near
    return chosen


def _at_node(
    mode: str,
    service: Object,
    endpoints: Sequence[Endpoint],
    source: Source,
    entry: Entry,
    node: str,
    zones: Mapping[str, str],
) -> frozenset[Fate]:
    own = source.kind == "node" and source.node == node
    everywhere = _prefer_near(_choose(endpoints), node, zones)
    barred = _is_barred(service, source, entry) and not (
        own and differs(mode, "source ranges let the node itself pass")
    )
    if barred and (everywhere or not differs(mode, "source ranges need endpoints")):
        return frozenset({SILENCE})
    if not everywhere:
        passes = differs(mode, "own packets to an external address without endpoints pass")
        if own and passes and entry.kind in ("externalIP", "LoadBalancer"):
            return _by_the_routes(mode, service, endpoints, source, entry, node, zones)
        return frozenset({REFUSED})
    here = _choose(endpoint for endpoint in endpoints if endpoint.node == node)
    spec = service["spec"]
    if entry.kind == "ClusterIP":
        policy, masquerade = spec.get("internalTrafficPolicy", "Cluster"), source.kind != "pod"
    else:
        policy = spec.get("externalTrafficPolicy", "Cluster")
        known = own and not source.podlike and not differs(mode, "policy Local is for pods and the node, too")
        masquerade = policy == "Cluster" or known
    chosen = _choose_by_policy(mode, policy, entry, source, own, everywhere, here)
    if chosen:
        return frozenset(_deliver(mode, endpoint, source, entry, node, masquerade) for endpoint in chosen)
    return frozenset({REFUSED if differs(mode, "internal policy Local without an endpoint refuses") else SILENCE})


def _choose_by_policy(
    mode: str,
    policy: str,
    entry: Entry,
    source: Source,
    own: bool,
    everywhere: Sequence[Endpoint],
    here: Sequence[Endpoint],
) -> Sequence[Endpoint]:
    """externalTrafficPolicy is about traffic from outside: what comes from inside the cluster goes anywhere."""
    if policy == "Cluster":
        return everywhere
    inside = entry.kind != "ClusterIP" and (source.kind == "pod" or source.podlike or own)
    if inside and not differs(mode, "policy Local is for pods and the node, too"):
        return everywhere
    if here:
        return here
    if entry.kind != "ClusterIP" and differs(mode, "external policy Local falls back"):
        return everywhere
    return ()


def _deliver(mode: str, endpoint: Endpoint, source: Source, entry: Entry, node: str, masquerade: bool) -> Fate:
    """What the endpoint sees when ``node`` has translated the address."""
    if masquerade:
        return Answer(endpoint.name, node)
    if endpoint.name == source.name:  # a pod that meets itself would not take its own packet for an answer
        if endpoint.node != node and differs(mode, "only the endpoint's node masquerades a pod that meets itself"):
            return Answer(endpoint.name, endpoint.node, lost=True)
        return Answer(endpoint.name, node)
    own = source.kind == "node" and source.node == node
    if own and entry.kind != "NodePort" and differs(mode, "service addresses are the node's own"):
        # Every node has that address, so an endpoint's answer ends at its own.
        away = endpoint.node != node
        return SILENCE if away and _is_ipv4(entry) else Answer(endpoint.name, SERVICE, lost=away)
    lost = node not in (endpoint.node, source.node)
    if lost and source.kind == "node" and _is_ipv4(entry):
        return SILENCE  # it comes back to the node that sent it
    return Answer(endpoint.name, CLIENT, lost)


def _is_ipv4(entry: Entry) -> bool:
    """An IPv4 host drops what comes in with one of its own addresses as the source (a martian, fib_validate_source in
    net/ipv4/fib_frontend.c); an IPv6 host takes it as it takes any other.
    """
    return ip_address(entry.address).version == 4


def _is_barred(service: Object, source: Source, entry: Entry) -> bool:
    """By ranges of the address' family: where there are none of it, nobody is."""
    if entry.kind != "LoadBalancer":
        return False
    address = ip_address(source.address)
    networks = [ip_network(text) for text in service["spec"].get("loadBalancerSourceRanges", [])]
    ranges = [network for network in networks if network.version == address.version]
    return bool(ranges) and not any(address in network for network in ranges)


def _by_the_routes(
    mode: str,
    service: Object,
    endpoints: Sequence[Endpoint],
    source: Source,
    entry: Entry,
    node: str,
    zones: Mapping[str, str],
) -> frozenset[Fate]:
    """The router brings it to the entry's node, unless it is that node's own address and never leaves it."""
    if node == entry.node and entry.local:
        return frozenset({REFUSED})
    if node == entry.node:
        return frozenset({SILENCE if _is_ipv4(entry) else REFUSED})
    return _at_node(mode, service, endpoints, source, entry, entry.node, zones)
