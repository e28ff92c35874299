"""One run of the matrix: deploy it once into a cluster of two nodes, ask every cell, compare with the oracle."""

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from netsim.client.api import check_response
from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns
from netsim.model.networks import DEFAULTS
from tests.packets.cells import (
    GATEWAY,
    LISTED,
    NODES,
    PODS,
    PORTS,
    SERVICE_TYPES,
    SERVICES,
    SOURCES,
    STRAY_PORT,
    STRAY_SERVICE,
    STRAYS,
    Cell,
    EntryAxis,
    count_cells,
    every_cell,
    make_pods,
    make_service,
    make_slice,
    make_stray_service,
    service_name,
)
from tests.packets.oracle import CLIENT, OUTSIDE, SERVICE, Answer, Entry, Fate, Source, expect, expect_stray
from tests.packets.probes import SILENCE, Prober, Request, Result, Seen, open_netns
from tests.packets.world import EXTERNAL

EXTERNAL_NETS = {4: "192.0.2.", 6: "2001:db8:1::"}  # TEST-NET-1 (RFC 5737): one address for each externalIP and VIP
MANY_TRIES = 48  # with two endpoints, one of which is never picked by chance: 2^-47


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

    mode: str
    pace: Pace
    prober: Prober
    netns: dict[str, Netns]  # by place: pods, nodes, "outside"
    addresses: dict[tuple[str, int], str]  # place, family -> its own
    masquerades: dict[tuple[str, str, int], str]  # node, endpoint, family -> what the endpoint sees
    services: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    slices: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    strays: dict[tuple[EntryAxis, int], str] = field(default_factory=dict)  # addresses of theirs

    def close(self) -> None:
        self.prober.close()
        for ns in self.netns.values():
            ns.close()

    def source(self, cell: Cell) -> Source:
        place = SOURCES[cell.source]
        address = self.addresses[place, cell.family]
        if place in PODS:
            return Source(place, "pod", PODS[place], address)
        return Source(place, "node", place, address) if place in NODES else Source(place, "outside", OUTSIDE, address)

    def entry(self, cell: Cell) -> tuple[Entry, int]:
        """Where a cell's packet goes: the entry, and the port."""
        if cell.entry in STRAYS:
            return Entry("ClusterIP", GATEWAY, self.strays[cell.entry, cell.family]), STRAY_PORT
        service = self.services[cell.service]
        spec, port = service["spec"], PORTS[cell.protocol][0]
        kind = cell.entry.kind
        if kind == "NodePort":
            number = next(p["nodePort"] for p in spec["ports"] if p["name"] == cell.protocol)
            return Entry("NodePort", cell.entry.node, self.addresses[cell.entry.node, cell.family]), number
        if kind == "ClusterIP":
            return Entry("ClusterIP", GATEWAY, _of_family(spec["clusterIPs"], cell.family)), port
        if kind == "externalIP":
            return Entry("externalIP", GATEWAY, _of_family(spec["externalIPs"], cell.family)), port
        ingress = [item["ip"] for item in service["status"]["loadBalancer"]["ingress"]]
        return Entry("LoadBalancer", GATEWAY, _of_family(ingress, cell.family)), port

    def expected(self, cell: Cell) -> frozenset[Result]:
        """The oracle's words as what a probe can see of them."""
        source, (entry, _) = self.source(cell), self.entry(cell)
        if cell.entry in STRAYS:
            fates = expect_stray(self.mode, cell.entry.service == STRAY_SERVICE, source)
            return frozenset(self._as_seen(fate, source, cell) for fate in fates)
        pieces = [self.slices[cell.service, cell.family]]
        fates = expect(self.mode, self.services[cell.service], pieces, source, entry)
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
    ground = Ground(mode, pace, Prober(), netns, addresses, masquerades)
    try:
        _apply_services(cluster, namespace, protocols, families, ground)
        for place in (*NODES, "outside"):
            _lift_icmp_limits(netns[place])
        with open_fabric(cluster) as fabric:
            _lift_icmp_limits(fabric)
            _route_services(fabric, ground, families)
        _serve_strays(ground, protocols, families)
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
    masquerades = {}
    for node in NODES:
        for endpoint, home in PODS.items():
            for family in families:
                # MASQUERADE takes the first address of the link by which the packet leaves (nf_nat_masquerade_ipv4).
                away = "vxlan0" if (node, "vxlan0", family) in links else "eth0"
                masquerades[node, "outside", family] = links[node, "eth0", family]
                masquerades[node, endpoint, family] = links[node, "cni0" if home == node else away, family]
    return own, masquerades


