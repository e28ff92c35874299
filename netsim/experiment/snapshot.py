"""What `netsim diff` compares: a cluster's paths and rules at one moment, in words that another cluster shares.

Paths are told without the rules on them: those of Services are compared by themselves, and two proxy modes should
differ in these only.

Paths are predicted (`explain`), not sent: nothing is disturbed, and every way that chance may take is in it.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from netsim.cluster.explaining_client import Asked
from netsim.cluster.handle import Cluster
from netsim.experiment.renaming import Renamer, name_objects
from netsim.experiment.shape import list_way
from netsim.model.errors import NetsimError
from netsim.observe.explain.predict import Explanation
from netsim.observe.names import Object

MARK = "netsim snapshot"
VERSION = 1
MOST_NODES = 5  # on which packets start; what more nodes would add are the same ways from elsewhere
MOST_SERVICES = 100  # each is asked for by itself: 10,000 would take hours
_TOPOLOGY = ("proxyMode", "podNetwork", "ipFamily")
_KINDS = ("pod/", "svc/", "node/", "host/", "fabric", "podCIDR ")
_PORTS = {"TCP": "tcp", "UDP": "udp"}  # what can be asked about
# Which of several equal endpoints has which number goes by their addresses, and so do probabilities in a list of them.
_BY_PLACE = (
    (re.compile(r"--probability [\d.]+"), "--probability *"),
    (re.compile(r"\. 0x[0-9a-f]{8} :"), ". * :"),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``ways``: question -> lines of all its ways. ``rules``: "svc/NS/NAME on node/NODE" -> lines, sorted."""

    cluster: str
    taken: str
    topology: Mapping[str, Any]
    ways: Mapping[str, Sequence[str]]
    rules: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = field(default=())


def take_snapshot(cluster: Cluster, only: Collection[str] = ()) -> Snapshot:
    """Of a running cluster; ``only``: of these Services (``svc/NS/NAME``). Raises NetsimError."""
    pods, nodes, services = cluster.list("Pod"), cluster.list("Node"), cluster.list("Service")
    aliases = {_pod_name(pod): alias_pod(pod) for pod in pods}
    names = {address: aliases.get(name, name) for address, name in name_objects(pods, nodes, services).items()}
    for node in nodes:
        names |= dict.fromkeys(node["spec"].get("podCIDRs") or (), f"podCIDR of node/{node['metadata']['name']}")
    status = cluster.status()
    with_address, notes = choose_services(services, only)
    questions = dict(list_questions(pods, nodes, with_address))
    ways = {}
    for text, explanation in zip(questions, cluster.explain_all(questions.values()), strict=True):
        ways[text] = describe_ways(explanation, names, aliases)
    rename = Renamer(names, _KINDS)
    rules = {}
    for service in with_address:
        name = _service_name(service)
        for found in cluster.rules(name).nodes:
            lines = [
                rename(" ".join(filter(None, (group.family, group.table, f"{group.name}:", line.text))))
                for group in found.groups
                for line in group.lines
            ]
            rules[f"{name} on node/{found.node}"] = sorted(map(blur_place, lines))
    if len(nodes) > MOST_NODES:
        notes.append(f"packets start on the first {MOST_NODES} of {len(nodes)} nodes")
    topology = {key: status[key] for key in _TOPOLOGY} | {"nodes": sorted(one["metadata"]["name"] for one in nodes)}
    taken = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Snapshot(cluster.name, taken, topology, ways, rules, tuple(notes))


def choose_services(services: Sequence[Object], only: Collection[str]) -> tuple[list[Object], list[str]]:
    """Those with an address, as many as are compared, and a note where that leaves some out. Raises NetsimError."""
    found = {_service_name(one): one for one in services}
    if unknown := [name for name in only if name not in found]:
        raise NetsimError("there is no such Service", where=unknown[0], hint="netsim get services -A")
    chosen = [found[name] for name in only or sorted(found)]
    chosen = [one for one in chosen if one["spec"].get("clusterIP") not in (None, "", "None")]
    if only or len(chosen) <= MOST_SERVICES:
        return chosen, []
    return chosen[:MOST_SERVICES], [f"only the first {MOST_SERVICES} of {len(chosen)} Services; --service names others"]


