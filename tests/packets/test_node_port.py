"""The external host to a NodePort: through any node, and with externalTrafficPolicy Local."""

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.packets import ICMP, Packets
from netsim.testing.traffic import Traffic
from tests.packets.world import (
    EXTERNAL,
    EXTERNAL_IP,
    HTTP_PORT,
    gateway_of,
    make_pod,
    make_service,
    way_out_of,
)

QUIET_S = 0.5  # how long a connection attempt is watched for an answer that must not come


def test_through_a_node_without_endpoints_the_client_is_masqueraded(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, pod_network: str
) -> None:
    cluster.apply(
        [make_pod("web", node="node-2"), make_service("web", app="web", type="NodePort")], namespace=namespace
    )
    node, port = node_ip(cluster, "node-1"), node_port(cluster, "web", namespace)
    server_ip, source = pod_ip(cluster, "web", namespace), way_out_of(cluster, "node-1", pod_network)
    with packets.sniffer(f"pod/{namespace}/web") as at_server, packets.sniffer(EXTERNAL) as outside:
        assert traffic.http_get(EXTERNAL, f"http://{node}:{port}/hostname", source_port=40031).body == "web"
        syn = at_server.first(lambda s: s.is_syn)
        assert (syn.src, syn.dst, syn.dport) == (source, server_ip, HTTP_PORT)
        assert syn.ttl == 61  # the fabric's router, node-1, node-2
        answer = outside.first(lambda s: s.is_syn_ack)
        assert (answer.src, answer.sport, answer.dst, answer.dport) == (node, port, EXTERNAL_IP, 40031)
        assert at_server.seen(lambda s: s.src == EXTERNAL_IP) == []
        udp = node_port(cluster, "web", namespace, "udp")
        assert traffic.udp_exchange(EXTERNAL, node, udp, "clientip").decode().partition(":")[0] == source


def test_through_a_node_with_an_endpoint_the_client_is_masqueraded_too(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    cluster.apply(
        [make_pod("web", node="node-2"), make_service("web", app="web", type="NodePort")], namespace=namespace
    )
    node, port = node_ip(cluster, "node-2"), node_port(cluster, "web", namespace)
    with packets.sniffer(f"pod/{namespace}/web") as at_server:
        assert traffic.http_get(EXTERNAL, f"http://{node}:{port}/hostname").body == "web"
        syn = at_server.first(lambda s: s.is_syn)
    assert (syn.src, syn.ttl) == (gateway_of(cluster, "node-2"), 62)


def test_with_the_policy_local_the_source_is_kept(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    service = make_service("web", app="web", type="NodePort", externalTrafficPolicy="Local")
    cluster.apply([make_pod("web", node="node-2"), service], namespace=namespace)
    node, port = node_ip(cluster, "node-2"), node_port(cluster, "web", namespace)
    with packets.sniffer(f"pod/{namespace}/web") as at_server, packets.sniffer(EXTERNAL) as outside:
        reply = traffic.http_get(EXTERNAL, f"http://{node}:{port}/clientip", source_port=40041)
        assert reply.body == f"{EXTERNAL_IP}:40041"
        syn = at_server.first(lambda s: s.is_syn)
        assert (syn.src, syn.sport, syn.dport, syn.ttl) == (EXTERNAL_IP, 40041, HTTP_PORT, 62)
        answer = outside.first(lambda s: s.is_syn_ack)
        assert (answer.src, answer.sport, answer.dport) == (node, port, 40041)
        udp = node_port(cluster, "web", namespace, "udp")
        assert traffic.udp_exchange(EXTERNAL, node, udp, "clientip", source_port=40042) == (
            f"{EXTERNAL_IP}:40042".encode()
        )


def test_with_the_policy_local_a_node_without_endpoints_is_silent(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    service = make_service("web", app="web", type="NodePort", externalTrafficPolicy="Local")
    cluster.apply([make_pod("web", node="node-2"), service], namespace=namespace)
    node, port = node_ip(cluster, "node-1"), node_port(cluster, "web", namespace)
    with packets.sniffer(f"pod/{namespace}/web") as at_server, packets.sniffer(EXTERNAL) as outside:
        with pytest.raises(TimeoutError):
            traffic.connect(EXTERNAL, node, port, timeout_s=QUIET_S)
        assert outside.seen(lambda s: s.is_syn and s.direction == "out")
        assert outside.seen(lambda s: s.direction == "in" and s.ip is not None) == []
        assert at_server.seen(lambda s: s.is_syn) == []


def test_without_endpoints_the_client_is_refused(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    cluster.apply(make_service("none", app="nobody", type="NodePort"), namespace=namespace)
    node, port = node_ip(cluster, "node-3"), node_port(cluster, "none", namespace)
    with packets.sniffer(EXTERNAL) as outside:
        with pytest.raises(ConnectionRefusedError):
            traffic.connect(EXTERNAL, node, port)
        error = outside.first(lambda s: s.packet.haslayer(ICMP) and s.direction == "in")
        assert (error.src, error.packet[ICMP].type, error.packet[ICMP].code) == (node, 3, 3)
        with pytest.raises(ConnectionRefusedError):
            traffic.udp_exchange(EXTERNAL, node, node_port(cluster, "none", namespace, "udp"), "hostname")


def test_a_cluster_ip_is_not_reachable_from_outside(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    cluster.apply([make_pod("web"), make_service("web", app="web")], namespace=namespace)
    with pytest.raises(OSError):  # noqa: PT011  unreachable or silence: the fabric's router knows no way
        traffic.connect(EXTERNAL, cluster_ip(cluster, "web", namespace), 80, timeout_s=QUIET_S)


def test_a_node_port_is_closed_again_when_its_service_goes(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    cluster.apply([make_pod("web"), make_service("web", app="web", type="NodePort")], namespace=namespace)
    node, port = node_ip(cluster, "node-1"), node_port(cluster, "web", namespace)
    assert traffic.http_get(EXTERNAL, f"http://{node}:{port}/hostname").body == "web"
    cluster.delete("Service", "web", namespace=namespace)
    with pytest.raises(ConnectionRefusedError):  # the node's own: nothing listens there
        traffic.connect(EXTERNAL, node, port)
