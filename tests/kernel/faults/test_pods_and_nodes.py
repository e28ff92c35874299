"""Pods killed and nodes stopped: what restarts, what is told to the API, and the way back."""

from collections.abc import Callable
from typing import Any

import pytest

from netsim.cluster.handle import Cluster
from netsim.model.errors import NetsimError, UsageError
from netsim.model.objects import get_condition, is_pod_ready
from netsim.testing.lookup import cluster_ip, pod_ip
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.packets.world import HTTP_PORT, make_pod, make_service

pytestmark = pytest.mark.needs("root")

GRACE_S = 2


def restarts(cluster: Cluster, name: str, namespace: str) -> int:
    return int(cluster.get("pod", name, namespace)["status"]["containerStatuses"][0]["restartCount"])


def last_exit(cluster: Cluster, name: str, namespace: str) -> int:
    status = cluster.get("pod", name, namespace)["status"]["containerStatuses"][0]
    state = status["lastState"].get("terminated") or status["state"].get("terminated")
    return int(state["exitCode"])


def is_ready(cluster: Cluster, name: str, namespace: str) -> bool:
    return is_pod_ready(cluster.get("pod", name, namespace))


def process_pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "busybox", "command": list(command)}
    metadata = {"name": name}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("kind", ["built-in", "process"])
def test_a_killed_pod_restarts(cluster: Cluster, namespace: str, kind: str) -> None:
    pod = make_pod("web") if kind == "built-in" else process_pod("web", "sleep", "1000")
    cluster.apply(pod, namespace=namespace)
    address = pod_ip(cluster, "web", namespace)
    killed = cluster.fault("kill", f"pod/{namespace}/web")
    assert killed.id == 0
    (names,) = killed.details["containers"].values()
    assert len(names) == 1
    wait_until("the restart", lambda: restarts(cluster, "web", namespace) == 1)
    wait_until("ready", lambda: is_ready(cluster, "web", namespace))
    assert last_exit(cluster, "web", namespace) == 137
    assert pod_ip(cluster, "web", namespace) == address  # the sandbox stays
    assert cluster.faults() == []


def test_a_pod_that_never_restarts_fails(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make_pod("once", restartPolicy="Never"), namespace=namespace)
    cluster.fault("kill", f"pod/{namespace}/once")
    wait_until("failed", lambda: cluster.get("pod", "once", namespace)["status"]["phase"] == "Failed")
    with pytest.raises(NetsimError):
        cluster.fault("kill", f"pod/{namespace}/once")


def test_of_a_pod_whose_container_does_not_run_is_said_where_to_look(cluster: Cluster, namespace: str) -> None:
    cluster.apply(process_pod("nocmd", "no-such-program"), namespace=namespace, wait=False)
    wait_until("its sandbox", lambda: cluster.get("pod", "nocmd", namespace)["status"].get("podIP"))
    with pytest.raises(NetsimError, match="no container runs") as raised:
        cluster.fault("kill", f"pod/{namespace}/nocmd")
    assert raised.value.hint == f"netsim describe pod nocmd -n {namespace}"


def test_signals(cluster: Cluster, namespace: str) -> None:
    script = "trap 'exit 7' USR1; while :; do sleep 0.01; done"
    cluster.apply([process_pod("trap", "sh", "-c", script), make_pod("web")], namespace=namespace)
    cluster.fault("kill", f"pod/{namespace}/trap", signal="USR1")
    wait_until("the restart", lambda: restarts(cluster, "trap", namespace) == 1)
    assert last_exit(cluster, "trap", namespace) == 7
    with pytest.raises(UsageError, match="built-in container has no process for SIGUSR1"):
        cluster.fault("kill", f"pod/{namespace}/web", signal="USR1")
    with pytest.raises(UsageError, match="there is no signal"):
        cluster.fault("kill", f"pod/{namespace}/web", signal="BANG")
    with pytest.raises(NetsimError, match="container nope is not valid"):
        cluster.fault("kill", f"pod/{namespace}/web", container="nope")
    with pytest.raises(UsageError, match="which pod"):
        cluster.fault("kill", "node/node-1")


