"""Phases, conditions and container states as Kubernetes reports them."""

from typing import Any

import pytest

from netsim.kubelet.planner import record_exit, record_start_failure
from netsim.kubelet.state import PodState
from netsim.kubelet.status import choose_phase, render_status
from netsim.model.objects import Object
from tests.unit.kubelet.make import make_container, make_pod, make_state, start


def conditions(pod: Object, state: PodState) -> dict[str, Any]:
    return {c["type"]: c for c in render_status(pod, state, 2000.0)["conditions"]}


def truths(pod: Object, state: PodState) -> dict[str, bool]:
    return {kind: c["status"] == "True" for kind, c in conditions(pod, state).items()}


def test_a_running_pod() -> None:
    pod = make_pod()
    status = render_status(pod, make_state(pod), 2000.0)
    assert status["phase"] == "Running"
    assert (status["hostIP"], status["podIP"]) == ("172.18.0.2", "10.244.0.5")
    assert (status["hostIPs"], status["podIPs"]) == ([{"ip": "172.18.0.2"}], [{"ip": "10.244.0.5"}])
    assert all(c["status"] == "True" for c in status["conditions"])
    (container,) = status["containerStatuses"]
    assert container["ready"] is True
    assert container["started"] is True
    assert container["state"] == {"running": {"startedAt": "1970-01-01T00:16:40Z"}}


def test_a_pod_has_its_addresses_of_both_families_and_the_hosts() -> None:
    state = PodState(pod_ips=("fd00::5", "10.0.0.5"), host_ips=("fd01::2", "172.18.0.2"))
    status = render_status(make_pod(), state, 2000.0)
    assert (status["podIP"], status["hostIP"]) == ("fd00::5", "fd01::2")
    assert status["podIPs"] == [{"ip": "fd00::5"}, {"ip": "10.0.0.5"}]
    assert status["hostIPs"] == [{"ip": "fd01::2"}, {"ip": "172.18.0.2"}]


def test_a_pod_without_a_sandbox_is_pending() -> None:
    pod = make_pod()
    state = PodState(host_ips=("172.18.0.2",))
    status = render_status(pod, state, 2000.0)
    assert status["phase"] == "Pending"
    assert "podIP" not in status
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert truths(pod, state) == {
        "PodReadyToStartContainers": False,
        "Initialized": True,
        "Ready": False,
        "ContainersReady": False,
        "PodScheduled": True,
    }


@pytest.mark.parametrize(
    ("policy", "codes", "phase"),
    [
        ("Always", [None, 0], "Running"),
        ("Always", [1, 0], "Running"),
        ("OnFailure", [0, 0], "Succeeded"),
        ("OnFailure", [0, 1], "Running"),
        ("Never", [0, 0], "Succeeded"),
        ("Never", [0, 1], "Failed"),
        ("Never", [None, 1], "Running"),
    ],
)
def test_phase(policy: str, codes: list[int | None], phase: str) -> None:
    pod = make_pod(make_container("a"), make_container("b"), restartPolicy=policy)
    state = make_state(pod)
    for name, code in zip("ab", codes, strict=True):
        if code is not None:
            record_exit(state.record(name), code, 1.0, 1.0)
    assert choose_phase(pod, state) == phase


def test_one_waiting_container_keeps_the_pod_pending() -> None:
    pod = make_pod(make_container("a"), make_container("b"))
    state = make_state(pod)
    record = state.record("b")
    record.state = "waiting"
    record_start_failure(record, "RunContainerError", 'exec: "foo": not found', "Always", 0.0, 0.0)
    status = render_status(pod, state, 1.0)
    assert status["phase"] == "Pending"
    assert status["containerStatuses"][1]["state"] == {
        "waiting": {"reason": "RunContainerError", "message": 'exec: "foo": not found'}
    }
    assert conditions(pod, state)["Ready"]["message"] == "containers with unready status: [b]"


def test_init_containers_not_done() -> None:
    pod = make_pod(initContainers=[make_container("one")])
    state = make_state(pod, running=False)
    start(state.record("one"))
    assert render_status(pod, state, 1.0)["phase"] == "Pending"
    condition = conditions(pod, state)["Initialized"]
    assert (condition["status"], condition["reason"]) == ("False", "ContainersNotInitialized")
    record_exit(state.record("one"), 0, 1.0, 1.0)
    (init,) = render_status(pod, state, 1.0)["initContainerStatuses"]
    assert init["ready"] is True
    assert init["state"]["terminated"]["reason"] == "Completed"


def test_a_crash_loop_shows_the_back_off_and_the_last_state() -> None:
    pod = make_pod()
    state = make_state(pod)
    record = state.record("web")
    record_exit(record, 1, 1.0, 1.0)
    (first,) = render_status(pod, state, 1.0)["containerStatuses"]
    assert first["state"]["terminated"]["exitCode"] == 1  # the first restart comes at once
    start(record, 1.0)
    record_exit(record, 137, 2.0, 2.0)
    (second,) = render_status(pod, state, 1.0)["containerStatuses"]
    assert second["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert second["state"]["waiting"]["message"].startswith(
        "back-off 10s restarting failed container=web pod=pod_shop("
    )
    assert second["lastState"]["terminated"]["exitCode"] == 137


def test_killed_by_a_signal() -> None:
    pod = make_pod(restartPolicy="Never")
    state = make_state(pod)
    record_exit(state.record("web"), -9, 1.0, 1.0)
    (container,) = render_status(pod, state, 1.0)["containerStatuses"]
    assert container["state"]["terminated"] == {
        "exitCode": 137,
        "reason": "Error",
        "signal": 9,
        "startedAt": "1970-01-01T00:16:40Z",
        "finishedAt": "1970-01-01T00:00:01Z",
    }


def test_a_terminating_pod_stays_ready_while_it_answers() -> None:
    pod = make_pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    state = make_state(pod)
    assert truths(pod, state)["Ready"] is True
    state.record("web").ready = False
    assert truths(pod, state)["Ready"] is False


def test_readiness_gates() -> None:
    pod = make_pod(readinessGates=[{"conditionType": "example.com/up"}])
    state = make_state(pod)
    assert conditions(pod, state)["Ready"]["reason"] == "ReadinessGatesNotReady"
    pod["status"]["conditions"] = [{"type": "example.com/up", "status": "True"}]
    assert truths(pod, state)["Ready"] is True
    assert truths(pod, state)["example.com/up"] is True  # another's condition is kept


def test_a_transition_time_changes_only_with_the_status() -> None:
    pod = make_pod()
    state = make_state(pod)
    pod["status"] = render_status(pod, state, 1000.0)
    later = {c["type"]: c for c in render_status(pod, state, 2000.0)["conditions"]}
    assert later["Ready"]["lastTransitionTime"] == "1970-01-01T00:16:40Z"
    state.record("web").ready = False
    changed = {c["type"]: c for c in render_status(pod, state, 2000.0)["conditions"]}
    assert changed["Ready"]["lastTransitionTime"] == "1970-01-01T00:33:20Z"
    assert changed["Initialized"]["lastTransitionTime"] == "1970-01-01T00:16:40Z"


def test_the_words_of_a_failed_sandbox_are_in_the_status_until_it_works() -> None:
    pod = make_pod()
    state = make_state(pod, running=False)
    state.sandbox_error = "no addresses left"
    pod["status"] = render_status(pod, state, 1.0)
    assert pod["status"]["message"] == "no addresses left"
    state.sandbox_error = ""
    assert render_status(pod, state, 1.0)["message"] is None  # a merge patch that removes it
