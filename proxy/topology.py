"""Which endpoints traffic may go to from one node.

Source: kubernetes pkg/proxy/topology.go; KEP-1669 (terminating endpoints), KEP-3015 and KEP-2433 (hints).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proxy.servicemap import Endpoint, Entry, ServicePort

Endpoints = tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a service port's traffic may use on one node.

    cluster:   endpoints for traffic policy Cluster.
    local:     endpoints for traffic policy Local; empty when the service never uses that policy.
    reachable: both together, each once; what the node needs rules for.
    has_any:   whether a usable endpoint exists anywhere; decides between refusing and dropping.
    """

    cluster: Endpoints = ()
    local: Endpoints = ()
    reachable: Endpoints = ()
    has_any: bool = False


@dataclass(slots=True)
class _Sorted:
    """An entry's endpoints, sorted once for all nodes."""

    ready: Endpoints
    fallback: Endpoints  # serving and terminating
    local_ready: dict[str, Endpoints]  # by node
    local_fallback: dict[str, Endpoints]
    node_hints: bool  # every ready endpoint has some
    zone_hints: bool
    choices: dict[tuple[str, str], Choice] = field(default_factory=dict)
    hinted: dict[tuple[str, str], Endpoints] = field(default_factory=dict)


def choose_endpoints(entry: Entry, node: str, zone: str = "") -> Choice:
    """The endpoints ``entry``'s service port uses on ``node``, which is in ``zone`` ("" when not known).

    Nodes for which the answer is the same get the same object.
    """
    sets: _Sorted | None = entry.memo.get(_Sorted)
    if sets is None:
        sets = entry.memo[_Sorted] = _sort(entry.service, entry.endpoints)
    service = entry.service
    hinted = service.uses_cluster_endpoints and (sets.node_hints or sets.zone_hints)
    local = service.uses_local_endpoints and (node in sets.local_ready or node in sets.local_fallback)
    where = (node if local or (hinted and sets.node_hints) else "", zone if hinted else "")
    choice = sets.choices.get(where)
    if choice is None:
        choice = sets.choices[where] = _choose(service, sets, node, zone)
    return choice


def _choose(service: ServicePort, sets: _Sorted, node: str, zone: str) -> Choice:
    cluster: Endpoints = ()
    if service.uses_cluster_endpoints:
        cluster = _filter_hints(sets, node, zone) or sets.fallback
    if not service.uses_local_endpoints:
        return Choice(cluster, (), cluster, bool(cluster))
    # Local is worked out on its own: hints do not apply, and it falls back when this node has no ready endpoint.
    local = sets.local_ready.get(node) or sets.local_fallback.get(node) or ()
    has_any = bool(sets.ready or sets.fallback)
    if not service.uses_cluster_endpoints:
        return Choice((), local, local, has_any)
    known = set(cluster)
    extra = tuple(endpoint for endpoint in local if endpoint not in known)
    reachable = tuple(sorted((*cluster, *extra), key=str)) if extra else cluster
    return Choice(cluster, local, reachable, has_any)


def _filter_hints(sets: _Sorted, node: str, zone: str) -> Endpoints:
    """The ready endpoints hinted for this node, or else this zone, or else all.

    One ready endpoint without hints switches them off for the whole service port, or its share would go nowhere.
    """
    if sets.node_hints:
        found = tuple(e for e in sets.ready if node in e.node_hints)
        if found:
            return found
    if sets.zone_hints and zone:
        found = tuple(e for e in sets.ready if zone in e.zone_hints)
        if found:
            return found
    return sets.ready


def _sort(service: ServicePort, endpoints: Endpoints) -> _Sorted:
    ready: Endpoints = endpoints
    fallback: Endpoints = ()
    if not all(e.ready for e in endpoints):
        ready = tuple(e for e in endpoints if e.ready)
        fallback = tuple(e for e in endpoints if not e.ready and e.serving and e.terminating)
    local = service.uses_local_endpoints  # else nobody asks what is on a node
    return _Sorted(
        ready=ready,
        fallback=fallback,
        local_ready=_by_node(ready) if local else {},
        local_fallback=_by_node(fallback) if local else {},
        node_hints=_all(ready, lambda e: bool(e.node_hints)),
        zone_hints=_all(ready, lambda e: bool(e.zone_hints)),
    )


def _all(endpoints: Endpoints, has: Callable[[Endpoint], bool]) -> bool:
    return bool(endpoints) and has(endpoints[0]) and all(has(e) for e in endpoints)


def _by_node(endpoints: Iterable[Endpoint]) -> dict[str, Endpoints]:
    nodes: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        if endpoint.node:
            nodes.setdefault(endpoint.node, []).append(endpoint)
    return {node: tuple(found) for node, found in nodes.items()}
