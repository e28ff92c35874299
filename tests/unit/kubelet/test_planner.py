"""What is done for a pod, and when: the planner, without a kernel or a clock."""

import pytest

from netsim.kubelet.planner import (
    CreateSandbox,
    DeletePod,
    KillContainer,
    Plan,
    RemoveSandbox,
    StartContainer,
    StopContainer,
    record_exit,
    record_sandbox_failure,
    record_start_failure,
)
from netsim.kubelet.state import PodState
from tests.unit.kubelet.make import actions, make_container, make_pod, make_state, plan, start

DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}


def test_the_sandbox_comes_first() -> None:
    assert actions(make_pod(), PodState()) == (CreateSandbox(),)


def test_all_containers_start_at_once() -> None:
    pod = make_pod(make_container("a"), make_container("b"))
    assert actions(pod, make_state(pod, running=False)) == (StartContainer("a"), StartContainer("b"))


def test_a_running_pod_needs_nothing() -> None:
    pod = make_pod()
    assert plan(pod, make_state(pod)) == Plan()


def test_a_failed_sandbox_is_tried_again_later_each_time() -> None:
    pod, state = make_pod(), PodState()
    delays = []
    now_s = 0.0
    for _ in range(7):
        record_sandbox_failure(state, "no address", now_s)
        again = plan(pod, state, now_s)
        assert again.actions == ()
        assert again.wake_at_s is not None
        delays.append(again.wake_at_s - now_s)
        now_s = again.wake_at_s
        assert actions(pod, state, now_s) == (CreateSandbox(),)
    assert delays == [1, 2, 4, 8, 16, 30, 30]


def test_init_containers_run_one_after_the_other_and_before_the_rest() -> None:
    pod = make_pod(initContainers=[make_container("one"), make_container("two")])
    state = make_state(pod, running=False)
    assert actions(pod, state) == (StartContainer("one"),)
    start(state.record("one"))
    assert actions(pod, state) == ()
    record_exit(state.record("one"), 0, 1.0, 1.0)
    assert actions(pod, state, 1.0) == (StartContainer("two"),)
    start(state.record("two"))
    record_exit(state.record("two"), 0, 2.0, 2.0)
    assert actions(pod, state, 2.0) == (StartContainer("web"),)


def test_a_sidecar_lets_the_next_start_once_it_has_started() -> None:
    pod = make_pod(initContainers=[make_container("side", restartPolicy="Always")])
    state = make_state(pod, running=False)
    assert actions(pod, state) == (StartContainer("side"),)
    start(state.record("side"), started=False)
    assert actions(pod, state) == ()
    state.record("side").started = True
    assert actions(pod, state) == (StartContainer("web"),)


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    pod = make_pod(initContainers=[make_container("one")], restartPolicy="Never")
    state = make_state(pod, running=False)
    start(state.record("one"))
    record_exit(state.record("one"), 1, 1.0, 1.0)
    assert actions(pod, state, 1.0) == (RemoveSandbox(),)


