"""Real packets through the proxy's rules on one node."""

import socket
from collections import Counter

import pytest

from netsim.kernel.conntrack import Conntrack
from tests.kernel.proxy.node import EXTERNAL_IP, GATEWAY, NODE_IP, PODS, RealNode, ask
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore")

IP = "10.96.0.77"
UDP = [{"name": "http", "port": 80, "protocol": "UDP"}]
UDP_8080 = [{"name": "http", "port": 8080, "protocol": "UDP"}]
NODE_PORT = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
LOCAL = {"externalTrafficPolicy": "Local"}
EVERYONE = [make_endpoint(ip) for ip in PODS.values()]
ELSEWHERE = make_endpoint("10.244.2.2", "node-2")


def test_cluster_ip_spreads_over_all_and_keeps_the_source(node: RealNode) -> None:
    node.put(make_service(ip=IP), make_slice(EVERYONE))
    answers = Counter(ask(node.pods["pod-1"], IP, 80) for _ in range(90))
    # The pod that meets itself is masqueraded, or the answer would not find its way back.
    assert set(answers) == {f"pod-1 {GATEWAY}", f"pod-2 {PODS['pod-1']}", f"pod-3 {PODS['pod-1']}"}
    assert min(answers.values()) > 10


def test_cluster_ip_from_outside_is_masqueraded(node: RealNode) -> None:
    node.put(make_service(ip=IP), make_slice(EVERYONE[1:2]))
    assert ask(node.external, IP, 80) == f"pod-2 {GATEWAY}"
    assert ask(node.node, IP, 80) == f"pod-2 {GATEWAY}"


def test_the_node_reaches_services(node: RealNode) -> None:
    node.put(make_service(ip=IP, **NODE_PORT), make_slice(EVERYONE[1:2]))
    for address in (NODE_IP, "127.0.0.1", GATEWAY):
        assert ask(node.node, address, 30080) == f"pod-2 {GATEWAY}"


def test_affinity_keeps_a_client_and_not_its_neighbour(node: RealNode) -> None:
    node.put(make_service(ip=IP, sessionAffinity="ClientIP"), make_slice(EVERYONE))
    for client in ("pod-1", "pod-2"):
        assert len({ask(node.pods[client], IP, 80) for _ in range(20)}) == 1
    answer = ask(node.pods["pod-3"], IP, 80).split()[0]
    node.put(make_slice([e for e in EVERYONE if e["addresses"] != [PODS[answer]]]))
    assert ask(node.pods["pod-3"], IP, 80).split()[0] != answer


def test_without_endpoints_a_client_is_refused(node: RealNode) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        protocol = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        ports = [{"name": "http", "port": 80, "protocol": protocol, "nodePort": 30080}]
        node.put(make_service(ip=IP, type="NodePort", ports=ports, externalIPs=["192.0.2.1"]))
        assert ask(node.pods["pod-1"], IP, 80, kind=kind) == "refused"
        assert ask(node.node, IP, 80, kind=kind) == "refused"
        for address, port in ((NODE_IP, 30080), ("192.0.2.1", 80), (IP, 80)):
            assert ask(node.external, address, port, kind=kind) == "refused", (address, protocol)


def test_node_port_is_masqueraded(node: RealNode) -> None:
    node.put(make_service(ip=IP, **NODE_PORT), make_slice(EVERYONE))
    answers = {ask(node.external, NODE_IP, 30080) for _ in range(40)}
    assert answers == {f"{name} {GATEWAY}" for name in PODS}


def test_policy_local_keeps_the_source(node: RealNode) -> None:
    node.put(make_service(ip=IP, **NODE_PORT, **LOCAL, externalIPs=["192.0.2.1"]), make_slice([EVERYONE[1], ELSEWHERE]))
    for address, port in ((NODE_IP, 30080), ("192.0.2.1", 80)):
        assert {ask(node.external, address, port) for _ in range(5)} == {f"pod-2 {EXTERNAL_IP}"}


def test_policy_local_drops_where_no_endpoint_is(node: RealNode) -> None:
    node.put(make_service(ip=IP, **NODE_PORT, **LOCAL), make_slice([ELSEWHERE]))
    assert ask(node.external, NODE_IP, 30080) == "silence"


def test_internal_policy_local_drops_where_no_endpoint_is(node: RealNode) -> None:
    node.put(make_service(ip=IP, internalTrafficPolicy="Local"), make_slice([ELSEWHERE]))
    assert ask(node.pods["pod-1"], IP, 80) == "silence"
    node.put(make_slice([ELSEWHERE, EVERYONE[1]]))
    assert {ask(node.pods["pod-1"], IP, 80) for _ in range(5)} == {f"pod-2 {PODS['pod-1']}"}


