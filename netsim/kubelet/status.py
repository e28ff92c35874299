"""A pod's status from its object and what is known of its containers. Pure.

Source: kubernetes pkg/kubelet/kubelet_pods.go (getPhase, convertStatusToAPIStatus), pkg/kubelet/status/generate.go.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from netsim.kubelet.state import ContainerRecord, PodState

OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


@lru_cache(maxsize=64)
def _render_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def render_time(wall_s: float) -> str:
    """RFC 3339 in whole seconds, as metav1.Time is written."""
    return _render_second(int(wall_s))


def restart_policy(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"].get("restartPolicy") or "Always")


def is_sidecar(container: Mapping[str, Any]) -> bool:
    """An init container with restartPolicy Always (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def may_restart(policy: str, record: ContainerRecord) -> bool:
    """Whether a terminated container is started again."""
    return policy == "Always" or (policy == "OnFailure" and record.exit_code != 0)


def render_terminated(record: ContainerRecord) -> dict[str, Any]:
    """``state.terminated`` of a container that ended."""
    reason = record.reason or ("Completed" if record.exit_code == 0 else "Error")
    terminated: dict[str, Any] = {"exitCode": record.exit_code, "reason": reason}
    if record.signal:
        terminated["signal"] = record.signal
    if record.message:
        terminated["message"] = record.message
    if record.started_wall_s:
        terminated["startedAt"] = render_time(record.started_wall_s)
    terminated["finishedAt"] = render_time(record.finished_wall_s)
    if record.container_id:
        terminated["containerID"] = record.container_id
    return terminated


def _render_state(
    pod: Mapping[str, Any], policy: str, record: ContainerRecord, dying: bool
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """``state`` and ``lastState``."""
    if record.state == "running":
        return {"running": {"startedAt": render_time(record.started_wall_s)}}, record.last
    if record.state == "terminated":
        terminated = render_terminated(record)
        # A restart that is due at once is on its way: nobody should see a back-off that is none.
        if not dying and may_restart(policy, record) and record.restart_at_s > record.ended_s:
            name, metadata = record.name, pod["metadata"]
            message = (
                f"back-off {record.restart_at_s - record.ended_s:.0f}s restarting failed container={name} "
                f"pod={metadata['name']}_{metadata['namespace']}({metadata.get('uid', '')})"
            )
            waiting = {"reason": "CrashLoopBackOff", "message": message}
            return {"waiting": waiting}, {"terminated": terminated}
        return {"terminated": terminated}, record.last
    waiting = {"reason": record.reason}
    if record.message:
        waiting["message"] = record.message
    return {"waiting": waiting}, record.last


def render_container(
    pod: Mapping[str, Any], container: Mapping[str, Any], policy: str, record: ContainerRecord, dying: bool
) -> dict[str, Any]:
    """One entry of ``containerStatuses``."""
    state, last = _render_state(pod, policy, record, dying)
    running = record.state == "running"
    status: dict[str, Any] = {
        "name": record.name,
        "state": state,
        "lastState": last or {},
        "ready": running and record.ready,
        "restartCount": record.restarts,
        "image": container.get("image", ""),
        "imageID": record.image_id,
        "started": running and record.started,
    }
    if record.container_id:
        status["containerID"] = record.container_id
    return status


def choose_phase(pod: Mapping[str, Any], state: PodState) -> str:
    """The pod's phase from its containers' states."""
    spec = pod["spec"]
    policy = restart_policy(pod)
    for container in spec.get("initContainers") or ():
        record = state.record(container["name"])
        if is_sidecar(container):
            if not record.started and record.state != "terminated":
                return "Pending"
        elif record.state == "terminated" and record.exit_code != 0 and policy == "Never":
            return "Failed"
        elif not (record.state == "terminated" and record.exit_code == 0):
            return "Pending"
    running = waiting = stopped = succeeded = 0
    for container in spec.get("containers") or ():
        record = state.record(container["name"])
        if record.state == "running":
            running += 1
        elif record.state == "terminated" or record.last is not None:
            stopped += 1
            succeeded += record.state == "terminated" and record.exit_code == 0
        else:
            waiting += 1
    return _phase_of_counts(policy, running, waiting, stopped, succeeded)


def _phase_of_counts(policy: str, running: int, waiting: int, stopped: int, succeeded: int) -> str:
    if waiting:
        return "Pending"
    if running or not stopped or policy == "Always":
        return "Running" if running or stopped else "Pending"
    if stopped == succeeded:
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def render_status(pod: Mapping[str, Any], state: PodState, wall_s: float) -> dict[str, Any]:
    """The whole status the kubelet owns; conditions of others and older transition times are kept."""
    spec = pod["spec"]
    policy = restart_policy(pod)
    dying = state.removed or bool(pod["metadata"].get("deletionTimestamp"))
    phase = choose_phase(pod, state)
    if dying and phase == "Pending" and all(r.state == "terminated" for r in state.containers.values()):
        phase = "Failed"
    if dying and state.containers and _all_ended(spec, state):
        phase = "Succeeded" if all(r.exit_code == 0 for r in state.containers.values()) else "Failed"
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": render_conditions(pod, state, phase, wall_s),
        "hostIP": state.host_ip,
        "hostIPs": [{"ip": ip} for ip in state.host_ips],
        "startTime": render_time(state.start_wall_s),
        "containerStatuses": [
            render_container(pod, container, policy, state.record(container["name"]), dying)
            for container in spec.get("containers") or ()
        ],
    }
    if state.pod_ips:
        status["podIP"] = state.pod_ips[0]
        status["podIPs"] = [{"ip": ip} for ip in state.pod_ips]
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [
            _render_init(pod, container, policy, state.record(container["name"]), dying)
            for container in spec["initContainers"]
        ]
    if state.sandbox_error:
        status["message"] = state.sandbox_error
    elif (pod.get("status") or {}).get("message"):
        status["message"] = None  # merge patch: remove
    return status


def _all_ended(spec: Mapping[str, Any], state: PodState) -> bool:
    return all(state.record(c["name"]).state == "terminated" for c in spec.get("containers") or ())


def _render_init(
    pod: Mapping[str, Any], container: Mapping[str, Any], policy: str, record: ContainerRecord, dying: bool
) -> dict[str, Any]:
    if is_sidecar(container):
        return render_container(pod, container, "Always", record, dying)
    status = render_container(pod, container, "OnFailure" if policy != "Never" else "Never", record, dying)
    status["ready"] = record.state == "terminated" and record.exit_code == 0
    status["started"] = False
    return status


def render_conditions(pod: Mapping[str, Any], state: PodState, phase: str, wall_s: float) -> list[dict[str, Any]]:
    """Own conditions first, others' (readiness gates) as they are in ``pod``."""
    spec = pod["spec"]
    previous = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}
    terminal = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    containers_ready = _containers_ready(spec, state, terminal)
    wanted = [
        ("PodReadyToStartContainers", state.sandbox == "ready", "", ""),
        ("Initialized", *_initialized(spec, state, phase)),
        ("Ready", *_gates(spec, previous, containers_ready)),
        ("ContainersReady", *containers_ready),
        ("PodScheduled", True, "", ""),
    ]
    now = render_time(wall_s)
    conditions = [_render_condition(previous.get(row[0]), row, now) for row in wanted]
    return conditions + [c for c in previous.values() if c["type"] not in OWN_CONDITIONS]


