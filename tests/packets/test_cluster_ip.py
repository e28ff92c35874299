"""Pod to ClusterIP: who gets it, what source address they see, and who the answer claims to be from."""

from collections import Counter

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, pod_ip, ready_pods
from netsim.testing.packets import ICMP, Packets
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.packets.world import HTTP_PORT, gateway_of, make_deployment, make_pod, make_service, way_out_of

SPREAD_TRIES = 60  # with three endpoints the chance that one is never picked is 3 * (2/3)^60 = 8e-11


def test_connections_spread_over_all_endpoints(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    cluster.apply([make_pod("client"), make_deployment("web", 3), make_service("web", app="web")], namespace=namespace)
    address = cluster_ip(cluster, "web", namespace)
    client = f"pod/{namespace}/client"
    hits = Counter(traffic.http_get(client, f"http://{address}/hostname").body for _ in range(SPREAD_TRIES))
    pods = {pod["metadata"]["name"] for pod in cluster.list("Pod", namespace, labels="app=web")}
    assert set(hits) == pods
    assert len(pods) == 3
    udp = Counter(traffic.udp_exchange(client, address, 81, "hostname").decode() for _ in range(SPREAD_TRIES))
    assert set(udp) == pods


@pytest.mark.parametrize(("server_node", "ttl"), [("node-1", 64), ("node-2", 62)], ids=["same-node", "other-node"])
def test_the_server_sees_the_pod_and_the_client_sees_the_service(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, server_node: str, ttl: int
) -> None:
    cluster.apply(
        [make_pod("client", node="node-1"), make_pod("web", node=server_node), make_service("web", app="web")],
        namespace=namespace,
    )
    client, server = f"pod/{namespace}/client", f"pod/{namespace}/web"
    client_ip, server_ip = pod_ip(cluster, "client", namespace), pod_ip(cluster, "web", namespace)
    address = cluster_ip(cluster, "web", namespace)
    with packets.sniffer(client) as at_client, packets.sniffer(server) as at_server:
        assert traffic.http_get(client, f"http://{address}/clientip", source_port=40011).body == f"{client_ip}:40011"
        syn = at_server.first(lambda s: s.is_syn)
        assert (syn.src, syn.sport, syn.dst, syn.dport) == (client_ip, 40011, server_ip, HTTP_PORT)
        # A packet for a ClusterIP goes to the node's MAC address, but the bridge does not route it to one of its own
        # ports: it forwards what was DNATed (br_nf_pre_routing_finish, net/bridge/br_netfilter_hooks.c).
        assert syn.ttl == ttl
        answer = at_client.first(lambda s: s.is_syn_ack)
        assert (answer.src, answer.sport, answer.dst, answer.dport) == (address, 80, client_ip, 40011)
        assert traffic.udp_exchange(client, address, 81, "clientip", source_port=40012) == f"{client_ip}:40012".encode()
        # Nothing from the server's own address may reach the client: a reply that skipped the un-NAT would.
        assert at_client.seen(lambda s: s.src == server_ip) == []


def test_a_pod_reaches_itself_through_its_own_service(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    cluster.apply([make_pod("web", node="node-2"), make_service("web", app="web")], namespace=namespace)
    where, own = f"pod/{namespace}/web", pod_ip(cluster, "web", namespace)
    address, gateway = cluster_ip(cluster, "web", namespace), gateway_of(cluster, "node-2")
    with packets.sniffer(where) as sniffer:
        reply = traffic.http_get(where, f"http://{address}/clientip", source_port=40021)
        # Masqueraded, or the pod would get a packet from itself, answer it itself, and never know that answer.
        assert reply.body.partition(":")[0] == gateway
        out = sniffer.first(lambda s: s.is_syn and s.direction == "out")
        back = sniffer.first(lambda s: s.is_syn and s.direction == "in")
        assert (out.src, out.sport, out.dst, out.dport) == (own, 40021, address, 80)
        assert (back.src, back.dst, back.dport) == (gateway, own, HTTP_PORT)
        answer = sniffer.first(lambda s: s.is_syn_ack and s.direction == "in")
        assert (answer.src, answer.sport, answer.dst, answer.dport) == (address, 80, own, 40021)
    assert traffic.udp_exchange(where, address, 81, "clientip").decode().partition(":")[0] == gateway


def test_client_ip_affinity_keeps_a_client_with_its_endpoint(
    cluster: Cluster, namespace: str, traffic: Traffic
) -> None:
    service = make_service("web", app="web", sessionAffinity="ClientIP")
    cluster.apply([make_pod("client"), make_deployment("web", 3), service], namespace=namespace)
    client, address = f"pod/{namespace}/client", cluster_ip(cluster, "web", namespace)
    hits = {traffic.http_get(client, f"http://{address}/hostname").body for _ in range(20)}
    assert len(hits) == 1
    (first,) = hits
    # An endpoint that is gone must not hold its clients.
    cluster.delete("Pod", first, namespace=namespace)
    wait_until("a pod in place of the deleted one", lambda: len(ready_pods(cluster, "app=web", namespace)) == 3)
    cluster.barrier()
    after = {traffic.http_get(client, f"http://{address}/hostname").body for _ in range(20)}
    assert len(after) == 1
    assert after != hits


def test_without_endpoints_a_client_is_refused(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    cluster.apply([make_pod("client", node="node-1"), make_service("none", app="nobody")], namespace=namespace)
    client, address = f"pod/{namespace}/client", cluster_ip(cluster, "none", namespace)
    with packets.sniffer(client) as sniffer:
        with pytest.raises(ConnectionRefusedError):
            traffic.connect(client, address, 80)
        with pytest.raises(ConnectionRefusedError):
            traffic.udp_exchange(client, address, 81, "hostname")
        errors = sniffer.wait_for(lambda s: s.packet.haslayer(ICMP), count=2)
    # destination unreachable, port unreachable (RFC 792), in the name of the pod's gateway or of the service
    assert {(e.packet[ICMP].type, e.packet[ICMP].code) for e in errors} == {(3, 3)}


def test_the_nodes_own_traffic_to_a_service_carries_an_address_pods_can_answer(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, pod_network: str
) -> None:
    cluster.apply([make_pod("web", node="node-2"), make_service("web", app="web")], namespace=namespace)
    address = cluster_ip(cluster, "web", namespace)
    with packets.sniffer(f"pod/{namespace}/web") as at_server:
        assert traffic.http_get("node/node-1", f"http://{address}/hostname").body == "web"
        syn = at_server.first(lambda s: s.is_syn)
    assert syn.src == way_out_of(cluster, "node-1", pod_network)


def test_the_internal_traffic_policy_local_stays_on_the_node_or_drops(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    service = make_service("web", app="web", internalTrafficPolicy="Local")
    cluster.apply(
        [make_pod("near", node="node-1"), make_pod("far", node="node-2"), make_pod("web", node="node-1"), service],
        namespace=namespace,
    )
    address = cluster_ip(cluster, "web", namespace)
    with packets.sniffer(f"pod/{namespace}/web") as at_server:
        assert traffic.http_get(f"pod/{namespace}/near", f"http://{address}/hostname").body == "web"
        with packets.sniffer(f"pod/{namespace}/far") as at_far:
            with pytest.raises(TimeoutError):
                traffic.connect(f"pod/{namespace}/far", address, 80, timeout_s=0.5)
            assert at_far.seen(lambda s: s.direction == "in" and s.ip is not None) == []  # silence, no refusal
        assert at_server.seen(lambda s: s.src == pod_ip(cluster, "far", namespace)) == []


def test_a_name_is_resolved_by_cluster_dns(cluster: Cluster, namespace: str) -> None:
    cluster.apply([make_pod("client"), make_pod("web"), make_service("web", app="web")], namespace=namespace)
    done = cluster.exec(f"pod/{namespace}/client", ["curl", "-s", "--max-time", "5", "http://web/hostname"], check=True)
    assert done.stdout == "web"


def test_services_are_reached_from_every_node(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    clients = [make_pod(f"client-{n}", node=f"node-{n}") for n in (1, 2, 3)]
    cluster.apply([*clients, make_pod("web"), make_service("web", app="web")], namespace=namespace)
    address = cluster_ip(cluster, "web", namespace)
    for n in (1, 2, 3):
        where = f"pod/{namespace}/client-{n}"
        assert traffic.http_get(where, f"http://{address}/hostname").body == "web"
        assert traffic.http_get(where, f"http://{pod_ip(cluster, 'web', namespace)}:{HTTP_PORT}/hostname").body == "web"
        assert traffic.udp_exchange(where, address, 81, "hostname") == b"web"
