"""The sysctls of the ipvs mode, by the kernel's release."""

import pytest

from proxy.config import ProxyConfig
from proxy.ipvs.sysctls import CONN_REUSE, parse_release, plan_sysctls


@pytest.mark.parametrize(
    ("release", "value"),
    [
        ("3.10.0-1160.el7.x86_64", None),  # has no such sysctl
        ("4.1.0", 0),
        ("4.19.0-26-amd64", 0),
        ("5.8.18", 0),
        ("5.9.0", None),
        ("5.10.0-28-amd64", None),
        ("6.1.0-18-amd64", None),
        ("no release", None),
    ],
)
def test_connections_are_reused_only_by_kernels_that_do_it_right(release: str, value: int | None) -> None:
    assert plan_sysctls(ProxyConfig(), release).get(CONN_REUSE) == value


def test_releases_are_compared_as_numbers() -> None:
    assert parse_release("5.10.0") > parse_release("5.9.16")


def test_strict_arp_is_set_only_when_asked_for() -> None:
    arp = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
    plain = plan_sysctls(ProxyConfig(), "6.1.0")
    assert not arp.keys() & plain.keys()
    assert plan_sysctls(ProxyConfig(ipvs_strict_arp=True), "6.1.0") == plain | arp
