"""The nodes and what runs on them, kept up to date by small changes: no pod is ever counted twice. No I/O."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netsim.model.objects import (
    Object,
    get_condition,
    is_pod_finished,
    labels_of,
    name_of,
    namespace_of,
    pod_node,
    uid_of,
)
from netsim.scheduler.demand import Demand, HostPort, Term, group_of, parse_demand, signature

DEFAULT_MAX_PODS = 110  # the kubelet's, for a node that reports no allocatable pods
DEMANDS_MAX = 1024
COUNTERS_MAX = 256

NOT_READY_TAINT = {"key": "node.kubernetes.io/not-ready", "value": "", "effect": "NoSchedule"}
UNSCHEDULABLE_TAINT = {"key": "node.kubernetes.io/unschedulable", "value": "", "effect": "NoSchedule"}


@dataclass(slots=True)
class NodeState:
    """One node. ``node`` is None while only pods that name it are known."""

    name: str
    order: int  # breaks ties: nodes fill up in the order they came
    node: Object | None = None
    max_pods: int = DEFAULT_MAX_PODS
    pods: int = 0
    groups: Counter[str] = field(default_factory=Counter)
    host_ports: Counter[HostPort] = field(default_factory=Counter)

    def domain(self, topology_key: str) -> str | None:
        """The node's value of a topology label."""
        return labels_of(self.node).get(topology_key) if self.node is not None else None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A pod that takes room on a node."""

    node: str
    namespace: str
    labels: Mapping[str, str]
    group: str
    demand: Demand


class Candidates:
    """The nodes that a Demand's fixed part allows, with a penalty each, and why the others are out."""

    __slots__ = ("allowed", "generation", "rejected")

    def __init__(self, generation: int, allowed: list[tuple[NodeState, int]], rejected: Counter[str]) -> None:
        self.generation = generation
        self.allowed = allowed
        self.rejected = rejected


