"""A Deployment's status: counts and the conditions Available, Progressing, ReplicaFailure. Pure.

Source: kubernetes ``pkg/controller/deployment/sync.go`` (calculateStatus) and ``progress.go``.
"""

from collections.abc import Sequence

from netsim.controllers.plan_rollout import replicas_of, rolling_limits, total_replicas, total_status
from netsim.model.objects import Object, get_condition, name_of, parse_time, with_condition

NO_DEADLINE = 2**31 - 1  # math.MaxInt32: upstream's "no deadline"


def is_complete(deployment: Object, status: Object) -> bool:
    """Every replica is of the present template and available."""
    wanted = replicas_of(deployment)
    return bool(
        status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    )


def plan_counts(deployment: Object, new: Object | None, sets: Sequence[Object]) -> Object:
    """The numbers of the status; zeros are left out, as upstream's omitempty does."""
    available = total_status(sets, "availableReplicas")
    counts = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": total_status(sets, "replicas"),
        "updatedReplicas": total_status([new], "replicas") if new is not None else 0,
        "readyReplicas": total_status(sets, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, total_replicas(sets) - available),
        "collisionCount": (deployment.get("status") or {}).get("collisionCount", 0),
    }
    return {field: value for field, value in counts.items() if value}


def plan_deployment_status(
    deployment: Object, new: Object | None, sets: Sequence[Object], *, created: bool, now: str, now_s: float
) -> tuple[Object, float | None]:
    """The status, and the seconds until the progress deadline must be looked at again.

    created: the new ReplicaSet was made just now. now: ``now_s`` as RFC 3339.
    """
    status = plan_counts(deployment, new, sets)
    conditions: list[Object] = list((deployment.get("status") or {}).get("conditions") or ())
    conditions = with_condition(conditions, _available(deployment, status, now))
    progressing = _progressing(deployment, status, new, created=created, now=now, now_s=now_s)
    if progressing is not None:
        conditions = with_condition(conditions, progressing)
    conditions = _with_failure(conditions, sets, now)
    conditions = [_unless_changed(deployment, condition) for condition in conditions]
    status["conditions"] = conditions
    return status, _deadline_wait_s(deployment, status, now_s)


def _make(type_: str, status: str, reason: str, message: str, now: str) -> Object:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }


def _unless_changed(deployment: Object, new: Object) -> Object:
    """The old condition where nothing but its times differs, so that no write happens for the sake of a time."""
    old = get_condition(deployment, new["type"])
    if old is not None and all(old.get(f) == new.get(f) for f in ("status", "reason", "message")):
        same_counts = new["type"] != "Progressing" or old.get("lastUpdateTime") == new.get("lastUpdateTime")
        return old if same_counts else new
    return new


def _available(deployment: Object, status: Object, now: str) -> Object:
    _, max_unavailable = rolling_limits(deployment)
    if status.get("availableReplicas", 0) >= replicas_of(deployment) - max_unavailable:
        text = "Deployment has minimum availability."
        return _make("Available", "True", "MinimumReplicasAvailable", text, now)
    text = "Deployment does not have minimum availability."
    return _make("Available", "False", "MinimumReplicasUnavailable", text, now)


def _has_deadline(deployment: Object) -> bool:
    seconds = deployment["spec"].get("progressDeadlineSeconds", 600)
    return seconds is not None and seconds != NO_DEADLINE


def _progressing(
    deployment: Object, status: Object, new: Object | None, *, created: bool, now: str, now_s: float
) -> Object | None:
    if not _has_deadline(deployment):
        return None
    old = get_condition(deployment, "Progressing")
    if deployment["spec"].get("paused"):
        if old is not None and old.get("reason") == "DeploymentPaused":
            return old
        return _make("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now)
    name = name_of(new) if new is not None else name_of(deployment)
    if is_complete(deployment, status):
        text = f'ReplicaSet "{name}" has successfully progressed.'
        return _keep_time(old, _make("Progressing", "True", "NewReplicaSetAvailable", text, now))
    if old is not None and old.get("reason") == "NewReplicaSetAvailable" and not created:
        before = (deployment.get("status") or {}).get("observedGeneration", 0)
        if before == deployment["metadata"].get("generation", 0):
            return old  # a pod of a finished rollout died: that is no rollout
    if created:
        text = f'Created new replica set "{name}"'
        return _make("Progressing", "True", "NewReplicaSetCreated", text, now)
    if old is None or old.get("reason") == "DeploymentPaused" or _made_progress(deployment, status):
        text = f'ReplicaSet "{name}" is progressing.'
        return _make("Progressing", "True", "ReplicaSetUpdated", text, now)
    if _is_late(deployment, old, now_s):
        text = f'ReplicaSet "{name}" has timed out progressing.'
        return _keep_time(old, _make("Progressing", "False", "ProgressDeadlineExceeded", text, now))
    return old


def _keep_time(old: Object | None, new: Object) -> Object:
    """The old update time while the reason stays the same."""
    if old is not None and old.get("reason") == new["reason"] and old.get("message") == new["message"]:
        return {**new, "lastUpdateTime": old.get("lastUpdateTime", new["lastUpdateTime"])}
    return new


def _made_progress(deployment: Object, status: Object) -> bool:
    """More new pods, fewer old ones, or more ready or available than before (DeploymentProgressing)."""
    old = deployment.get("status") or {}

    def old_pods(counts: Object) -> int:
        return int(counts.get("replicas", 0)) - int(counts.get("updatedReplicas", 0))

    return (
        status.get("updatedReplicas", 0) > old.get("updatedReplicas", 0)
        or old_pods(status) < old_pods(old)
        or status.get("readyReplicas", 0) > old.get("readyReplicas", 0)
        or status.get("availableReplicas", 0) > old.get("availableReplicas", 0)
        or status.get("observedGeneration", 0) > old.get("observedGeneration", 0)
    )


def _is_late(deployment: Object, progressing: Object, now_s: float) -> bool:
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return True
    since = progressing.get("lastUpdateTime")
    deadline_s = deployment["spec"].get("progressDeadlineSeconds", 600)
    return bool(since) and parse_time(since) + deadline_s <= now_s


def _deadline_wait_s(deployment: Object, status: Object, now_s: float) -> float | None:
    """How long until a rollout that stands still is late."""
    if not _has_deadline(deployment) or deployment["spec"].get("paused") or is_complete(deployment, status):
        return None
    progressing = get_condition({"status": status}, "Progressing")
    if progressing is None or progressing["reason"] in ("ProgressDeadlineExceeded", "NewReplicaSetAvailable"):
        return None
    since_s = parse_time(progressing["lastUpdateTime"])
    return max(0.0, since_s + float(deployment["spec"].get("progressDeadlineSeconds", 600)) - now_s) + 1.0


def _with_failure(conditions: list[Object], sets: Sequence[Object], now: str) -> list[Object]:
    """A ReplicaSet's ReplicaFailure is the Deployment's."""
    for replica_set in sets:
        failure = get_condition(replica_set, "ReplicaFailure")
        if failure is not None and replicas_of(replica_set) > 0:
            text = failure.get("message", "")
            return with_condition(conditions, _make("ReplicaFailure", "True", failure.get("reason", ""), text, now))
    return [condition for condition in conditions if condition["type"] != "ReplicaFailure"]
