"""Every cell of destination x policy x endpoints x source x protocol, each against an oracle that knows no rules.

The oracle says what upstream promises (kubernetes pkg/proxy, outcomes by destination) in terms of who talks to whom;
the cells are then real connections. The matrix counts itself: a cell that nobody ran is a failure.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.traffic import Traffic
from tests.packets.world import EXTERNAL, EXTERNAL_IP, make_pod, make_service

DESTINATIONS = ("ClusterIP", "NodePort of the endpoint's node", "NodePort of another node")
POLICIES = ("Cluster", "Local")  # internal for a ClusterIP, external for a NodePort
ENDPOINTS = ("one", "none")
SOURCES = ("the endpoint itself", "pod beside it", "pod elsewhere", "its node", "another node", "outside")
PROTOCOLS = ("tcp", "udp")

ENDPOINT_NODE, OTHER_NODE = "node-1", "node-2"
QUIET_S = 0.7
WORKERS = 12
RATE_LIMIT_TRIES = 12


@dataclass(frozen=True)
class Cell:
    destination: str
    policy: str
    endpoints: str
    source: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination}, {self.policy}, {self.endpoints} endpoint, {self.protocol}"


def every_cell() -> list[Cell]:
    return [Cell(*values) for values in itertools.product(DESTINATIONS, POLICIES, ENDPOINTS, SOURCES, PROTOCOLS)]


def expected_fate(cell: Cell) -> str:
    """``answered from its own address``, ``answered from a node's address``, ``refused`` or ``silence``."""
    own, node = "answered from its own address", "answered from a node's address"
    from_pod = cell.source in ("the endpoint itself", "pod beside it", "pod elsewhere")
    near = cell.source in ("the endpoint itself", "pod beside it", "its node")
    if cell.destination == "ClusterIP":
        if cell.source == "outside":
            return "silence"  # the fabric's router has no route to the service network; see reach()
        if cell.endpoints == "none":
            return "refused"
        if cell.policy == "Local" and not near:
            return "silence"
        # Hairpin is masqueraded, and so is what does not come from a pod of this node.
        return own if from_pod and cell.source != "the endpoint itself" else node
    if cell.endpoints == "none":
        return "refused"
    if cell.policy == "Local":
        if cell.source == "outside":
            return own if cell.destination == "NodePort of the endpoint's node" else "silence"
        return _fate_of_local_node_port_inside(cell, from_pod)
    return node


def _fate_of_local_node_port_inside(cell: Cell, from_pod: bool) -> str:
    """externalTrafficPolicy Local, asked from inside the cluster: the short circuit, where the packet meets it.

    A packet from any pod goes to any endpoint, its source kept, on whichever node it arrives: the local traffic
    detector is the pod network (detectLocalMode ClusterCIDR). That has a trap, in upstream too: a pod that asks another
    node's port for an endpoint on its own node gets its answer straight over their bridge, past the node that
    translated the address, from an address it did not ask.
    """
    own, node = "answered from its own address", "answered from a node's address"
    if from_pod:
        if cell.source == "pod beside it" and cell.destination == "NodePort of another node":
            return "silence"
        return node if cell.source == "the endpoint itself" else own
    addressed = ENDPOINT_NODE if cell.destination == "NodePort of the endpoint's node" else OTHER_NODE
    asking = ENDPOINT_NODE if cell.source == "its node" else OTHER_NODE
    if addressed == asking:
        return node  # from the node itself: masqueraded, to any endpoint
    # From a node to another node's port it is external traffic: only local endpoints, source kept: a node's address.
    return node if addressed == ENDPOINT_NODE else "silence"


@dataclass(frozen=True)
class Ground:
    """The addresses of one deployed matrix."""

    traffic: Traffic
    where: dict[str, str]  # source -> place
    addresses: dict[str, str]  # source -> its own address
    node_addresses: frozenset[str]
    targets: dict[tuple[str, str, str, str], tuple[str, int]]  # destination, policy, endpoints, protocol