class ClusterState:
    """Nodes, placed pods, and counters of the pods that match a term, by topology domain."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeState] = {}
        self.generation = 0  # changes with anything about a node that a filter can see
        self._placed: dict[str, _Placed] = {}  # by pod uid
        self._demands: OrderedDict[str, Demand] = OrderedDict()
        self._counters: OrderedDict[Term, Counter[str]] = OrderedDict()
        self._repelling: dict[Term, Counter[str]] = {}  # required anti-affinity of placed pods
        self.candidates: dict[str, Candidates] = {}

    # --- nodes ---

    def set_node(self, node: Object) -> bool:
        """Take in a node; returns whether anything a filter can see changed."""
        state = self._node_state(name_of(node))
        old, state.node = state.node, node
        if old is not None and _filter_view(old) == _filter_view(node):
            return False
        state.max_pods = _max_pods(node)
        if old is not None and labels_of(old) == labels_of(node):
            self._nodes_changed(relabelled=False)
        else:
            self._nodes_changed(relabelled=True)
        return True

    def remove_node(self, name: str) -> None:
        state = self.nodes.get(name)
        if state is None:
            return
        state.node = None
        if not state.pods:
            del self.nodes[name]
        self._nodes_changed(relabelled=True)

    def _node_state(self, name: str) -> NodeState:
        state = self.nodes.get(name)
        if state is None:
            state = self.nodes[name] = NodeState(name, len(self.nodes))
        return state

    def _nodes_changed(self, *, relabelled: bool) -> None:
        self.generation += 1
        self.candidates.clear()
        if relabelled:  # the domains moved: count again when asked
            self._counters.clear()
            self._repelling.clear()
            for placed in self._placed.values():
                self._repel(placed, 1)

    # --- pods ---

    def place(self, pod: Object, node: str | None = None) -> bool:
        """``pod`` takes room on ``node`` (by default its own): also before the binding is known to the API.

        Returns whether that is news.
        """
        node = node or pod_node(pod)
        uid = uid_of(pod)
        if is_pod_finished(pod):
            return self.remove(uid)
        old = self._placed.get(uid)
        if old is not None:
            if old.node == node and old.labels == labels_of(pod):
                return False
            self.remove(uid)
        placed = _Placed(node, namespace_of(pod), labels_of(pod), group_of(pod), self.demand(pod))
        self._placed[uid] = placed
        self._count(placed, 1)
        return True

    def remove(self, uid: str) -> bool:
        """Give back the room of a pod; returns whether it had any."""
        placed = self._placed.pop(uid, None)
        if placed is None:
            return False
        self._count(placed, -1)
        state = self.nodes[placed.node]
        if state.node is None and not state.pods:
            del self.nodes[placed.node]
        return True

    def is_placed(self, uid: str) -> bool:
        return uid in self._placed

    def _count(self, placed: _Placed, step: int) -> None:
        state = self._node_state(placed.node)
        state.pods += step
        _add(state.groups, placed.group, step)
        for port in placed.demand.host_ports:
            _add(state.host_ports, port, step)
        for term, counter in self._counters.items():
            if term.matches(placed.namespace, placed.labels):
                domain = state.domain(term.topology_key)
                if domain is not None:
                    _add(counter, domain, step)
        self._repel(placed, step)

    def _repel(self, placed: _Placed, step: int) -> None:
        for term in placed.demand.anti_affinity:
            domain = self._node_state(placed.node).domain(term.topology_key)
            if domain is None:
                continue
            counter = self._repelling.setdefault(term, Counter())
            _add(counter, domain, step)
            if not counter:
                del self._repelling[term]

    # --- questions ---

    def demand(self, pod: Object) -> Demand:
        """The compiled Demand of a pod, shared by pods that ask the same."""
        key = signature(pod)
        found = self._demands.get(key)
        if found is None:
            found = self._demands[key] = parse_demand(pod)
            if len(self._demands) > DEMANDS_MAX:
                self._demands.popitem(last=False)
        return found

    def matching(self, term: Term) -> Counter[str]:
        """How many placed pods match the term, by the value of its topology key. Counted once, then kept."""
        counter = self._counters.get(term)
        if counter is not None:
            return counter
        counter = self._counters[term] = Counter()
        for placed in self._placed.values():
            if term.matches(placed.namespace, placed.labels):
                domain = self.nodes[placed.node].domain(term.topology_key)
                if domain is not None:
                    counter[domain] += 1
        if len(self._counters) > COUNTERS_MAX:
            self._counters.popitem(last=False)
        return counter

    def repelling(self, pod: Object) -> dict[str, set[str]]:
        """Topology domains (by key) in which a placed pod's anti-affinity forbids this one."""
        forbidden: dict[str, set[str]] = {}
        for term, counter in self._repelling.items():
            if term.matches(namespace_of(pod), labels_of(pod)):
                forbidden.setdefault(term.topology_key, set()).update(counter)
        return forbidden


def _add(counter: Counter[Any], key: Any, step: int) -> None:
    """Count, and forget what comes to zero: a counter's keys are what there is."""
    value = counter[key] + step
    if value:
        counter[key] = value
    else:
        del counter[key]


def taints_of(node: Object) -> list[Mapping[str, Any]]:
    """The node's taints, and the one that upstream's node lifecycle controller adds while it is not ready."""
    taints: list[Mapping[str, Any]] = list((node.get("spec") or {}).get("taints") or ())
    ready = get_condition(node, "Ready")
    if (
        ready is not None
        and ready.get("status") != "True"
        and not any(t.get("key") == NOT_READY_TAINT["key"] for t in taints)
    ):
        taints.append(NOT_READY_TAINT)
    return taints


def _max_pods(node: Object) -> int:
    allocatable = ((node.get("status") or {}).get("allocatable") or {}).get("pods")
    try:
        return int(allocatable) if allocatable is not None else DEFAULT_MAX_PODS
    except ValueError:
        return DEFAULT_MAX_PODS  # "1k" is a valid quantity, but nobody writes a number of pods so


def _filter_view(node: Object) -> tuple[Any, ...]:
    """All that filters and scores see of a node; heartbeats change nothing in it."""
    spec = node.get("spec") or {}
    return labels_of(node), bool(spec.get("unschedulable")), taints_of(node), _max_pods(node)
