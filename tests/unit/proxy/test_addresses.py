import pytest

from proxy.addresses import choose_cidrs, choose_ips, parse_cidr, parse_ip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("001.002.003.004", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("FD00:0:0::1", "fd00::1"),
        ("1.2.3", None),
        ("1.2.3.256", None),
        ("1.2.3.-4", None),
        ("example.com", None),
        ("", None),
        ("fd00::g", None),
    ],
)
def test_addresses_are_parsed_sloppily(text: str, expected: str | None) -> None:
    assert parse_ip(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 010.0.0.7/8 ", "10.0.0.0/8"),
        ("fd00::1/64", "fd00::/64"),
        ("10.0.0.1", None),
        ("10.0.0.1/33", None),
        ("x/8", None),
    ],
)
def test_networks_lose_spaces_and_host_bits(text: str, expected: str | None) -> None:
    assert parse_cidr(text) == expected


def test_the_other_family_is_dropped_and_is_no_error() -> None:
    assert choose_ips(["10.0.0.1", "fd00::1", "nonsense"], 4) == ("10.0.0.1",)
    assert choose_ips(["10.0.0.1", "fd00::1", "nonsense"], 6) == ("fd00::1",)
    assert choose_cidrs(["10.0.0.0/8", "fd00::/8"], 6) == ("fd00::/8",)
