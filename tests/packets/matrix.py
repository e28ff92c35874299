"""One run of the matrix: deploy it once into a cluster of two nodes, ask every cell, compare with the oracle."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from netsim.client.api import check_response
from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns
from netsim.model.networks import DEFAULTS
from tests.packets.asking import Report, ask_all
from tests.packets.cells import (
    GATEWAY,
    LISTED,
    NODES,
    PODS,
    PORTS,
    SERVICE_TYPES,
    SERVICES,
    SOURCES,
    STATES,
    STRAY_PORT,
    STRAY_SERVICE,
    STRAYS,
    Cell,
    EntryAxis,
    Manifest,
    count_cells,
    every_cell,
    make_pods,
    make_service,
    make_slice,
    make_stray_service,
    service_name,
)
from tests.packets.extra_cells import (
    AT_A_POD,
    EXTRA_TYPES,
    LABEL_ZONE,
    ON_A_NODE,
    PROXIED,
    ZONES,
    count_extra_cells,
    endpoints_of,
    extra_cells,
    extra_services,
    make_extra_service,
    make_ingress,
    port_of,
)
from tests.packets.fabric import lift_icmp_limits, open_fabric, run_ip
from tests.packets.oracle import (
    CLIENT,
    OUTSIDE,
    SERVICE,
    Answer,
    Entry,
    Fate,
    Locality,
    Source,
    expect,
    expect_elsewhere,
    expect_stray,
    has_entry,
)
from tests.packets.probes import REFUSED, SILENCE, Prober, Request, Result, Seen, open_netns
from tests.packets.world import EXTERNAL

OTHER_LINKS: dict[str, Locality] = {"cni0": "other", "lo": "loopback"}  # whose addresses are a node's too
EXTERNAL_NETS = {4: "192.0.2.", 6: "2001:db8:1::"}  # TEST-NET-1 (RFC 5737): one address for each externalIP and VIP


@dataclass(frozen=True)
class Pace:
    """``quiet_s``: so long an answer is waited for that must not come; ``patience_s``: one that must. ``tries``: how
    often a cell with one possible outcome is asked.
    """

    quiet_s: float = 1.0
    patience_s: float = 10.0
    tries: int = 2
    deploy_s: float = 60.0


@dataclass
class Ground:
    """One deployed matrix."""

    cluster: Cluster
    namespace: str
    mode: str
    pace: Pace
    prober: Prober
    netns: dict[str, Netns]  # by place: pods, nodes, "outside"
    addresses: dict[tuple[str, int], str]  # place, family -> its own
    masquerades: dict[tuple[str, str, int], str]  # node, endpoint, family -> what the endpoint sees
    services: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    slices: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    strays: dict[tuple[EntryAxis, int], str] = field(default_factory=dict)  # addresses of theirs
    protocols: Sequence[str] = ()
    families: Sequence[int] = ()

    def close(self) -> None:
        self.prober.close()
        for ns in self.netns.values():
            ns.close()

    def source(self, cell: Cell) -> Source:
        place = SOURCES[cell.source]
        address = self.addresses[place, cell.family]
        if cell.entry.at in OTHER_LINKS and place in NODES:
            if place == cell.entry.node:  # it asks itself, from the address it asks
                return Source(place, "node", place, self.entry(cell)[0].address, podlike=cell.entry.at == "cni0")
            away = self.addresses.get((f"{place} vxlan0", cell.family))
            return Source(place, "node", place, away or address, podlike=away is not None)
        if place in PODS:
            return Source(place, "pod", PODS[place], address)
        return Source(place, "node", place, address) if place in NODES else Source(place, "outside", OUTSIDE, address)

    def entry(self, cell: Cell) -> tuple[Entry, int]:
        """Where a cell's packet goes: the entry, and the port."""
        if cell.entry in STRAYS:
            return Entry("ClusterIP", GATEWAY, self.strays[cell.entry, cell.family]), STRAY_PORT
        service = self.services[cell.service]
        spec, port = service["spec"], port_of(cell)
        kind = cell.entry.kind
        number = next(p.get("nodePort", 0) for p in spec["ports"] if p["name"] == cell.protocol)
        if cell.entry == AT_A_POD:
            return Entry("ClusterIP", GATEWAY, self.addresses["web-1", cell.family]), number
        if kind == "NodePort":
            place = f"{cell.entry.node} {cell.entry.at}".strip()
            local = OTHER_LINKS.get(cell.entry.at, "node")
            return Entry("NodePort", cell.entry.node, self.addresses[place, cell.family], local), number
        if kind == "ClusterIP":
            return Entry("ClusterIP", GATEWAY, _of_family(spec["clusterIPs"], cell.family)), port
        if kind == "externalIP":
            local = "node" if cell.entry == ON_A_NODE else ""
            return Entry("externalIP", GATEWAY, _of_family(spec["externalIPs"], cell.family), local), port
        ingress = [item["ip"] for item in service["status"]["loadBalancer"]["ingress"]]
        return Entry("LoadBalancer", GATEWAY, _of_family(ingress, cell.family)), port

    def expected(self, cell: Cell) -> frozenset[Result]:
        """The oracle's words as what a probe can see of them."""
        source, (entry, _) = self.source(cell), self.entry(cell)
        if cell.entry in STRAYS:
            fates = expect_stray(self.mode, cell.entry.service == STRAY_SERVICE, source)
            return frozenset(self._as_seen(fate, source, cell) for fate in fates)
        if cell.entry == AT_A_POD:
            return frozenset({REFUSED})  # by the pod, which does not listen there
        if cell.entry == PROXIED:
            return frozenset(self._as_seen(fate, source, cell) for fate in expect_elsewhere(source))
        pieces = [self.slices[cell.service, cell.family]]
        fates = expect(self.mode, self.services[cell.service], pieces, source, entry, ZONES)
        return frozenset(self._as_seen(fate, source, cell) for fate in fates)

    def _as_seen(self, fate: Fate, source: Source, cell: Cell) -> Result:
        if not isinstance(fate, Answer):
            return fate
        if fate.lost and cell.protocol != "udp":
            return SILENCE  # no connection comes about, so no server hears of it
        if fate.sees == CLIENT:
            address = source.address
        elif fate.sees == SERVICE:
            address = self.entry(cell)[0].address
        else:
            address = self.masquerades[fate.sees, fate.endpoint, cell.family]
        return Seen(fate.endpoint, address, answered=not fate.lost)

    def request(self, cell: Cell, patient: bool) -> Request:
        entry, port = self.entry(cell)
        patience_s = self.pace.patience_s if patient else self.pace.quiet_s
        return Request(self.netns[SOURCES[cell.source]], entry.address, port, cell.protocol, patience_s)


