"""Container to container and pod to pod: addresses are kept, and the TTL says how many routers there were."""

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import node_ip, pod_ip
from netsim.testing.packets import ICMP, IP, UDP, Packets, Raw
from netsim.testing.traffic import Traffic
from tests.packets.world import AGNHOST, EXTERNAL, EXTERNAL_IP, HTTP_PORT, UDP_PORT, gateway_of, make_pod

VXLAN_PORT = 8472


def test_containers_of_a_pod_talk_over_its_loopback(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    pod = make_pod("pair")
    pod["spec"]["containers"].append(
        {"name": "second", "image": AGNHOST, "args": ["netexec", "--http-port=9090", "--udp-port=9091"]}
    )
    cluster.apply(pod, namespace=namespace)
    where = f"pod/{namespace}/pair"
    with packets.sniffer(where, "lo") as loopback, packets.sniffer(where) as eth0:
        # From inside the first container to the second one's port.
        done = cluster.exec(where, ["curl", "-s", "http://127.0.0.1:9090/clientip"], check=True)
        client_port = int(done.stdout.rpartition(":")[2])
        seen = loopback.first(lambda s: s.is_syn and s.direction == "in")
        assert (seen.src, seen.sport) == ("127.0.0.1", client_port)
        assert (seen.dst, seen.dport, seen.ttl) == ("127.0.0.1", 9090, 64)
        assert traffic.udp_exchange(where, "127.0.0.1", 9091, "hostname") == b"pair"
        assert eth0.seen(lambda s: 9090 in (s.sport, s.dport) or 9091 in (s.sport, s.dport)) == []


@pytest.mark.parametrize(("server_node", "ttl"), [("node-1", 64), ("node-2", 62)], ids=["same-node", "other-node"])
def test_pod_to_pod_keeps_addresses_and_ports(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, server_node: str, ttl: int
) -> None:
    cluster.apply([make_pod("client", node="node-1"), make_pod("server", node=server_node)], namespace=namespace)
    client_ip, server_ip = pod_ip(cluster, "client", namespace), pod_ip(cluster, "server", namespace)
    client, server = f"pod/{namespace}/client", f"pod/{namespace}/server"
    with packets.sniffer(client) as at_client, packets.sniffer(server) as at_server:
        reply = traffic.http_get(client, f"http://{server_ip}:{HTTP_PORT}/clientip", source_port=40001)
        assert reply.body == f"{client_ip}:40001"
        syn = at_server.first(lambda s: s.is_syn)
        assert (syn.src, syn.sport, syn.dst, syn.dport) == (client_ip, 40001, server_ip, HTTP_PORT)
        assert (syn.direction, syn.ttl) == ("in", ttl)
        answer = at_client.first(lambda s: s.is_syn_ack)
        assert (answer.src, answer.sport, answer.dst, answer.dport) == (server_ip, HTTP_PORT, client_ip, 40001)
        assert (answer.direction, answer.ttl) == ("in", ttl)
        # UDP goes the same way.
        assert traffic.udp_exchange(client, server_ip, UDP_PORT, "clientip", source_port=40002) == (
            f"{client_ip}:40002".encode()
        )
        datagram = at_server.first(lambda s: s.dport == UDP_PORT)
        assert (datagram.src, datagram.sport, datagram.ttl) == (client_ip, 40002, ttl)


def test_the_fabric_carries_packets_as_the_pod_network_says(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, pod_network: str
) -> None:
    cluster.apply([make_pod("client", node="node-1"), make_pod("server", node="node-2")], namespace=namespace)
    client_ip, server_ip = pod_ip(cluster, "client", namespace), pod_ip(cluster, "server", namespace)
    with packets.sniffer("node/node-2") as at_node:
        traffic.udp_exchange(f"pod/{namespace}/client", server_ip, UDP_PORT, "hostname")
        if pod_network == "routes":
            seen = at_node.first(lambda s: s.dport == UDP_PORT)
            assert (seen.src, seen.dst, seen.ttl) == (client_ip, server_ip, 63)
            assert at_node.seen(lambda s: s.dport == VXLAN_PORT) == []
        else:
            outer = at_node.first(lambda s: s.dport == VXLAN_PORT and s.direction == "in")
            assert (outer.src, outer.dst) == (node_ip(cluster, "node-1"), node_ip(cluster, "node-2"))
            assert at_node.seen(lambda s: s.dport == UDP_PORT) == []
            inner = outer.packet.getlayer(IP, 2)
            assert (inner.src, inner.dst, inner.ttl) == (client_ip, server_ip, 63)


def test_the_mtu_leaves_room_for_the_wrapping(cluster: Cluster, namespace: str, pod_network: str) -> None:
    cluster.apply(make_pod("any"), namespace=namespace)
    mtu = {i.name: i.mtu for i in cluster.interfaces(f"pod/{namespace}/any")}["eth0"]
    assert mtu == {"routes": 1500, "vxlan": 1450}[pod_network]


def test_a_crafted_packet_arrives_with_its_ttl_two_less(cluster: Cluster, namespace: str, packets: Packets) -> None:
    cluster.apply([make_pod("client", node="node-1"), make_pod("server", node="node-2")], namespace=namespace)
    client_ip, server_ip = pod_ip(cluster, "client", namespace), pod_ip(cluster, "server", namespace)
    packet = IP(dst=server_ip, ttl=9, tos=0x28) / UDP(sport=5555, dport=UDP_PORT) / Raw(b"echo crafted")
    with packets.sniffer(f"pod/{namespace}/server") as at_server, packets.sniffer(f"pod/{namespace}/client") as back:
        packets.send(f"pod/{namespace}/client", packet)
        seen = at_server.first(lambda s: s.dport == UDP_PORT)
        assert (seen.src, seen.sport, seen.ttl, seen.ip.tos, seen.payload) == (
            client_ip,
            5555,
            7,
            0x28,
            b"echo crafted",
        )
        assert back.first(lambda s: s.sport == UDP_PORT).payload == b"crafted"


def test_a_packet_that_dies_on_the_way_is_reported_by_the_router_where_it_died(
    cluster: Cluster, namespace: str, packets: Packets
) -> None:
    cluster.apply([make_pod("client", node="node-1"), make_pod("server", node="node-2")], namespace=namespace)
    client, server_ip = f"pod/{namespace}/client", pod_ip(cluster, "server", namespace)
    with packets.sniffer(client) as back, packets.sniffer(f"pod/{namespace}/server") as at_server:
        packets.send(client, IP(dst=server_ip, ttl=1) / UDP(sport=5556, dport=UDP_PORT) / Raw(b"hostname"))
        error = back.first(lambda s: s.packet.haslayer(ICMP) and s.direction == "in")
        assert (error.packet[ICMP].type, error.src) == (11, gateway_of(cluster, "node-1"))  # time exceeded, RFC 792
        assert at_server.seen(lambda s: s.dport == UDP_PORT) == []


def test_a_pod_talks_to_the_outside_from_its_nodes_address(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic
) -> None:
    cluster.apply(make_pod("client", node="node-2"), namespace=namespace)
    with traffic.listen(EXTERNAL) as listener, packets.sniffer(EXTERNAL) as outside:
        port = listener.getsockname()[1]
        with traffic.connect(f"pod/{namespace}/client", EXTERNAL_IP, port):
            syn = outside.first(lambda s: s.is_syn and s.dport == port)
    assert (syn.src, syn.dst, syn.ttl) == (node_ip(cluster, "node-2"), EXTERNAL_IP, 62)
