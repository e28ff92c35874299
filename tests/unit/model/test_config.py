"""The topology file: what it sets, and how each wrong value is refused."""

import pytest

from netsim.model.config import ClusterConfig, check_config, make_nodes, parse_config
from netsim.model.errors import InputError
from netsim.model.networks import families_of


def test_defaults_are_those_of_the_documentation() -> None:
    config = parse_config({})
    assert [str(network) for network in config.node_cidrs] == ["172.18.0.0/16"]
    assert [str(network) for network in config.pod_cidrs] == ["10.244.0.0/16"]
    assert [str(network) for network in config.service_cidrs] == ["10.96.0.0/12"]
    assert [str(network) for network in config.external_cidrs] == ["203.0.113.0/24"]
    assert config.dns_ips == ("10.96.0.10",)
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
        ({"ipFamily": "both"}, 'ipFamily: "both" is not one of ipv4, ipv6, dual'),
        ({"ipFamily": "ipv6", "podCIDR": "10.1.0.0/16"}, "podCIDR: 10.1.0.0/16 is IPv4, but ipFamily is ipv6"),
        (
            {"ipFamily": "ipv4", "podCIDR": "10.1.0.0/16,fd01::/56"},
            "podCIDR: 10.1.0.0/16, fd01::/56 is IPv4 and IPv6, but",
        ),
        ({"podCIDR": "fd01::/56", "nodeCIDR": "10.0.0.0/16"}, "different address families: nodeCIDR is IPv4; podCIDR"),
        ({"podCIDR": "10.1.0.0/16,10.2.0.0/16"}, "podCIDR: '10.1.0.0/16,10.2.0.0/16' must be one network, or one of"),
        (
            {"podCIDR": "10.1.0.0/16,fd01::/56", "serviceCIDR": "fd02::/112,10.96.0.0/16"},
            "podCIDR and serviceCIDR: the families are in different orders",
        ),
        ({"ipFamily": "dual", "serviceCIDR": "fd00:10:244::/112"}, "serviceCIDR: fd00:10:244::/112 overlaps podCIDR"),
        ({"ipFamily": "dual", "podCIDRMask": 24}, "podCIDRMask: 24 is 1 of the 2 numbers that IPv4 and IPv6 need"),
        ({"ipFamily": "dual", "podCIDRMask": "24,48"}, "podCIDRMask: /48 does not fit into podCIDR fd00:10:244::/56"),
        ({"podCIDRMask": True}, "podCIDRMask: must be a number"),
        ({"ipFamily": "ipv6", "nodes": 257}, "podCIDR: fd00:10:244::/56 has room for 256 nodes with a /64 each"),
        ({"ipFamily": "ipv6", "mtu": 1279}, "mtu: 1279 leaves pods 1279 bytes; ipv6 needs 1280"),
        ({"ipFamily": "dual", "mtu": 1300, "podNetwork": "vxlan"}, "mtu: 1300 leaves pods 1250 bytes; dual needs 1280"),
        ({"ipFamily": "ipv6", "serviceCIDR": "fd01::/126"}, "serviceCIDR: fd01::/126 is too small"),
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


@pytest.mark.parametrize(
    ("document", "families", "pods"),
    [
        ({}, (4,), ["10.244.0.0/16"]),
        ({"ipFamily": "ipv6"}, (6,), ["fd00:10:244::/56"]),
        ({"ipFamily": "dual"}, (4, 6), ["10.244.0.0/16", "fd00:10:244::/56"]),
        ({"podCIDR": "fd01::/56"}, (6,), ["fd01::/56"]),
        ({"podCIDR": "10.1.0.0/16,fd01::/56"}, (4, 6), ["10.1.0.0/16", "fd01::/56"]),
        ({"podCIDR": ["fd01::/56", "10.1.0.0/16"]}, (6, 4), ["fd01::/56", "10.1.0.0/16"]),
        ({"ipFamily": "dual", "podCIDR": "fd01::/56"}, (4, 6), ["10.244.0.0/16", "fd01::/56"]),
        ({"serviceCIDR": "fd02::/112, 10.9.0.0/16"}, (6, 4), ["fd00:10:244::/56", "10.244.0.0/16"]),
    ],
)
def test_families_come_from_ip_family_and_the_networks(
    document: dict[str, object], families: tuple[int, ...], pods: list[str]
) -> None:
    config = parse_config(document)
    assert config.families == families
    assert [str(network) for network in config.pod_cidrs] == pods
    for networks in (config.node_cidrs, config.service_cidrs, config.external_cidrs):
        assert families_of(networks) == families


def test_both_families_have_a_dns_address_and_the_api_has_one() -> None:
    config = parse_config({"ipFamily": "dual"})
    assert config.dns_ips == ("10.96.0.10", "fd00:10:96::a")
    assert config.api_service_ip == "10.96.0.1"


@pytest.mark.parametrize(("family", "mtu"), [("ipv4", 1450), ("dual", 1450), ("ipv6", 1430)])
def test_vxlan_leaves_room_for_its_headers(family: str, mtu: int) -> None:
    assert parse_config({"ipFamily": family, "podNetwork": "vxlan"}).pod_mtu == mtu
    assert parse_config({"ipFamily": family}).pod_mtu == 1500


def test_the_ipvs_mode_s_options_have_upstreams_names() -> None:
    config = parse_config({"ipvs": {"scheduler": "sh", "strictARP": True}})
    assert (config.ipvs_scheduler, config.ipvs_strict_arp) == ("sh", True)
    assert (ClusterConfig().ipvs_scheduler, ClusterConfig().ipvs_strict_arp) == ("rr", False)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"scheduler": "best"}, 'ipvs.scheduler: "best" is not one of rr'),
        ({"scheduler": 1}, "ipvs.scheduler: must be str"),
        ({"strictARP": "yes"}, "ipvs.strictARP: must be bool"),
        ({"strictArp": True}, 'unknown field "ipvs.strictArp"'),
        ("rr", "ipvs: must be a mapping"),
    ],
)
def test_the_ipvs_mode_s_options_are_checked(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config({"ipvs": value})