def _render_condition(old: Mapping[str, Any] | None, row: tuple[str, bool, str, str], now: str) -> dict[str, Any]:
    kind, holds, reason, message = row
    status = "True" if holds else "False"
    since = old["lastTransitionTime"] if old and old.get("status") == status and "lastTransitionTime" in old else now
    condition: dict[str, Any] = {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": since,
    }
    if reason:
        condition["reason"] = reason
        if message:
            condition["message"] = message
    return condition


def _initialized(spec: Mapping[str, Any], state: PodState, phase: str) -> tuple[bool, str, str]:
    missing = []
    for container in spec.get("initContainers") or ():
        record = state.record(container["name"])
        done = record.started if is_sidecar(container) else record.state == "terminated" and record.exit_code == 0
        if not done and phase != "Succeeded":
            missing.append(record.name)
    if not missing:
        return True, "", ""
    return False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(missing)}]"


def _containers_ready(spec: Mapping[str, Any], state: PodState, terminal: str | None) -> tuple[bool, str, str]:
    if terminal:
        return False, terminal, ""
    watched: Sequence[Mapping[str, Any]] = [
        *(c for c in spec.get("initContainers") or () if is_sidecar(c)),
        *(spec.get("containers") or ()),
    ]
    unready = []
    for container in watched:
        record = state.record(container["name"])
        if not (record.state == "running" and record.ready):
            unready.append(record.name)
    if not unready:
        return True, "", ""
    return False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"


def _gates(
    spec: Mapping[str, Any], previous: Mapping[str, Mapping[str, Any]], ready: tuple[bool, str, str]
) -> tuple[bool, str, str]:
    if not ready[0]:
        return ready
    for gate in spec.get("readinessGates") or ():
        kind = gate.get("conditionType")
        condition = previous.get(kind)
        if condition is None:
            message = f'corresponding condition of pod readiness gate "{kind}" does not exist.'
            return False, "ReadinessGatesNotReady", message
        if condition.get("status") != "True":
            message = f'the status of pod readiness gate "{kind}" is not "True", but {condition.get("status")}'
            return False, "ReadinessGatesNotReady", message
    return True, "", ""
