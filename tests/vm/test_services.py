"""Services by real packets on Debian's kernel, in every proxy mode there is."""

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.packets import Packets
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.packets.world import EXTERNAL, EXTERNAL_IP, HTTP_PORT, make_pod, make_service, way_out_of
from tests.vm.conftest import PATIENCE_S

pytestmark = [pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp")]
QUIET_S = 2.0


def two_pods(cluster: Cluster, namespace: str, **service: object) -> tuple[str, str]:
    """``web`` on node-1 and ``client`` on node-2; the places of client and server."""
    pods = [make_pod("web", node="node-1"), make_pod("client", node="node-2", app="client")]
    cluster.apply([*pods, make_service("web", app="web", **service)], namespace=namespace, timeout_s=PATIENCE_S)
    return f"pod/{namespace}/client", f"pod/{namespace}/web"


def test_a_pod_reaches_a_cluster_ip_and_its_address_is_kept(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    client, server = two_pods(cluster, namespace)
    address = cluster_ip(cluster, "web", namespace)
    with packets.sniffer(server) as at_server, packets.sniffer(client) as at_client:
        reply = traffic.http_get(client, f"http://{address}/clientip", source_port=40001, timeout_s=30.0)
        assert reply.body == f"{pod_ip(cluster, 'client', namespace)}:40001"
        syn = at_server.first(lambda s: s.is_syn)
        assert (syn.dst, syn.dport) == (pod_ip(cluster, "web", namespace), HTTP_PORT)
        answer = at_client.first(lambda s: s.is_syn_ack)
        assert (answer.src, answer.sport) == (address, 80)
    assert traffic.udp_exchange(client, address, 81, "hostname", timeout_s=10.0) == b"web"


def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    _, server = two_pods(cluster, namespace)
    address = cluster_ip(cluster, "web", namespace)
    assert traffic.http_get(server, f"http://{address}/hostname", timeout_s=30.0).body == "web"


def test_a_node_reaches_a_cluster_ip(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    two_pods(cluster, namespace)
    address = cluster_ip(cluster, "web", namespace)
    for node in ("node/node-1", "node/node-2"):
        assert traffic.http_get(node, f"http://{address}/hostname", timeout_s=30.0).body == "web"


def test_a_node_port_masquerades_what_it_sends_elsewhere(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    _, server = two_pods(cluster, namespace, type="NodePort")
    node, port = node_ip(cluster, "node-2"), node_port(cluster, "web", namespace)
    with packets.sniffer(server) as at_server:
        assert traffic.http_get(EXTERNAL, f"http://{node}:{port}/hostname", timeout_s=30.0).body == "web"
        assert at_server.first(lambda s: s.is_syn).src == way_out_of(cluster, "node-2", "routes")
    udp = node_port(cluster, "web", namespace, "udp")
    assert traffic.udp_exchange(EXTERNAL, node, udp, "hostname", timeout_s=10.0) == b"web"


def test_policy_local_keeps_the_source(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    two_pods(cluster, namespace, type="NodePort", externalTrafficPolicy="Local")
    port = node_port(cluster, "web", namespace)
    near, far = node_ip(cluster, "node-1"), node_ip(cluster, "node-2")
    reply = traffic.http_get(EXTERNAL, f"http://{near}:{port}/clientip", source_port=40002, timeout_s=30.0)
    assert reply.body == f"{EXTERNAL_IP}:40002"
    with pytest.raises(TimeoutError):
        traffic.connect(EXTERNAL, far, port, timeout_s=QUIET_S)


def test_a_service_without_endpoints_refuses(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    cluster.apply(
        [make_pod("client", node="node-2"), make_service("none", app="none", type="NodePort")],
        namespace=namespace,
        timeout_s=PATIENCE_S,
    )
    address, port = cluster_ip(cluster, "none", namespace), node_port(cluster, "none", namespace)
    with pytest.raises(ConnectionRefusedError):
        traffic.connect(f"pod/{namespace}/client", address, 80, timeout_s=10.0)
    with pytest.raises(ConnectionRefusedError):
        traffic.connect(EXTERNAL, node_ip(cluster, "node-1"), port, timeout_s=10.0)


def test_affinity_keeps_a_client_at_its_pod(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    pods = [make_pod(f"web-{n}", node=f"node-{n % 2 + 1}", app="web") for n in range(3)]
    client = make_pod("client", node="node-2", app="client")
    service = make_service("web", app="web", sessionAffinity="ClientIP")
    cluster.apply([*pods, client, service], namespace=namespace, timeout_s=PATIENCE_S)
    url = f"http://{cluster_ip(cluster, 'web', namespace)}/hostname"
    names = {traffic.http_get(f"pod/{namespace}/client", url, timeout_s=30.0).body for _ in range(8)}
    assert len(names) == 1
    cluster.patch("Service", "web", {"spec": {"sessionAffinity": "None", "sessionAffinityConfig": None}}, namespace)
    cluster.barrier(PATIENCE_S)
    names = {traffic.http_get(f"pod/{namespace}/client", url, timeout_s=30.0).body for _ in range(40)}
    assert len(names) == 3


def test_an_endpoint_that_goes_is_used_no_more(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    client, _ = two_pods(cluster, namespace)
    address = cluster_ip(cluster, "web", namespace)
    url = f"http://{address}/hostname"
    assert traffic.http_get(client, url, timeout_s=30.0).body == "web"
    cluster.delete("Pod", "web", namespace=namespace, timeout_s=PATIENCE_S)
    cluster.barrier(PATIENCE_S)
    with pytest.raises(ConnectionRefusedError):
        traffic.connect(client, address, 80, timeout_s=10.0)
    cluster.apply(make_pod("web-2", node="node-2", app="web"), namespace=namespace, timeout_s=PATIENCE_S)
    wait_until("the new pod answers", lambda: traffic.http_get(client, url, timeout_s=10.0).body == "web-2", 30.0)


def test_a_ports_own_protocol_is_sctp(cluster: Cluster, namespace: str) -> None:
    """A real SCTP association through a Service, as the iptables of most kernels could only be asked to."""
    import socket

    client, server = two_pods(cluster, namespace)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "sctp"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 36412, "targetPort": 36413, "protocol": "SCTP"}]},
    }
    cluster.apply(service, namespace=namespace, timeout_s=PATIENCE_S)
    address = cluster_ip(cluster, "sctp", namespace)
    with (
        cluster.socket(server, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listening,
        cluster.socket(client, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as caller,
    ):
        listening.bind(("0.0.0.0", 36413))
        listening.listen(4)
        listening.settimeout(30.0)
        caller.settimeout(30.0)
        caller.connect((address, 36412))
        accepted, peer = listening.accept()
        with accepted:
            accepted.settimeout(30.0)
            assert peer[0] == pod_ip(cluster, "client", namespace)
            caller.sendall(b"hello")
            assert accepted.recv(64) == b"hello"
            accepted.sendall(b"well met")
            assert caller.recv(64) == b"well met"
