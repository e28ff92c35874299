"""Where pods go, as data in and data out."""

from typing import Any

import pytest

from netsim.model.objects import Object, name_of
from netsim.scheduler.plan import Placement, Unschedulable, plan_placement
from netsim.scheduler.state import ClusterState

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def make_node(
    name: str, *, labels: dict[str, str] | None = None, pods: int = 110, ready: bool = True, **spec: Any
) -> Object:
    return {
        "metadata": {"name": name, "labels": {HOSTNAME: name, **(labels or {})}},
        "spec": spec,
        "status": {
            "allocatable": {"pods": str(pods)},
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def make_pod(name: str, *, app: str = "web", owner: str = "", node: str = "", **spec: Any) -> Object:
    metadata: Object = {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}}
    if owner:
        metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}]
    if node:
        spec["nodeName"] = node
    return {"metadata": metadata, "spec": {"containers": [], **spec}}


def make_state(*nodes: Object, pods: tuple[Object, ...] = ()) -> ClusterState:
    state = ClusterState()
    for node in nodes:
        state.set_node(node)
    for pod in pods:
        state.place(pod)
    return state


def place(state: ClusterState, pod: Object) -> str:
    plan = plan_placement(pod, state)
    if isinstance(plan, Placement):
        state.place(pod, plan.node)
        return plan.node
    return str(plan)


def test_pods_of_one_controller_are_spread() -> None:
    state = make_state(make_node("a"), make_node("b"), make_node("c"))
    placed = [place(state, make_pod(f"web-{number}", owner="web")) for number in range(6)]
    assert sorted(placed) == ["a", "a", "b", "b", "c", "c"]


def test_the_group_weighs_more_than_the_load() -> None:
    others = tuple(make_pod(f"db-{n}", app="db", owner="db", node="b") for n in range(5))
    state = make_state(make_node("a"), make_node("b"), pods=(make_pod("web-0", owner="web", node="a"), *others))
    assert place(state, make_pod("web-1", owner="web")) == "b"


def test_upstreams_message_counts_each_reason() -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    state = make_state(
        make_node("a", taints=[taint]),
        make_node("b", pods=0),
        make_node("c", pods=0),
        make_node("d", unschedulable=True),
    )
    assert place(state, make_pod("web")) == (
        "0/4 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}, "
        "1 node(s) were unschedulable, 2 Too many pods."
    )
    assert place(ClusterState(), make_pod("web")) == "no nodes available to schedule pods"


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},
        {"key": "dedicated", "operator": "Exists"},
        {"operator": "Exists"},
        {"key": "dedicated", "operator": "Equal", "value": "gpu"},
    ],
)
def test_a_tolerated_taint_does_not_hinder(toleration: Object) -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    state = make_state(make_node("a", taints=[taint]))
    assert place(state, make_pod("web", tolerations=[toleration])) == "a"
    assert "untolerated" in place(state, make_pod("other", tolerations=[{"key": "else", "operator": "Exists"}]))


def test_a_node_that_is_not_ready_gets_nothing_new() -> None:
    state = make_state(make_node("a", ready=False))
    assert "{node.kubernetes.io/not-ready: }" in place(state, make_pod("web"))
    state.set_node(make_node("a"))
    assert place(state, make_pod("web")) == "a"


def test_prefer_no_schedule_is_a_last_resort() -> None:
    taint = {"key": "slow", "effect": "PreferNoSchedule"}
    state = make_state(make_node("a", taints=[taint]), make_node("b", pods=1))
    assert [place(state, make_pod(f"web-{n}")) for n in range(2)] == ["b", "a"]


