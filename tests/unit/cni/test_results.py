"""Results of every cniVersion: what is written, what is read back."""

import pytest

from cni.types import IP, SUPPORTED_VERSIONS, CniError, Interface, Result, Route, parse_result

FULL = Result(
    interfaces=(
        Interface("cni0", "0a:58:0a:01:02:01", mtu=1450),
        Interface("veth1", "0a:58:0a:01:02:03"),
        Interface("eth0", "0a:58:0a:01:02:02", "/run/netns/x", 1450),
    ),
    ips=(IP("10.1.2.2/24", "10.1.2.1", 2), IP("fd00::2/64", "fd00::1", 2)),
    routes=(Route("0.0.0.0/0", "10.1.2.1", mtu=1400, priority=5, table=100, scope=0), Route("::/0")),
    dns={"nameservers": ["10.96.0.10"]},
)
INTERFACES = [
    {"name": "cni0", "mac": "0a:58:0a:01:02:01"},
    {"name": "veth1", "mac": "0a:58:0a:01:02:03"},
    {"name": "eth0", "mac": "0a:58:0a:01:02:02", "sandbox": "/run/netns/x"},
]
ROUTES = [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "::/0"}]
DNS = {"nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_oldest_formats_name_one_address_of_each_family(version: str) -> None:
    assert FULL.render(version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.2.2/24",
            "gateway": "10.1.2.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}],
        },
        "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
        "dns": DNS,
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_middle_formats_say_the_family_of_each_address(version: str) -> None:
    assert FULL.render(version) == {
        "cniVersion": version,
        "interfaces": INTERFACES,
        "ips": [
            {"version": "4", "address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 2},
            {"version": "6", "address": "fd00::2/64", "gateway": "fd00::1", "interface": 2},
        ],
        "routes": ROUTES,
        "dns": DNS,
    }


def test_1_0_0_leaves_the_family_out() -> None:
    assert FULL.render("1.0.0") == {
        "cniVersion": "1.0.0",
        "interfaces": INTERFACES,
        "ips": [
            {"address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 2},
            {"address": "fd00::2/64", "gateway": "fd00::1", "interface": 2},
        ],
        "routes": ROUTES,
        "dns": DNS,
    }


def test_1_1_0_adds_mtu_of_links_and_properties_of_routes() -> None:
    body = FULL.render("1.1.0")
    assert [i.get("mtu") for i in body["interfaces"]] == [1450, None, 1450]
    assert body["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.1.2.1", "mtu": 1400, "priority": 5, "table": 100, "scope": 0},
        {"dst": "::/0"},
    ]


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_what_is_rendered_is_read_back(version: str) -> None:
    body = FULL.render(version)
    assert parse_result(body, version).render(version) == body


def test_the_newest_format_loses_nothing() -> None:
    assert parse_result(FULL.render("1.1.0"), "1.1.0") == FULL


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_a_result_without_address_cannot_be_said_in_the_oldest_formats(version: str) -> None:
    with pytest.raises(CniError, match="cannot convert: no valid IP addresses"):
        Result(interfaces=FULL.interfaces).render(version)


def test_empty_parts_are_left_out() -> None:
    assert Result(interfaces=(Interface("eth0"),)).render("1.0.0") == {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0"}],
    }


def test_a_result_without_version_takes_the_configurations() -> None:
    body = {"ip4": {"ip": "10.1.2.2/24"}}
    assert parse_result(body, "0.2.0").ips == (IP("10.1.2.2/24"),)
    assert parse_result(body, "1.0.0").ips == ()


@pytest.mark.parametrize(
    "body",
    [{"ips": [{"gateway": "10.1.2.1"}]}, {"ips": "10.1.2.2"}, {"interfaces": [1]}, {"routes": [{}]}, {"dns": 1}],
)
def test_a_malformed_result_is_a_decoding_failure(body: dict[str, object]) -> None:
    with pytest.raises(CniError) as failure:
        parse_result(body, "1.0.0")
    assert failure.value.code == 6


def test_a_result_of_an_unknown_version_is_incompatible() -> None:
    with pytest.raises(CniError) as failure:
        parse_result({"cniVersion": "9.9.9"}, "1.0.0")
    assert failure.value.code == 1
