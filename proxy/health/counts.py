"""What metrics show of a node's state at this moment; worked out when somebody asks. Pure.

Source: kubernetes pkg/proxy/iptables/proxier.go (syncProxyRules), pkg/proxy/metrics/metrics.go.
"""

from collections.abc import Mapping

from netsim.model.objects import Object, parse_time
from proxy.servicemap import Entry, ServicePortName, Snapshot
from proxy.topology import choose_endpoints

LAST_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


def count_no_local(snapshot: Snapshot, node: str, zone: str) -> dict[str, int]:
    """Service ports with a Local policy whose only endpoints are on other nodes, by kind of traffic."""
    counts = {"internal": 0, "external": 0}
    for entry in snapshot.entries.values():
        service = entry.service
        if service.uses_local_endpoints:
            choice = choose_endpoints(entry, node, zone)
            if choice.has_any and not choice.local:
                counts["internal"] += service.internal_local
                counts["external"] += service.external_local and service.externally_accessible
    return counts


def count_pending(pending: Mapping[ServicePortName, Entry | None], snapshot: Snapshot) -> tuple[int, int]:
    """How many services, and how many services' endpoints, changed since the last sync."""
    services: set[tuple[str, str]] = set()
    endpoints: set[tuple[str, str]] = set()
    for name, old in pending.items():
        new = snapshot.entries.get(name)
        key = (name.namespace, name.name)
        if (old and old.service) != (new and new.service):
            services.add(key)
        if (old and old.endpoints) != (new and new.endpoints):
            endpoints.add(key)
    return len(services), len(endpoints)


def read_trigger_s(old: Object | None, new: Object | None) -> float | None:
    """When what an EndpointSlice now says had happened, in seconds since the epoch, if this change says so."""
    if new is None:
        return None
    text = (new["metadata"].get("annotations") or {}).get(LAST_TRIGGER)
    if not text or (old is not None and (old["metadata"].get("annotations") or {}).get(LAST_TRIGGER) == text):
        return None
    try:
        return parse_time(text)
    except ValueError:
        return None  # somebody else's annotation; the metric does without
