"""The node network as data: what is planned, and laws that hold for any number of nodes."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netsim.cluster.network import (
    NodeNet,
    choose_node_addresses,
    derive_mac,
    plan_fabric,
    plan_nodes,
    plan_peers,
    plan_pod_bridge,
)
from netsim.model.config import ClusterConfig, make_nodes, parse_config
from netsim.ruleset.netplan import ForwardingEntry, Neighbour, Route

ONE = NodeNet("node-1", ("172.18.0.2",), ("10.244.0.0/24",))
TWO = NodeNet("node-2", ("172.18.0.3",), ("10.244.1.0/24",))


DUAL = parse_config({"ipFamily": "dual"})
SIX = parse_config({"ipFamily": "ipv6", "podNetwork": "vxlan"})
DUAL_ONE = NodeNet("node-1", ("172.18.0.2", "fd00:172:18::2"), ("10.244.0.0/24", "fd00:10:244::/64"))
DUAL_TWO = NodeNet("node-2", ("172.18.0.3", "fd00:172:18::3"), ("10.244.1.0/24", "fd00:10:244:1::/64"))
SIX_ONE = NodeNet("node-1", ("fd00:172:18::2",), ("fd00:10:244::/64",))
SIX_TWO = NodeNet("node-2", ("fd00:172:18::3",), ("fd00:10:244:1::/64",))


def test_fabric_is_a_bridge_and_a_router_to_the_external_host() -> None:
    assert [str(step) for step in plan_fabric(ClusterConfig(nodes=make_nodes(2)))] == [
        "ip netns exec fabric sysctl -w net.ipv4.ip_forward=1",
        "ip -n fabric link set lo up",
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
    rules = "\n".join(str(step) for step in plan_nodes(ClusterConfig(), [ONE]))
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


@pytest.mark.parametrize("count", [1, 2, 255, 1000])
def test_node_addresses_are_distinct_and_inside_the_node_networks(count: int) -> None:
    config = replace(DUAL, nodes=make_nodes(count))
    addresses = choose_node_addresses(config)
    for index, network in enumerate(config.node_cidrs):
        own = [ip_address(of_node[index]) for of_node in addresses.values()]
        assert len(set(own)) == count
        assert all(address in network and address != network[1] for address in own)
        assert len({derive_mac(str(address)) for address in own}) == count


def test_dual_stack_fabric_routes_both_families() -> None:
    plan = [str(step) for step in plan_fabric(DUAL)]
    for step in (
        "ip netns exec fabric sysctl -w net.ipv4.ip_forward=1",
        "ip netns exec fabric sysctl -w net.ipv6.conf.all.forwarding=1",
        "ip -n fabric addr add fd00:172:18::1/64 dev fabric0",
        "ip -n external addr add 2001:db8:113::2/64 dev eth0",
        "ip -n external route replace default via 2001:db8:113::1",
    ):
        assert plan.count(step) == 1


def test_no_ipv6_is_planned_for_an_ipv4_cluster() -> None:
    config = ClusterConfig(pod_network="vxlan")
    plans = (
        plan_fabric(config),
        plan_nodes(config, [ONE]),
        plan_pod_bridge(config, ONE),
        plan_peers(config, ONE, [TWO]),
    )
    words = "\n".join(str(step) for plan in plans for step in plan)
    assert "::" not in words
    assert "ip6" not in words
    assert "ipv6" not in words


def test_a_node_of_two_families_has_each_of_everything() -> None:
    plan = plan_nodes(DUAL, [DUAL_ONE])
    words = "\n".join(map(str, plan))
    assert words.count("sysctl -w net.bridge.bridge-nf-call-ip6tables=1") == 1
    assert words.count("ip -n node-1 addr add") == 2
    assert words.count("ip -n node-1 route replace default via") == 2
    rules = words
    inside = "{ fd00:10:244::/56, fd00:172:18::/64, ff00::/8 }"
    assert f"ip6 saddr fd00:10:244::/56 ip6 daddr != {inside} masquerade" in rules
    assert "ip saddr 10.244.0.0/16" in rules


def test_routes_in_each_family_go_to_the_peers_address_in_it() -> None:
    mac = derive_mac("172.18.0.3")
    assert plan_peers(DUAL, DUAL_ONE, [DUAL_TWO]) == (
        Neighbour("node-1", "eth0", "172.18.0.3", mac),
        Neighbour("node-1", "eth0", "fd00:172:18::3", mac),
        Route("node-1", "10.244.1.0/24", via="172.18.0.3"),
        Route("node-1", "fd00:10:244:1::/64", via="fd00:172:18::3"),
    )


def test_vxlan_carries_both_families_in_ipv4() -> None:
    config = replace(DUAL, pod_network="vxlan")
    mac = derive_mac("172.18.0.3", 0x0A59)
    assert plan_peers(config, DUAL_ONE, [DUAL_TWO]) == (
        Neighbour("node-1", "vxlan0", "10.244.1.0", mac),
        Neighbour("node-1", "vxlan0", "fd00:10:244:1::", mac),
        ForwardingEntry("node-1", "vxlan0", mac, "172.18.0.3"),
        Route("node-1", "10.244.1.0/24", via="10.244.1.0", link="vxlan0", onlink=True),
        Route("node-1", "fd00:10:244:1::/64", via="fd00:10:244:1::", link="vxlan0", onlink=True),
    )
    bridge = [str(step) for step in plan_pod_bridge(config, DUAL_ONE)]
    assert "ip -n node-1 addr add fd00:10:244::/128 dev vxlan0" in bridge
    assert any("local 172.18.0.2 dev eth0" in step for step in bridge)


def test_vxlan_of_an_ipv6_cluster_is_carried_in_ipv6() -> None:
    mac = derive_mac("fd00:172:18::3", 0x0A59)
    assert ForwardingEntry("node-1", "vxlan0", mac, "fd00:172:18::3") in plan_peers(SIX, SIX_ONE, [SIX_TWO])
    assert [str(step) for step in plan_pod_bridge(SIX, SIX_ONE)] == [
        "ip -n node-1 link add cni0 address 0a:58:00:00:00:01 mtu 1430 up type bridge",
        "ip -n node-1 addr add fd00:10:244::1/64 dev cni0",
        "ip -n node-1 link add vxlan0 address 0a:59:00:00:00:02 mtu 1430 up type vxlan "
        "id 1 dstport 8472 local fd00:172:18::2 dev eth0 nolearning",
        "ip -n node-1 addr add fd00:10:244::/128 dev vxlan0",
    ]


def test_the_legs_of_all_nodes_come_first() -> None:
    plan = plan_nodes(ClusterConfig(), [ONE, TWO])
    assert [step.netns for step in plan[:2]] == ["fabric", "fabric"]
    names = [step.netns for step in plan[2:]]
    assert names == sorted(names)  # and then no namespace is entered twice
