"""Pods.

Source: kubernetes ``pkg/registry/core/pod/strategy.go`` and ``pkg/printers/internalversion/printers.go`` (printPod).
"""

from typing import Any

from netsim.apiserver.ages import NONE, age
from netsim.apiserver.causes import Causes
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy
from netsim.apiserver.strategies.pod_defaults import default_pod_spec, qos_class
from netsim.apiserver.strategies.pod_validation import validate_pod_spec, validate_pod_spec_update
from netsim.model.objects import is_condition_true, is_pod_finished, parse_time

_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


class PodStrategy(Strategy):
    """A pod on a node is deleted by its kubelet, when its processes are gone."""

    selectable = frozenset(
        {
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        }
    )
    generation_fields = ("spec",)
    returns_deleted_object = True
    columns = (
        NAME,
        Column("Ready"),
        Column("Status"),
        Column("Restarts"),
        AGE,
        Column("IP", priority=1),
        Column("Node", priority=1),
        Column("Nominated Node", priority=1),
        Column("Readiness Gates", priority=1),
    )

    def prepare_create(self, obj: Object) -> None:
        obj["status"] = {"phase": "Pending"}

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_pod_spec(spec)
        if "qosClass" not in obj["status"]:
            obj["status"] = {**obj["status"], "qosClass": qos_class(spec)}

    def validate(self, obj: Object, causes: Causes) -> None:
        validate_pod_spec(obj["spec"], "spec", causes)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        validate_pod_spec_update(new["spec"], old["spec"], causes)

    def validate_status(self, new: Object, old: Object, causes: Causes) -> None:
        phase = new["status"].get("phase", "")
        if phase and phase not in _PHASES:
            causes.not_supported("status.phase", phase, _PHASES)

    def grace_period_s(self, obj: Object, asked: int | None) -> int:
        """Upstream's CheckGracefulDelete: no grace without a node or when the pod is finished."""
        spec = obj["spec"]
        if not spec.get("nodeName") or is_pod_finished(obj):
            return 0
        return int(spec.get("terminationGracePeriodSeconds", 30)) if asked is None else asked

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status", {})
        gates = spec.get("readinessGates") or ()
        met = sum(is_condition_true(obj, gate.get("conditionType", "")) for gate in gates)
        ready, restarts = _containers(spec, status, now_s)
        return [
            metadata["name"],
            ready,
            pod_reason(obj),
            restarts,
            age(metadata.get("creationTimestamp"), now_s),
            status.get("podIP") or NONE,
            spec.get("nodeName") or NONE,
            status.get("nominatedNodeName") or NONE,
            f"{met}/{len(gates)}" if gates else NONE,
        ]


def _containers(spec: Object, status: Object, now_s: float) -> tuple[str, str]:
    """The READY and RESTARTS columns."""
    statuses = status.get("containerStatuses") or ()
    ready = sum(bool(item.get("ready") and "running" in (item.get("state") or {})) for item in statuses)
    restarts = sum(item.get("restartCount", 0) for item in statuses)
    ends = [
        terminated["finishedAt"]
        for item in statuses
        if (terminated := (item.get("lastState") or {}).get("terminated")) and terminated.get("finishedAt")
    ]
    shown = str(restarts)
    if restarts and ends:
        shown = f"{restarts} ({age(max(ends, key=parse_time), now_s)} ago)"
    return f"{ready}/{len(spec.get('containers') or ())}", shown


def _init_reason(spec: Object, status: Object) -> str:
    """``Init:0/1``, ``Init:Error``, or empty when init containers are done."""
    count = len(spec.get("initContainers") or ())
    for index, item in enumerate(status.get("initContainerStatuses") or ()):
        state = item.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None:
            if terminated.get("exitCode") == 0:
                continue
            return f"Init:{terminated.get('reason') or 'ExitCode:' + str(terminated.get('exitCode'))}"
        if waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{count}"
    return ""


def _container_reason(item: Object) -> str:
    state = item.get("state") or {}
    if (state.get("waiting") or {}).get("reason"):
        return str(state["waiting"]["reason"])
    terminated = state.get("terminated")
    if terminated is None:
        return ""
    if terminated.get("reason"):
        return str(terminated["reason"])
    signal = terminated.get("signal")
    return f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode', 0)}"


def pod_reason(obj: Object) -> str:
    """The STATUS column: the phase, or what says more."""
    spec, status = obj["spec"], obj.get("status", {})
    reason = str(status.get("reason") or status.get("phase", ""))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    init_reason = _init_reason(spec, status)
    if init_reason:
        reason = init_reason
    else:
        running = False
        for item in reversed(status.get("containerStatuses") or ()):
            reason = _container_reason(item) or reason
            running = running or bool(item.get("ready") and "running" in (item.get("state") or {}))
        if reason == "Completed" and running:
            reason = "Running" if is_condition_true(obj, "Ready") else "NotReady"
    if obj["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if not is_pod_finished(obj):
            return "Terminating"
    return reason
