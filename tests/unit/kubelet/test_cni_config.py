"""Conflists, and what each plugin is told."""

from dataclasses import replace
from typing import Any

import pytest

from cni.types import CniError
from netsim.kubelet.cni_config import (
    parse_conflist,
    parse_rate,
    plan_capabilities,
    plan_network,
    plan_request_config,
)
from netsim.kubelet.cni_runtime import parse_plugin_error, read_ips
from netsim.kubelet.sandboxes import choose_pod_ips
from netsim.model.config import ClusterConfig, parse_config
from tests.unit.kubelet.make import make_container, make_pod

LIST: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "net",
    "plugins": [
        {"type": "bridge", "capabilities": {"ips": True}, "ipam": {"type": "host-local"}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def test_a_single_plugin_is_a_list_of_one() -> None:
    parsed = parse_conflist({"cniVersion": "0.4.0", "name": "n", "type": "ptp", "mtu": 9000})
    assert (parsed.name, parsed.cni_version, parsed.plugins) == ("n", "0.4.0", ({"type": "ptp", "mtu": 9000},))


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "9.9.9"]}, "1.0.0"),
        ({}, "0.1.0"),
    ],
)
def test_the_highest_version_we_know(versions: dict[str, Any], chosen: str) -> None:
    assert parse_conflist({**LIST, "cniVersion": None, **versions}).cni_version == chosen


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, 7),
        ({"plugins": []}, 7),
        ({"plugins": [{}]}, 7),
        ({"plugins": [{"type": "../evil"}]}, 7),
        ({"disableCheck": "perhaps"}, 7),
        ({"cniVersion": "one"}, 7),
        ({"cniVersion": "9.9.9"}, 1),
    ],
)
def test_bad_lists_are_refused_with_a_code(change: dict[str, Any], code: int) -> None:
    with pytest.raises(CniError) as caught:
        parse_conflist({**LIST, **change})
    assert caught.value.code == code


def test_flags_may_be_strings() -> None:
    assert parse_conflist({**LIST, "disableCheck": "TRUE"}).disable_check is True


def test_our_own_network_of_a_node() -> None:
    network = plan_network(ClusterConfig(pod_network="vxlan"), ["10.244.3.0/24"], "/state/cni/node-3")
    (plugin,) = network.plugins
    assert plugin["type"] == "netsim-cni"
    assert plugin["mtu"] == 1450
    assert plugin["ipam"] == {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.3.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/state/cni/node-3",
    }


def test_our_own_network_has_a_range_and_a_route_for_each_family() -> None:
    config = parse_config({"ipFamily": "dual"})
    ipam = plan_network(config, ["10.244.3.0/24", "fd00:10:244:3::/64"], "/d").plugins[0]["ipam"]
    assert ipam["ranges"] == [[{"subnet": "10.244.3.0/24"}], [{"subnet": "fd00:10:244:3::/64"}]]
    assert ipam["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def test_a_list_may_say_which_share_goes_where() -> None:
    ranges = [[{"subnet": "usePodCidrIPv6", "rangeStart": "fd00:10:244:3::9"}], [{"subnet": "usePodCidr"}]]
    conflist = {**LIST, "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "ranges": ranges}}]}
    config = replace(parse_config({"ipFamily": "dual"}), cni=conflist)
    ipam = plan_network(config, ["10.244.3.0/24", "fd00:10:244:3::/64"], "/d").plugins[0]["ipam"]
    assert ipam["ranges"] == [
        [{"subnet": "fd00:10:244:3::/64", "rangeStart": "fd00:10:244:3::9"}],
        [{"subnet": "10.244.3.0/24"}],
    ]
    with pytest.raises(CniError, match="usePodCidrIPv6: the node has no such pod CIDR"):
        plan_network(config, ["10.244.3.0/24"], "/d")


def test_pods_have_one_address_of_each_family_the_primary_first() -> None:
    ips = ("10.0.0.5", "10.0.0.6", "fd00::5")
    assert choose_pod_ips(ips, (4, 6)) == ("10.0.0.5", "fd00::5")
    assert choose_pod_ips(ips, (6, 4)) == ("fd00::5", "10.0.0.5")
    assert choose_pod_ips(("fd00::5",), (4,)) == ("fd00::5",)


def test_a_list_for_every_node_gets_the_nodes_subnet_and_its_own_data_dir() -> None:
    first = plan_network(ClusterConfig(cni=LIST), ["10.244.1.0/24"], "/d/1").plugins[0]
    assert first["ipam"] == {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "dataDir": "/d/1"}
    fixed = {**LIST, "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"}}]}
    ipam = plan_network(ClusterConfig(cni=fixed), ["10.244.1.0/24"], "/d/1").plugins[0]["ipam"]
    assert (ipam["subnet"], ipam.get("ranges")) == ("10.9.0.0/16", None)
    foreign = {**LIST, "plugins": [{"type": "bridge", "ipam": {"type": "dhcp"}}]}
    assert plan_network(ClusterConfig(cni=foreign), [], "/d").plugins[0]["ipam"] == {"type": "dhcp"}


def test_each_plugin_gets_only_what_it_declares() -> None:
    network = parse_conflist(LIST)
    wanted = {"portMappings": [1], "ips": [2], "bandwidth": {}}
    first = plan_request_config(network, network.plugins[0], wanted, None)
    second = plan_request_config(network, network.plugins[1], wanted, {"ips": []})
    assert first["runtimeConfig"] == {"ips": [2]}
    assert "prevResult" not in first
    assert second["runtimeConfig"] == {"portMappings": [1]}
    assert second["prevResult"] == {"ips": []}
    assert (second["cniVersion"], second["name"]) == ("1.0.0", "net")


def test_host_ports_and_bandwidth_become_capabilities() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}, {"containerPort": 81}]
    pod = make_pod(make_container(ports=ports), metadata={"annotations": {"kubernetes.io/ingress-bandwidth": "10M"}})
    assert plan_capabilities(pod) == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2**31 - 1},
    }


@pytest.mark.parametrize("text", ["", "x", "10X", "1", "-5M"])
def test_bandwidths_that_are_none(text: str) -> None:
    with pytest.raises(CniError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("stdout", "stderr", "code", "words"),
    [
        (b'{"code": 11, "msg": "later", "details": "d"}', b"", 11, "later; d"),
        (b"", b"segfault", 999, "netplugin failed: segfault"),
        (b"", b"", 999, "netplugin failed with no error message"),
        (b"oops", b"", 999, "error parsing its diagnostic message"),
    ],
)
def test_errors_of_programs(stdout: bytes, stderr: bytes, code: int, words: str) -> None:
    error = parse_plugin_error(stdout, stderr)
    assert error.code == code
    assert words in error.message


def test_addresses_of_every_result_format() -> None:
    assert read_ips({"ips": [{"address": "10.0.0.5/24"}, {"address": "fd00::5/64"}]}) == ("10.0.0.5", "fd00::5")
    assert read_ips({"ip4": {"ip": "10.0.0.5/24"}}) == ("10.0.0.5",)
