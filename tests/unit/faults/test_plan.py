"""What faults ask of links and rules, and the steps between: any order, any overlap, and back to nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.faults.apply import make_netem
from netsim.faults.fault import Cable, End, Fault, find_conflict, parse_fault
from netsim.faults.plan import (
    LinkState,
    Operation,
    SetLink,
    SetShape,
    SetTable,
    Shape,
    Table,
    Wanted,
    forget_links,
    plan_change,
    plan_wanted,
)

FABRIC = "fabric"
CABLES = {
    "node/a": Cable("node/a", End("a", "eth0"), End(FABRIC, "a")),
    "node/b": Cable("node/b", End("b", "eth0"), End(FABRIC, "b")),
    "node/c": Cable("node/c", End("c", "eth0"), End(FABRIC, "c")),
    "pod/default/p": Cable("pod/default/p", End("default_p", "eth0"), End("a", "veth1"), mtu=1450),
    "pod/default/q": Cable("pod/default/q", End("default_q", "eth0"), End("a", "veth2"), mtu=1450),
    "host/external": Cable("host/external", End("external", "eth0"), End(FABRIC, "external0")),
}


def make(number: int = 1, netem: bool = False, **request: Any) -> Fault:
    fault = parse_fault(request)
    by = {"rate": "tbf", "loss": "netem" if netem else "nft", "partition": "nft"}.get(fault.kind, "link")
    if fault.kind in ("delay", "duplicate", "corrupt", "reorder"):
        by = "netem"
    return replace(fault, number=number, by=by, cables=tuple(CABLES[place] for place in fault.places))


def wanted(*faults: Fault) -> Wanted:
    return plan_wanted(faults, FABRIC)


def test_link_down_takes_the_port_down_and_leaves_eth0_alone() -> None:
    assert wanted(make(kind="link-down", places=["node/a"])).links == {End(FABRIC, "a"): LinkState(down=True)}
    assert wanted(make(kind="link-down", places=["pod/p"])).links == {End("a", "veth1"): LinkState(down=True)}


def test_a_rate_shapes_what_each_end_sends() -> None:
    both = wanted(make(kind="rate", places=["pod/p"], rate="10mbit")).links
    shape = Shape(rate_bits=10_000_000, mtu=1450)
    assert both == {End("a", "veth1"): LinkState(shape), End("default_p", "eth0"): LinkState(shape)}
    (only,) = wanted(make(kind="rate", places=["pod/p"], rate="10mbit", direction="in")).links
    assert only == End("a", "veth1")
    (only,) = wanted(make(kind="rate", places=["pod/p"], rate="10mbit", direction="out")).links
    assert only == End("default_p", "eth0")


def test_a_burst_is_two_packets_at_least() -> None:
    assert Shape(rate_bits=10_000).burst_bytes == 2 * 1514
    assert Shape(rate_bits=10**9).burst_bytes == 1_250_000


def test_netem_and_rate_become_one_netem() -> None:
    faults = (
        make(1, kind="rate", places=["node/a"], rate="8mbit", direction="out"),
        make(2, kind="delay", places=["node/a"], delay="100ms", jitter="10ms", direction="out"),
        make(3, netem=True, kind="loss", places=["node/a"], percent=5, direction="out"),
    )
    (state,) = wanted(*faults).links.values()
    assert state.shape is not None
    assert state.shape.netem
    assert str(make_netem(state.shape)) == "netem limit 106 delay 100ms 10ms loss 5% rate 8000000bit"


def test_loss_without_netem_is_a_table_for_each_namespace() -> None:
    tables = wanted(make(7, kind="loss", places=["pod/p", "pod/q", "node/b"], percent=5)).tables
    assert set(tables) == {Table("a", "netdev", "netsim-fault-7"), Table(FABRIC, "netdev", "netsim-fault-7")}
    text = tables[Table("a", "netdev", "netsim-fault-7")]
    assert text.count("numgen random mod 1000000 < 50000 counter drop") == 4
    assert 'hook egress device "veth1"' in text
    assert 'hook ingress device "veth2"' in text


@pytest.mark.parametrize(("percent", "chance"), [(99.9999, 999_999), (0.00001, 1), (0.5, 5000)])
def test_chances(percent: float, chance: int) -> None:
    (text,) = wanted(make(kind="loss", places=["node/a"], percent=percent)).tables.values()
    assert f"< {chance} counter" in text


def test_all_is_no_chance() -> None:
    (text,) = wanted(make(kind="loss", places=["node/a"], percent=100)).tables.values()
    assert "\t\tcounter drop\n" in text
    assert "numgen" not in text


def test_a_partition_cuts_between_sets_only() -> None:
    (text,) = wanted(make(kind="partition", sets=[["node/a", "node/b"], ["node/c"]])).tables.values()
    assert 'iifname { "a", "b" } oifname { "c" } counter drop' in text
    assert 'iifname { "c" } oifname { "a", "b" } counter drop' in text
    assert text.count("drop") == 2
    assert "input" not in text


def test_a_partition_one_way() -> None:
    (text,) = wanted(make(kind="partition", sets=[["node/a"], ["node/b"]], one_way=True)).tables.values()
    assert text.count("drop") == 1
    assert 'iifname { "a" } oifname { "b" }' in text


def test_a_partition_of_three_sets_cuts_each_from_each() -> None:
    (text,) = wanted(make(kind="partition", sets=[["node/a"], ["node/b"], ["node/c"]])).tables.values()
    assert text.count("drop") == 6


def test_the_external_host_is_cut_at_the_router() -> None:
    (text,) = wanted(make(kind="partition", sets=[["host/external"], ["node/a"]])).tables.values()
    assert "forward" not in text
    assert 'hook output priority -300; policy accept;\n\t\toifname { "a" } counter drop' in text
    assert 'hook input priority -300; policy accept;\n\t\tiifname { "a" } counter drop' in text


def test_mtu_is_eth0s_and_goes_back_to_what_it_was() -> None:
    after = wanted(make(kind="mtu", places=["pod/p"], mtu=1000))
    steps = plan_change(Wanted(), after)
    assert [step.do for step in steps] == [
        SetLink(End("default_p", "eth0"), mtu=1000),
        SetLink(End("a", "veth1"), gso_max_segs=1),
    ]
    assert [step.do for step in plan_change(after, Wanted())] == [
        SetLink(End("default_p", "eth0"), mtu=1450),
        SetLink(End("a", "veth1"), gso_max_segs=65535),
    ]


def test_a_link_is_up_when_the_last_of_two_is_undone() -> None:
    stop, down = make(1, kind="stop", places=["node/a"]), make(2, kind="link-down", places=["node/a"])
    assert plan_change(wanted(stop, down), wanted(down)) == ()
    (step,) = plan_change(wanted(down), Wanted())
    assert step.do == SetLink(End(FABRIC, "a"), up=True)


def test_operations_are_commands() -> None:
    (step,) = plan_change(Wanted(), wanted(make(kind="link-down", places=["node/a"])))
    assert str(step.do) == "ip -n fabric link set a down"
    (step,) = plan_change(Wanted(), wanted(make(kind="loss", places=["node/a"], percent=5)))
    assert str(step.do).startswith("ip netns exec fabric nft -f - <<'EOF'\ntable netdev netsim-fault-1\ndelete table")
    assert str(step.undo).endswith("delete table netdev netsim-fault-1\nEOF")


def test_links_that_are_gone_are_left_alone() -> None:
    before = wanted(make(kind="rate", places=["pod/p"], rate="1mbit"))
    gone = CABLES["pod/default/p"]
    assert plan_change(forget_links(before, [gone.inner, gone.outer]), Wanted()) == ()


# --- the law ---


class Kernel:
    """What operations leave behind."""

    def __init__(self) -> None:
        self.state: dict[object, object] = {}

    def run(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            match operation:
                case SetTable(table, content):
                    self._set(table, content, None)
                case SetShape(end, shape, _):
                    self._set((end, "shape"), shape, None)
                case SetLink(end, up, mtu, segs):
                    normal = next(c.mtu for c in CABLES.values() if end in (c.inner, c.outer))
                    for name, value, usual in (("up", up, True), ("mtu", mtu, normal), ("segs", segs, 65535)):
                        if value is not None:
                            self._set((end, name), value, usual)

    def _set(self, key: object, value: object, usual: object) -> None:
        if value == usual:
            del self.state[key]  # KeyError: undone twice, or never done
        else:
            self.state[key] = value


PLACES = st.lists(st.sampled_from(sorted(CABLES)), min_size=1, max_size=3, unique=True)
DIRECTED = st.sampled_from(["both", "in", "out"])
REQUESTS = st.one_of(
    st.builds(lambda p: {"kind": "link-down", "places": p}, PLACES),
    st.builds(
        lambda p, d, r: {"kind": "rate", "places": p, "direction": d, "rate": r},
        PLACES,
        DIRECTED,
        st.integers(10**3, 10**9),
    ),
    st.builds(
        lambda k, p, d, n: {"kind": k, "places": p, "direction": d, "percent": n},
        st.sampled_from(["loss", "duplicate", "corrupt", "reorder"]),
        PLACES,
        DIRECTED,
        st.integers(1, 100),
    ),
    st.builds(lambda p, d: {"kind": "delay", "places": p, "direction": d, "delay": 0.1}, PLACES, DIRECTED),
    st.builds(lambda p, m: {"kind": "mtu", "places": p, "mtu": m}, PLACES, st.integers(68, 1400)),
    st.builds(lambda n: {"kind": "stop", "places": [n]}, st.sampled_from(["node/a", "node/b"])),
    st.builds(
        lambda nodes, cut: {"kind": "partition", "sets": [nodes[:cut], nodes[cut:]]},
        st.permutations(["node/a", "node/b", "node/c", "host/external"]),
        st.integers(1, 3),
    ),
)


@given(st.lists(st.tuples(REQUESTS, st.integers(0, 5)), max_size=12), st.booleans(), st.randoms())
def test_any_sequence_of_faults_undone_in_any_order_leaves_nothing(
    script: list[tuple[dict[str, Any], int]], netem: bool, random: Any
) -> None:
    kernel, active, state = Kernel(), list[Fault](), Wanted()

    def change(faults: list[Fault]) -> None:
        nonlocal active, state
        after = plan_wanted(faults, FABRIC)
        steps = plan_change(state, after)
        before = dict(kernel.state)
        kernel.run([step.do for step in steps])
        there = dict(kernel.state)
        kernel.run([step.undo for step in reversed(steps)])
        assert kernel.state == before  # each step's way back is one
        kernel.run([step.do for step in steps])
        assert kernel.state == there
        active, state = faults, after

    for number, (request, undo) in enumerate(script, 1):
        fault = make(number, netem, **request)
        if find_conflict(fault, active) is None:
            change([*active, fault])
        if active and undo < len(active):
            change([other for other in active if other is not active[undo]])
        # The kernel holds what the active ones ask for, and nothing of those undone.
        fresh = Kernel()
        fresh.run([step.do for step in plan_change(Wanted(), plan_wanted(active, FABRIC))])
        assert kernel.state == fresh.state
    while active:
        leaving = random.choice(active)
        change([other for other in active if other is not leaving])
    assert kernel.state == {}
