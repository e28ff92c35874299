"""The configuration: every key of the reference plugins, and what is refused in which words."""

from typing import Any

import pytest

from cni.config import DEFAULT_DATA_DIR, Bandwidth, NetConf, PortMapping, parse_config, parse_version
from cni.types import CniError, Request

SUBNET = {"type": "host-local", "subnet": "10.1.2.0/24"}


def parse(cni_args: str = "", /, **keys: Any) -> NetConf:
    config = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **keys}
    return parse_config(Request("ADD", "c", "/ns", "eth0", cni_args, config))


def refusal(cni_args: str = "", /, **keys: Any) -> CniError:
    with pytest.raises(CniError) as failure:
        parse(cni_args, **keys)
    return failure.value


def test_defaults_are_the_references() -> None:
    conf = parse(ipam=SUBNET)
    assert (conf.bridge, conf.mtu, conf.hairpin, conf.is_gateway, conf.ip_masq, conf.snat) == (
        "cni0",
        0,
        False,
        False,
        False,
        True,
    )
    assert conf.ipam is not None
    assert conf.ipam.data_dir == DEFAULT_DATA_DIR
    (one,) = conf.ipam.sets[0]
    assert (str(one), one.cidr(one.gateway)) == ("10.1.2.1-10.1.2.254", "10.1.2.1/24")


def test_default_gateway_means_gateway() -> None:
    assert parse(isDefaultGateway=True).is_gateway


def test_unknown_keys_are_accepted() -> None:
    assert parse(ipam={**SUBNET, "x": 1}, somebodyElses={"a": [1]}).name == "net"


def test_booleans_may_be_strings() -> None:
    assert parse(isGateway="True", hairpinMode="false").is_gateway
    assert refusal(isGateway="yes").summary == "isGateway: expected true or false, got 'yes'"


@pytest.mark.parametrize("ipam", [None, {}, {"type": ""}])
def test_without_ipam_there_are_no_addresses(ipam: object) -> None:
    assert parse(ipam=ipam).ipam is None


def test_old_and_new_style_ranges_add_up_behind_the_capability() -> None:
    conf = parse(
        ipam={**SUBNET, "ranges": [[{"subnet": "10.3.0.0/24"}, {"subnet": "10.4.0.0/24"}]]},
        runtimeConfig={"ipRanges": [[{"subnet": "fd00::/64", "rangeStart": "fd00::10"}]]},
    )
    assert conf.ipam is not None
    assert [[str(r) for r in one] for one in conf.ipam.sets] == [
        ["fd00::10-fd00::ffff:ffff:ffff:ffff"],
        ["10.1.2.1-10.1.2.254"],
        ["10.3.0.1-10.3.0.254", "10.4.0.1-10.4.0.254"],
    ]


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        ({"type": "host-local"}, "no IP ranges specified"),
        ({"type": "host-local", "ranges": [[]]}, "invalid range set 0: empty range set"),
        ({"type": "host-local", "subnet": "10.1.2.0/31"}, "Network 10.1.2.0/31 too small to allocate from"),
        ({"type": "host-local", "subnet": "10.1.2.0/32"}, "too small"),
        ({"type": "host-local", "subnet": "10.1.2.5/24"}, "host bits set"),
        ({"type": "host-local", "subnet": "10.1.2.0"}, "no subnet in CIDR notation"),
        ({"type": "host-local", "subnet": "10.1.2.0/33"}, "the prefix is longer than the address"),
        ({"type": "host-local", "subnet": 5}, "no subnet in CIDR notation"),
        ({**SUBNET, "rangeStart": "10.1.3.1"}, "rangeStart 10.1.3.1 not in network 10.1.2.0/24"),
        ({**SUBNET, "rangeEnd": "10.1.3.1"}, "rangeEnd 10.1.3.1 not in network"),
        ({**SUBNET, "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.5"}, "comes after"),
        ({**SUBNET, "gateway": "10.9.9.9"}, "gateway 10.9.9.9 not in network"),
        ({**SUBNET, "gateway": "fd00::1"}, "gateway fd00::1 not in network"),
        ({**SUBNET, "gateway": "x"}, "is no IP address"),
        ({**SUBNET, "ranges": [[{"subnet": "10.1.0.0/16"}]]}, "range set 0 overlaps with 1"),
        (
            {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.2.0/24"}]]},
            "invalid range set 0: subnets",
        ),
        (
            {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]]},
            "invalid range set 0: mixed address families",
        ),
        ({"type": "host-local", "ranges": {"subnet": "10.1.2.0/24"}}, "ipam.ranges: expected a list"),
        ({"type": "host-local", "ranges": [{"subnet": "10.1.2.0/24"}]}, "ipam.ranges: expected a list of lists"),
        ({**SUBNET, "routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}]}, "of another family"),
        ({**SUBNET, "routes": [{"gw": "10.1.2.1"}]}, "ipam.routes: dst"),
    ],
)
def test_bad_address_management_is_invalid_configuration(ipam: dict[str, Any], words: str) -> None:
    error = refusal(ipam=ipam)
    assert error.code == 7
    assert words in error.summary