@pytest.fixture
def lab(netsim_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster that is impatient with silent kubelets."""
    return netsim_cluster(nodes=2, config={"nodes": 2, "nodeMonitorGracePeriodSeconds": GRACE_S})


def ready_condition(cluster: Cluster, node: str) -> str:
    return str((get_condition(cluster.get("node", node), "Ready") or {})["status"])


def endpoints(cluster: Cluster) -> dict[str, bool]:
    found = {}
    for slice_ in cluster.list("endpointslices", "default", "kubernetes.io/service-name=web"):
        for endpoint in slice_.get("endpoints") or ():
            found[endpoint["targetRef"]["name"]] = endpoint["conditions"]["ready"]
    return found


def test_a_stopped_node_is_noticed_and_comes_back(lab: Cluster) -> None:
    traffic = Traffic(lab)
    pods = [make_pod("near", node="node-1", app="web"), make_pod("far", node="node-2", app="web")]
    lab.apply([*pods, make_pod("client", node="node-1"), make_service("web", app="web")])
    service, far = cluster_ip(lab, "web"), pod_ip(lab, "far")
    assert endpoints(lab) == {"near": True, "far": True}
    stopped = lab.fault("stop", "node/node-2")
    with pytest.raises(OSError):  # noqa: PT011 - timed out, or no route to host
        traffic.http_get("pod/client", f"http://{far}:{HTTP_PORT}/", timeout_s=0.5)
    # Its kubelet can't say so; that takes the grace period.
    assert ready_condition(lab, "node-2") == "True"
    assert is_ready(lab, "far", "default")
    assert wait_until("unknown", lambda: ready_condition(lab, "node-2") == "Unknown", timeout_s=GRACE_S + 10)
    wait_until("no endpoint", lambda: endpoints(lab) == {"near": True, "far": False})
    lab.barrier()
    assert [node["ready"] for node in lab.status()["nodes"]] == [True, False]
    names = {traffic.http_get("pod/client", f"http://{service}/hostname").body for _ in range(10)}
    assert names == {"near"}
    assert restarts(lab, "far", "default") == 0  # nobody on that node says anything
    stopped.undo()
    wait_until("ready", lambda: ready_condition(lab, "node-2") == "True")
    wait_until("an endpoint again", lambda: endpoints(lab) == {"near": True, "far": True})
    assert restarts(lab, "far", "default") == 1
    assert pod_ip(lab, "far") == far
    wait_until("no taints", lambda: not lab.get("node", "node-2")["spec"].get("taints"))
    lab.barrier()
    names = {traffic.http_get("pod/client", f"http://{service}/hostname").body for _ in range(20)}
    assert names == {"near", "far"}


def test_pods_of_a_stopped_node_end_when_it_is_back(lab: Cluster) -> None:
    twin = make_pod("twin", node="node-2")  # without a grace period: deleted is gone from the API
    lab.apply([make_pod("doomed", node="node-2", terminationGracePeriodSeconds=1), twin])
    uid = lab.get("pod", "twin")["metadata"]["uid"]
    with lab.fault("stop", "node/node-2"):
        with pytest.raises(NetsimError, match="is there already"):
            lab.fault("stop", "node/node-2")
        lab.delete("pod", "doomed", wait=False)
        lab.delete("pod", "twin")
        lab.apply([make_pod("late", node="node-2"), twin], wait=False)
        lab.barrier()
        assert lab.get("pod", "doomed")["metadata"]["deletionTimestamp"]
        assert lab.get("pod", "late")["status"]["phase"] == "Pending"
    wait_until("gone", lambda: "doomed" not in [pod["metadata"]["name"] for pod in lab.list("pods", "default")])
    wait_until("running", lambda: is_ready(lab, "late", "default"))
    wait_until("another of that name", lambda: is_ready(lab, "twin", "default"))
    assert lab.get("pod", "twin")["metadata"]["uid"] != uid


def test_a_node_that_stops_for_a_moment_is_never_missed(lab: Cluster) -> None:
    lab.fault("stop", "node/node-2", for_="200ms")
    wait_until("it is back", lambda: lab.faults() == [])
    assert ready_condition(lab, "node-2") == "True"
    assert not lab.get("node", "node-2")["spec"].get("taints")