def _of_family(addresses: Sequence[str], family: int) -> str:
    return next(address for address in addresses if (":" in address) == (family == 6))


# --- deploying ---------------------------------------------------------------------------------------------------


def deploy(cluster: Cluster, namespace: str, protocols: Sequence[str], families: Sequence[int], pace: Pace) -> Ground:
    """Pods, Services, slices, servers, and the router's routes to service addresses."""
    cluster.apply(make_pods(), namespace=namespace, timeout_s=pace.deploy_s)
    netns = {pod: open_netns(cluster, f"pod/{namespace}/{pod}") for pod in PODS}
    netns |= {node: open_netns(cluster, f"node/{node}") for node in NODES}
    netns["outside"] = open_netns(cluster, EXTERNAL)
    addresses, masquerades = _read_addresses(cluster, namespace, families)
    mode = str(cluster.status()["proxyMode"])
    ground = Ground(cluster, namespace, mode, pace, Prober(), netns, addresses, masquerades)
    ground.protocols, ground.families = protocols, families
    try:
        for node, zone in ZONES.items():
            cluster.patch("Node", node, {"metadata": {"labels": {LABEL_ZONE: zone}}})
        _apply_services(ground)
        for ns in netns.values():
            lift_icmp_limits(ns)
        with open_fabric(cluster) as fabric:
            lift_icmp_limits(fabric)
            _route_services(fabric, ground)
        _serve_strays(ground)
        for pod in ("web-1", "web-2"):
            for protocol in protocols:
                for family in families:
                    ground.prober.serve(pod, netns[pod], protocol, PORTS[protocol][1], family)
    except BaseException:
        ground.close()
        raise
    return ground


