"""The topology file: what it sets, and how each wrong value is refused."""

import pytest

from netsim.model.config import ClusterConfig, check_config, make_nodes, parse_config
from netsim.model.errors import InputError


def test_defaults_are_those_of_the_documentation() -> None:
    config = parse_config({})
    assert str(config.node_cidr) == "172.18.0.0/16"
    assert str(config.pod_cidr) == "10.244.0.0/16"
    assert str(config.service_cidr) == "10.96.0.0/12"
    assert str(config.external_cidr) == "203.0.113.0/24"
    assert config.dns_ip == "10.96.0.10"
    assert config.api_service_ip == "10.96.0.1"
    assert config.node_port_range == (30000, 32767)


def test_nodes_may_be_a_number_or_a_list() -> None:
    assert [node.name for node in parse_config({"nodes": 2}).nodes] == ["node-1", "node-2"]
    listed = parse_config({"nodes": [{"name": "a", "labels": {"zone": "x"}, "maxPods": 7}]})
    assert (listed.nodes[0].name, listed.nodes[0].labels, listed.nodes[0].max_pods) == ("a", {"zone": "x"}, 7)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"pods": 3}, 'unknown field "pods"'),
        ({"nodes": 0}, "nodes: 0 is not a positive number"),
        ({"nodes": True}, "nodes: must be a number or a list"),
        ({"nodes": []}, "nodes: must be a number or a list"),
        ({"nodes": [{"name": "external"}]}, 'the name "external" is taken'),
        ({"nodes": [{"name": "a"}, {"name": "a"}]}, '"a" is there twice'),
        ({"nodes": [{"name": "A"}]}, '"A" must be a DNS name'),
        ({"nodes": [{"labels": {}}]}, "nodes[0]: must be an object with a name"),
        ({"nodes": [{"name": "a", "cpu": 3}]}, 'nodes[0]: unknown field "cpu"'),
        ({"nodes": 1001}, "nodes: 1001 are more than 1000"),
        ({"name": "My Cluster"}, '"My Cluster" must be a DNS label'),
        ({"proxyMode": "ebpf"}, 'proxyMode: "ebpf" is not one of'),
        ({"podNetwork": "gre"}, 'podNetwork: "gre" is not one of routes, vxlan'),
        ({"podCIDR": "10.96.0.0/16"}, "serviceCIDR: 10.96.0.0/12 overlaps podCIDR 10.96.0.0/16"),
        ({"podCIDR": "10.244.0.1/16"}, "podCIDR: 10.244.0.1/16 has host bits set"),
        ({"podCIDR": "ten"}, "podCIDR: 'ten' does not appear to be"),
        ({"podCIDR": "10.244.0.0/22", "nodes": 5}, "has room for 4 nodes with a /24 each, 5 are asked for"),
        ({"nodeCIDR": "172.18.0.0/30", "nodes": 3}, "nodeCIDR: 172.18.0.0/30 is too small for 3 nodes"),
        ({"podCIDRMask": 8}, "podCIDRMask: /8 does not fit into podCIDR 10.244.0.0/16"),
        ({"nodePortRange": "40000"}, "nodePortRange: '40000' is no range"),
        ({"nodePortRange": "40000-30000"}, "is no range"),
        ({"mtu": 100}, "mtu: 100 is not in 576-65535"),
        ({"mtu": "big"}, "mtu: must be int"),
    ],
)
def test_wrong_values_are_refused_with_the_field(document: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(document, "topology.yaml")
    assert words in caught.value.message
    assert caught.value.where == "topology.yaml"


def test_checked_configuration_comes_back_unchanged() -> None:
    config = ClusterConfig(nodes=make_nodes(3))
    assert check_config(config) is config
