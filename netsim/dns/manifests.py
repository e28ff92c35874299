"""The objects by which cluster DNS is part of the cluster, with the names that people and tools look for."""

from typing import Any

from netsim.dns.component import IMAGE
from netsim.model.config import ClusterConfig
from netsim.model.objects import Object

NAMESPACE = "kube-system"
SERVICE_NAME = "kube-dns"  # kept by upstream from the server before CoreDNS, because tools look for it
DEPLOYMENT_NAME = "coredns"
LABELS = {"k8s-app": "kube-dns"}


def make_manifests(config: ClusterConfig) -> list[Object]:
    """The Service at the tenth address of each service network and the Deployment behind it."""
    return [_service(config), _deployment()]


def _service(config: ClusterConfig) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": SERVICE_NAME,
            "namespace": NAMESPACE,
            "labels": {**LABELS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": config.dns_ips[0],
            "clusterIPs": list(config.dns_ips),
            "ipFamilyPolicy": "RequireDualStack" if len(config.families) > 1 else "SingleStack",
            "selector": dict(LABELS),
            "ports": [_port("dns", "UDP"), _port("dns-tcp", "TCP")],
        },
    }


def _deployment() -> Object:
    """One replica, which is ready when it listens: no probe, for a cluster is up only when its DNS answers."""
    container = {
        "name": DEPLOYMENT_NAME,
        "image": IMAGE,
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT_NAME, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": dict(LABELS)},
            "template": {
                "metadata": {"labels": dict(LABELS)},
                # dnsPolicy Default: a name server that asks itself is no use
                "spec": {"dnsPolicy": "Default", "terminationGracePeriodSeconds": 0, "containers": [container]},
            },
        },
    }


def _port(name: str, protocol: str) -> dict[str, Any]:
    return {"name": name, "port": 53, "targetPort": 53, "protocol": protocol}
