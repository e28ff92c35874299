"""TO as it is written, and what it comes to."""

import pytest

from netsim.model.errors import NetsimError, UsageError
from netsim.model.target import Destination, Target, parse_service, parse_target, resolve_place, resolve_service
from netsim.model.where import Where

WEB = {"spec": {"clusterIPs": ["10.96.0.9", "fd00::9"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}
DNS = {
    "spec": {
        "clusterIPs": ["10.96.0.10"],
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
    }
}
POD = {"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}, {}]}}


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("svc/web:80", Target(service="web", namespace="default", port="80")),
        ("svc/shop/web:http", Target(service="web", namespace="shop", port="http")),
        ("service/web", Target(service="web", namespace="default")),
        ("pod/shop/web-0:80", Target(place=Where("pod", "web-0", "shop"), port="80")),
        ("node/node-1:30080", Target(place=Where("node", "node-1"), port="30080")),
        ("host/external", Target(place=Where("host", "external"))),
        ("10.96.0.10:53", Target(address="10.96.0.10", port="53")),
        ("[fd00::1]:80", Target(address="fd00::1", port="80")),
        ("fd00::1", Target(address="fd00::1")),
        ("[fd00::1]", Target(address="fd00::1")),
    ],
)
def test_every_form_is_read_and_written_again(text: str, meaning: Target) -> None:
    assert parse_target(text) == meaning
    assert parse_target(str(meaning)) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web",
        "svc/",
        "svc/a/b/c",
        "pod/",
        "frog/x",
        "10.0.0",
        "10.0.0.1:0",
        "10.0.0.1:70000",
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "255.255.255.255:80",
        "svc/web:",
        "[::1",
        "node/a/b:1",
    ],
)
def test_what_is_no_target_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


def test_a_service_may_be_named_alone() -> None:
    assert parse_service("web", "shop").bare == "svc/shop/web"
    assert parse_service("kube-system/kube-dns").bare == "svc/kube-system/kube-dns"
    with pytest.raises(UsageError, match="no Service"):
        parse_service("pod/web")


@pytest.mark.parametrize(
    ("text", "service", "options", "meaning"),
    [
        ("svc/web", WEB, {}, ("10.96.0.9", 80, "tcp")),
        ("svc/web:http", WEB, {"family": 6}, ("fd00::9", 80, "tcp")),
        ("svc/web", WEB, {"protocol": "icmp"}, ("10.96.0.9", 0, "icmp")),
        ("svc/web:81", WEB, {}, ("10.96.0.9", 81, "tcp")),
        ("svc/dns:53", DNS, {}, ("10.96.0.10", 53, "tcp")),
        ("svc/dns:dns", DNS, {}, ("10.96.0.10", 53, "udp")),
        ("svc/dns", DNS, {"protocol": "udp"}, ("10.96.0.10", 53, "udp")),
    ],
)
def test_services(text: str, service: dict, options: dict, meaning: tuple) -> None:  # type: ignore[type-arg]
    assert resolve_service(parse_target(text), service, **options) == Destination(*meaning)


@pytest.mark.parametrize(
    ("text", "service", "options", "words"),
    [
        ("svc/dns", DNS, {}, "which port"),
        ("svc/web:htp", WEB, {}, 'no port "htp"'),
        ("svc/web:80", WEB, {"protocol": "icmp"}, "no ports"),
        ("svc/dns", DNS, {"family": 6, "protocol": "udp"}, "no IPv6 address"),
        ("svc/none", {"spec": {"clusterIP": "None"}}, {}, "headless"),
        ("svc/far", {"spec": {"type": "ExternalName", "externalName": "a.b"}}, {}, "ExternalName"),
        ("svc/s", {"spec": {"clusterIP": "1.2.3.4", "ports": [{"port": 5, "protocol": "SCTP"}]}}, {}, "sctp"),
    ],
)
def test_services_that_can_not_be_meant(text: str, service: dict, options: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(NetsimError, match=words):
        resolve_service(parse_target(text), service, **options)


def test_places_and_addresses() -> None:
    pod = parse_target("pod/web")
    assert resolve_place(pod, ["10.244.0.2"], POD) == Destination("10.244.0.2", 8080, "tcp")
    assert resolve_place(parse_target("pod/web:9"), ["10.244.0.2"], POD, protocol="udp").protocol == "udp"
    assert resolve_place(parse_target("1.2.3.4:5"), []) == Destination("1.2.3.4", 5, "tcp")
    assert resolve_place(parse_target("node/n"), ["172.18.0.2"], protocol="icmp").port == 0
    with pytest.raises(UsageError, match="which port"):
        resolve_place(parse_target("node/n"), ["172.18.0.2"])


@pytest.mark.parametrize("address", ["10.96.0.1", "fd00::1"])
def test_the_way_to_write_a_port_that_is_told_can_be_written(address: str) -> None:
    with pytest.raises(UsageError, match="which port") as refused:
        resolve_place(parse_target(address), [])
    told = str(refused.value.hint).removeprefix("write ").partition(",")[0]
    assert resolve_place(parse_target(told.replace("PORT", "80")), []) == Destination(address, 80, "tcp")
