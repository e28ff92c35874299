"""The axes of the matrix, every cell of it, and the objects that its cells are about.

Two nodes are enough: to a node, another one has endpoints or has none. Each Service has its own EndpointSlice, written
by hand and not made from pods, so that an endpoint is in a state because the API says so, for as long as is wanted.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.packets.world import make_pod

Manifest = dict[str, Any]

HERE, THERE = "node-1", "node-2"
NODES = (HERE, THERE)
GATEWAY = HERE  # the node to which the router sends packets for service addresses from outside

# The pods: an endpoint and a bystander on each node.
PODS = {"web-1": HERE, "client-1": HERE, "web-2": THERE, "client-2": THERE}
SOURCES = {  # what a source is, and its place's name
    "the endpoint on node-1 itself": "web-1",
    "the endpoint on node-2 itself": "web-2",
    "a pod on node-1": "client-1",
    "a pod on node-2": "client-2",
    "node-1": HERE,
    "node-2": THERE,
    "outside": "outside",
}
POLICIES = ("Cluster", "Local")  # internal for a ClusterIP, external for the others
STATES: dict[str, Mapping[str, str]] = {  # which endpoints there are, each with its condition
    "none": {},
    "local only": {"web-1": "ready"},
    "remote only": {"web-2": "ready"},
    "terminating only": {"web-1": "terminating", "web-2": "terminating"},
    "mixed": {"web-1": "ready", "web-2": "ready"},
    "terminating here, ready there": {"web-1": "terminating", "web-2": "ready"},
    "not serving": {"web-1": "unready", "web-2": "unready"},
}
CONDITIONS = {
    "ready": {"ready": True, "serving": True, "terminating": False},
    "terminating": {"ready": False, "serving": True, "terminating": True},
    "unready": {"ready": False, "serving": False, "terminating": False},
}
PORTS = {"tcp": (80, 8080), "udp": (81, 8081), "sctp": (82, 8082)}  # the Service's, the endpoints'


@dataclass(frozen=True)
class EntryAxis:
    """A kind of address that a Service can be asked at; ``node`` only for a NodePort: whose. ``at``: which of its."""

    kind: str
    service: str  # which of the services below has it
    node: str = ""
    at: str = ""

    def __str__(self) -> str:
        named = SERVICE_WORDS.get(self.service, "")
        return f"{self.kind}{named}" + (f" of {self.node}" if self.node else "") + (f" at {self.at}" if self.at else "")


STRAY_SERVICE = "stray"
STRAY_PORT = 4
ENTRIES = (
    EntryAxis("ClusterIP", "internal"),
    EntryAxis("NodePort", "nodeport", HERE),
    EntryAxis("NodePort", "nodeport", THERE),
    EntryAxis("externalIP", "external"),
    EntryAxis("LoadBalancer", "balanced"),
    EntryAxis("LoadBalancer", "guarded"),
)
# Packets to the service network that no Service asks for; neither policies nor endpoints matter to them. Left alone,
# they go to the host outside, so from there none are sent.
STRAY_SOURCES = tuple(source for source in SOURCES if source != "outside")
STRAYS = (EntryAxis("another port of a ClusterIP", STRAY_SERVICE), EntryAxis("a ClusterIP of no Service", ""))
SERVICE_TYPES = {
    "internal": "ClusterIP",
    "nodeport": "NodePort",
    "external": "ClusterIP",
    "balanced": "LoadBalancer",
    "guarded": "LoadBalancer",
}

SERVICE_WORDS = {"guarded": " with source ranges", "sticky": " with affinity", "hinted": " with hints"}
SERVICES = tuple(itertools.product(SERVICE_TYPES, POLICIES, STATES))
LISTED = ("web-1", "client-2", "node-2")  # the sources that a guarded Service's loadBalancerSourceRanges name


@dataclass(frozen=True)
class Cell:
    entry: EntryAxis
    policy: str
    state: str
    source: str
    protocol: str
    family: int

    def __str__(self) -> str:
        return (
            f"{self.source} -> {self.entry}, policy {self.policy}, endpoints {self.state}, "
            f"{self.protocol}, IPv{self.family}"
        )

    @property
    def service(self) -> str:
        return service_name(self.entry.service, self.policy, self.state)


def every_cell(protocols: Sequence[str], families: Sequence[int]) -> list[Cell]:
    axes = (ENTRIES, POLICIES, STATES, SOURCES, protocols, families)
    strays = itertools.product(STRAYS, POLICIES[:1], ["none"], STRAY_SOURCES, protocols, families)
    return [Cell(*values) for values in itertools.chain(itertools.product(*axes), strays)]


def count_cells(protocols: Sequence[str], families: Sequence[int]) -> int:
    """By multiplication, not by counting what `every_cell` made."""
    services = len(ENTRIES) * len(POLICIES) * len(STATES) * len(SOURCES)
    return (services + len(STRAYS) * len(STRAY_SOURCES)) * len(protocols) * len(families)


def service_name(service: str, policy: str, state: str) -> str:
    return f"{service}-{policy}-{state}".lower().replace(",", "").replace(" ", "-")


def make_pods() -> list[Manifest]:
    """Pods that run nothing: the matrix listens in them itself."""
    pods = [make_pod(name, node=node) for name, node in PODS.items()]
    for pod in pods:
        pod["spec"]["containers"] = [{"name": "pause", "image": "registry.k8s.io/pause:3.10"}]
    return pods


def make_service(
    kind: str,
    policy: str,
    state: str,
    protocols: Sequence[str],
    families: Sequence[int],
    spare: Mapping[int, Iterator[str]],
    ranges: Sequence[str],
) -> Manifest:
    """One Service of the matrix. ``spare`` gives out external addresses, ``ranges`` are a guarded one's."""
    ports = make_ports(protocols)
    spec = make_spec(SERVICE_TYPES[kind], ports, families)
    spec["internalTrafficPolicy" if kind == "internal" else "externalTrafficPolicy"] = policy
    if kind in ("external", "guarded"):
        spec["externalIPs"] = [next(spare[family]) for family in families]
    if kind == "guarded":
        spec["loadBalancerSourceRanges"] = list(ranges)
    metadata = {"name": service_name(kind, policy, state)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def make_stray_service(families: Sequence[int]) -> Manifest:
    """A Service whose address is asked at a port that it does not have."""
    spec = make_spec("ClusterIP", [{"port": 80}], families)
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": STRAY_SERVICE}, "spec": spec}


def make_ports(protocols: Sequence[str], beyond: int = 0) -> list[Manifest]:
    """One port for each protocol; ``beyond``: so much higher than the usual numbers."""
    return [
        {"name": name, "protocol": name.upper(), "port": PORTS[name][0] + beyond, "targetPort": PORTS[name][1]}
        for name in protocols
    ]


def make_spec(kind: str, ports: Sequence[Manifest], families: Sequence[int]) -> Manifest:
    spec: Manifest = {"type": kind, "ports": list(ports), "ipFamilies": [f"IPv{n}" for n in families]}
    return spec | ({"ipFamilyPolicy": "RequireDualStack"} if len(families) > 1 else {})


def make_slice(
    service: str,
    endpoints: Mapping[str, str],
    protocols: Sequence[str],
    addresses: Mapping[str, str],
    family: int,
    hints: Mapping[str, Manifest] | None = None,
) -> Manifest:
    """The EndpointSlice of a service: pods with their conditions; ``addresses`` of the pods in this family."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service}-v{family}", "labels": {"kubernetes.io/service-name": service}},
        "addressType": f"IPv{family}",
        "ports": [{"name": name, "protocol": name.upper(), "port": PORTS[name][1]} for name in protocols],
        "endpoints": [
            {
                "addresses": [addresses[pod]],
                "conditions": CONDITIONS[condition],
                "nodeName": PODS[pod],
                "targetRef": {"kind": "Pod", "name": pod},
                **({"hints": hints[pod]} if hints and pod in hints else {}),
            }
            for pod, condition in endpoints.items()
        ],
    }
