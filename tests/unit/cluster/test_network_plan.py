"""The node network as data: what is planned, and laws that hold for any number of nodes."""

from ipaddress import ip_address, ip_network

import pytest

from netsim.cluster.network import (
    NodeNet,
    choose_node_addresses,
    derive_mac,
    plan_fabric,
    plan_node,
    plan_peers,
    plan_pod_bridge,
    pod_mtu,
)
from netsim.model.config import ClusterConfig, make_nodes
from netsim.ruleset.netplan import ForwardingEntry, Neighbour, Route

ONE = NodeNet("node-1", "172.18.0.2", "10.244.0.0/24")
TWO = NodeNet("node-2", "172.18.0.3", "10.244.1.0/24")


def test_fabric_is_a_bridge_and_a_router_to_the_external_host() -> None:
    assert [str(step) for step in plan_fabric(ClusterConfig(nodes=make_nodes(2)))] == [
        "ip netns exec fabric sysctl -w net.ipv4.ip_forward=1",
        "ip -n fabric link add fabric0 address 0a:58:ac:12:00:01 mtu 1500 up type bridge",
        "ip -n fabric addr add 172.18.0.1/16 dev fabric0",
        "ip -n fabric link add external0 mtu 1500 up type veth "
        "peer eth0 netns external address 0a:58:cb:00:71:02 mtu 1500",
        "ip -n fabric addr add 203.0.113.1/24 dev external0",
        "ip -n external link set eth0 up",
        "ip -n external addr add 203.0.113.2/24 dev eth0",
        "ip -n external route replace default via 203.0.113.1",
    ]


def test_node_masquerades_only_what_leaves_the_cluster() -> None:
    rules = str(plan_node(ClusterConfig(), ONE)[-1])
    assert "ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 172.18.0.0/16, 224.0.0.0/4 } masquerade" in rules


def test_pod_bridge_has_the_first_address_of_the_pod_cidr() -> None:
    assert [str(step) for step in plan_pod_bridge(ClusterConfig(), ONE)] == [
        "ip -n node-1 link add cni0 address 0a:58:0a:f4:00:01 mtu 1500 up type bridge",
        "ip -n node-1 addr add 10.244.0.1/24 dev cni0",
    ]


def test_routes_mode_has_a_route_and_a_neighbour_for_each_peer() -> None:
    assert plan_peers(ClusterConfig(), ONE, [TWO]) == (
        Neighbour("node-1", "eth0", "172.18.0.3", derive_mac("172.18.0.3")),
        Route("node-1", "10.244.1.0/24", via="172.18.0.3"),
    )


def test_vxlan_mode_has_a_route_a_neighbour_and_a_forwarding_entry_for_each_peer() -> None:
    plan = plan_peers(ClusterConfig(pod_network="vxlan"), ONE, [TWO])
    mac = derive_mac("172.18.0.3", 0x0A59)
    assert plan == (
        Neighbour("node-1", "vxlan0", "10.244.1.0", mac),
        ForwardingEntry("node-1", "vxlan0", mac, "172.18.0.3"),
        Route("node-1", "10.244.1.0/24", via="10.244.1.0", link="vxlan0", onlink=True),
    )


def test_vxlan_leaves_room_for_its_header() -> None:
    assert pod_mtu(ClusterConfig(pod_network="vxlan")) == 1450
    assert pod_mtu(ClusterConfig()) == 1500


@pytest.mark.parametrize("count", [1, 2, 255, 1000])
def test_node_addresses_are_distinct_and_inside_the_node_network(count: int) -> None:
    config = ClusterConfig(nodes=make_nodes(count))
    addresses = choose_node_addresses(config)
    assert len(set(addresses.values())) == count
    network = ip_network("172.18.0.0/16")
    router = network[1]
    assert all(ip_address(address) in network and ip_address(address) != router for address in addresses.values())
    assert len({derive_mac(address) for address in addresses.values()}) == count