def deploy(cluster: Cluster, namespace: str, traffic: Traffic) -> Ground:
    pods = [
        make_pod("server", node=ENDPOINT_NODE),
        make_pod("beside", node=ENDPOINT_NODE),
        make_pod("elsewhere", node=OTHER_NODE),
    ]
    services = []
    for policy, (endpoints, app) in itertools.product(POLICIES, (("one", "server"), ("none", "nobody"))):
        name = f"{policy.lower()}-{endpoints}"
        services.append(make_service(f"in-{name}", app=app, internalTrafficPolicy=policy))
        services.append(make_service(f"np-{name}", app=app, type="NodePort", externalTrafficPolicy=policy))
    cluster.apply([*pods, *services], namespace=namespace)
    where = {
        "the endpoint itself": f"pod/{namespace}/server",
        "pod beside it": f"pod/{namespace}/beside",
        "pod elsewhere": f"pod/{namespace}/elsewhere",
        "its node": f"node/{ENDPOINT_NODE}",
        "another node": f"node/{OTHER_NODE}",
        "outside": EXTERNAL,
    }
    addresses = {
        "the endpoint itself": pod_ip(cluster, "server", namespace),
        "pod beside it": pod_ip(cluster, "beside", namespace),
        "pod elsewhere": pod_ip(cluster, "elsewhere", namespace),
        "outside": EXTERNAL_IP,
    }
    nodes = frozenset(
        address.split("/")[0]
        for node in (ENDPOINT_NODE, OTHER_NODE)
        for interface in cluster.interfaces(f"node/{node}")
        for address in interface.addresses
    )
    targets = {}
    for policy, endpoints, protocol in itertools.product(POLICIES, ENDPOINTS, PROTOCOLS):
        name = f"{policy.lower()}-{endpoints}"
        port_name = {"tcp": "http", "udp": "udp"}[protocol]
        key = (policy, endpoints, protocol)
        inside = cluster_ip(cluster, f"in-{name}", namespace), {"tcp": 80, "udp": 81}[protocol]
        port = node_port(cluster, f"np-{name}", namespace, port_name)
        targets["ClusterIP", *key] = inside
        targets["NodePort of the endpoint's node", *key] = node_ip(cluster, ENDPOINT_NODE), port
        targets["NodePort of another node", *key] = node_ip(cluster, OTHER_NODE), port
    return Ground(traffic, where, addresses, nodes, targets)


def reach_patiently(ground: Ground, cell: Cell) -> str:
    """The fate of a cell. Silence where a refusal is due is asked again: the kernel sends one host only so many ICMP
    errors (icmp_ratelimit: six at once, then one a second), and this matrix provokes more.
    """
    fate = reach(ground, cell)
    for _ in range(RATE_LIMIT_TRIES):
        if fate != "silence" or expected_fate(cell) != "refused":
            break
        fate = reach(ground, cell)
    return fate


def reach(ground: Ground, cell: Cell) -> str:
    """What became of one real request."""
    address, port = ground.targets[cell.destination, cell.policy, cell.endpoints, cell.protocol]
    where = ground.where[cell.source]
    try:
        if cell.protocol == "tcp":
            reply = ground.traffic.http_get(where, f"http://{address}:{port}/clientip", timeout_s=QUIET_S).body
        else:
            reply = ground.traffic.udp_exchange(where, address, port, "clientip", timeout_s=QUIET_S).decode()
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        # From outside, a ClusterIP is unreachable; whether the router says so or drops it is the router's choice.
        no_route = cell.source == "outside" and cell.destination == "ClusterIP"
        return "silence" if isinstance(error, TimeoutError) or no_route else f"error: {error}"
    seen = reply.rpartition(":")[0]
    if seen == ground.addresses.get(cell.source):
        return "answered from its own address"
    return "answered from a node's address" if seen in ground.node_addresses else f"answered from {seen}"


def test_every_cell_of_the_matrix(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    ground = deploy(cluster, namespace, traffic)
    cells = every_cell()
    with ThreadPoolExecutor(WORKERS) as pool:
        fates = dict(zip(cells, pool.map(lambda cell: reach_patiently(ground, cell), cells), strict=True))
    wrong = [
        f"{cell}: {fate}, expected {expected_fate(cell)}" for cell, fate in fates.items() if fate != expected_fate(cell)
    ]
    assert not wrong, "\n".join(wrong)
    sizes = [len(axis) for axis in (DESTINATIONS, POLICIES, ENDPOINTS, SOURCES, PROTOCOLS)]
    assert len(fates) == sizes[0] * sizes[1] * sizes[2] * sizes[3] * sizes[4] == 144
    # Every fate is met, or the matrix has lost its teeth.
    assert set(fates.values()) == {
        "answered from its own address",
        "answered from a node's address",
        "refused",
        "silence",
    }
