"""What to do next for one pod: a pure function of its object, what is known of it, and the time.

The worker asks again after every action and every event, so a plan holds only what can be done now, and the time at
which something more becomes due.

Source: kubernetes pkg/kubelet/kuberuntime/kuberuntime_manager.go (computePodActions), pkg/kubelet/kubelet.go (SyncPod,
SyncTerminatingPod, SyncTerminatedPod).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netsim.kubelet.state import ContainerRecord, PodState
from netsim.kubelet.status import choose_phase, is_sidecar, may_restart, restart_policy

BACKOFF_FIRST_S = 10.0  # pkg/kubelet/kubelet.go backOffPeriod
BACKOFF_MAX_S = 300.0  # MaxContainerBackOff
BACKOFF_RESET_S = 600.0  # a container that ran this long starts afresh: twice the maximum
SANDBOX_BACKOFF_FIRST_S = 1.0
SANDBOX_BACKOFF_MAX_S = 30.0


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    """Make the network namespace and run the CNI chain."""


@dataclass(frozen=True, slots=True)
class StartContainer:
    name: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """preStop, SIGTERM, and SIGKILL after ``grace_s``."""

    name: str
    grace_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class KillContainer:
    """SIGKILL now."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """CNI DEL, and the namespace goes."""


@dataclass(frozen=True, slots=True)
class DeletePod:
    """The last write: delete with grace period 0."""


Action = CreateSandbox | StartContainer | StopContainer | KillContainer | RemoveSandbox | DeletePod


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions for now, and the monotonic second at which to ask again (None: when something happens)."""

    actions: tuple[Action, ...] = ()
    wake_at_s: float | None = None
    finished: bool = False  # nothing will ever be done for this pod again


def is_dying(pod: Mapping[str, Any], state: PodState) -> bool:
    """Whether the pod is being deleted, or gone from the API already."""
    return state.removed or bool(pod["metadata"].get("deletionTimestamp"))


def grace_of(pod: Mapping[str, Any]) -> float:
    """Seconds between SIGTERM and SIGKILL: what the delete asked for, else what the pod says."""
    asked = pod["metadata"].get("deletionGracePeriodSeconds")
    if asked is None:
        asked = pod["spec"].get("terminationGracePeriodSeconds")
    return 30.0 if asked is None else float(asked)


def plan_pod(pod: Mapping[str, Any], state: PodState, now_s: float) -> Plan:
    """What to do for ``pod`` at ``now_s``."""
    if is_dying(pod, state):
        return _plan_end(pod, state, now_s, delete=True)
    if choose_phase(pod, state) in ("Succeeded", "Failed"):
        return _plan_end(pod, state, now_s, delete=False)
    if state.sandbox != "ready":
        if now_s < state.sandbox_retry_at_s:
            return Plan(wake_at_s=state.sandbox_retry_at_s)
        return Plan((CreateSandbox(),))
    return _plan_containers(pod, state, now_s)


def _plan_containers(pod: Mapping[str, Any], state: PodState, now_s: float) -> Plan:
    actions: list[Action] = []
    wakes: list[float] = []
    policy = restart_policy(pod)
    init_policy = "OnFailure" if policy == "Always" else policy
    initialised = True
    for container in pod["spec"].get("initContainers") or ():
        record = state.record(container["name"])
        if is_sidecar(container):
            _plan_one(pod, record, "Always", now_s, actions, wakes)
            done = record.started
        else:
            done = record.state == "terminated" and record.exit_code == 0
            if not done:
                _plan_one(pod, record, init_policy, now_s, actions, wakes)
        if not done:
            initialised = False
            break
    if initialised:
        for container in pod["spec"].get("containers") or ():
            _plan_one(pod, state.record(container["name"]), policy, now_s, actions, wakes)
    return Plan(tuple(actions), min(wakes, default=None))


def _plan_one(
    pod: Mapping[str, Any],
    record: ContainerRecord,
    policy: str,
    now_s: float,
    actions: list[Action],
    wakes: list[float],
) -> None:
    """One container of a living pod: start it, stop it, or name the time when something is due."""
    if record.state == "running":
        if record.stopping:
            _plan_kill(record, now_s, actions, wakes)
        elif record.stop_reason:
            grace = pod["spec"].get("terminationGracePeriodSeconds")
            actions.append(StopContainer(record.name, 30.0 if grace is None else float(grace), record.stop_reason))
        return
    if record.state == "terminated" and not may_restart(policy, record):
        return
    if now_s >= record.restart_at_s:
        actions.append(StartContainer(record.name))
    else:
        wakes.append(record.restart_at_s)


