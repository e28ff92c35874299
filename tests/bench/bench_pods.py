"""1,000 pods on 100 nodes by one Deployment: until all are Running, until all answer, and what each one holds."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import netsim
from netsim.cluster.handle import Cluster
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.bench.figures import show
from tests.bench.floor import ip_batch_s, make_nodes, make_pods
from tests.bench.memory import kernel_kib, processes_below, pss_kib

NODES, PODS = 100, 1000
POLL_S = 0.1  # listing 1,000 pods costs the API server time that is then counted as ours
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "many"},
    "spec": {
        "replicas": PODS,
        "selector": {"matchLabels": {"app": "many"}},
        "template": {
            "metadata": {"labels": {"app": "many"}},
            "spec": {"containers": [{"name": "web", "image": "nginx", "ports": [{"containerPort": 80}]}]},
        },
    },
}


def held_kib(cluster: Cluster) -> tuple[int, int]:
    return pss_kib(processes_below(cluster.pid)), kernel_kib()


def await_ready(cluster: Cluster) -> list[str]:
    """All pods' addresses, once the Deployment says that all are available."""
    while True:
        if cluster.get("Deployment", "many").get("status", {}).get("readyReplicas", 0) == PODS:
            return [pod["status"]["podIP"] for pod in cluster.list("Pod", "default")]
        time.sleep(POLL_S)


def connect_to_all(cluster: Cluster, addresses: list[str]) -> None:
    """A TCP connection from node-1 to every pod."""
    traffic = Traffic(cluster)

    def connect(address: str) -> None:
        wait_until(address, lambda: traffic.connect("node/node-1", address, 80, timeout_s=5.0).close() is None, 30.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(connect, addresses))


def main() -> None:
    floor = ip_batch_s(make_pods(NODES, PODS), before=make_nodes(NODES))
    with tempfile.TemporaryDirectory() as state:
        started = time.perf_counter()
        with netsim.up("bench", nodes=NODES, state_dir=state) as cluster:
            show(f"up, {NODES} nodes", time.perf_counter() - started, "s")
            time.sleep(2)  # let the idle cluster settle before its memory is read
            before = held_kib(cluster)
            started = time.perf_counter()
            cluster.apply(DEPLOYMENT, wait=False)
            addresses = await_ready(cluster)
            running = time.perf_counter() - started
            connect_to_all(cluster, addresses)
            reachable = time.perf_counter() - started
            show(f"{PODS} pods Running", running, "s", floor=floor, floor_name="ip -batch", goal="< 10 s")
            show(f"{PODS} pods Running and connected to", reachable, "s", goal="< 10 s")
            time.sleep(2)
            after = held_kib(cluster)
            processes, kernel = ((new - old) / 1024 / PODS for new, old in zip(after, before, strict=True))
            show("memory for a pod: processes + kernel", processes + kernel, "MB", goal="< 0.6 MB")
            show("  of which processes", processes, "MB")
            show("  of which kernel", kernel, "MB")
            started = time.perf_counter()
        show(f"down, {NODES} nodes and {PODS} pods", time.perf_counter() - started, "s")


if __name__ == "__main__":
    main()