def _read_addresses(
    cluster: Cluster, namespace: str, families: Sequence[int]
) -> tuple[dict[tuple[str, int], str], dict[tuple[str, str, int], str]]:
    own: dict[tuple[str, int], str] = {}
    links: dict[tuple[str, str, int], str] = {}  # place, link, family -> its first address
    places = {pod: f"pod/{namespace}/{pod}" for pod in PODS} | {node: f"node/{node}" for node in NODES}
    for name, where in {**places, "outside": EXTERNAL}.items():
        for link in cluster.interfaces(where):
            for cidr in link.addresses:
                address = cidr.split("/")[0]
                if not address.startswith("fe80:"):
                    links.setdefault((name, link.name, 6 if ":" in address else 4), address)
        own |= {(name, family): links[name, "eth0", family] for family in families}
    for node, family in itertools.product(NODES, families):
        own |= {
            (f"{node} {link}", family): links[node, link, family]
            for link in ("cni0", "vxlan0")
            if (node, link, family) in links
        }
        own[f"{node} lo", family] = "127.0.0.1" if family == 4 else "::1"
    masquerades = {}
    for node in NODES:
        for endpoint, home in PODS.items():
            for family in families:
                # MASQUERADE takes the first address of the link by which the packet leaves (nf_nat_masquerade_ipv4).
                away = "vxlan0" if (node, "vxlan0", family) in links else "eth0"
                masquerades[node, "outside", family] = links[node, "eth0", family]
                masquerades[node, endpoint, family] = links[node, "cni0" if home == node else away, family]
    return own, masquerades


def _apply_services(ground: Ground) -> None:
    cluster, namespace = ground.cluster, ground.namespace
    spare, protocols, families = make_spare_addresses(), ground.protocols, ground.families
    ranges = [
        f"{ground.addresses[name, family]}/{32 if family == 4 else 128}" for name in LISTED for family in families
    ]
    extra = [key for key in extra_services() if key[0] != ON_A_NODE.service]  # those come when they are asked
    keys = [*SERVICES, *extra]
    services = [make_service(*key, protocols, families, spare, ranges) for key in SERVICES]
    services += [make_extra_service(key, protocols, families, spare, ground.addresses) for key in extra]
    cluster.apply(services, namespace=namespace, wait=False)
    types = SERVICE_TYPES | EXTRA_TYPES
    for kind, policy, state in keys:
        if types[kind] == "LoadBalancer":
            ingress = make_ingress(kind, families, spare)
            name = service_name(kind, policy, state)
            _write_status(cluster, namespace, name, {"loadBalancer": {"ingress": ingress}})
    slices = [piece for key in keys for piece in _make_slices(ground, key)]
    cluster.apply([*slices, make_stray_service(families)], namespace=namespace, wait=False)
    cluster.barrier(ground.pace.deploy_s)
    ground.services = {item["metadata"]["name"]: item for item in cluster.list("Service", namespace)}
    stray = ground.services.pop(STRAY_SERVICE)
    other_port, no_service = STRAYS
    for family in families:
        ground.strays[other_port, family] = _of_family(stray["spec"]["clusterIPs"], family)
        # Addresses are given out from the front: this one nobody has.
        ground.strays[no_service, family] = str(DEFAULTS["serviceCIDR"][family][-10])


def _make_slices(ground: Ground, key: tuple[str, str, str]) -> Iterator[Manifest]:
    name = service_name(*key)
    endpoints, hints = endpoints_of(key[2])
    for family in ground.families:
        pods = {pod: ground.addresses[pod, family] for pod in PODS}
        piece = make_slice(name, endpoints, ground.protocols, pods, family, hints)
        ground.slices[name, family] = piece
        yield piece


@contextmanager
def _on_a_node(ground: Ground) -> Iterator[None]:
    """The Services whose externalIP is a node's address, for as long as this lasts, in modes that can have them."""
    if not has_entry(ground.mode, Entry("externalIP", GATEWAY, "", "node")):
        yield
        return
    cluster, namespace = ground.cluster, ground.namespace
    keys = [key for key in extra_services() if key[0] == ON_A_NODE.service]
    objects = [
        *(make_extra_service(key, ground.protocols, ground.families, {}, ground.addresses) for key in keys),
        *(piece for key in keys for piece in _make_slices(ground, key)),
    ]
    cluster.apply(objects, namespace=namespace, wait=False)
    try:
        cluster.barrier(ground.pace.deploy_s)
        for key in keys:
            ground.services[service_name(*key)] = cluster.get("Service", service_name(*key), namespace)
        yield
    finally:
        for obj in objects:
            cluster.delete(obj["kind"], obj["metadata"]["name"], namespace=namespace)
        cluster.barrier(ground.pace.deploy_s)


