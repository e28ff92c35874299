"""What is written: the text of a full and of a partial sync."""

from dataclasses import replace
from pathlib import Path

import pytest

from netsim.ruleset.iptables import parse_edits, render_save
from netsim.ruleset.iptables_model import apply_edits, make_tables
from proxy.iptables import names
from proxy.iptables.blocks import probability
from proxy.iptables.counts import count_owned_rules
from proxy.iptables.plan import IptablesDialect, NodeTables, check_text
from proxy.nodesync import count_rules
from tests.unit.proxy.make import CONFIG, make_endpoint, make_map, make_rules, make_service, make_slice, make_view

GOLDEN = Path(__file__).with_name("golden_full.txt")
EVERYTHING = [
    make_service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        sessionAffinity="ClientIP",
        healthCheckNodePort=31000,
        externalIPs=["192.0.2.1"],
        loadBalancerSourceRanges=["198.51.100.0/24", "172.18.0.0/16"],
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
    ),
    make_slice(
        [make_endpoint("10.244.1.2"), make_endpoint("10.244.2.2", "node-2"), make_endpoint("10.244.2.3", "node-2")]
    ),
    make_service("none", "10.96.0.11", type="NodePort", ports=[{"port": 81, "nodePort": 30081}]),
]


def test_full_sync_is_as_recorded() -> None:
    plan = IptablesDialect().plan_full(make_map(EVERYTHING).snapshot(), make_view(), {})
    assert plan.full
    assert plan.text == GOLDEN.read_text()


def make_counted() -> NodeTables:
    tables = NodeTables()
    tables.counted = True
    return tables


def test_where_the_kernel_counts_two_rules_name_its_counters() -> None:
    """As upstream's: NodePorts on loopback have a rule of their own before the other."""
    snapshot, dialect = make_map(EVERYTHING).snapshot(), IptablesDialect()
    plain = dialect.plan_full(snapshot, make_view(), {}).text.splitlines()
    plan = dialect.plan_full(snapshot, make_view(), make_counted())
    counted = plan.text.splitlines()
    port = "-A KUBE-NODEPORTS -m comment --comment ns/web:http -m tcp -p tcp"
    count = "-m nfacct --nfacct-name"
    assert [line for line in counted if line not in plain] == [
        f"-A KUBE-FORWARD -m conntrack --ctstate INVALID {count} ct_state_invalid_dropped_pkts -j DROP",
        f"{port} -d 127.0.0.0/8 --dport 30080 {count} localhost_nps_accepted_pkts -j KUBE-EXT-HMALVVKA6APKJPPY",
    ]
    at = next(index for index, line in enumerate(counted) if "localhost_nps" in line)
    assert counted[at + 1] == f"{port} --dport 30080 -j KUBE-EXT-HMALVVKA6APKJPPY"
    # A partial sync keeps them, and without NodePorts on loopback there is nothing to count.
    changes = dialect.plan_changes(snapshot, snapshot.entries, plan.state, make_view())
    assert changes.text == ""
    nowhere = replace(CONFIG, localhost_node_ports=False)
    assert "localhost_nps" not in dialect.plan_full(snapshot, make_view(config=nowhere), make_counted()).text


@pytest.mark.parametrize("family", [4, 6])
def test_rules_owned_are_all_that_a_full_sync_adds(family: int) -> None:
    view = make_view(config=replace(CONFIG, families=(family,)), family=family)
    plan = IptablesDialect().plan_full(make_map(EVERYTHING, family).snapshot(), view, {})
    assert count_owned_rules(plan.state, view) == count_rules(plan.text)


def test_jumps_that_are_there_are_not_put_in_again() -> None:
    dialect, view, snapshot = IptablesDialect(), make_view(), make_map(EVERYTHING).snapshot()
    first = apply_edits(make_tables(), parse_edits(dialect.plan_full(snapshot, view, {}).text))
    again = dialect.plan_full(snapshot, view, first).text
    assert not any(line.startswith("-I") for line in again.splitlines())
    assert apply_edits(first, parse_edits(again)) == first


def test_a_jump_is_known_in_the_spelling_of_iptables_save() -> None:
    spelled = (
        '-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-p tcp -m tcp --dport 22 -m owner --uid-owner 0 -j ACCEPT",  # somebody else's, with a match unknown here
    )
    swapped = '-m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'
    existing = {"filter": {"OUTPUT": spelled, "FORWARD": (swapped,)}}
    text = IptablesDialect().plan_full(make_map([]).snapshot(), make_view(), existing).text
    inserted = [line for line in text.splitlines() if line.startswith("-I")]
    assert not any(line.startswith("-I OUTPUT") and "ctstate NEW" in line and "SERVICES" in line for line in inserted)
    assert not any(line.endswith("-j KUBE-FORWARD") for line in inserted)
    assert any(line.startswith("-I FORWARD") and line.endswith("-j KUBE-SERVICES") for line in inserted)


def test_a_full_sync_removes_stale_chains_of_services_and_nothing_else() -> None:
    existing = make_tables()
    existing["nat"] |= {"KUBE-SVC-OLD": ("-j KUBE-SEP-OLD",), "KUBE-SEP-OLD": (), "MY-OWN": ("-j ACCEPT",)}
    plan = IptablesDialect().plan_full(make_map([]).snapshot(), make_view(), existing)
    after = apply_edits(existing, parse_edits(plan.text))
    assert after["nat"].keys() & {"KUBE-SVC-OLD", "KUBE-SEP-OLD", "MY-OWN"} == {"MY-OWN"}


