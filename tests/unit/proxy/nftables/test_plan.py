import random
from dataclasses import replace
from pathlib import Path

import pytest

from netsim.model.errors import InputError
from netsim.ruleset import nft
from netsim.ruleset.nft_model import apply_edits
from proxy.nftables.blocks import arrange
from proxy.nftables.plan import Existing, NftablesDialect
from proxy.nftables.skeleton import node_port_ips
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice
from tests.unit.proxy.nftables.make import make_table, make_view

GOLDEN = Path(__file__).with_name("golden_full.txt")


def objects() -> list[dict[str, object]]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    pair = [make_endpoint("10.244.1.2"), make_endpoint("10.244.2.2", "node-2")]
    policy = {"externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["203.0.113.0/24"]}
    return [
        make_service(),
        make_slice(pair),
        make_service("edge", "10.96.0.11", type="LoadBalancer", ports=ports, status=status, **policy),
        make_slice(pair, "edge"),
        make_service("sticky", "10.96.0.12", sessionAffinity="ClientIP"),
        make_slice(pair, "sticky"),
        make_service("none", "10.96.0.13"),
    ]


def test_a_full_plan_is_the_golden_text() -> None:
    """To see what changed after a change on purpose: delete the file, run, and read the difference."""
    plan = NftablesDialect().plan_full(make_map(objects()).snapshot(), make_view(), None)
    if not GOLDEN.exists():
        GOLDEN.write_text(str(plan))
        pytest.fail(f"{GOLDEN.name} was not there and has been written")
    assert str(plan) == GOLDEN.read_text()


def test_the_number_of_rules_does_not_depend_on_the_number_of_services() -> None:
    def count(services: int) -> int:
        found = [make_service(f"s{n}", f"10.96.1.{n}") for n in range(services)]
        slices = [make_slice([make_endpoint("10.244.1.2")], f"s{n}") for n in range(services)]
        return sum(map(len, make_table([*found, *slices]).chains.values()))

    assert count(1) == count(50)


@pytest.mark.parametrize("seed", range(20))
def test_an_arrangement_keeps_what_stays_where_it_was(seed: int) -> None:
    chance = random.Random(seed)
    order: tuple[bytes, ...] = ()
    for _ in range(60):
        wanted = tuple(bytes((n,)) for n in range(chance.randrange(12)) if chance.random() < 0.6)
        after = arrange(order, wanted)
        assert sorted(after) == sorted(wanted)
        staying = set(order) & set(wanted)
        moved = [e for e in staying if after.index(e) != order.index(e)]
        assert all(order.index(e) >= len(wanted) for e in moved)  # those alone whose place is no longer there
        order = after


def test_one_endpoint_more_and_less() -> None:
    dialect, service_map, view = NftablesDialect(), make_map(objects()), make_view()
    table = apply_edits(None, (plan := dialect.plan_full(service_map.snapshot(), view, None)).edits)
    endpoints = [make_endpoint(f"10.244.1.{n}") for n in (2, 3, 4)]
    text = []
    for chosen in (endpoints, endpoints[1:]):
        service_map.update_slice(None, make_slice(chosen))
        changed = service_map.take()
        plan = dialect.plan_changes(service_map.snapshot(), changed, plan.state, view)
        table = apply_edits(table, plan.edits)
        text.append(str(plan).splitlines()[1:])
    assert text[1] == [
        "delete element service-ips { 10.96.0.10 . tcp . 80 }",
        "delete element endpoints { 10.96.0.10 . tcp . 80 . 0x00000000 }",
        "delete element endpoints { 10.96.0.10 . tcp . 80 . 0x00000002 }",
        "add element service-ips { 10.96.0.10 . tcp . 80 : goto cluster-2 }",
        "add element endpoints { 10.96.0.10 . tcp . 80 . 0x00000000 : 10.244.1.4 . 8080 }",
    ]
    assert "add rule cluster-3" in "\n".join(text[0])


def test_nothing_changed_is_nothing_to_do() -> None:
    dialect, service_map, view = NftablesDialect(), make_map(objects()), make_view()
    plan = dialect.plan_full(service_map.snapshot(), view, None)
    names = list(service_map.snapshot().entries)
    assert not dialect.plan_changes(service_map.snapshot(), names, plan.state, view)


def test_nodes_share_what_is_the_same_for_them() -> None:
    dialect, snapshot = NftablesDialect(), make_map(objects()).snapshot()
    one, two, three = (dialect.plan_full(snapshot, make_view(f"node-{n}"), None).state.blocks for n in (1, 2, 3))
    same = {name: one[name] is three[name] and one[name] is two[name] for name in snapshot.entries}
    assert [str(name) for name, shared in same.items() if not shared] == ["ns/edge:http"]  # policy Local


def test_a_rebuild_keeps_the_clients_and_nothing_else() -> None:
    dialect, snapshot, view = NftablesDialect(), make_map(objects()).snapshot(), make_view()
    table = make_table(objects())
    sets = (*table.sets, "theirs", "affinity-of-a-service-that-is-gone")
    plan = dialect.plan_full(snapshot, view, Existing(tuple(table.chains), sets))
    gone = {edit.name for edit in plan.edits if isinstance(edit, nft.DeleteSet)}
    assert set(sets) - gone == {name for name in table.sets if name.startswith("affinity-")}
    assert apply_edits(table, [e for e in plan.edits if getattr(e, "name", "") not in sets[-2:]]) == table
    assert isinstance(dialect.plan_full(snapshot, view, Existing(replace=True)).edits[0], nft.DeleteTable)


def test_the_model_refuses_what_the_kernel_refuses() -> None:
    table = make_table(objects())
    spec = table.sets["service-ips"]
    key = next(iter(table.elements["service-ips"]))
    for edit, words in (
        (nft.DeleteElements(spec, [b"\0" * 12]), "No such file"),
        (nft.AddElements(spec, [(key, b"reject-chain")]), "File exists"),
        (nft.DeleteChain("cluster-2"), "Device or resource busy"),
        (nft.DeleteSet("endpoints"), "Device or resource busy"),
        (nft.AddRule("mark-for-masquerade", nft.Rule("", (nft.Verdict("jump", "services"),))), "Too many links"),
    ):
        with pytest.raises(InputError, match=words):
            apply_edits(table, [edit])


def test_node_ports_answer_on_the_nodes_first_address_of_a_family() -> None:
    """Upstream's `primary`: an ExternalIP beside the InternalIP is none."""
    view = make_view()
    view = replace(view, node=replace(view.node, ips=("172.18.0.2", "fd00:172:18::2", "192.0.2.1")))
    assert node_port_ips(view) == ("172.18.0.2",)
    assert node_port_ips(replace(view, family=6)) == ("fd00:172:18::2",)
    wide = replace(view, config=replace(view.config, node_port_addresses=("172.18.0.0/16", "192.0.2.0/24")))
    assert node_port_ips(wide) == ("172.18.0.2", "192.0.2.1")
