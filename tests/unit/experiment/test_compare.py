"""What `netsim diff` says of two snapshots, and snapshots as files."""

import json
from pathlib import Path

import pytest

from netsim.experiment.compare import compare, render_comparison, render_comparison_text
from netsim.experiment.snapshot import (
    MOST_SERVICES,
    Snapshot,
    alias_pod,
    blur_place,
    choose_services,
    list_questions,
    read_snapshot,
    render_snapshot,
)
from netsim.model.errors import NetsimError

NODES = [{"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}}]


def make_snapshot(name: str = "a", **changes: list[str]) -> Snapshot:
    rules = {"svc/default/web on node/n1": ["r1", "r2"], "svc/default/web on node/n2": ["r1", "r2"], **changes}
    return Snapshot(name, "2026-01-01T00:00:00Z", {"proxyMode": "iptables", "nodes": ["n1", "n2"]}, {"q": ["w"]}, rules)


def make_pod(name: str, node: str, *, owner: str = "", phase: str = "Running", host: bool = False) -> dict[str, object]:
    metadata: dict[str, object] = {"name": name, "namespace": "default"}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner, "name": "x"}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "hostNetwork": host},
        "status": {"phase": phase, "podIPs": [{"ip": "10.0.0.1"}]},
    }


def test_the_same_is_counted() -> None:
    found = compare(make_snapshot("a"), make_snapshot("b"))
    assert found.equal
    text = render_comparison_text(found)
    assert "paths: all 1 are the same\nrules: all 2 are the same\n" in text
    document = render_comparison(found)
    assert document["equal"] is True
    assert document["paths"] == document["rules"] == []


def test_what_differs_equally_is_shown_once() -> None:
    other = {"svc/default/web on node/n1": ["r1", "r3"], "svc/default/web on node/n2": ["r1", "r3"]}
    found = compare(make_snapshot("a"), make_snapshot("b", **other))
    assert not found.equal
    text = render_comparison_text(found)
    assert text.count("-r2") == text.count("+r3") == 1
    assert "rules: 2 of 2 differ" in text
    assert "  svc/default/web on node/n1\n  svc/default/web on node/n2\n" in text
    first = render_comparison(found)["rules"][0]
    assert (first["onlyInA"], first["onlyInB"]) == (["r2"], ["r3"])


def test_what_one_side_has_alone() -> None:
    found = compare(make_snapshot("a"), make_snapshot("b", new=["r"]))
    assert "  only in b: new\n" in render_comparison_text(found)
    assert (render_comparison(found)["rules"][0]["inA"], render_comparison(found)["rules"][0]["inB"]) == (False, True)
    assert "  only in b: new\n" in render_comparison_text(compare(make_snapshot("b", new=["r"]), make_snapshot("a")))


def test_the_topology_differs() -> None:
    a = make_snapshot("a")
    b = Snapshot("b", a.taken, {"proxyMode": "nftables", "nodes": ["n1"]}, a.ways, a.rules)
    assert compare(a, b).topology == ("proxyMode: iptables | nftables", "nodes: n1, n2 | n1")
    assert not compare(a, b).equal


def test_snapshots_are_files(tmp_path: Path) -> None:
    snapshot = make_snapshot()
    path = tmp_path / "s.json"
    path.write_text(json.dumps(render_snapshot(snapshot)))
    assert compare(read_snapshot(path), snapshot).equal
    for content, words in (
        ("{", "is no snapshot"),
        ("{}", "is no snapshot"),
        ('{"snapshot": "netsim snapshot"}', "version"),
    ):
        path.write_text(content)
        with pytest.raises(NetsimError, match=words):
            read_snapshot(path)
    with pytest.raises(NetsimError, match="cannot read"):
        read_snapshot(tmp_path / "none.json")
    broken = render_snapshot(snapshot)
    del broken["rules"]
    path.write_text(json.dumps(broken))
    with pytest.raises(NetsimError, match="without 'rules'"):
        read_snapshot(path)


def test_what_goes_by_the_order_of_addresses_is_left_out() -> None:
    assert blur_place("--mode random --probability 0.33333 -j X") == "--mode random --probability * -j X"
    assert blur_place("a . tcp . 80 . 0x00000001 : b . 80") == "a . tcp . 80 . * : b . 80"


def test_pods_of_deployments_have_no_name_of_chance() -> None:
    assert alias_pod(make_pod("web-k6d7-l2mzj", "n1", owner="ReplicaSet")) == "pod/default/web-k6d7-*"
    assert alias_pod(make_pod("web-0", "n1", owner="StatefulSet")) == "pod/default/web-0"


def test_what_is_asked() -> None:
    pods = [
        make_pod("b", "n1"), make_pod("a", "n1"), make_pod("c", "n2"), make_pod("0", "n2", phase="Pending"),
        make_pod("1", "n2", host=True),
    ]  # fmt: skip
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 9, "protocol": "SCTP"}]},
    }
    asked = dict(list_questions(pods, NODES, [service]))
    assert {text: (one.from_, one.to) for text, one in asked.items()} == {
        "a pod on node/n1 to a pod on node/n2, icmp": ("pod/default/a", "pod/default/c"),
        "a pod on node/n2 to a pod on node/n1, icmp": ("pod/default/c", "pod/default/a"),
        "a pod on node/n1 to svc/default/web:80, tcp": ("pod/default/a", "svc/default/web:80"),
        "a pod on node/n2 to svc/default/web:80, tcp": ("pod/default/c", "svc/default/web:80"),
        "host/external to node/n1, NodePort of svc/default/web:80, tcp": ("host/external", "node/n1:30080"),
        "host/external to node/n2, NodePort of svc/default/web:80, tcp": ("host/external", "node/n2:30080"),
    }


def test_which_services() -> None:
    services = [
        {"metadata": {"name": f"s{at:03}", "namespace": "default"}, "spec": {"clusterIP": f"10.96.0.{at}"}}
        for at in range(MOST_SERVICES + 1)
    ]
    headless = {"metadata": {"name": "none", "namespace": "default"}, "spec": {"clusterIP": "None"}}
    chosen, notes = choose_services([*reversed(services), headless], ())
    assert (chosen, len(notes)) == (services[:-1], 1)
    assert choose_services(services, ["svc/default/s100"]) == ([services[100]], [])
    assert choose_services([headless], ()) == ([], [])
    with pytest.raises(NetsimError, match="there is no such Service"):
        choose_services(services, ["svc/default/other"])
