"""A Deployment's rollout: which ReplicaSet gets how many replicas next. Pure.

Source: kubernetes ``pkg/controller/deployment/`` (rolling.go, recreate.go, sync.go) and ``util/deployment_util.go``.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netsim.model.errors import ApiError
from netsim.model.kinds import DEPLOYMENT
from netsim.model.objects import (
    Object,
    annotations_of,
    copy_object,
    is_deleting,
    make_owner_ref,
    name_of,
    namespace_of,
)

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# Annotations that are the Deployment's own and are not handed down (annotationsToSkip).
_NOT_HANDED_DOWN = frozenset((LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED, MAX_REPLICAS))
_SAFE_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so no words: k8s.io/apimachinery util/rand


@dataclass(frozen=True, slots=True)
class Scale:
    """Give ``replica_set`` this many replicas."""

    replica_set: Object
    replicas: int


def replicas_of(obj: Object) -> int:
    """``spec.replicas``, 1 where it is not set (the API's default)."""
    value = obj["spec"].get("replicas")
    return 1 if value is None else int(value)


def status_of(obj: Object, field: str) -> int:
    return int((obj.get("status") or {}).get(field) or 0)


def total_replicas(sets: Sequence[Object]) -> int:
    return sum(replicas_of(replica_set) for replica_set in sets)


def total_status(sets: Sequence[Object], field: str) -> int:
    return sum(status_of(replica_set, field) for replica_set in sets)


# --- parameters -------------------------------------------------------------------------------------


def strategy_of(deployment: Object) -> str:
    return (deployment["spec"].get("strategy") or {}).get("type") or "RollingUpdate"


def _absolute(value: Any, total: int, *, up: bool) -> int:
    """An IntOrString of a total: ``3``, ``"25%"``."""
    if isinstance(value, str):
        if not value.endswith("%"):
            raise ApiError(422, "Invalid", f'"{value}" is neither a number nor a percentage')
        share = total * int(value[:-1]) / 100
        return math.ceil(share) if up else math.floor(share)
    return int(value)


def rolling_limits(deployment: Object) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods: surge rounds up, unavailable down; never both zero (ResolveFenceposts)."""
    if strategy_of(deployment) != "RollingUpdate":
        return 0, 0
    total = replicas_of(deployment)
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = _absolute(rolling.get("maxSurge", "25%"), total, up=True)
    unavailable = _absolute(rolling.get("maxUnavailable", "25%"), total, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, total)


# --- templates and revisions ------------------------------------------------------------------------


def template_hash(template: Mapping[str, Any], collisions: int = 0) -> str:
    """Ten safe letters that are the same for the same template."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{text}/{collisions}".encode()).digest()
    return "".join(_SAFE_LETTERS[byte % len(_SAFE_LETTERS)] for byte in digest[:10])