def test_two_addresses_of_a_family_need_0_3_0() -> None:
    ipam = {**SUBNET, "ranges": [[{"subnet": "10.3.0.0/24"}]]}
    assert parse(cniVersion="0.3.0", ipam=ipam).ipam is not None
    error = refusal(cniVersion="0.2.0", ipam=ipam)
    assert "does not support more than 1 address per family" in error.summary


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"vlan": 5}, "vlan"),
        ({"vlanTrunk": [{"id": 5}]}, "vlanTrunk"),
        ({"macspoofchk": True}, "macspoofchk"),
        ({"masqAll": True}, "masqAll"),
        ({"conditionsV4": ["!", "-d", "192.0.2.0/24"]}, "conditionsV4"),
        ({"externalSetMarkChain": "KUBE-MARK-MASQ"}, "externalSetMarkChain"),
        ({"ipam": {"type": "dhcp"}}, "ipam.type"),
    ],
)
def test_what_we_cannot_do_is_refused_by_name_and_value(keys: dict[str, Any], field: str) -> None:
    error = refusal(**keys)
    assert error.code == 2
    assert f'unsupported field "{field}"' in error.summary
    assert "value: " in error.details


@pytest.mark.parametrize(
    "keys",
    [
        {"vlan": 4095},
        {"vlan": -1},
        {"mtu": "1500"},
        {"mtu": 70000},
        {"mtu": True},
        {"mtu": 1.5},
        {"bridge": 7},
        {"bridge": "sixteen-letters!"},
        {"bridge": "a/b"},
        {"ipam": []},
        {"args": 5},
        {"runtimeConfig": "x"},
        {"runtimeConfig": {"ips": "10.1.2.3"}},
        {"runtimeConfig": {"mac": "nonsense"}},
        {"hairpinMode": True, "promiscMode": True},
        {"disableContainerInterface": True, "ipam": SUBNET},
        {"cni.dev/valid-attachments": 5},
        {"cni.dev/valid-attachments": ["x"]},
    ],
)
def test_wrong_types_and_values_are_invalid_configuration(keys: dict[str, Any]) -> None:
    assert refusal(**keys).code == 7


def test_mac_comes_from_the_runtime_before_args_before_cni_args() -> None:
    args = "IgnoreUnknown=1;MAC=0a:00:00:00:00:01"
    assert parse(args).mac == "0a:00:00:00:00:01"
    cni = {"cni": {"mac": "0A:00:00:00:00:02"}}
    assert parse(args, args=cni).mac == "0a:00:00:00:00:02"
    assert parse(args, args=cni, runtimeConfig={"mac": "0a-00-00-00-00-03"}).mac == "0a:00:00:00:00:03"


def test_requested_addresses_come_from_the_runtime_before_args_before_cni_args() -> None:
    def requested(cni_args: str = "", /, **keys: Any) -> list[str]:
        ipam = parse(cni_args, ipam=SUBNET, **keys).ipam
        assert ipam is not None
        return [str(a) for a in ipam.requested]

    cni = {"cni": {"ips": ["10.1.2.8"]}}
    assert requested("IP=10.1.2.7") == ["10.1.2.7"]
    assert requested("IP=10.1.2.7", args=cni) == ["10.1.2.8"]
    assert requested("IP=10.1.2.7", args=cni, runtimeConfig={"ips": ["10.1.2.9/24"]}) == ["10.1.2.9"]


