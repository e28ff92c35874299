"""Rules and elements as nft prints them, read."""

import pytest

from netsim.observe.rulebook import parse_nft_chain
from netsim.observe.set_values import render_value

LISTED = """table ip kube-proxy {
	chain nat-prerouting { # handle 3
		type nat hook prerouting priority dstnat; policy accept;
		jump services # handle 65
		ip daddr { 10.0.0.1,
				10.0.0.2 } counter # handle 66
		meta mark 0x00000001 comment "a # handle 7 b" drop # handle 67
	}
}
"""


def test_rules_by_handle() -> None:
    assert parse_nft_chain(LISTED) == {
        65: "jump services",
        66: "ip daddr { 10.0.0.1, 10.0.0.2 } counter",
        67: 'meta mark 0x00000001 comment "a # handle 7 b" drop',
    }


def test_a_chain_without_rules_or_hook() -> None:
    assert parse_nft_chain("table ip t {\n\tchain c { # handle 1\n\t}\n}\n") == {}
    assert parse_nft_chain("table ip t {\n\tchain c { # handle 1\n\t\tdrop # handle 2\n\t}\n}\n") == {2: "drop"}


@pytest.mark.parametrize(
    ("number", "value", "text"),
    [
        (7, bytes((10, 96, 0, 10)), "10.96.0.10"),
        (8, bytes(15) + b"\1", "::1"),
        (12, b"\x06", "tcp"),
        (13, b"\x00\x50", "80"),
        (19, b"\x01\x00\x00\x00", "0x00000001"),
        (41, b"eth0" + bytes(12), '"eth0"'),
        (7 << 12 | 12 << 6 | 13, bytes((10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0)), "10.96.0.10 . tcp . 80"),
        (63, b"\xab", "0xab"),
        (7, b"\x01", "0x01"),
        (0, b"\x01", "0x01"),
    ],
)
def test_values_of_sets(number: int, value: bytes, text: str) -> None:
    assert render_value(number, value) == text


def test_a_chain_with_a_comment_has_it_before_its_head() -> None:
    text = """table netdev t {
\tchain c { # handle 1
\t\tcomment "in at node/node-2"
\t\ttype filter hook egress device "node-2" priority filter; policy accept;
\t\tcounter drop # handle 2
\t}
}
"""
    assert parse_nft_chain(text) == {2: "counter drop"}