@pytest.mark.parametrize(
    ("policy", "code", "restarted"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(policy: str, code: int, restarted: bool) -> None:
    pod = make_pod(make_container("a"), make_container("b"), restartPolicy=policy)
    state = make_state(pod)
    record_exit(state.record("a"), code, 1.0, 1.0)
    assert actions(pod, state, 1.0) == ((StartContainer("a"),) if restarted else ())


def test_the_first_restart_comes_at_once_and_later_ones_ever_later() -> None:
    pod = make_pod()
    state = make_state(pod, running=False)
    record = state.record("web")
    now_s = 0.0
    delays = []
    for _ in range(8):
        start(record, now_s)
        record_exit(record, 1, now_s, now_s)
        due = plan(pod, state, now_s)
        delays.append(0.0 if due.actions else (due.wake_at_s or 0.0) - now_s)
        now_s += delays[-1]
        assert actions(pod, state, now_s) == (StartContainer("web"),)
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_container_that_ran_for_long_starts_afresh() -> None:
    pod = make_pod()
    state = make_state(pod, running=False)
    record = state.record("web")
    for now_s in (0.0, 100.0, 200.0):
        start(record, now_s)
        record_exit(record, 1, now_s, now_s)
    start(record, 300.0)
    record_exit(record, 1, 1000.0, 1000.0)
    assert actions(pod, state, 1000.0) == (StartContainer("web"),)


def test_a_container_that_can_not_be_started_is_tried_again() -> None:
    pod = make_pod()
    state = make_state(pod, running=False)
    record_start_failure(state.record("web"), "RunContainerError", "not found", "Always", 0.0, 0.0)
    assert plan(pod, state) == Plan((), 10.0)
    assert actions(pod, state, 10.0) == (StartContainer("web"),)


def test_a_container_that_can_not_be_started_ends_a_pod_that_never_restarts() -> None:
    pod = make_pod(restartPolicy="Never")
    state = make_state(pod, running=False)
    record_start_failure(state.record("web"), "RunContainerError", "not found", "Never", 0.0, 0.0)
    assert state.record("web").exit_code == 128
    assert actions(pod, state) == (RemoveSandbox(),)


def test_a_failed_liveness_probe_stops_the_container_and_only_it() -> None:
    pod = make_pod(make_container("a"), make_container("b"), terminationGracePeriodSeconds=3)
    state = make_state(pod)
    state.record("a").stop_reason = "failed liveness probe, will be restarted"
    assert actions(pod, state) == (StopContainer("a", 3.0, "failed liveness probe, will be restarted"),)


def test_deletion_stops_waits_kills_removes_and_deletes() -> None:
    pod = make_pod(metadata=DELETED)
    state = make_state(pod)
    record = state.record("web")
    assert actions(pod, state) == (StopContainer("web", 5.0, ""),)
    record.stopping, record.stopping_since_s, record.kill_at_s = True, 0.0, 5.0
    assert plan(pod, state, 1.0) == Plan((), 5.0)
    assert actions(pod, state, 5.0) == (KillContainer("web"),)
    record_exit(record, -9, 5.0, 5.0)
    assert actions(pod, state, 5.0) == (RemoveSandbox(),)
    state.sandbox = "gone"
    assert actions(pod, state, 5.0) == (DeletePod(),)
    state.deleted = True
    assert plan(pod, state, 5.0) == Plan(finished=True)


def test_a_second_delete_may_shorten_the_grace_period() -> None:
    pod = make_pod(metadata={**DELETED, "deletionGracePeriodSeconds": 1})
    state = make_state(pod)
    record = state.record("web")
    record.stopping, record.stopping_since_s, record.kill_at_s = True, 0.0, 30.0
    assert plan(pod, state, 0.5) == Plan((), 1.0)
    assert actions(pod, state, 1.0) == (KillContainer("web"),)


def test_sidecars_outlive_the_others() -> None:
    pod = make_pod(metadata=DELETED, initContainers=[make_container("side", restartPolicy="Always")])
    state = make_state(pod)
    start(state.record("side"))
    assert actions(pod, state) == (StopContainer("web", 5.0, ""),)
    record_exit(state.record("web"), 0, 1.0, 1.0)
    assert actions(pod, state, 1.0) == (StopContainer("side", 5.0, ""),)


def test_a_pod_gone_from_the_api_is_killed_at_once_and_not_deleted_again() -> None:
    pod = make_pod()
    state = make_state(pod)
    state.removed = True
    assert actions(pod, state) == (KillContainer("web"),)
    record = state.record("web")
    record.stopping, record.kill_at_s = True, None
    assert actions(pod, state) == ()  # until it is dead
    record_exit(record, -9, 0.0, 0.0)
    assert actions(pod, state) == (RemoveSandbox(),)
    state.sandbox = "gone"
    assert plan(pod, state) == Plan(finished=True)


def test_a_pod_deleted_before_it_had_anything_is_just_deleted() -> None:
    assert actions(make_pod(metadata=DELETED), PodState()) == (DeletePod(),)


def test_a_finished_pod_loses_its_sandbox_and_stays() -> None:
    pod = make_pod(restartPolicy="OnFailure")
    state = make_state(pod)
    record_exit(state.record("web"), 0, 1.0, 1.0)
    assert actions(pod, state, 1.0) == (RemoveSandbox(),)
    state.sandbox = "gone"
    assert plan(pod, state, 1.0) == Plan()
