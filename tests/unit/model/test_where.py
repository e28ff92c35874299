"""WHERE, and WHERE:INTERFACE of those who watch."""

import pytest

from netsim.model.errors import UsageError
from netsim.model.where import Where, parse_spot, parse_where


@pytest.mark.parametrize(
    ("text", "where", "interface"),
    [
        ("pod/web", Where("pod", "web", "shop"), None),
        ("pod/a/web:eth0", Where("pod", "web", "a"), "eth0"),
        ("node/node-1:cni0", Where("node", "node-1"), "cni0"),
        ("host/external", Where("host", "external"), None),
        ("fabric", Where("fabric", "fabric"), None),
        ("fabric:fabric0", Where("fabric", "fabric"), "fabric0"),
    ],
)
def test_spots(text: str, where: Where, interface: str | None) -> None:
    assert parse_spot(text, "shop") == (where, interface)
    rendered = str(where) + (f":{interface}" if interface else "")
    assert parse_spot(rendered) == (where, interface)


@pytest.mark.parametrize(
    "text",
    ["", "web", "pod/", "fabric/x", "fabrics", "node/a/b", "pod/web:", "pod/web:a/b", "pod/web:0123456789abcdef"],
)
def test_what_is_no_spot_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_spot(text)


def test_nothing_runs_in_the_fabric() -> None:
    with pytest.raises(UsageError):
        parse_where("fabric")
