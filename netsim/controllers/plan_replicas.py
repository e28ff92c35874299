"""What a ReplicaSet needs: how many pods to make, which to delete, which status to report. Pure.

Source: kubernetes ``pkg/controller/replicaset/replica_set.go``, ``replica_set_utils.go``,
``pkg/controller/controller_utils.go`` (ActivePodsWithRanks).
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from netsim.model.kinds import REPLICA_SET
from netsim.model.objects import (
    Object,
    annotations_of,
    copy_object,
    is_deleting,
    is_pod_active,
    is_pod_ready,
    labels_of,
    make_owner_ref,
    name_of,
    namespace_of,
    pod_node,
    pod_phase,
    pod_ready_since_s,
)

_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """``create`` pods to make; ``delete`` in that order."""

    create: int
    delete: list[Object]


def plan_replicas(replica_set: Object, pods: Iterable[Object]) -> ReplicaPlan:
    """Bring the active pods of a ReplicaSet to ``spec.replicas``. One that is being deleted does nothing."""
    if is_deleting(replica_set):
        return ReplicaPlan(0, [])
    active = [pod for pod in pods if is_pod_active(pod)]
    missing = int(replica_set["spec"].get("replicas", 1)) - len(active)
    if missing >= 0:
        return ReplicaPlan(missing, [])
    return ReplicaPlan(0, choose_pods_to_delete(active, -missing))


def choose_pods_to_delete(active: Collection[Object], count: int) -> list[Object]:
    """The ``count`` pods that are missed least, in upstream's order.

    Unassigned before assigned; Pending before Unknown before Running; not ready before ready; lower deletion cost; more
    siblings on the node; ready for less time; more restarts; newer.
    """
    on_node = Counter(pod_node(pod) for pod in active)

    def rank(pod: Object) -> tuple[object, ...]:
        node = pod_node(pod)
        ready = is_pod_ready(pod)
        since_s = pod_ready_since_s(pod) or 0.0
        created = str(pod["metadata"].get("creationTimestamp") or "")
        return (
            bool(node),
            _PHASE_RANK.get(pod_phase(pod), 0),
            ready,
            _deletion_cost(pod),
            -on_node[node] if node else 0,
            -since_s,
            -_restarts(pod),
            _Reverse(created),
            _Reverse(name_of(pod)),  # upstream leaves ties to chance; a plan must not
        )

    return sorted(active, key=rank)[:count]


@dataclass(frozen=True, slots=True)
class _Reverse:
    """Orders text the other way round: the newer time is smaller."""

    text: str

    def __lt__(self, other: "_Reverse") -> bool:
        return self.text > other.text


def _deletion_cost(pod: Object) -> int:
    try:
        return int(annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0  # upstream too takes what it cannot read as 0


def _restarts(pod: Object) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((int(status.get("restartCount") or 0) for status in statuses), default=0)


def plan_pod(replica_set: Object) -> Object:
    """The pod that a ReplicaSet's template makes."""
    template = replica_set["spec"]["template"]
    metadata = template.get("metadata") or {}
    pod_metadata: Object = {
        "generateName": f"{name_of(replica_set)[:242]}-",  # 253 less the dash, the 5 letters and some air
        "namespace": namespace_of(replica_set),
        "ownerReferences": [make_owner_ref(replica_set, REPLICA_SET)],
    }
    for part in ("labels", "annotations", "finalizers"):
        if metadata.get(part):
            pod_metadata[part] = copy_object(metadata[part])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": copy_object(template["spec"])}


def plan_status(
    replica_set: Object, pods: Iterable[Object], now_s: float, failure: tuple[str, str] | None, now: str
) -> tuple[Object, float | None]:
    """The status to report, and the seconds until a pod becomes available by time alone.

    failure: reason and message of pods that could not be made or deleted. now: ``now_s`` as RFC 3339.
    """
    counts, next_s = _count(replica_set, pods, now_s)
    status: Object = {"replicas": counts.pop("replicas")}
    status.update((field, value) for field, value in counts.items() if value)  # omitempty, as upstream
    if generation := replica_set["metadata"].get("generation"):
        status["observedGeneration"] = generation
    if conditions := _conditions(replica_set, failure, now):
        status["conditions"] = conditions
    return status, next_s


def _count(replica_set: Object, pods: Iterable[Object], now_s: float) -> tuple[dict[str, int], float | None]:
    """The status's numbers, and the seconds until the next pod has been ready for long enough."""
    spec = replica_set["spec"]
    wanted = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    min_ready_s = float(spec.get("minReadySeconds") or 0)
    replicas = labelled = ready = available = 0
    next_s: float | None = None
    for pod in pods:
        if not is_pod_active(pod):
            continue
        replicas += 1
        labels = labels_of(pod)
        if wanted.items() <= labels.items():
            labelled += 1
        if not is_pod_ready(pod):
            continue
        ready += 1
        wait_s = 0.0
        if min_ready_s > 0:
            wait_s = (pod_ready_since_s(pod) or 0.0) + min_ready_s - now_s
        if wait_s <= 0:
            available += 1
        elif next_s is None or wait_s < next_s:
            next_s = wait_s
    counts = {
        "replicas": replicas,
        "fullyLabeledReplicas": labelled,
        "readyReplicas": ready,
        "availableReplicas": available,
    }
    return counts, next_s


def _conditions(replica_set: Object, failure: tuple[str, str] | None, now: str) -> list[Object]:
    old = (replica_set.get("status") or {}).get("conditions") or []
    kept = [condition for condition in old if condition["type"] != "ReplicaFailure"]
    if failure is None:
        return kept
    reason, message = failure
    before = next((condition for condition in old if condition["type"] == "ReplicaFailure"), None)
    since = before.get("lastTransitionTime", now) if before else now
    new = {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message}
    return [*kept, {**new, "lastTransitionTime": since}]
