"""What of a capture's words is a place, and what the filter."""

import pytest

from netsim.cli.capture import split_words


@pytest.mark.parametrize(
    ("words", "places", "filter"),
    [
        ("pod/a node/node-1:cni0 fabric", ["pod/a", "node/node-1:cni0", "fabric"], ""),
        ("pod/a tcp port 80", ["pod/a"], "tcp port 80"),
        ("pod/a fabric:fabric0 host 10.0.0.1 and not arp", ["pod/a", "fabric:fabric0"], "host 10.0.0.1 and not arp"),
        ("pod/a 10.0.0.0/8", ["pod/a"], "10.0.0.0/8"),
        ("pod/a fd00::/8", ["pod/a"], "fd00::/8"),
        ("pod/a ( udp or icmp )", ["pod/a"], "( udp or icmp )"),
        ("pods/a", ["pods/a"], ""),  # a place that is none, to be told so
        ("icmp", [], "icmp"),
    ],
)
def test_words(words: str, places: list[str], filter: str) -> None:
    assert split_words(words.split()) == (places, filter)


def test_a_filter_may_be_one_word() -> None:
    assert split_words(["pod/a", "tcp port 80"]) == (["pod/a"], "tcp port 80")