def affinity(*terms: Object) -> Object:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}, "b"),
        ({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}, "b"),
        ({"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}, "a"),
        ({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}, "b"),
        ({}, "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
    ],
)
def test_required_node_affinity(term: Object, expected: str) -> None:
    state = make_state(make_node("a"), make_node("b", labels={"disk": "ssd", "cores": "8"}))
    assert place(state, make_pod("web", affinity=affinity(term))) == expected


def test_node_selector() -> None:
    state = make_state(make_node("a"), make_node("b"))
    assert place(state, make_pod("web", nodeSelector={HOSTNAME: "b"})) == "b"
    assert "didn't match Pod's node affinity/selector" in place(state, make_pod("x", nodeSelector={HOSTNAME: "c"}))


def pod_affinity(kind: str, app: str, key: str = HOSTNAME) -> Object:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_anti_affinity_keeps_apart_both_ways() -> None:
    state = make_state(make_node("a"), make_node("b"))
    apart = pod_affinity("podAntiAffinity", "web")
    assert place(state, make_pod("web-0", affinity=apart)) == "a"
    assert place(state, make_pod("web-1", affinity=apart)) == "b"
    assert "2 node(s) didn't match pod anti-affinity rules" in place(state, make_pod("web-2", affinity=apart))
    # A pod without a rule of its own is kept away by the rules of those that are there.
    assert "2 node(s) didn't satisfy existing pods anti-affinity rules" in place(state, make_pod("web-3"))
    state.remove("web-1")
    assert place(state, make_pod("web-3")) == "b"


def test_affinity_brings_together_in_a_zone() -> None:
    nodes = [make_node(n, labels={ZONE: z}) for n, z in (("a", "east"), ("b", "west"), ("c", "west"))]
    state = make_state(*nodes, pods=(make_pod("db", app="db", node="b"),))
    together = pod_affinity("podAffinity", "db", ZONE)
    assert sorted(place(state, make_pod(f"web-{n}", owner="web", affinity=together)) for n in range(2)) == ["b", "c"]
    lonely = pod_affinity("podAffinity", "absent", ZONE)
    assert "3 node(s) didn't match pod affinity rules" in place(state, make_pod("x", affinity=lonely))
    # The first of a group that wants its own company may start anywhere.
    own = pod_affinity("podAffinity", "cache", ZONE)
    first = place(state, make_pod("cache-0", app="cache", affinity=own))
    second = place(state, make_pod("cache-1", app="cache", affinity=own))
    zones = {name_of(node): node["metadata"]["labels"][ZONE] for node in nodes}
    assert zones[first] == zones[second]


def test_host_ports_clash_on_one_address_only() -> None:
    def wanting(name: str, address: str = "", protocol: str = "TCP") -> Object:
        port = {"containerPort": 80, "hostPort": 8080, "hostIP": address, "protocol": protocol}
        return make_pod(name, containers=[{"name": "c", "ports": [port]}])

    state = make_state(make_node("a"))
    assert place(state, wanting("one", "127.0.0.1")) == "a"
    assert place(state, wanting("two", "172.18.0.2")) == "a"
    assert place(state, wanting("three", "172.18.0.2", "UDP")) == "a"
    assert "didn't have free ports" in place(state, wanting("four"))


def test_topology_spread_bounds_the_skew() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    state = make_state(
        make_node("a", labels={ZONE: "east"}),
        make_node("b", labels={ZONE: "west"}, pods=1),
        make_node("bare"),
    )
    placed = [place(state, make_pod(f"web-{n}", topologySpreadConstraints=[constraint])) for n in range(3)]
    assert sorted(placed) == ["a", "a", "b"]
    message = place(state, make_pod("web-3", topologySpreadConstraints=[constraint]))
    assert "1 Too many pods" in message
    assert "1 node(s) didn't match pod topology spread constraints (missing required label)" in message


def test_finished_pods_take_no_room() -> None:
    done = {**make_pod("job", node="a"), "status": {"phase": "Succeeded"}}
    state = make_state(make_node("a", pods=1), pods=(done,))
    assert place(state, make_pod("web")) == "a"


def test_counters_end_where_they_began() -> None:
    apart = pod_affinity("podAntiAffinity", "web")
    state = make_state(make_node("a"), make_node("b"))
    for round_ in range(3):
        pods = [make_pod(f"web-{round_}-{n}", affinity=apart) for n in range(2)]
        assert sorted(place(state, pod) for pod in pods) == ["a", "b"]
        for pod in pods:
            assert state.remove(name_of(pod))
    assert [node.pods for node in state.nodes.values()] == [0, 0]
    assert isinstance(plan_placement(make_pod("web"), state), Placement)


def test_a_plan_that_fails_names_no_node() -> None:
    plan = plan_placement(make_pod("web"), make_state(make_node("a", pods=0)))
    assert plan == Unschedulable(1, {"Too many pods": 1})