def test_ports_of_one_service_lead_to_different_numbers(node: RealNode) -> None:
    ports = [{"name": "http", "port": 80}, {"name": "other", "port": 81}]
    endpoints = make_slice(EVERYONE[1:2], ports=[{"name": "http", "port": 8080}, {"name": "other", "port": 9}])
    node.put(make_service(ip=IP, ports=ports), endpoints)
    assert ask(node.pods["pod-1"], IP, 80) == f"pod-2 {PODS['pod-1']}"
    assert ask(node.pods["pod-1"], IP, 81) == "refused"  # by the pod: nothing listens on 9
    assert ask(node.pods["pod-1"], IP, 82) in ("silence", "refused")  # nobody's port: the packet goes its way


def test_source_ranges(node: RealNode) -> None:
    spec = {"type": "LoadBalancer", "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": ["198.51.100.0/24"]}
    node.put(make_service(ip=IP, **spec), make_slice(EVERYONE[1:2]))
    assert ask(node.external, "192.0.2.1", 80) == f"pod-2 {GATEWAY}"  # ranges are for load-balancer addresses alone


def test_a_load_balancers_address_goes_with_the_type(node: RealNode) -> None:
    node.put(make_service(ip=IP, type="LoadBalancer"), make_slice(EVERYONE[1:2]))
    node.status("web", {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}})
    assert ask(node.external, "192.0.2.9", 80) == f"pod-2 {GATEWAY}"
    node.put(make_service(ip=IP))
    assert ask(node.external, "192.0.2.9", 80) != f"pod-2 {GATEWAY}"
    assert ask(node.external, IP, 80) == f"pod-2 {GATEWAY}"


def test_a_terminating_endpoint_serves_when_it_is_the_last(node: RealNode) -> None:
    last = make_endpoint(PODS["pod-2"], state="terminating")
    node.put(make_service(ip=IP), make_slice([last, EVERYONE[2]]))
    assert {ask(node.pods["pod-1"], IP, 80).split()[0] for _ in range(10)} == {"pod-3"}
    node.put(make_slice([last, make_endpoint(PODS["pod-3"], state="gone")]))
    assert {ask(node.pods["pod-1"], IP, 80).split()[0] for _ in range(10)} == {"pod-2"}


def test_an_established_connection_survives_the_end_of_its_service(node: RealNode) -> None:
    listener = node.pods["pod-2"].socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener, node.pods["pod-1"].socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        listener.bind(("0.0.0.0", 9000))
        listener.listen()
        node.put(make_service(ip=IP), make_slice(EVERYONE[1:2], ports=[{"name": "http", "port": 9000}]))
        client.settimeout(2)
        client.connect((IP, 80))
        server, _ = listener.accept()
        with server:
            node.delete("web")
            client.sendall(b"still here")
            assert server.recv(100) == b"still here"
        assert ask(node.pods["pod-1"], IP, 80) != f"pod-2 {PODS['pod-1']}"


def test_a_udp_client_moves_on_when_its_endpoint_goes(node: RealNode) -> None:
    first, second = PODS["pod-2"], PODS["pod-3"]
    with node.pods["pod-1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", 40000))
        node.put(make_service(ip=IP, ports=UDP), make_slice([make_endpoint(first)], ports=UDP_8080))
        assert ask(node.pods["pod-1"], IP, 80, client=client).startswith("pod-2")
        node.put(make_slice([make_endpoint(first), make_endpoint(second)], ports=UDP_8080))
        assert ask(node.pods["pod-1"], IP, 80, client=client).startswith("pod-2")  # not disturbed
        node.put(make_slice([make_endpoint(second)], ports=UDP_8080))
        assert ask(node.pods["pod-1"], IP, 80, client=client).startswith("pod-3")
        node.put(make_slice([], ports=UDP_8080))
        assert ask(node.pods["pod-1"], IP, 80, client=client) == "refused"


def test_a_udp_client_that_was_there_before_the_service_is_served(node: RealNode) -> None:
    with node.pods["pod-1"].socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", 40001))
        assert ask(node.pods["pod-1"], IP, 80, client=client) in ("silence", "refused")
        with Conntrack(node.node) as tracker:
            assert any(flow.original.destination == IP for flow in tracker.flows())
        node.put(make_service(ip=IP, ports=UDP), make_slice(EVERYONE[1:2], ports=UDP_8080))
        assert ask(node.pods["pod-1"], IP, 80, client=client).startswith("pod-2")