KUBELET_ARGS = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=1;K8S_POD_UID=2"


def test_unknown_cni_args_need_ignore_unknown() -> None:
    assert parse(f"IgnoreUnknown=1;{KUBELET_ARGS}").name == "net"
    error = refusal(KUBELET_ARGS)
    assert error.code == 4
    assert "K8S_POD_NAMESPACE=default" in error.summary


@pytest.mark.parametrize("args", ["nonsense", "=x", "IgnoreUnknown=maybe"])
def test_malformed_cni_args_are_environment_errors(args: str) -> None:
    assert refusal(args).code == 4


def test_port_mappings() -> None:
    mappings = [
        {"hostPort": 8080, "containerPort": 80},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"},
        {"hostPort": 54, "containerPort": 54, "hostIP": "0.0.0.0"},
        {"hostPort": 54, "containerPort": 54, "hostIP": "::"},
    ]
    assert parse(runtimeConfig={"portMappings": mappings}).port_mappings == (
        PortMapping(8080, 80, "tcp", ""),
        PortMapping(53, 5353, "udp", "127.0.0.1"),
        PortMapping(54, 54, "tcp", "any4"),
        PortMapping(54, 54, "tcp", "any6"),
    )


@pytest.mark.parametrize(
    "mapping",
    [
        {"hostPort": 0, "containerPort": 80},
        {"hostPort": -1, "containerPort": 80},
        {"hostPort": 80, "containerPort": 0},
        {"hostPort": 80, "containerPort": 65536},
        {"hostPort": 80, "containerPort": 80, "protocol": "icmp"},
        {"hostPort": 80, "containerPort": 80, "hostIP": "x"},
    ],
)
def test_bad_port_mappings_are_invalid_configuration(mapping: dict[str, Any]) -> None:
    assert refusal(runtimeConfig={"portMappings": [mapping]}).code == 7


def test_bandwidth_in_the_configuration_wins() -> None:
    runtime = {"bandwidth": {"ingressRate": 1, "ingressBurst": 2}}
    assert parse(runtimeConfig=runtime).bandwidth == Bandwidth(1, 2, 0, 0)
    assert parse(runtimeConfig=runtime, egressRate=3, egressBurst=4).bandwidth == Bandwidth(0, 0, 3, 4)
    assert parse(runtimeConfig={"bandwidth": {"ingressRate": 0, "ingressBurst": 0}}).bandwidth == Bandwidth()


@pytest.mark.parametrize(
    "limits",
    [
        {"ingressRate": 1},
        {"ingressBurst": 1},
        {"egressRate": 1},
        {"egressBurst": 1},
        {"egressRate": 1, "egressBurst": 8 << 32},
    ],
)
def test_bad_limits_are_invalid_configuration(limits: dict[str, int]) -> None:
    assert refusal(runtimeConfig={"bandwidth": limits}).code == 7


def test_versions_match_exactly() -> None:
    assert parse_version({}) == "0.1.0"
    assert parse_version({"cniVersion": "0.3.1"}) == "0.3.1"
    with pytest.raises(CniError) as failure:
        parse_version({"cniVersion": "1.0.1"})
    assert failure.value.code == 1
    assert "1.0.1" in failure.value.details
    assert "0.3.1, 0.4.0, 1.0.0, 1.1.0" in failure.value.details


def test_dns_of_the_configuration_even_an_empty_list() -> None:
    assert parse(dns={"nameservers": []}).dns == {"nameservers": []}
    assert parse(dns={"domain": "a"}, runtimeConfig={"dns": {"searches": ["b"]}}).dns == {"searches": ["b"]}
    assert parse(dns={}).dns == {}


def test_chained_means_a_previous_result_and_no_key_of_an_interface() -> None:
    previous = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}]}
    assert parse(prevResult=previous).chained
    assert not parse(prevResult=previous, bridge="cni0").chained
    assert not parse().chained


def test_gc_reads_both_names_of_the_attachments() -> None:
    pairs = [{"containerID": "c", "ifname": "eth0"}]
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        assert parse(**{key: pairs}).valid_attachments == (("c", "eth0"),)
    assert parse().valid_attachments is None
