"""What trace says of faults: the cable that was pulled is named, and nothing that is in order."""

import re

import pytest

from netsim.cluster.handle import Cluster
from netsim.observe.pathtext import render_text
from tests.packets.world import HTTP_PORT, make_pod, make_service

pytestmark = [pytest.mark.needs("root", "nft_trace"), pytest.mark.netsim(nodes=3)]

A, BESIDE, B = "pod/{ns}/a", "pod/{ns}/beside", "pod/{ns}/b"
NO_CARRIER = "eth0 has no carrier"


@pytest.fixture
def pods(cluster: Cluster, namespace: str) -> str:
    """``a`` and ``beside`` on one node, ``b``, its Service and ``other`` on another; the namespace's name.

    Of a bridge whose port is gone the others hear what was for it.
    """
    nodes = {"a": "node-1", "beside": "node-1", "b": "node-2", "other": "node-2"}
    objects = [make_pod(name, node=node, app=name) for name, node in nodes.items()]
    cluster.apply([*objects, make_service("b", app="b")], namespace=namespace)
    return namespace


@pytest.mark.parametrize(
    ("pulled", "source", "target", "place", "words"),
    [
        pytest.param(A, A, B, A, NO_CARRIER, id="the source's, by its router"),
        pytest.param(A, A, "svc/{ns}/b:http", A, NO_CARRIER, id="the source's, to a Service"),
        pytest.param(A, A, BESIDE, A, "on eth0 .*, which has no carrier", id="the source's, to its neighbour"),
        pytest.param("node/node-1", "node/node-1", B, "node/node-1", NO_CARRIER, id="the source node's"),
        pytest.param(B, A, B, "node/node-2", "no port that is up leads to .* eth0 of {b}", id="the target's"),
        pytest.param(
            "node/node-2", A, B, "fabric", "no port that is up leads to .* eth0 of node/node-2", id="the target node's"
        ),
    ],
)
def test_a_pulled_cable(
    cluster: Cluster, pods: str, pulled: str, source: str, target: str, place: str, words: str
) -> None:
    names = {"ns": pods, "b": B.format(ns=pods)}
    pulled, source, target, place, words = (text.format(**names) for text in (pulled, source, target, place, words))
    target = target if target.startswith("svc/") else f"{target}:{HTTP_PORT}"
    assert cluster.trace(source, target).verdict.outcome == "delivered"  # and every neighbour is known
    with cluster.fault("link-down", pulled):
        path = cluster.trace(source, target)
    assert path.verdict.outcome in ("dropped", "no route"), render_text(path)
    assert path.verdict.place == place, render_text(path)
    assert re.search(words, path.verdict.cause), render_text(path)
    assert cluster.trace(source, target).verdict.outcome == "delivered"


@pytest.mark.parametrize(("narrow", "place"), [(B, "node/node-2"), ("node/node-2", "fabric")], ids=["pod", "node"])
def test_an_mtu_that_only_one_end_has(cluster: Cluster, pods: str, narrow: str, place: str) -> None:
    narrow, b = narrow.format(ns=pods), B.format(ns=pods)
    with cluster.fault("mtu", narrow, mtu=1280):
        path = cluster.trace(A.format(ns=pods), b, protocol="icmp", size_bytes=1400)
    assert (path.verdict.outcome, path.verdict.place) == ("dropped", place), render_text(path)
    assert f"1428 bytes are more than the MTU of eth0 of {narrow}, 1280" in path.verdict.cause, render_text(path)