def test_a_new_endpoint_writes_its_chain_and_the_list_alone() -> None:
    dialect, view = IptablesDialect(), make_view()
    service_map = make_map(
        [make_service(), make_slice([make_endpoint("10.244.1.2")]), make_service("api", "10.96.0.11")]
    )
    before = dialect.plan_full(service_map.snapshot(), view, {})
    service_map.update_slice(None, make_slice([make_endpoint("10.244.1.2"), make_endpoint("10.244.1.3")]))
    changed = service_map.take()
    plan = dialect.plan_changes(service_map.snapshot(), changed, before.state, view)
    lines = plan.text.splitlines()
    heads = [line[:10] for line in lines if line.startswith((":", "*"))]
    assert heads == ["*nat", ":KUBE-SVC-", ":KUBE-SEP-"]
    assert sum(line.startswith("-A KUBE-SEP-") for line in lines) == 2
    assert not plan.full


def test_an_endpoint_that_goes_leaves_no_chain() -> None:
    dialect, view = IptablesDialect(), make_view()
    service_map = make_map([make_service(), make_slice([make_endpoint("10.244.1.2"), make_endpoint("10.244.1.3")])])
    before = dialect.plan_full(service_map.snapshot(), view, {})
    service_map.update_slice(None, make_slice([make_endpoint("10.244.1.2")]))
    changed = service_map.take()
    plan = dialect.plan_changes(service_map.snapshot(), changed, before.state, view)
    (edit,) = parse_edits(plan.text)
    assert edit.table == "nat"
    assert len(edit.chains) == 1
    assert len(edit.delete) == 1


def test_nothing_changed_for_this_node_writes_nothing() -> None:
    dialect, view = IptablesDialect(), make_view("node-3")
    spec = {"internalTrafficPolicy": "Local"}
    service_map = make_map([make_service(**spec), make_slice([make_endpoint("10.244.1.2")])])
    before = dialect.plan_full(service_map.snapshot(), view, {})
    service_map.update_slice(None, make_slice([make_endpoint("10.244.1.2"), make_endpoint("10.244.1.3")]))
    changed = service_map.take()
    plan = dialect.plan_changes(service_map.snapshot(), changed, before.state, view)
    assert plan.text == ""


def test_nodes_that_had_the_same_share_the_work() -> None:
    dialect, views = IptablesDialect(), (make_view("node-2"), make_view("node-3"))
    service_map = make_map([make_service(), make_slice([make_endpoint("10.244.1.2")])])
    states = [dialect.plan_full(service_map.snapshot(), view, {}).state for view in views]
    for name, block in states[0].blocks.items():
        assert states[1].blocks[name] is block


def test_large_clusters_get_no_comments_on_endpoints() -> None:
    config = replace(CONFIG, large_cluster_endpoints=1)
    tables = make_rules(EVERYTHING, make_view(config=config))
    for chain, specs in tables["nat"].items():
        if chain.startswith("KUBE-SEP-"):
            assert not any("--comment" in spec for spec in specs)
    assert any("cluster IP" in spec for spec in tables["nat"]["KUBE-SERVICES"])


def test_cleanup_leaves_what_was_there_before() -> None:
    dialect, view = IptablesDialect(), make_view()
    before = make_tables()
    before["filter"]["INPUT"] = ("-s 192.0.2.0/24 -j DROP",)
    full = apply_edits(before, parse_edits(dialect.plan_full(make_map(EVERYTHING).snapshot(), view, before).text))
    assert render_save(full) != render_save(before)
    after = apply_edits(full, parse_edits(dialect.plan_cleanup(4, full).text))
    assert after == before
    assert dialect.plan_cleanup(4, after).text == ""


def test_cleanup_leaves_the_kubelets_chain() -> None:
    dialect, view = IptablesDialect(), make_view()
    before = make_tables()
    before["mangle"]["KUBE-KUBELET-CANARY"] = ()
    full = apply_edits(before, parse_edits(dialect.plan_full(make_map([]).snapshot(), view, before).text))
    after = apply_edits(full, parse_edits(dialect.plan_cleanup(4, full).text))
    assert "KUBE-FIREWALL" in after["filter"]
    assert after["filter"]["INPUT"] == ("-j KUBE-FIREWALL",)


@pytest.mark.parametrize("liberal", [False, True])
def test_invalid_packets_are_dropped_unless_the_kernel_is_liberal(liberal: bool) -> None:
    tables = make_rules([], make_view(config=replace(CONFIG, tcp_be_liberal=liberal)))
    assert any("INVALID" in spec for spec in tables["filter"]["KUBE-FORWARD"]) is not liberal


def test_a_node_that_is_liberal_already_is_not_told_so() -> None:
    tables = NodeTables()
    tables.liberal = True
    plan = IptablesDialect().plan_full(make_map([]).snapshot(), make_view(), tables)
    assert "INVALID" not in plan.text
    assert count_owned_rules(plan.state, make_view()) == count_rules(plan.text)


def test_upstreams_names() -> None:
    """As its own tests have them (proxier_test.go, TestOverallIPTablesRules)."""
    assert names.service_hash("ns1/svc1:p80", "tcp") == "XPGD46QRK7WJZT7O"
    assert names.endpoint_chain("ns1/svc1:p80", "tcp", "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"


def test_the_check_asks_for_rules_that_are_written() -> None:
    tables = make_rules(EVERYTHING)
    table = ""
    for line in check_text(make_view()).splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-C"):
            _, chain, spec = line.split(" ", 2)
            assert spec in tables[table][chain]


def test_probability_has_ten_decimals() -> None:
    assert [probability(n) for n in (2, 3, 7)] == ["0.5000000000", "0.3333333333", "0.1428571429"]
