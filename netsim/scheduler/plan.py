"""Where a pod goes, or why it cannot go anywhere. Pure.

Reasons are upstream's texts: kubernetes ``pkg/scheduler/framework/plugins/*`` and ``framework/types.go`` (FitError).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netsim.model.objects import Object, labels_of, namespace_of
from netsim.scheduler.demand import Demand, group_of, ports_conflict
from netsim.scheduler.state import UNSCHEDULABLE_TAINT, Candidates, ClusterState, NodeState, taints_of

NO_NODES = "no nodes available to schedule pods"
TOO_MANY_PODS = "Too many pods"
UNSCHEDULABLE = "node(s) were unschedulable"
NODE_AFFINITY = "node(s) didn't match Pod's node affinity/selector"
HOST_PORTS = "node(s) didn't have free ports for the requested pod ports"
POD_AFFINITY = "node(s) didn't match pod affinity rules"
POD_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"
SPREAD = "node(s) didn't match pod topology spread constraints"
SPREAD_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"

PREFER_NO_SCHEDULE_PENALTY = 1000  # more than all preferred node affinities (at most 100 each) usually weigh


@dataclass(frozen=True, slots=True)
class Placement:
    """The node to bind to."""

    node: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """How many nodes are out for which reason."""

    nodes: int
    reasons: Mapping[str, int]

    def __str__(self) -> str:
        """Upstream's message: ``0/3 nodes are available: 1 node(s) were unschedulable, 2 Too many pods.``"""
        if not self.nodes:
            return NO_NODES
        listed = ", ".join(sorted(f"{count} {reason}" for reason, count in self.reasons.items()))
        return f"0/{self.nodes} nodes are available: {listed}."


def plan_placement(pod: Object, state: ClusterState) -> Placement | Unschedulable:
    """Filter and score. Among the nodes left wins the one with the least penalty (PreferNoSchedule, preferred node
    affinity), then with the fewest pods of the pod's group, then with the fewest pods, then the first.
    """
    demand = state.demand(pod)
    candidates = find_candidates(demand, state)
    group = group_of(pod)
    rejected: Counter[str] = Counter()
    dynamic = _Dynamic(pod, demand, state, candidates)
    best: NodeState | None = None
    best_rank: tuple[int, int, int] = (0, 0, 0)
    for node, penalty in candidates.allowed:
        pods = node.pods
        if pods >= node.max_pods:
            rejected[TOO_MANY_PODS] += 1
            continue
        rank = (penalty, node.groups.get(group, 0), pods)
        if best is not None and rank >= best_rank:
            continue  # would lose anyway: no need to look closer
        if dynamic.active and (reason := dynamic.reject(node)):
            rejected[reason] += 1
            continue
        best, best_rank = node, rank
    if best is not None:
        return Placement(best.name)
    total = sum(1 for node in state.nodes.values() if node.node is not None)
    return Unschedulable(total, candidates.rejected + rejected)


def find_candidates(demand: Demand, state: ClusterState) -> Candidates:
    """The nodes that pass all filters which do not depend on other pods. Kept until a node changes."""
    found = state.candidates.get(demand.node_key)
    if found is not None and found.generation == state.generation:
        return found
    allowed: list[tuple[NodeState, int]] = []
    rejected: Counter[str] = Counter()
    for node in sorted(state.nodes.values(), key=lambda n: n.order):
        if node.node is None:
            continue
        reason = _reject_node(demand, node.node)
        if reason:
            rejected[reason] += 1
        else:
            allowed.append((node, _penalty(demand, node.node)))
    found = state.candidates[demand.node_key] = Candidates(state.generation, allowed, rejected)
    return found


# --- what depends on the node alone -----------------------------------------------------------------


def _reject_node(demand: Demand, node: Object) -> str:
    if (node.get("spec") or {}).get("unschedulable") and not _tolerates(demand, UNSCHEDULABLE_TAINT):
        return UNSCHEDULABLE
    for taint in taints_of(node):
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not _tolerates(demand, taint):
            return f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value') or ''}}}"
    labels = labels_of(node)
    if any(labels.get(key) != value for key, value in demand.node_selector):
        return NODE_AFFINITY
    if demand.node_terms is not None and not any(term.matches(node) for term in demand.node_terms):
        return NODE_AFFINITY
    return ""


def _tolerates(demand: Demand, taint: Mapping[str, Any]) -> bool:
    """Toleration.ToleratesTaint, k8s.io/api/core/v1/toleration.go."""
    for toleration in demand.tolerations:
        if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
            continue
        if toleration.get("key") and toleration["key"] != taint.get("key"):
            continue
        if toleration.get("operator") == "Exists":
            return True
        if toleration.get("key") and (toleration.get("value") or "") == (taint.get("value") or ""):
            return True
    return False


def _penalty(demand: Demand, node: Object) -> int:
    soft = [t for t in taints_of(node) if t.get("effect") == "PreferNoSchedule" and not _tolerates(demand, t)]
    preferred = sum(weight for weight, term in demand.preferred_nodes if term.matches(node))
    return len(soft) * PREFER_NO_SCHEDULE_PENALTY - preferred


# --- what depends on the other pods -----------------------------------------------------------------


class _Dynamic:
    """Host ports, affinity between pods, topology spread: everything looked up once for the pod."""

    __slots__ = ("_affinity", "_anti", "_demand", "_forbidden", "_spreads", "active")

    def __init__(self, pod: Object, demand: Demand, state: ClusterState, candidates: Candidates) -> None:
        self._demand = demand
        self._forbidden = state.repelling(pod)
        self.active = bool(self._forbidden) or not demand.plain
        if not self.active:
            return
        namespace, labels = namespace_of(pod), labels_of(pod)
        self._anti = [(term.topology_key, state.matching(term)) for term in demand.anti_affinity]
        self._affinity = []
        for term in demand.affinity:
            counter = state.matching(term)
            # The first pod of a group that wants to be together may go anywhere (upstream's special case).
            first = not counter and term.matches(namespace, labels)
            self._affinity.append((term.topology_key, counter, first))
        self._spreads = []
        for spread in demand.spreads:
            counter = state.matching(spread.term)
            key = spread.term.topology_key
            domains = {node.domain(key) for node, _ in candidates.allowed} - {None}
            least = min((counter.get(domain, 0) for domain in domains if domain is not None), default=0)
            if len(domains) < spread.min_domains:
                least = 0
            itself = 1 if spread.term.matches(namespace, labels) else 0
            self._spreads.append((key, counter, least + spread.max_skew - itself))

    def reject(self, node: NodeState) -> str:
        if self._demand.host_ports and ports_conflict(self._demand.host_ports, node.host_ports):
            return HOST_PORTS
        for key, counter, most in self._spreads:
            domain = node.domain(key)
            if domain is None:
                return SPREAD_LABEL
            if counter.get(domain, 0) > most:
                return SPREAD
        for key, counter, first in self._affinity:
            domain = node.domain(key)
            if domain is None or (not first and not counter.get(domain)):
                return POD_AFFINITY
        for key, counter in self._anti:
            domain = node.domain(key)
            if domain is not None and counter.get(domain):
                return POD_ANTI_AFFINITY
        for key, domains in self._forbidden.items():
            if node.domain(key) in domains:
                return EXISTING_ANTI_AFFINITY
        return ""
