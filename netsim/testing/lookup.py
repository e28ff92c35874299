"""Addresses and places of API objects, as tests ask for them.

``family`` is 4 or 6; without it the answer is the primary address.
"""

from collections.abc import Iterable

from netsim.cluster.handle import Cluster
from netsim.model.errors import NetsimError


def _choose(addresses: Iterable[str], family: int | None) -> str:
    """The first one of the family, "" if there is none."""
    return next((a for a in addresses if family in (None, 6 if ":" in a else 4)), "")


def pod_ip(cluster: Cluster, name: str, namespace: str = "default", *, family: int | None = None) -> str:
    """One of ``status.podIPs``. Raises NetsimError when the pod has none (yet)."""
    ips = cluster.get("Pod", name, namespace).get("status", {}).get("podIPs") or ()
    if address := _choose((str(entry["ip"]) for entry in ips), family):
        return address
    words = "the pod has no address yet" if not ips else f"the pod has no IPv{family} address"
    raise NetsimError(words, where=f"pod/{namespace}/{name}")


def pod_node(cluster: Cluster, name: str, namespace: str = "default") -> str:
    """The name of the node the pod is bound to, empty while it is not."""
    return str(cluster.get("Pod", name, namespace)["spec"].get("nodeName", ""))


def node_ip(cluster: Cluster, name: str, *, family: int | None = None) -> str:
    """The node's InternalIP. Raises NetsimError when it has none."""
    addresses = cluster.get("Node", name)["status"].get("addresses", [])
    if address := _choose((str(a["address"]) for a in addresses if a["type"] == "InternalIP"), family):
        return address
    raise NetsimError("the node has no InternalIP", where=f"node/{name}")


def cluster_ip(cluster: Cluster, name: str, namespace: str = "default", *, family: int | None = None) -> str:
    """One of ``spec.clusterIPs`` of a Service. Raises NetsimError when it has none."""
    spec = cluster.get("Service", name, namespace)["spec"]
    if address := _choose(map(str, spec.get("clusterIPs") or ()), family):
        return address
    raise NetsimError("the Service has no such clusterIP", where=f"svc/{namespace}/{name}")


def node_port(cluster: Cluster, name: str, namespace: str = "default", port_name: str = "") -> int:
    """The nodePort of a Service's port: the first, or the one named ``port_name``."""
    for port in cluster.get("Service", name, namespace)["spec"]["ports"]:
        if "nodePort" in port and port_name in ("", port.get("name", "")):
            return int(port["nodePort"])
    raise NetsimError("the Service has no such nodePort", where=f"svc/{namespace}/{name}")


def ready_pods(cluster: Cluster, labels: str, namespace: str = "default") -> list[str]:
    """Names of the pods with these labels that are Ready and not being deleted, sorted."""
    names = []
    for pod in cluster.list("Pod", namespace, labels=labels):
        conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", [])}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            names.append(str(pod["metadata"]["name"]))
    return sorted(names)
