"""Services of two endpoints each, as API objects; their names are in the order of their numbers."""

from collections.abc import Sequence

from netsim.model.objects import Object

NAMESPACE = "bench"
PORT = 80


def make_service(number: int) -> Object:
    ip = f"10.96.{number // 250 + 1}.{number % 250 + 1}"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": f"svc-{number:05d}"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ports": [{"name": "p80", "port": PORT, "protocol": "TCP"}],
        },
    }


def endpoints_of(number: int) -> tuple[str, ...]:
    return f"10.244.{number // 250}.{number % 250 + 1}", f"10.245.{number // 250}.{number % 250 + 1}"


def make_slice(number: int, extra: Sequence[str] = ()) -> Object:
    name = f"svc-{number:05d}"
    labels = {"kubernetes.io/service-name": name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": f"{name}-x", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "p80", "port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [ip], "nodeName": "node-1", "conditions": {"ready": True}}
            for ip in (*endpoints_of(number), *extra)
        ],
    }
