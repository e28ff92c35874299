"""The service map: what Services and EndpointSlices mean to a proxy, one map for all nodes of a cluster.

Handlers only note which objects changed; `ServiceMap.take` works them in, so a hundred updates of one slice cost
one reading, and a change that is taken back in between counts as none.

Sources: kubernetes pkg/proxy/serviceport.go, servicechangetracker.go, endpointslicecache.go, endpoints.go,
cmd/kube-proxy/app/server.go (the ignore labels).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from netsim.model.objects import Object
from proxy.addresses import choose_cidrs, choose_ips, join_port

LABEL_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
LABEL_HEADLESS = "service.kubernetes.io/headless"
NOT_IGNORED = f"!{LABEL_PROXY_NAME},!{LABEL_HEADLESS}"  # the label selector that is the opposite of `is_ignored`
LABEL_SERVICE = "kubernetes.io/service-name"  # on a slice: the Service it belongs to
DEFAULT_AFFINITY_TIMEOUT_S = 10800  # API default of clientIP.timeoutSeconds
_ADDRESS_TYPES = {4: "IPv4", 6: "IPv6"}

ServiceKey = tuple[str, str]  # (namespace, name)
PortKey = tuple[str, str]  # (port name, protocol)


class ServicePortName(NamedTuple):
    """One port of one Service. TCP/53 and UDP/53 are two."""

    namespace: str
    name: str
    port: str  # the port's name, "" when unnamed
    protocol: str  # TCP, UDP, SCTP

    def __str__(self) -> str:
        """``ns/name:port``, ``ns/name``: the name that comments show and chain names are hashed from."""
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


class ServicePort(NamedTuple):
    """What a proxy needs to know of a service port, in one address family."""

    name: ServicePortName
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()  # ipMode VIP or none; those of ipMode Proxy get no rules
    source_ranges: tuple[str, ...] = ()
    affinity_timeout_s: int = 0  # 0: no session affinity
    external_local: bool = False  # externalTrafficPolicy Local, of a service reachable from outside
    internal_local: bool = False
    health_check_node_port: int = 0

    @property
    def protocol(self) -> str:
        """``tcp``, ``udp``, ``sctp``."""
        return self.name.protocol.lower()

    @property
    def externally_accessible(self) -> bool:
        return bool(self.node_port or self.load_balancer_ips or self.external_ips)

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Also with externalTrafficPolicy Local: pods and the node itself go to any endpoint then."""
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        return self.internal_local or (self.external_local and self.externally_accessible)


class Endpoint(NamedTuple):
    """One address and port behind a service port."""

    ip: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return join_port(self.ip, self.port)


@dataclass(frozen=True, slots=True)
class Entry:
    """A service port with all its endpoints, usable or not, sorted by ``ip:port``. Replaced, never changed.

    ``memo`` is where those who read an entry keep what they worked out from it alone; it dies with the entry.
    """

    service: ServicePort
    endpoints: tuple[Endpoint, ...]
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The map at one generation. ``entries`` is in the order of the names; it must not be changed."""

    generation: int
    family: int
    entries: Mapping[ServicePortName, Entry]
    total_endpoints: int


class Change(NamedTuple):
    """What became of one service port between two `ServiceMap.take`: None where it was or is not there."""

    old: Entry | None
    new: Entry | None


def is_ignored(obj: Object) -> bool:
    """Whether a Service or EndpointSlice is marked as not for kube-proxy."""
    labels = obj["metadata"].get("labels") or {}
    return LABEL_PROXY_NAME in labels or LABEL_HEADLESS in labels


def read_service(service: Object, family: int) -> dict[PortKey, ServicePort]:
    """The service ports of a Service in one family; none if the proxy has nothing to do with it."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") in ("None", "", None) or is_ignored(service):
        return {}
    cluster_ip = next(iter(choose_ips(spec.get("clusterIPs") or [spec["clusterIP"]], family)), None)
    if cluster_ip is None:
        return {}
    meta = service["metadata"]
    kind = spec.get("type", "ClusterIP")
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    external_ips = choose_ips(spec.get("externalIPs") or (), family)
    vips = choose_ips([i["ip"] for i in ingress if i.get("ip") and i.get("ipMode", "VIP") == "VIP"], family)
    external = kind in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))
    external_local = external and spec.get("externalTrafficPolicy") == "Local"
    common = (
        external_ips,
        vips,
        choose_cidrs(spec.get("loadBalancerSourceRanges") or (), family),
        _read_affinity(spec),
        external_local,
        spec.get("internalTrafficPolicy") == "Local",
        spec.get("healthCheckNodePort") or 0 if kind == "LoadBalancer" and external_local else 0,
    )
    ports: dict[PortKey, ServicePort] = {}
    for port in spec.get("ports") or ():
        key = (port.get("name") or "", port.get("protocol") or "TCP")
        name = ServicePortName(meta.get("namespace") or "", meta["name"], *key)
        ports[key] = ServicePort(name, cluster_ip, port["port"], port.get("nodePort") or 0, *common)
    return ports