def make_spare_addresses() -> dict[int, Iterator[str]]:
    """By family: addresses for externalIPs and load balancers, none of them twice."""
    return {family: map(f"{network}{{}}".format, count(1)) for family, network in EXTERNAL_NETS.items()}


def _write_status(cluster: Cluster, namespace: str, name: str, status: Mapping[str, Any]) -> None:
    """What a cloud's load balancer controller does."""
    service = {**cluster.get("Service", name, namespace), "status": status}
    check_response(cluster.request("PUT", f"/api/v1/namespaces/{namespace}/services/{name}/status", body=service))


def _route_services(fabric: Netns, ground: Ground) -> None:
    """The router sends service addresses to one node, as a load balancer or a BGP speaker would have it do."""
    for family in ground.families:
        lines, length = [], 32 if family == 4 else 128
        for service in ground.services.values():
            for address in _service_addresses(service, family):
                lines.append(f"route replace {address}/{length} via {ground.addresses[GATEWAY, family]}")
        for address, _ in _addresses_outside(ground, family):
            lines.append(f"route replace {address}/{length} via {ground.addresses['outside', family]}")
        run_ip(fabric, family, lines)


def _serve_strays(ground: Ground) -> None:
    """The host outside answers what strays to it, and is the load balancer that proxies."""
    outside = ground.netns["outside"]
    for family in ground.families:
        for address, ports in _addresses_outside(ground, family):
            run_ip(outside, family, [f"address replace {address} dev lo" + " nodad" * (family == 6)])
            for protocol in ground.protocols:
                ground.prober.serve("outside", outside, protocol, ports[protocol], family, address)


def _addresses_outside(ground: Ground, family: int) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Addresses that the host outside has, and what it listens on there, by protocol."""
    for entry in STRAYS:
        yield ground.strays[entry, family], dict.fromkeys(ground.protocols, STRAY_PORT)
    for service in ground.services.values():
        for item in service["status"]["loadBalancer"].get("ingress", []):
            if item["ipMode"] == "Proxy" and (":" in item["ip"]) == (family == 6):
                yield item["ip"], {name: PORTS[name][0] for name in ground.protocols}


def _service_addresses(service: Mapping[str, Any], family: int) -> Iterator[str]:
    spec, status = service["spec"], service["status"]
    balanced = [item["ip"] for item in status["loadBalancer"].get("ingress", [])]
    for address in (*spec["clusterIPs"], *spec.get("externalIPs", []), *balanced):
        if (":" in address) == (family == 6):
            yield address


def run_matrix(
    cluster: Cluster, namespace: str, protocols: Sequence[str], families: Sequence[int], pace: Pace
) -> Report:
    """The whole of it, in the mode that the cluster is in. Raises AssertionError as `check_cells` does."""
    ground = deploy(cluster, namespace, protocols, families, pace)
    try:
        return check_cells(ground, protocols, families)
    finally:
        ground.close()


def check_cells(ground: Ground, protocols: Sequence[str], families: Sequence[int]) -> Report:
    """Ask every cell of both tables. Raises AssertionError naming each that went wrong, or that nobody asked."""
    axes = protocols, families
    cells = every_cell(*axes) + extra_cells(ground.mode, *axes)
    sticky = frozenset(cell for cell in cells if cell.entry.service == "sticky")
    with _on_a_node(ground):
        report = Report({cell: set() for cell in cells}, {cell: ground.expected(cell) for cell in cells}, sticky)
        ask_all(ground.prober, ground.request, report, ground.pace.tries)
    wrong = report.wrong()
    assert not wrong, f"{len(wrong)} of {len(cells)} cells, mode {ground.mode}:\n" + "\n".join(wrong)
    asked = sum(1 for results in report.asked.values() if results)
    count = count_cells(*axes) + count_extra_cells(ground.mode, *axes)
    assert asked == count, f"{asked} cells asked of {count}"
    served = {result.server for cell in sticky for result in report.asked[cell] if isinstance(result, Seen)}
    assert served == set(STATES["mixed"]), f"clients with affinity met {served} alone"
    return report
