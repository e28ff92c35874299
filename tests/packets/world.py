"""Small manifests for packet tests, and the addresses that a packet test compares with."""

from typing import Any

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import node_ip, pod_ip

Manifest = dict[str, Any]

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.53"
HTTP_PORT = 8080  # agnhost netexec's
UDP_PORT = 8081
EXTERNAL = "host/external"
EXTERNAL_IP = "203.0.113.2"
NODE_COUNT = 3


def make_pod(name: str, *, node: str | None = None, app: str = "", **spec: Any) -> Manifest:
    """A pod that runs agnhost netexec: HTTP on 8080, UDP on 8081."""
    container = {
        "name": "agent",
        "image": AGNHOST,
        "args": ["netexec"],
        "ports": [{"containerPort": HTTP_PORT}, {"containerPort": UDP_PORT, "protocol": "UDP"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app or name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
    }
    if node is not None:
        pod["spec"]["nodeName"] = node
    return pod


def make_service(name: str, *, app: str, **spec: Any) -> Manifest:
    """A Service for the pods labelled ``app``: TCP 80 to 8080, UDP 81 to 8081."""
    ports = [
        {"name": "http", "port": 80, "targetPort": HTTP_PORT},
        {"name": "udp", "port": 81, "targetPort": UDP_PORT, "protocol": "UDP"},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": ports, **spec},
    }


def make_deployment(name: str, replicas: int, **container: Any) -> Manifest:
    """A Deployment of agnhost netexec pods labelled ``app: NAME``; ``container`` overrides keys of the container."""
    template = make_pod(name, app=name)
    template["spec"]["containers"][0].update(container)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]},
        },
    }


def gateway_of(cluster: Cluster, node: str) -> str:
    """The address of the node's pod bridge: the first of its pod CIDR."""
    for interface in cluster.interfaces(f"node/{node}"):
        if interface.name == "cni0":
            return interface.addresses[0].split("/")[0]
    raise AssertionError(f"{node} has no cni0")


def way_out_of(cluster: Cluster, node: str, pod_network: str) -> str:
    """The source address that masquerading gives packets which leave ``node`` for a pod on another node.

    It is the primary address of the interface they leave by (nf_nat_masquerade_ipv4): eth0, or vxlan0.
    """
    if pod_network == "routes":
        return node_ip(cluster, node)
    for interface in cluster.interfaces(f"node/{node}"):
        if interface.name == "vxlan0":
            return interface.addresses[0].split("/")[0]
    raise AssertionError(f"{node} has no vxlan0")


def address_of(cluster: Cluster, namespace: str, pod: str) -> str:
    return pod_ip(cluster, pod, namespace)