def _read_affinity(spec: Object) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(client_ip.get("timeoutSeconds") or DEFAULT_AFFINITY_TIMEOUT_S)


def read_slice(item: Object, family: int) -> dict[PortKey, tuple[Endpoint, ...]]:
    """The endpoints of an EndpointSlice for each of its ports; none if it is of the other family, or FQDN."""
    if item.get("addressType") != _ADDRESS_TYPES[family] or is_ignored(item):
        return {}
    made = [
        (address, rest)
        for endpoint in item.get("endpoints") or ()
        # Only the first address counts; the API has said since 1.24 that they are interchangeable.
        for address in choose_ips((endpoint.get("addresses") or ())[:1], family)
        for rest in (_read_endpoint(endpoint),)
    ]
    found: dict[PortKey, tuple[Endpoint, ...]] = {}
    for port in item.get("ports") or ():
        number = port.get("port")
        # None means all ports, which rules can't say. Upstream's API server lets any number pass
        # (ValidateEndpointSlice), and a single one that is no port would have the kernel refuse all rules.
        if number is not None and 0 < number < 65536:
            key = (port.get("name") or "", port.get("protocol") or "TCP")
            endpoints = tuple([Endpoint(address, number, *rest) for address, rest in made])
            found[key] = found[key] + endpoints if key in found else endpoints
    return found


_TRUE_UNLESS_SAID = (None, True)
_NO_NAMES: frozenset[str] = frozenset()


def _read_endpoint(endpoint: Object) -> tuple[bool, bool, bool, str, frozenset[str], frozenset[str]]:
    """What an `Endpoint` has besides address and port."""
    conditions = endpoint.get("conditions") or {}
    hints = endpoint.get("hints")
    zones = nodes = _NO_NAMES
    if hints:
        zones = frozenset(zone["name"] for zone in hints.get("forZones") or ())
        nodes = frozenset(node["name"] for node in hints.get("forNodes") or ())
    return (
        conditions.get("ready") in _TRUE_UNLESS_SAID,
        conditions.get("serving") in _TRUE_UNLESS_SAID,
        conditions.get("terminating") is True,
        endpoint.get("nodeName") or "",
        zones,
        nodes,
    )


