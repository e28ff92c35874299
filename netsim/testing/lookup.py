"""Addresses and places of API objects, as tests ask for them."""

from netsim.cluster.handle import Cluster
from netsim.model.errors import NetsimError


def pod_ip(cluster: Cluster, name: str, namespace: str = "default") -> str:
    """``status.podIP``. Raises NetsimError when the pod has none yet."""
    address = cluster.get("Pod", name, namespace).get("status", {}).get("podIP")
    if not address:
        raise NetsimError("the pod has no address yet", where=f"pod/{namespace}/{name}")
    return str(address)


def pod_node(cluster: Cluster, name: str, namespace: str = "default") -> str:
    """The name of the node the pod is bound to, empty while it is not."""
    return str(cluster.get("Pod", name, namespace)["spec"].get("nodeName", ""))


def node_ip(cluster: Cluster, name: str) -> str:
    """The node's InternalIP."""
    for address in cluster.get("Node", name)["status"].get("addresses", []):
        if address["type"] == "InternalIP":
            return str(address["address"])
    raise NetsimError("the node has no InternalIP", where=f"node/{name}")


def cluster_ip(cluster: Cluster, name: str, namespace: str = "default") -> str:
    """``spec.clusterIP`` of a Service."""
    return str(cluster.get("Service", name, namespace)["spec"]["clusterIP"])


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