def _apply_services(
    cluster: Cluster, namespace: str, protocols: Sequence[str], families: Sequence[int], ground: Ground
) -> None:
    spare = make_spare_addresses()
    ranges = [
        f"{ground.addresses[name, family]}/{32 if family == 4 else 128}" for name in LISTED for family in families
    ]
    services = [
        make_service(kind, policy, state, protocols, families, spare, ranges) for kind, policy, state in SERVICES
    ]
    cluster.apply(services, namespace=namespace, wait=False)
    slices = []
    for kind, policy, state in SERVICES:
        name = service_name(kind, policy, state)
        for family in families:
            pods = {pod: ground.addresses[pod, family] for pod in PODS}
            ground.slices[name, family] = make_slice(name, state, protocols, pods, family)
            slices.append(ground.slices[name, family])
        if SERVICE_TYPES[kind] == "LoadBalancer":
            ingress = [{"ip": next(spare[family]), "ipMode": "VIP"} for family in families]
            _write_status(cluster, namespace, name, {"loadBalancer": {"ingress": ingress}})
    cluster.apply([*slices, make_stray_service(families)], namespace=namespace, wait=False)
    cluster.barrier(ground.pace.deploy_s)
    ground.services = {item["metadata"]["name"]: item for item in cluster.list("Service", namespace)}
    stray = ground.services.pop(STRAY_SERVICE)
    other_port, no_service = STRAYS
    for family in families:
        ground.strays[other_port, family] = _of_family(stray["spec"]["clusterIPs"], family)
        # Addresses are given out from the front: this one nobody has.
        ground.strays[no_service, family] = str(DEFAULTS["serviceCIDR"][family][-10])


def make_spare_addresses() -> dict[int, Iterator[str]]:
    """By family: addresses for externalIPs and load balancers, none of them twice."""
    return {family: map(f"{network}{{}}".format, count(1)) for family, network in EXTERNAL_NETS.items()}


def _write_status(cluster: Cluster, namespace: str, name: str, status: Mapping[str, Any]) -> None:
    """What a cloud's load balancer controller does."""
    service = {**cluster.get("Service", name, namespace), "status": status}
    check_response(cluster.request("PUT", f"/api/v1/namespaces/{namespace}/services/{name}/status", body=service))


def open_fabric(cluster: Cluster) -> Netns:
    """The fabric, with the router between nodes and the external host: the cluster process' own namespace."""
    return Netns.open(f"/proc/{cluster.pid}/ns/net", "fabric")


def _route_services(fabric: Netns, ground: Ground, families: Sequence[int]) -> None:
    """The router sends service addresses to one node, as a load balancer or a BGP speaker would have it do."""
    for family in families:
        lines, length = [], 32 if family == 4 else 128
        for service in ground.services.values():
            for address in _service_addresses(service, family):
                lines.append(f"route replace {address}/{length} via {ground.addresses[GATEWAY, family]}")
        for entry in STRAYS:
            address = ground.strays[entry, family]
            lines.append(f"route replace {address}/{length} via {ground.addresses['outside', family]}")
        _run_ip(fabric, family, lines)