def same_template(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two pod templates are equal but for the hash label."""
    return a.get("spec") == b.get("spec") and _bare_metadata(a) == _bare_metadata(b)


def _bare_metadata(template: Mapping[str, Any]) -> Object:
    metadata = {key: value for key, value in (template.get("metadata") or {}).items() if value}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    return {**metadata, "labels": labels}


def by_age(sets: Sequence[Object]) -> list[Object]:
    """Oldest first; the name decides within one second."""
    return sorted(sets, key=lambda rs: (rs["metadata"].get("creationTimestamp") or "", name_of(rs)))


def find_new_set(deployment: Object, sets: Sequence[Object]) -> Object | None:
    """The ReplicaSet of the present template; the oldest if a rollback left several."""
    template = deployment["spec"]["template"]
    for replica_set in by_age(sets):
        if same_template(replica_set["spec"]["template"], template):
            return replica_set
    return None


def revision_number(obj: Object) -> int:
    try:
        return int(annotations_of(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def plan_new_set(deployment: Object, old: Sequence[Object]) -> Object:
    """The ReplicaSet to create for the present template."""
    template = deployment["spec"]["template"]
    digest = template_hash(template, status_of(deployment, "collisionCount"))
    labelled = copy_object(template)
    labelled.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = digest
    selector = copy_object(deployment["spec"].get("selector") or {})
    selector.setdefault("matchLabels", {})[HASH_LABEL] = digest
    surge, _ = rolling_limits(deployment)
    replica_set: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{digest}",
            "namespace": namespace_of(deployment),
            "labels": dict(labelled["metadata"]["labels"]),
            "ownerReferences": [make_owner_ref(deployment, DEPLOYMENT)],
            "annotations": {
                **_handed_down(deployment),
                REVISION: str(max((revision_number(rs) for rs in old), default=0) + 1),
                DESIRED: str(replicas_of(deployment)),
                MAX_REPLICAS: str(replicas_of(deployment) + surge),
            },
        },
        "spec": {"replicas": 0, "selector": selector, "template": labelled},
    }
    if deployment["spec"].get("minReadySeconds"):
        replica_set["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
    replica_set["spec"]["replicas"] = plan_new_replicas(deployment, [*old, replica_set], replica_set)
    return replica_set


def _handed_down(deployment: Object) -> dict[str, str]:
    return {k: v for k, v in annotations_of(deployment).items() if k not in _NOT_HANDED_DOWN}


def plan_reuse(deployment: Object, new: Object, old: Sequence[Object]) -> Object | None:
    """``new``, found again (a rollback, or edited annotations), as it should be; None if it is so already."""
    annotations = dict(annotations_of(new))
    annotations.update(_handed_down(deployment))
    wanted = max((revision_number(rs) for rs in old), default=0) + 1
    if revision_number(new) < wanted:
        if revision_number(new):
            history = [part for part in annotations.get(REVISION_HISTORY, "").split(",") if part]
            annotations[REVISION_HISTORY] = ",".join([*history, str(revision_number(new))])
        annotations[REVISION] = str(wanted)
    min_ready = deployment["spec"].get("minReadySeconds") or 0
    if annotations == annotations_of(new) and (new["spec"].get("minReadySeconds") or 0) == min_ready:
        return None
    return {
        **new,
        "metadata": {**new["metadata"], "annotations": annotations},
        "spec": {**new["spec"], "minReadySeconds": min_ready},
    }


def plan_scaled_set(deployment: Object, scale: Scale) -> Object | None:
    """The ReplicaSet of a Scale with its size annotations; None if it has all that already."""
    surge, _ = rolling_limits(deployment)
    wanted = {
        DESIRED: str(replicas_of(deployment)),
        MAX_REPLICAS: str(replicas_of(deployment) + surge),
    }
    replica_set = scale.replica_set
    annotations = annotations_of(replica_set)
    if replicas_of(replica_set) == scale.replicas and wanted.items() <= annotations.items():
        return None
    return {
        **replica_set,
        "metadata": {**replica_set["metadata"], "annotations": {**annotations, **wanted}},
        "spec": {**replica_set["spec"], "replicas": scale.replicas},
    }


# --- rolling update and recreate --------------------------------------------------------------------


def plan_new_replicas(deployment: Object, sets: Sequence[Object], new: Object) -> int:
    """How many replicas the new ReplicaSet may have now (NewRSNewReplicas)."""
    wanted = replicas_of(deployment)
    if strategy_of(deployment) != "RollingUpdate":
        return wanted
    surge, _ = rolling_limits(deployment)
    room = wanted + surge - total_replicas(sets)
    if room <= 0:
        return replicas_of(new)
    return replicas_of(new) + max(0, min(room, wanted - replicas_of(new)))


def plan_rolling(deployment: Object, new: Object, old: Sequence[Object]) -> list[Scale]:
    """The next step: grow (or shrink) the new ReplicaSet; else shrink the old ones as availability allows."""
    wanted = replicas_of(deployment)
    if replicas_of(new) > wanted:
        return [Scale(new, wanted)]
    if replicas_of(new) < wanted:
        target = plan_new_replicas(deployment, [*old, new], new)
        if target != replicas_of(new):
            return [Scale(new, target)]
    return _plan_shrink_old(deployment, new, old)


def _plan_shrink_old(deployment: Object, new: Object, old: Sequence[Object]) -> list[Scale]:
    active = [rs for rs in by_age(old) if replicas_of(rs) > 0]
    if not active:
        return []
    _, max_unavailable = rolling_limits(deployment)
    min_available = replicas_of(deployment) - max_unavailable
    new_unavailable = replicas_of(new) - status_of(new, "availableReplicas")
    may_go = total_replicas([*active, new]) - min_available - new_unavailable
    if may_go <= 0:
        return []
    target = {name_of(rs): replicas_of(rs) for rs in active}
    # First those that serve nobody (cleanupUnhealthyReplicas) ...
    for rs in active:
        unhealthy = max(0, target[name_of(rs)] - status_of(rs, "availableReplicas"))
        gone = min(may_go, unhealthy)
        target[name_of(rs)] -= gone
        may_go -= gone
    # ... then available ones, as long as enough remain (scaleDownOldReplicaSetsForRollingUpdate).
    spare = total_status([*active, new], "availableReplicas") - min_available
    for rs in active:
        gone = max(0, min(spare, may_go, target[name_of(rs)]))
        target[name_of(rs)] -= gone
        spare -= gone
        may_go -= gone
    return [Scale(rs, target[name_of(rs)]) for rs in active if target[name_of(rs)] != replicas_of(rs)]


def plan_recreate(deployment: Object, new: Object, old: Sequence[Object], old_pods_exist: bool) -> list[Scale]:
    """All old ones to zero; the new one up once the old pods are gone."""
    down = [Scale(rs, 0) for rs in by_age(old) if replicas_of(rs) > 0]
    if down or old_pods_exist:
        return down
    wanted = replicas_of(deployment)
    return [Scale(new, wanted)] if replicas_of(new) != wanted else []


# --- scaling between rollouts -----------------------------------------------------------------------


def is_scaling(deployment: Object, sets: Sequence[Object]) -> bool:
    """Whether ``spec.replicas`` changed since the ReplicaSets were last sized."""
    for rs in sets:
        desired = annotations_of(rs).get(DESIRED)
        if replicas_of(rs) > 0 and desired is not None and desired != str(replicas_of(deployment)):
            return True
    return False


def plan_scale(deployment: Object, new: Object | None, old: Sequence[Object]) -> list[Scale]:
    """Share a changed ``spec.replicas`` among the ReplicaSets (sync.go scale)."""
    wanted = replicas_of(deployment)
    active_old = [rs for rs in by_age(old) if replicas_of(rs) > 0]
    active = active_old + ([new] if new is not None and replicas_of(new) > 0 else [])
    if len(active) <= 1:
        only = active[0] if active else (new or (by_age(old)[-1] if old else None))
        return [Scale(only, wanted)] if only is not None else []
    if new is not None and _is_saturated(deployment, new):
        return [Scale(rs, 0) for rs in active_old]
    if strategy_of(deployment) != "RollingUpdate":
        return []
    return _plan_proportional(deployment, active)


def _is_saturated(deployment: Object, new: Object) -> bool:
    wanted = replicas_of(deployment)
    return (
        replicas_of(new) == wanted
        and annotations_of(new).get(DESIRED) == str(wanted)
        and status_of(new, "availableReplicas") == wanted
    )


def _plan_proportional(deployment: Object, active: Sequence[Object]) -> list[Scale]:
    """Grow or shrink each by its share, the largest first, and give the rest to the largest."""
    surge, _ = rolling_limits(deployment)
    allowed = replicas_of(deployment) + surge if replicas_of(deployment) else 0
    to_add = allowed - total_replicas(active)
    newest_first = list(reversed(by_age(active)))
    ordered = (
        sorted(newest_first, key=replicas_of, reverse=True)
        if to_add > 0
        else sorted(by_age(active), key=replicas_of, reverse=True)
    )
    added = 0
    target: dict[str, int] = {}
    for rs in ordered:
        share = _share(rs, deployment, allowed, to_add, added) if to_add else 0
        target[name_of(rs)] = replicas_of(rs) + share
        added += share
    if ordered:
        largest = name_of(ordered[0])
        target[largest] = max(0, target[largest] + to_add - added)
    return [Scale(rs, target[name_of(rs)]) for rs in ordered]


def _share(rs: Object, deployment: Object, allowed: int, to_add: int, added: int) -> int:
    """GetProportion: this ReplicaSet's part of ``to_add``, no more than is left of it."""
    if replicas_of(rs) == 0 or to_add == added:
        return 0
    if replicas_of(deployment) == 0:
        return -replicas_of(rs)
    before = annotations_of(rs).get(MAX_REPLICAS)
    size_before = int(before) if before and before.isdigit() and int(before) > 0 else total_or_one(rs)
    part = _round_half_away(replicas_of(rs) * allowed / size_before) - replicas_of(rs)
    left = to_add - added
    return min(part, left) if to_add > 0 else max(part, left)


def total_or_one(rs: Object) -> int:
    return max(1, status_of(rs, "replicas"))


def _round_half_away(value: float) -> int:
    return math.floor(value + 0.5)


# --- history ----------------------------------------------------------------------------------------


def plan_history(deployment: Object, old: Sequence[Object]) -> list[Object]:
    """The old ReplicaSets to delete, so that ``revisionHistoryLimit`` (10) of them remain for a rollback."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    limit = 10 if limit is None else int(limit)
    spent = [
        rs
        for rs in sorted(old, key=revision_number)
        if not is_deleting(rs) and replicas_of(rs) == 0 and status_of(rs, "replicas") == 0
    ]
    alive = [rs for rs in old if not is_deleting(rs)]
    return spent[: max(0, len(alive) - limit)]