def _plan_kill(
    record: ContainerRecord,
    now_s: float,
    actions: list[Action],
    wakes: list[float],
    latest_s: float = float("inf"),
) -> None:
    """SIGKILL is due at ``kill_at_s``, and at ``latest_s``."""
    if record.kill_at_s is None:
        return
    due_s = min(record.kill_at_s, latest_s)
    if now_s >= due_s:
        actions.append(KillContainer(record.name))
    else:
        wakes.append(due_s)


def _plan_end(pod: Mapping[str, Any], state: PodState, now_s: float, *, delete: bool) -> Plan:
    """Bring everything down: containers (sidecars last), the sandbox, the object."""
    actions: list[Action] = []
    wakes: list[float] = []
    grace_s = 0.0 if state.removed else grace_of(pod)
    sidecars = {c["name"] for c in pod["spec"].get("initContainers") or () if is_sidecar(c)}
    running = [record for record in state.containers.values() if record.state == "running"]
    first: Sequence[ContainerRecord] = [record for record in running if record.name not in sidecars] or running
    for record in first:
        if state.removed:
            if not record.stopping or record.kill_at_s is not None:
                actions.append(KillContainer(record.name))
        elif not record.stopping:
            actions.append(StopContainer(record.name, grace_s, ""))
        else:
            # A second delete may have shortened the grace period.
            _plan_kill(record, now_s, actions, wakes, latest_s=record.stopping_since_s + grace_s)
    if actions or running:
        return Plan(tuple(actions), min(wakes, default=None))
    if state.sandbox == "ready":
        return Plan((RemoveSandbox(),))
    if delete and not state.removed and not state.deleted:
        return Plan((DeletePod(),))
    return Plan(finished=delete)


def record_start(record: ContainerRecord, now_s: float, wall_s: float, *, ready: bool, started: bool) -> None:
    """The container runs from now on."""
    record.state = "running"
    record.reason = record.message = ""
    record.exit_code = record.signal = 0
    record.started_s, record.started_wall_s = now_s, wall_s
    record.ready, record.started = ready, started
    record.stopping, record.kill_at_s, record.stop_reason = False, None, ""


def record_exit(record: ContainerRecord, code: int, now_s: float, wall_s: float) -> None:
    """The container ended with ``code`` (-N: killed by signal N); its next start is put off as upstream does."""
    record.state = "terminated"
    record.signal = -code if code < 0 else 0
    record.exit_code = 128 - code if code < 0 else code
    record.reason = record.message = ""
    record.ended_s, record.finished_wall_s = now_s, wall_s
    record.ready = record.started = False
    record.stopping, record.kill_at_s, record.stop_reason = False, None, ""
    if now_s - record.started_s >= BACKOFF_RESET_S:
        record.backoff_s = 0.0
    record.restart_at_s = now_s + record.backoff_s  # the first restart comes at once
    record.backoff_s = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, 2 * record.backoff_s))


def record_start_failure(
    record: ContainerRecord, reason: str, message: str, policy: str, now_s: float, wall_s: float
) -> None:
    """The container could not be started; tried again with back-off, unless the pod never restarts anything."""
    if policy == "Never" and reason == "RunContainerError":
        record_exit(record, 128, now_s, wall_s)
        record.reason, record.message, record.started_wall_s = "StartError", message, 0.0
        return
    record.state, record.reason, record.message = "waiting", reason, message
    record.ready = record.started = False
    record.backoff_s = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, 2 * record.backoff_s))
    record.restart_at_s = now_s + record.backoff_s


def record_sandbox_failure(state: PodState, message: str, now_s: float) -> None:
    """The sandbox could not be made; tried again with back-off."""
    state.sandbox_error = message
    backoff_s = state.sandbox_backoff_s
    state.sandbox_backoff_s = min(SANDBOX_BACKOFF_MAX_S, max(SANDBOX_BACKOFF_FIRST_S, 2 * backoff_s))
    state.sandbox_retry_at_s = now_s + state.sandbox_backoff_s
