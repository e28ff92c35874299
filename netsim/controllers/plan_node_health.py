"""What becomes of a node whose kubelet is silent, and of its pods. Pure.

Source: kubernetes pkg/controller/nodelifecycle/node_lifecycle_controller.go, pkg/controller/tainteviction.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from netsim.model.objects import Object, format_time, get_condition, is_pod_ready, with_condition

UNREACHABLE = "node.kubernetes.io/unreachable"
DEFAULT_TOLERATION_S = 300.0  # what upstream's admission (DefaultTolerationSeconds) gives pods that say nothing
_MESSAGES = {"Ready": "Kubelet stopped posting node status."}
_TYPES = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def plan_unknown_conditions(node: Object, wall_s: float) -> list[Object] | None:
    """The node's conditions, all Unknown; None where they are already. Heartbeats stay those of the kubelet."""
    conditions: list[Object] = list((node.get("status") or {}).get("conditions") or ())
    if all((get_condition(node, kind) or {}).get("status") == "Unknown" for kind in _TYPES):
        return None
    for kind in _TYPES:
        old = get_condition(node, kind) or {}
        new = {
            "type": kind,
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": _MESSAGES["Ready"],
            "lastTransitionTime": format_time(wall_s),
        }
        if "lastHeartbeatTime" in old:
            new["lastHeartbeatTime"] = old["lastHeartbeatTime"]
        conditions = with_condition(conditions, new)
    return conditions


def plan_taints(node: Object, unreachable: bool, wall_s: float) -> list[Object] | None:
    """The node's taints with or without those of an unreachable node; None where they are right."""
    old: list[Object] = list((node.get("spec") or {}).get("taints") or ())
    kept = [taint for taint in old if taint.get("key") != UNREACHABLE]
    if not unreachable:
        return kept if len(kept) != len(old) else None
    if len(old) - len(kept) == 2:
        return None
    added = format_time(wall_s)
    return kept + [{"key": UNREACHABLE, "effect": e, "timeAdded": added} for e in ("NoSchedule", "NoExecute")]


def plan_unready(pod: Object, wall_s: float) -> list[Object] | None:
    """The conditions of a pod on such a node: not Ready, so that it is nobody's endpoint. None where it is not Ready
    anyway (MarkPodsNotReady, pkg/controller/util/node/controller_utils.go).
    """
    if not is_pod_ready(pod):
        return None
    new = {**(get_condition(pod, "Ready") or {}), "status": "False", "lastTransitionTime": format_time(wall_s)}
    return with_condition(pod["status"]["conditions"], new)


def tolerated_s(pod: Mapping[str, Any]) -> float | None:
    """How long a pod stays on an unreachable node; None: for ever."""
    found: list[float | None] = []
    for toleration in pod["spec"].get("tolerations") or ():
        if _tolerates(toleration):
            seconds = toleration.get("tolerationSeconds")
            found.append(None if seconds is None else max(0.0, float(seconds)))
    if not found:
        return DEFAULT_TOLERATION_S
    limits = [seconds for seconds in found if seconds is not None]
    return min(limits) if limits else None


def _tolerates(toleration: Mapping[str, Any]) -> bool:
    """Toleration.ToleratesTaint for the taint unreachable:NoExecute, which has no value."""
    if toleration.get("effect") not in (None, "", "NoExecute"):
        return False
    if toleration.get("key") not in (None, "", UNREACHABLE):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return toleration.get("key") == UNREACHABLE and not toleration.get("value")


def choose_evictions(pods: Iterable[Object], unreachable_s: float) -> tuple[list[Object], float | None]:
    """The pods whose time on a node unreachable for so long is over, and in how many seconds the next one's is."""
    over: list[Object] = []
    waits: list[float] = []
    for pod in pods:
        limit_s = tolerated_s(pod)
        if limit_s is None:
            continue
        if limit_s <= unreachable_s:
            over.append(pod)
        else:
            waits.append(limit_s - unreachable_s)
    return over, min(waits, default=None)