def list_questions(
    pods: Sequence[Object], nodes: Sequence[Object], services: Sequence[Object]
) -> Iterator[tuple[str, Asked]]:
    """What is asked: from a pod of each node to each Service and each other node, from outside to each NodePort."""
    starts = {}
    for node in sorted(one["metadata"]["name"] for one in nodes)[:MOST_NODES]:
        mine = [pod for pod in pods if pod["spec"].get("nodeName") == node and _has_network(pod)]
        if mine:
            starts[node] = min(mine, key=lambda pod: (alias_pod(pod), pod["metadata"]["name"]))
    for node, pod in starts.items():
        for other, target in starts.items():
            if pod is not target:
                text = f"a pod on node/{node} to a pod on node/{other}, icmp"
                yield text, Asked(_pod_name(pod), _pod_name(target), "icmp")
    for service in services:
        name = _service_name(service)
        for port in service["spec"].get("ports") or ():
            protocol: Any = _PORTS.get(port.get("protocol", "TCP"))
            if protocol is None:
                continue
            for node, pod in starts.items():
                text = f"a pod on node/{node} to {name}:{port['port']}, {protocol}"
                yield text, Asked(_pod_name(pod), f"{name}:{port['port']}", protocol)
            if not port.get("nodePort"):
                continue
            for node in sorted(one["metadata"]["name"] for one in nodes)[:MOST_NODES]:
                text = f"host/external to node/{node}, NodePort of {name}:{port['port']}, {protocol}"
                yield text, Asked("host/external", f"node/{node}:{port['nodePort']}", protocol)


def describe_ways(found: Explanation, names: Mapping[str, str], aliases: Mapping[str, str]) -> list[str]:
    """Every way with its probability; ways to pods of the same name but for chance are one."""
    by_name = Renamer(names, _KINDS)

    def rename(text: str) -> str:
        for name, alias in aliases.items():
            if name != alias and name in text:
                text = text.replace(name, alias)
        return by_name(text)

    ways: dict[tuple[str, ...], float] = {}
    for way in found.ways:
        lines = tuple(blur_place(line) for line in list_way(way.path, rules=False, rename=rename))
        ways[lines] = ways.get(lines, 0.0) + way.probability
    many = len(ways) > 1
    return [
        line
        for lines, share in sorted(ways.items())
        for line in ((f"[{share:.0%} of the packets]", *lines) if many else lines)
    ]


def blur_place(line: str) -> str:
    """A line without what goes by the order of addresses only."""
    for pattern, instead in _BY_PLACE:
        line = pattern.sub(instead, line)
    return line


def alias_pod(pod: Object) -> str:
    """``pod/NAMESPACE/NAME``; of a ReplicaSet's pod without the part of its name that is chance."""
    name = _pod_name(pod)
    owners = pod["metadata"].get("ownerReferences") or ()
    return f"{name.rpartition('-')[0]}-*" if any(one.get("kind") == "ReplicaSet" for one in owners) else name


def _service_name(service: Object) -> str:
    return f"svc/{service['metadata']['namespace']}/{service['metadata']['name']}"


def _pod_name(pod: Object) -> str:
    return f"pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _has_network(pod: Object) -> bool:
    status = pod.get("status") or {}
    return not pod["spec"].get("hostNetwork") and status.get("phase") == "Running" and bool(status.get("podIPs"))


def render_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "snapshot": MARK,
        "version": VERSION,
        "cluster": snapshot.cluster,
        "taken": snapshot.taken,
        "topology": dict(snapshot.topology),
        "ways": {key: list(lines) for key, lines in snapshot.ways.items()},
        "rules": {key: list(lines) for key, lines in snapshot.rules.items()},
        "notes": list(snapshot.notes),
    }


def read_snapshot(path: Path) -> Snapshot:
    """The inverse of `render_snapshot`. Raises NetsimError."""
    hint = "netsim diff --save FILE makes one"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NetsimError(f"cannot read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise NetsimError(f"is no snapshot: {error}", where=str(path), hint=hint) from error
    if not isinstance(document, dict) or document.get("snapshot") != MARK:
        raise NetsimError("is no snapshot", where=str(path), hint=hint)
    if document.get("version") != VERSION:
        raise NetsimError(
            f"is a snapshot of version {document.get('version')}, not {VERSION}", where=str(path), hint=hint
        )
    try:
        sides = document["ways"], document["rules"], tuple(document["notes"])
        return Snapshot(document["cluster"], document["taken"], document["topology"], *sides)
    except KeyError as error:
        raise NetsimError(f"is a snapshot without {error}", where=str(path), hint=hint) from error