def merge_endpoints(parts: Iterable[tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    """All endpoints of a service port from its slices, sorted by ``ip:port``, each ``ip:port`` once.

    Where slices repeat an endpoint (it moves from one to another), the first slice wins.
    """
    merged: dict[str, Endpoint] = {}
    for part in parts:
        for endpoint in part:
            merged.setdefault(join_port(endpoint.ip, endpoint.port), endpoint)
    return tuple([merged[key] for key in sorted(merged)])


@dataclass(slots=True)
class ServiceMap:
    """Services and slices of one address family, as they change.

    ``update_service`` and ``update_slice`` are what informers call, (old, new) with None for absent; `take` returns the
    changed service ports with their state before and after, and `snapshot` shows the map as `take` left it.
    """

    family: int = 4
    generation: int = 0
    _entries: dict[ServicePortName, Entry] = field(default_factory=dict)
    _services: dict[ServiceKey, dict[PortKey, ServicePort]] = field(default_factory=dict)
    _endpoints: dict[ServiceKey, dict[PortKey, tuple[Endpoint, ...]]] = field(default_factory=dict)
    _slices: dict[ServiceKey, dict[str, dict[PortKey, tuple[Endpoint, ...]]]] = field(default_factory=dict)
    _dirty_services: dict[ServiceKey, Object | None] = field(default_factory=dict)
    _dirty_slices: dict[ServiceKey, dict[str, Object | None]] = field(default_factory=dict)
    _known: dict[ServiceKey, tuple[ServicePortName, ...]] = field(default_factory=dict)  # a Service's entries
    _total: int = 0

    def update_service(self, old: Object | None, new: Object | None) -> None:
        meta = ((new if new is not None else old) or {})["metadata"]
        self._dirty_services[(meta.get("namespace") or "", meta["name"])] = new

    def update_slice(self, old: Object | None, new: Object | None) -> None:
        for item, state in ((old, None), (new, new)):  # the label may have moved it from one Service to another
            if item is not None:
                meta = item["metadata"]
                service = (meta.get("labels") or {}).get(LABEL_SERVICE)
                if service:
                    key = (meta.get("namespace") or "", service)
                    self._dirty_slices.setdefault(key, {})[meta["name"]] = state

    @property
    def dirty(self) -> bool:
        """Whether something was noted that `take` has not worked in."""
        return bool(self._dirty_services or self._dirty_slices)

    def take(self) -> dict[ServicePortName, Change]:
        """Work in what was noted since; the service ports that are different now."""
        touched: dict[ServiceKey, None] = {}
        for key, service in self._dirty_services.items():
            touched[key] = None
            ports = read_service(service, self.family) if service is not None else {}
            if ports:
                self._services[key] = ports
            else:
                self._services.pop(key, None)
        for key, items in self._dirty_slices.items():
            touched[key] = None
            self._take_slices(key, items)
        self._dirty_services, self._dirty_slices = {}, {}
        changes: dict[ServicePortName, Change] = {}
        for key in touched:
            changes.update(self._compare(key))
        if changes:
            self._work_in(changes)
        return changes

    def snapshot(self) -> Snapshot:
        """The map as the last `take` left it."""
        return Snapshot(self.generation, self.family, self._entries, self._total)

    def _take_slices(self, key: ServiceKey, items: Mapping[str, Object | None]) -> None:
        slices = self._slices.setdefault(key, {})
        for name, item in items.items():
            read = read_slice(item, self.family) if item is not None else {}
            if read:
                slices[name] = read
            else:
                slices.pop(name, None)
        if len(slices) == 1:  # nearly every Service
            merged = {port: merge_endpoints((found,)) for part in slices.values() for port, found in part.items()}
        else:
            ports = dict.fromkeys(port for part in slices.values() for port in part)
            names = sorted(slices)
            merged = {p: merge_endpoints(slices[n][p] for n in names if p in slices[n]) for p in ports}
        if merged:
            self._endpoints[key] = merged
        else:
            self._endpoints.pop(key, None)
            self._slices.pop(key)

    def _compare(self, key: ServiceKey) -> dict[ServicePortName, Change]:
        services = self._services.get(key, {})
        endpoints = self._endpoints.get(key, {})
        names = {port.name for port in services.values()} | set(self._known.get(key, ()))
        changes: dict[ServicePortName, Change] = {}
        for name in names:
            old = self._entries.get(name)
            service = services.get((name.port, name.protocol))
            new = Entry(service, endpoints.get((name.port, name.protocol), ())) if service else None
            if old != new:
                changes[name] = Change(old, new)
        return changes

    def _work_in(self, changes: Mapping[ServicePortName, Change]) -> None:
        self.generation += 1
        entries = dict(self._entries)  # a snapshot handed out stays as it was
        regroup: dict[ServiceKey, None] = {}
        grown = False
        for name, change in changes.items():
            self._total += len(change.new.endpoints if change.new else ())
            self._total -= len(change.old.endpoints if change.old else ())
            regroup[(name.namespace, name.name)] = None
            if change.new is None:
                del entries[name]
            else:
                grown = grown or change.old is None
                entries[name] = change.new
        for key in regroup:
            names = tuple(port.name for port in self._services.get(key, {}).values())
            if names:
                self._known[key] = names
            else:
                self._known.pop(key, None)
        # Sorted once here, so that every plan and every node has the same order without sorting again.
        self._entries = dict(sorted(entries.items())) if grown else entries