def _serve_strays(ground: Ground, protocols: Sequence[str], families: Sequence[int]) -> None:
    """The host outside answers what strays to it."""
    outside = ground.netns["outside"]
    for family in families:
        for entry in STRAYS:
            address = ground.strays[entry, family]
            _run_ip(outside, family, [f"address replace {address} dev lo"])
            for protocol in protocols:
                ground.prober.serve("outside", outside, protocol, STRAY_PORT, family, address)


def _run_ip(ns: Netns, family: int, lines: Sequence[str]) -> None:
    with ns.entered():
        subprocess.run(["ip", f"-{family}", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _service_addresses(service: Mapping[str, Any], family: int) -> Iterator[str]:
    spec, status = service["spec"], service["status"]
    balanced = [item["ip"] for item in status["loadBalancer"].get("ingress", [])]
    for address in (*spec["clusterIPs"], *spec.get("externalIPs", []), *balanced):
        if (":" in address) == (family == 6):
            yield address


def _lift_icmp_limits(ns: Netns) -> None:
    """No limit on how many refusals a host may send: the kernel's is six at once and then one a second to each host."""
    with ns.entered():
        Path("/proc/sys/net/ipv4/icmp_ratemask").write_text("0")
        ipv6 = Path("/proc/sys/net/ipv6/icmp/ratemask")
        if ipv6.exists():
            ipv6.write_text("0")  # a type that there is not; the kernel takes no empty list


# --- asking ------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of every cell."""

    asked: dict[Cell, set[Result]] = field(default_factory=dict)
    expected: dict[Cell, frozenset[Result]] = field(default_factory=dict)
    packets: int = 0

    def wrong(self) -> list[str]:
        return [
            f"{cell}: {_words(self.asked[cell])}; expected {_words(expected)}"
            for cell, expected in self.expected.items()
            if self.asked[cell] != expected
        ]


def ask_all(ground: Ground, cells: Sequence[Cell]) -> Report:
    """Every cell a few times, and those that have several outcomes until all were seen."""
    report = Report({cell: set() for cell in cells}, {cell: ground.expected(cell) for cell in cells})
    tries = {cell: ground.pace.tries * (1 if len(report.expected[cell]) == 1 else 3) for cell in cells}
    left = dict.fromkeys(cells, MANY_TRIES)
    while tries:
        asked = [cell for cell, number in tries.items() for _ in range(number)]
        for cell, result in zip(
            asked, ground.prober.run([_request(ground, report, cell) for cell in asked]), strict=True
        ):
            report.asked[cell].add(result)
            left[cell] -= 1
        report.packets += len(asked)
        # Those that have not shown all they may; what they must not show has ended it already.
        tries = {
            cell: min(8, left[cell]) for cell in tries if left[cell] > 0 and report.asked[cell] < report.expected[cell]
        }
    return report


def _request(ground: Ground, report: Report, cell: Cell) -> Request:
    quiet = any(
        result == SILENCE or (isinstance(result, Seen) and not result.answered) for result in report.expected[cell]
    )
    entry, port = ground.entry(cell)
    patience_s = ground.pace.quiet_s if quiet else ground.pace.patience_s
    return Request(ground.netns[SOURCES[cell.source]], entry.address, port, cell.protocol, patience_s)


def _words(results: Iterable[Result]) -> str:
    return " or ".join(sorted(_word(result) for result in results)) or "never asked"


def _word(result: Result) -> str:
    if isinstance(result, str):
        return result
    return f"{result.server} sees {result.address}" + ("" if result.answered else ", answer lost")


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
    """Ask every cell. Raises AssertionError naming each that went wrong, or that nobody asked."""
    cells = every_cell(protocols, families)
    report = ask_all(ground, cells)
    wrong = report.wrong()
    assert not wrong, f"{len(wrong)} of {len(cells)} cells, mode {ground.mode}:\n" + "\n".join(wrong)
    asked = sum(1 for results in report.asked.values() if results)
    assert asked == count_cells(protocols, families), f"{asked} cells asked of {count_cells(protocols, families)}"
    return report
