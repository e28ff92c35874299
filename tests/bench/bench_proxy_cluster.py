"""100 nodes, 1,000 pods behind one Service, nftables mode: from `netsim up` until every node's rules have them all.

The kernel is asked: on each node `nft` counts the Service's endpoints, after the clock was stopped.
"""

import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import netsim
from netsim.cluster.handle import Cluster
from tests.bench.bench_pods import DEPLOYMENT, NODES, PODS, await_ready
from tests.bench.figures import show

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "many"},
    "spec": {"selector": {"app": "many"}, "ports": [{"port": 80}]},
}


def count_endpoints(cluster: Cluster, node: str, address: str) -> int:
    """How many endpoints the node's kernel has for the Service."""
    argv = ["nft", "-j", "list", "map", "ip", "kube-proxy", "endpoints"]
    listed = json.loads(cluster.exec(f"node/{node}", argv).stdout)
    found = next(item["map"] for item in listed["nftables"] if "map" in item)
    return sum(key["concat"][0] == address for key, _value in found.get("elem", []))


def main() -> None:
    with tempfile.TemporaryDirectory() as state:
        started = time.perf_counter()
        with netsim.up("bench", nodes=NODES, proxy_mode="nftables", state_dir=state) as cluster:
            up_s = time.perf_counter() - started
            cluster.apply([SERVICE, DEPLOYMENT], wait=False)
            await_ready(cluster)
            ready_s = time.perf_counter() - started
            cluster.barrier()
            taken_s = time.perf_counter() - started
            address = cluster.get("Service", "many")["spec"]["clusterIP"]
            nodes = [node["metadata"]["name"] for node in cluster.list("Node")]
            with ThreadPoolExecutor(4) as pool:
                counts = set(pool.map(lambda node: count_endpoints(cluster, node, address), nodes))
            if len(nodes) != NODES or counts != {PODS}:
                raise SystemExit(f"{len(nodes)} nodes have {sorted(counts)} endpoints, not {PODS} each")
    show(f"{NODES} nodes, {PODS} pods behind one Service: in all rules", taken_s, "s", goal="< 15 s")
    show("  of which up", up_s, "s")
    show("  until all pods were Running", ready_s, "s")


if __name__ == "__main__":
    main()
