"""What a pod asks of a node, compiled once for all pods that ask the same. Pure.

Source: kubernetes ``pkg/scheduler/framework/plugins/`` (tainttoleration, nodeaffinity, nodeports, interpodaffinity,
podtopologyspread).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netsim.model.objects import Object, controller_of, labels_of, name_of, namespace_of
from netsim.model.selectors import LabelSelector, Requirement, label_selector_from_object

HOSTNAME = "kubernetes.io/hostname"
HostPort = tuple[str, str, int]  # (protocol, host address, port)


@dataclass(frozen=True, slots=True)
class Term:
    """A required (anti-)affinity: pods of these namespaces and labels within one topology domain."""

    namespaces: frozenset[str]  # empty: all
    selector: LabelSelector
    topology_key: str

    def matches(self, namespace: str, labels: Mapping[str, str]) -> bool:
        return (not self.namespaces or namespace in self.namespaces) and self.selector.matches(labels)


@dataclass(frozen=True, slots=True)
class Spread:
    """A topologySpreadConstraint with DoNotSchedule."""

    term: Term
    max_skew: int
    min_domains: int


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One nodeSelectorTerm: labels and fields, all of which must hold. Without any it matches no node."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]

    def matches(self, node: Object) -> bool:
        if not self.labels and not self.fields:
            return False
        labels = labels_of(node)
        fields = {"metadata.name": name_of(node)}
        return all(r.matches(labels) for r in self.labels) and all(r.matches(fields) for r in self.fields)


@dataclass(frozen=True, slots=True)
class Demand:
    """Everything in a pod's specification that decides where it may go."""

    tolerations: tuple[Mapping[str, Any], ...]
    node_selector: tuple[tuple[str, str], ...]
    node_terms: tuple[NodeTerm, ...] | None  # None: no required node affinity
    preferred_nodes: tuple[tuple[int, NodeTerm], ...]
    host_ports: tuple[HostPort, ...]
    affinity: tuple[Term, ...]
    anti_affinity: tuple[Term, ...]
    spreads: tuple[Spread, ...]
    node_key: str  # equal for Demands that allow the same nodes

    @property
    def plain(self) -> bool:
        """Nothing here depends on the other pods."""
        return not (self.host_ports or self.affinity or self.anti_affinity or self.spreads)


def host_ports_of(pod: Object) -> tuple[HostPort, ...]:
    spec = pod["spec"]
    own_network = not spec.get("hostNetwork")
    found = []
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (0 if own_network else port.get("containerPort"))
            if number:
                found.append((port.get("protocol") or "TCP", port.get("hostIP") or "0.0.0.0", int(number)))
    return tuple(found)


def ports_conflict(wanted: Iterable[HostPort], taken: Iterable[HostPort]) -> bool:
    """Whether two pods want one port: the wildcard address clashes with every address (HostPortInfo)."""
    taken = list(taken)
    for protocol, address, number in wanted:
        for other_protocol, other_address, other_number in taken:
            if (protocol, number) == (other_protocol, other_number) and (
                address == other_address or "0.0.0.0" in (address, other_address)
            ):
                return True
    return False


def signature(pod: Object) -> str:
    """Equal for pods with an equal Demand: pods of one template share the compiled form."""
    spec = pod["spec"]
    return repr(
        (
            namespace_of(pod),
            spec.get("tolerations"),
            spec.get("nodeSelector"),
            spec.get("affinity"),
            spec.get("topologySpreadConstraints"),
            host_ports_of(pod),
        )
    )


def group_of(pod: Object) -> str:
    """Pods to be spread over the nodes: of one controller, else of the same labels in a namespace."""
    reference = controller_of(pod)
    if reference is not None:
        return str(reference["uid"])
    return f"{namespace_of(pod)}/{sorted(labels_of(pod).items())}"


def parse_demand(pod: Object) -> Demand:
    """Raises ApiError 400 for a selector that cannot be read."""
    spec = pod["spec"]
    affinity = spec.get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    node_terms = None
    if required is not None:
        node_terms = tuple(_node_term(term) for term in required.get("nodeSelectorTerms") or ())
    preferred = tuple(
        (int(entry.get("weight") or 0), _node_term(entry.get("preference") or {}))
        for entry in node_affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    )
    tolerations = tuple(spec.get("tolerations") or ())
    node_selector = tuple(sorted((spec.get("nodeSelector") or {}).items()))
    return Demand(
        tolerations=tolerations,
        node_selector=node_selector,
        node_terms=node_terms,
        preferred_nodes=preferred,
        host_ports=host_ports_of(pod),
        affinity=_terms(pod, affinity.get("podAffinity")),
        anti_affinity=_terms(pod, affinity.get("podAntiAffinity")),
        spreads=_spreads(pod),
        node_key=repr((tolerations, node_selector, node_terms, preferred)),
    )


def _requirements(expressions: Iterable[Mapping[str, Any]] | None) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(e["key"], e["operator"], tuple(sorted(str(v) for v in e.get("values") or ())))
        for e in expressions or ()
    )


def _node_term(term: Mapping[str, Any]) -> NodeTerm:
    return NodeTerm(_requirements(term.get("matchExpressions")), _requirements(term.get("matchFields")))


def _terms(pod: Object, affinity: Mapping[str, Any] | None) -> tuple[Term, ...]:
    required = (affinity or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return tuple(_term(pod, term) for term in required)


def _term(pod: Object, term: Mapping[str, Any]) -> Term:
    namespaces = frozenset(term.get("namespaces") or ())
    if term.get("namespaceSelector") is not None and not namespaces:
        namespaces = frozenset()  # {} selects all; labels of namespaces are not looked at
    elif not namespaces:
        namespaces = frozenset((namespace_of(pod),))
    selector = label_selector_from_object(term.get("labelSelector"))
    return Term(namespaces, selector, term.get("topologyKey") or HOSTNAME)


def _spreads(pod: Object) -> tuple[Spread, ...]:
    found = []
    for constraint in pod["spec"].get("topologySpreadConstraints") or ():
        if constraint.get("whenUnsatisfiable", "DoNotSchedule") != "DoNotSchedule":
            continue
        selector = label_selector_from_object(constraint.get("labelSelector"))
        term = Term(frozenset((namespace_of(pod),)), selector, constraint.get("topologyKey") or HOSTNAME)
        found.append(Spread(term, int(constraint.get("maxSkew") or 1), int(constraint.get("minDomains") or 1)))
    return tuple(found)
