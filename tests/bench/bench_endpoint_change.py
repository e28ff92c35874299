"""One endpoint's change on 3 nodes: from the API write to every node's kernel, checked by real connections."""

import statistics
import subprocess
import tempfile
import time

import netsim
from netsim.testing.lookup import cluster_ip, pod_ip
from netsim.testing.traffic import Traffic
from tests.bench.figures import measure_s, show
from tests.packets.world import HTTP_PORT, make_pod, make_service

TIMES = 21
NODES = ("node-1", "node-2", "node-3")
# A change of one endpoint in kube-proxy's shape: one service chain and one endpoint chain written anew.
RULES = """*nat
:KUBE-SVC-BENCH - [0:0]
:KUBE-SEP-BENCH - [0:0]
-A KUBE-SVC-BENCH -j KUBE-SEP-BENCH
-A KUBE-SEP-BENCH -s 10.244.0.5/32 -j MARK --set-mark 0x4000
-A KUBE-SEP-BENCH -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080
COMMIT
"""


def slice_of(address: str) -> dict[str, object]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-manual", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": HTTP_PORT, "protocol": "TCP"}],
    }


def restore_s() -> float:
    """One `iptables-restore --noflush` of such a change in a namespace of its own, process start and all."""
    script = "start=$(date +%s.%N); iptables-restore --noflush -w; echo $start $(date +%s.%N)"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], input=RULES, capture_output=True, text=True, check=True
    )
    start, end = done.stdout.split()
    return float(end) - float(start)


def main() -> None:
    floor = statistics.median(restore_s() for _ in range(7))
    with tempfile.TemporaryDirectory() as state, netsim.up("bench", nodes=3, state_dir=state) as cluster:
        service = make_service("web", app="x")
        del service["spec"]["selector"]
        service["spec"]["ports"] = service["spec"]["ports"][:1]
        cluster.apply([make_pod("a"), make_pod("b"), service])
        addresses = [pod_ip(cluster, "a"), pod_ip(cluster, "b")]
        cluster.apply(slice_of(addresses[0]))
        traffic, url = Traffic(cluster), f"http://{cluster_ip(cluster, 'web')}/hostname"
        barriers, first_hits = [], []
        for turn in range(TIMES):
            name = "ba"[turn % 2]
            change = {"endpoints": slice_of(addresses[1 - turn % 2])["endpoints"]}
            started = time.perf_counter()
            cluster.patch("EndpointSlice", "web-manual", change)
            cluster.barrier()
            barriers.append(time.perf_counter() - started)
            for node in NODES:  # the barrier's word is checked: the very next connection goes to the new endpoint
                hit = traffic.http_get(f"node/{node}", url).body
                if hit != name:
                    raise SystemExit(f"after the barrier {node} still sends to {hit}, not to {name}")
            first_hits.append(time.perf_counter() - started)
        middle = statistics.median(barriers) * 1000
        show("endpoint change in 3 kernels (write + barrier)", middle, "ms", floor=floor * 1000,
             floor_name="one iptables-restore", goal="< 50 ms")  # fmt: skip
        show("  slowest of 21", max(barriers) * 1000, "ms")
        show("  until a connection from each node hit it", statistics.median(first_hits) * 1000, "ms")
        show("barrier with nothing to wait for", measure_s(cluster.barrier, 20) * 1000, "ms")


if __name__ == "__main__":
    main()
