"""Pods, records and plans for the kubelet's pure half."""

from typing import Any

from netsim.kubelet.planner import Action, Plan, plan_pod, record_start
from netsim.kubelet.state import ContainerRecord, PodState
from netsim.model.objects import Object


def make_container(name: str = "web", image: str = "nginx", **extra: Any) -> Object:
    return {"name": name, "image": image, **extra}


def make_pod(*containers: Object, metadata: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": "shop", "uid": "u1", **(metadata or {})},
        "spec": {"nodeName": "node-1", "containers": list(containers) or [make_container()], **spec},
        "status": {"phase": "Pending"},
    }


def make_state(pod: Object, *, running: bool = True, now_s: float = 0.0) -> PodState:
    """A pod whose sandbox is ready; ``running``: all its app containers run."""
    state = PodState(sandbox="ready", pod_ips=("10.244.0.5",), host_ips=("172.18.0.2",), start_wall_s=1.0)
    for container in pod["spec"]["containers"]:
        record = state.record(container["name"])
        if running:
            start(record, now_s)
    return state


def start(record: ContainerRecord, now_s: float = 0.0, *, ready: bool = True, started: bool = True) -> None:
    record_start(record, now_s, 1000.0 + now_s, ready=ready, started=started)


def actions(pod: Object, state: PodState, now_s: float = 0.0) -> tuple[Action, ...]:
    return plan(pod, state, now_s).actions


def plan(pod: Object, state: PodState, now_s: float = 0.0) -> Plan:
    return plan_pod(pod, state, now_s)
