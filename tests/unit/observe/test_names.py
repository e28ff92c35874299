"""Names of addresses, from objects as the API has them."""

from typing import Any

from netsim.observe.names import name_addresses


def make(kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": {}, **content}


POD = make("Pod", "web-1", status={"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]})
NODE = {"metadata": {"name": "node-1"}, "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]}}
HOST = make("Pod", "agent", spec={"hostNetwork": True}, status={"phase": "Running", "podIPs": [{"ip": "172.18.0.2"}]})
ENDED = make("Pod", "job", status={"phase": "Succeeded", "podIPs": [{"ip": "10.244.0.5"}]})


def make_service(*ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return make("Service", "web", spec={"clusterIPs": ["10.96.0.7"], "ports": list(ports), **spec})


def test_pods_and_nodes_have_their_addresses() -> None:
    names = name_addresses([POD, HOST, ENDED], [NODE], [], {"10.244.0.1": "node/node-1", "10.244.0.5": "other"})
    assert names == {
        "10.244.0.1": "node/node-1",
        "10.244.0.5": "pod/shop/web-1",
        "fd00::5": "pod/shop/web-1",
        "172.18.0.2": "node/node-1",
    }


def test_a_service_has_addresses_ports_and_node_ports() -> None:
    service = make_service({"name": "http", "port": 80, "nodePort": 30080}, externalIPs=["192.0.2.1", "2001:db8::1"])
    service["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "no.address"}]}}
    names = name_addresses([], [NODE], [service], {})
    for address in ("10.96.0.7", "192.0.2.1", "2001:db8::1", "192.0.2.9"):
        assert names[address] == "svc/shop/web"
    assert names["10.96.0.7:80"] == names["[2001:db8::1]:80"] == "svc/shop/web:http"
    assert names["172.18.0.2:30080"] == "svc/shop/web:http"
    assert names["172.18.0.2"] == "node/node-1"


def test_a_number_of_two_ports_has_no_name_of_one_of_them() -> None:
    service = make_service({"name": "dns", "port": 53}, {"name": "dns-tcp", "port": 53})
    assert name_addresses([], [], [service], {})["10.96.0.7:53"] == "svc/shop/web:53"


def test_a_node_port_of_two_ports_has_no_name_of_one_of_them() -> None:
    """TCP and UDP have numbers of their own; a key here has no protocol."""
    ports = {"name": "http", "port": 80, "nodePort": 30080}, {"name": "quic", "port": 80, "nodePort": 30080}
    assert name_addresses([], [NODE], [make_service(*ports)], {})["172.18.0.2:30080"] == "svc/shop/web:80"
    other = make_service({"name": "quic", "port": 443, "nodePort": 30080}, clusterIPs=["10.96.0.8"])
    other["metadata"]["name"] = "video"
    names = name_addresses([], [NODE], [make_service(ports[0]), other], {})
    assert names["172.18.0.2:30080"] == "svc/shop/web:http or svc/shop/video:quic"


def test_a_headless_service_names_nothing() -> None:
    assert name_addresses([], [], [make_service({"port": 80}, clusterIPs=["None"])], {}) == {}
