"""A load balancer as the network sees it: an address in the Service's status, and a route in the fabric to some nodes.

As with BGP (MetalLB, cloud routes): packets arrive at a node with the balancer's address as their destination.
"""

import os
import tempfile
from collections.abc import Sequence

from netsim.client.api import check_response
from netsim.cluster.handle import Cluster
from netsim.model.errors import KernelError, NetsimError
from netsim.model.target import parse_service

_HINT = "nodes are named as in netsim get nodes"


def balance(cluster: Cluster, service: str, address: str, nodes: Sequence[str]) -> None:
    """Give the Service that address, and send what is for it to these nodes, spread over them by flow.

    Raises ApiError, NetsimError: no such Service or node, a node without an address of that family.
    """
    target = parse_service(service)
    path = f"/api/v1/namespaces/{target.namespace}/services/{target.service}/status"
    found = cluster.get("Service", target.service, target.namespace)
    status = {"loadBalancer": {"ingress": [{"ip": address}]}}
    body = {**found, "status": {**(found.get("status") or {}), **status}}
    check_response(cluster.request("PUT", path, body=body))
    ways = [word for node in nodes for word in ("nexthop", "via", _node_address(cluster, node, ":" in address))]
    _in_fabric(cluster, ["ip", "-6" if ":" in address else "-4", "route", "replace", address, *ways])
    cluster.barrier()


def _node_address(cluster: Cluster, node: str, v6: bool) -> str:
    name = node.removeprefix("node/")
    found = cluster.get("Node", name)["status"].get("addresses") or ()
    mine = [a["address"] for a in found if a["type"] == "InternalIP" and (":" in a["address"]) == v6]
    if not mine:
        raise NetsimError(f"has no IPv{6 if v6 else 4} address", where=f"node/{name}", hint=_HINT)
    return str(mine[0])


def _in_fabric(cluster: Cluster, argv: Sequence[str]) -> None:
    """Run a command in the sandbox's own network namespace, which is the fabric. Raises KernelError."""
    with tempfile.TemporaryFile() as stderr, open(os.devnull, "r+b") as null:
        status = cluster.exec_stream(None, argv, stdin=null.fileno(), stdout=null.fileno(), stderr=stderr.fileno())
        stderr.seek(0)
        words = stderr.read().decode(errors="replace").strip()
    if status:
        raise KernelError(f"{' '.join(argv)}: {words}", where="fabric")
