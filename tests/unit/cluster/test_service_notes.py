"""What is said of a Service that can't serve the address and port that were asked."""

from typing import Any

import pytest

from netsim.cluster.service_notes import note_services
from netsim.model.target import Destination, Protocol

NODES = {"172.18.0.2", "172.18.0.3"}
DESCRIBE = "netsim describe svc web -n shop"
API_SERVER = "the API server is not in the cluster's network, but on the machine (netsim kubeconfig)"


def make_service(name: str = "web", namespace: str = "shop", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterIPs": ["10.96.0.9"],
            "externalIPs": ["203.0.113.7"],
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}],
        },
        "status": status,
    }


def make_slice(*ready: bool | None, service: str = "web", namespace: str = "shop") -> dict[str, Any]:
    endpoints = [{"addresses": ["10.244.0.2"], "conditions": {"ready": value}} for value in ready]
    labels = {"kubernetes.io/service-name": service}
    return {"metadata": {"name": "x", "namespace": namespace, "labels": labels}, "endpoints": endpoints}


def ask(address: str, port: int, protocol: Protocol = "tcp", *slices: dict[str, Any]) -> list[str]:
    balanced = make_service(loadBalancer={"ingress": [{"ip": "198.51.100.1"}]})
    return note_services(Destination(address, port, protocol), [balanced], slices, NODES)


@pytest.mark.parametrize(
    ("address", "port"),
    [("10.96.0.9", 80), ("203.0.113.7", 80), ("198.51.100.1", 80), ("172.18.0.2", 30080), ("172.18.0.3", 30080)],
)
def test_nobody_behind_it_is_said_at_every_address_it_has(address: str, port: int) -> None:
    assert ask(address, port) == [f"svc/shop/web has no endpoints: {DESCRIBE}"]
    assert ask(address, port, "tcp", make_slice(True)) == []


def test_nobody_ready_is_something_else() -> None:
    words = f"svc/shop/web has 2 endpoints, of which none is ready: {DESCRIBE}"
    assert ask("10.96.0.9", 80, "tcp", make_slice(False), make_slice(False)) == [words]
    assert ask("10.96.0.9", 80, "tcp", make_slice(False, None)) == [], "what nothing is known of counts as ready"
    of_others = [make_slice(True, service="other"), make_slice(True, namespace="other")]
    assert ask("10.96.0.9", 80, "tcp", *of_others) == [f"svc/shop/web has no endpoints: {DESCRIBE}"]


def test_a_port_that_it_has_not_is_said_of_its_own_addresses_only() -> None:
    assert ask("10.96.0.9", 81) == ["svc/shop/web has no port 81/tcp, but 80/tcp, 53/udp"]
    assert ask("10.96.0.9", 80, "udp") == ["svc/shop/web has no port 80/udp, but 80/tcp, 53/udp"]
    for address, port in (("198.51.100.1", 81), ("203.0.113.7", 81), ("172.18.0.2", 30081), ("192.0.2.1", 80)):
        assert ask(address, port) == []
    assert ask("10.96.0.9", 0, "icmp") == []


def test_the_api_server_is_elsewhere_unless_somebody_gave_its_service_endpoints() -> None:
    destination = Destination("10.96.0.9", 80, "tcp")
    service = make_service("kubernetes", "default")
    own = make_slice(False, service="kubernetes", namespace="default")
    assert note_services(destination, [service], [], NODES) == [
        f"svc/default/kubernetes has no endpoints: {API_SERVER}"
    ]
    [note] = note_services(destination, [service], [own], NODES)
    assert note.startswith("svc/default/kubernetes has 1 endpoint, of which none is ready")
    [note] = note_services(destination, [make_service("kubernetes", "shop")], [], NODES)
    assert note.endswith("netsim describe svc kubernetes -n shop")
