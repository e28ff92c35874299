"""Networks broken on purpose: explain predicts what trace finds, the same outcome in the same place.

The breakages are those of `test_broken_networks`, in two combinations of mode and pod network that have all of them.
"""

import re
from typing import Any

import pytest

from netsim.cluster.handle import Cluster
from netsim.observe.explain.answer import render_explanation
from tests.packets.test_broken_networks import BREAKAGES, Breakage, break_network, make_world

UNSEEN = {"traffic control drops: a queue too small for any packet"}  # what a queue does is not modelled


@pytest.fixture
def netsim_options(netsim_options: dict[str, Any]) -> dict[str, Any]:
    return {**netsim_options, "nodes": 3, "fresh": True}


@pytest.mark.netsim(proxy_mode="iptables", pod_network="routes")
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_iptables_and_routes(breakage: Breakage, cluster: Cluster) -> None:
    check(breakage, cluster, "iptables", "routes")


@pytest.mark.netsim(proxy_mode="nftables", pod_network="vxlan")
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_nftables_and_vxlan(breakage: Breakage, cluster: Cluster) -> None:
    check(breakage, cluster, "nftables", "vxlan")


def check(breakage: Breakage, cluster: Cluster, mode: str, network: str) -> None:
    if breakage.network not in ("", network) or breakage.mode not in ("", mode):
        pytest.skip(f"only in {breakage.network} {breakage.mode}".strip())
    if breakage.name in UNSEEN:
        pytest.skip("not modelled")
    words = make_world(cluster)
    break_network(cluster, breakage, words)
    found = cluster.explain(
        breakage.source.format(**words),
        breakage.target.format(**words),
        protocol=breakage.protocol,  # type: ignore[arg-type]
        size_bytes=breakage.size,
    )
    for way in found.ways:
        verdict = way.path.verdict
        told = render_explanation(found)
        assert verdict.outcome in breakage.outcome.split("|"), told
        assert re.fullmatch(breakage.place.format(**words), verdict.place), told
