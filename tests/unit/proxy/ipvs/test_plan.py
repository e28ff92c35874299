"""Plans of the ipvs dialect, followed by what the kernel makes of them."""

import random
from typing import Any

import pytest

from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, VirtualServer
from proxy.config import ProxyConfig
from proxy.ipvs import sets
from proxy.ipvs.plan import Existing, IpvsDialect, IpvsPlan, choose_local_ips
from proxy.ipvs.rules import check_text
from proxy.servicemap import ServiceMap
from tests.unit.proxy.ipvs.model import Model
from tests.unit.proxy.make import NODE_IP, make_endpoint, make_map, make_service, make_slice, make_view

LOCAL = ("10.244.0.1", "127.0.0.1", NODE_IP)
HTTP = ServerKey("tcp", "10.96.0.10", 80)
NEAR, FAR = RealServer("10.244.0.2", 8080), RealServer("10.244.1.2", 8080)


def make_model(*objects: Any, config: ProxyConfig | None = None) -> Model:
    """A fresh node after a full sync."""
    view = make_view(config=config) if config else make_view()
    model = Model()
    plan = IpvsDialect().plan_full(make_map(objects).snapshot(), view, Existing(local_ips=LOCAL))
    assert isinstance(plan, IpvsPlan)
    model.apply(plan)
    return model


def near_and_far() -> Any:
    return make_slice([make_endpoint("10.244.0.2", "node-1"), make_endpoint("10.244.1.2", "node-2")])


def test_a_cluster_ip_is_one_virtual_server_and_an_address() -> None:
    model = make_model(make_service(), near_and_far())
    assert model.servers == {HTTP: (VirtualServer("rr"), {NEAR: 1, FAR: 1})}
    assert model.addresses == {"10.96.0.10"}
    assert model.sets[sets.CLUSTER_IP] == {"10.96.0.10,tcp:80"}
    assert model.sets[sets.IPVS_IPS] == {"10.96.0.10"}
    assert model.sets[sets.LOOP_BACK] == {"10.244.0.2,tcp:8080,10.244.0.2"}  # of this node's endpoints only
    assert set(model.sets) == set(sets.TYPES)


def test_without_endpoints_the_virtual_server_stays_and_refuses() -> None:
    assert make_model(make_service()).servers == {HTTP: (VirtualServer("rr"), {})}


def test_affinity_is_the_persistent_timeout() -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    assert make_model(make_service(**affinity)).servers[HTTP][0] == VirtualServer("rr", 60)


def test_a_scheduler_is_the_virtual_servers_and_mh_falls_back() -> None:
    config = ProxyConfig(cluster_cidrs=("10.244.0.0/16",), ipvs_scheduler="mh")
    server = make_model(make_service(), config=config).servers[HTTP][0]
    assert str(server) == "-s mh -b flag-1"


def test_a_node_port_answers_on_each_address_of_the_node_but_loopback() -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]
    model = make_model(make_service(type="NodePort", ports=ports), near_and_far())
    assert {key for key in model.servers if key.port == 30080} == {
        ServerKey("tcp", "10.244.0.1", 30080),
        ServerKey("tcp", NODE_IP, 30080),
    }
    assert model.addresses == {"10.96.0.10"}
    assert model.sets["KUBE-NODE-PORT-TCP"] == {"30080"}
    assert model.sets["KUBE-NODE-PORT-LOCAL-TCP"] == set()


def test_node_port_addresses_narrow_it() -> None:
    config = ProxyConfig(cluster_cidrs=("10.244.0.0/16",), node_port_addresses=("172.18.0.0/16",))
    assert choose_local_ips(make_view(config=config), LOCAL) == (NODE_IP,)


def test_an_sctp_node_port_is_in_its_set_with_each_address() -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "SCTP"}]
    model = make_model(make_service(type="NodePort", ports=ports))
    assert model.sets["KUBE-NODE-PORT-SCTP-HASH"] == {"10.244.0.1,sctp:30080", f"{NODE_IP},sctp:30080"}


def test_policy_local_uses_this_nodes_endpoints() -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]
    service = make_service(type="NodePort", ports=ports, externalTrafficPolicy="Local")
    model = make_model(service, near_and_far())
    assert set(model.servers[ServerKey("tcp", NODE_IP, 30080)][1]) == {NEAR}
    assert set(model.servers[HTTP][1]) == {NEAR, FAR}
    assert model.sets["KUBE-NODE-PORT-LOCAL-TCP"] == {"30080"}
    far_only = make_slice([make_endpoint("10.244.1.2", "node-2")])
    assert set(make_model(service, far_only).servers[ServerKey("tcp", NODE_IP, 30080)][1]) == {FAR}  # upstream #97081


def test_internal_policy_local_without_one_here_has_none() -> None:
    service = make_service(internalTrafficPolicy="Local")
    far_only = make_slice([make_endpoint("10.244.1.2", "node-2")])
    assert make_model(service, far_only).servers[HTTP][1] == {}


def test_a_load_balancer_with_source_ranges() -> None:
    service = make_service(
        type="LoadBalancer",
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
        loadBalancerSourceRanges=["172.18.0.0/16", "0.0.0.0/0", "203.0.113.7/32"],
        externalIPs=["198.51.100.1"],
        externalTrafficPolicy="Local",
    )
    model = make_model(service, near_and_far())
    assert model.addresses == {"10.96.0.10", "192.0.2.9", "198.51.100.1"}
    for name in (sets.LOAD_BALANCER, sets.LOAD_BALANCER_LOCAL, sets.LOAD_BALANCER_FW):
        assert model.sets[name] == {"192.0.2.9,tcp:80"}, name
    assert model.sets[sets.LOAD_BALANCER_SOURCE_CIDR] == {
        f"192.0.2.9,tcp:80,{cidr}" for cidr in ("172.18.0.0/16", "0.0.0.0/1", "128.0.0.0/1", "203.0.113.7")
    }
    assert model.sets[sets.LOAD_BALANCER_SOURCE_IP] == {"192.0.2.9,tcp:80,192.0.2.9"}  # the node is in a range
    assert model.sets[sets.EXTERNAL_IP_LOCAL] == {"198.51.100.1,tcp:80"}


def test_a_full_plan_on_a_node_that_has_all_changes_nothing() -> None:
    objects = [make_service(), near_and_far()]
    model = make_model(*objects)
    plan = IpvsDialect().plan_full(make_map(objects).snapshot(), make_view(), model.existing(LOCAL))
    assert isinstance(plan, IpvsPlan)
    assert (plan.operations, plan.new_addresses, plan.old_addresses, plan.sets_after) == ((), (), (), "")
    assert all(line.startswith("create ") for line in plan.sets_before.splitlines())


def test_a_full_plan_removes_what_a_proxy_before_left() -> None:
    model = make_model(make_service("old", "10.96.0.99"), make_slice([make_endpoint("10.244.0.9")], "old"))
    plan = IpvsDialect().plan_full(make_map([make_service()]).snapshot(), make_view(), model.existing(LOCAL))
    assert isinstance(plan, IpvsPlan)
    model.apply(plan)
    assert set(model.servers) == {HTTP}
    assert model.addresses == {"10.96.0.10"}
    assert model.sets[sets.LOOP_BACK] == set()


def test_a_real_server_on_its_way_out_that_comes_back_gets_its_weight() -> None:
    objects = [make_service(), near_and_far()]
    model = make_model(*objects)
    model.servers[HTTP][1][FAR] = 0
    plan = IpvsDialect().plan_full(make_map(objects).snapshot(), make_view(), model.existing(LOCAL))
    assert [str(operation) for operation in plan.operations] == ["ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m"]


def test_a_proxy_started_anew_goes_on_ending_real_servers() -> None:
    model = make_model(make_service(), near_and_far())
    model.servers[HTTP][1][FAR] = 0
    left = [make_service(), make_slice([make_endpoint("10.244.0.2", "node-1")])]
    plan = IpvsDialect().plan_full(make_map(left).snapshot(), make_view(), model.existing(LOCAL))
    assert [(operation.verb, operation.real) for operation in plan.operations] == [("retire", FAR)]


def test_one_endpoints_change_is_one_operation_and_no_rule() -> None:
    service_map = make_map([make_service(), near_and_far()])
    dialect, view = IpvsDialect(), make_view()
    first = dialect.plan_full(service_map.snapshot(), view, Existing(local_ips=LOCAL))
    service_map.update_slice(near_and_far(), make_slice([make_endpoint("10.244.0.2", "node-1")]))
    changes = service_map.take()
    plan = dialect.plan_changes(service_map.snapshot(), changes.keys(), first.state, view)
    assert plan.text == "ipvsadm -d -t 10.96.0.10:80 -r 10.244.1.2:8080 -m\n"


def test_cleanup_removes_all() -> None:
    model = make_model(make_service(), near_and_far())
    plan = IpvsDialect().plan_cleanup(4, model.existing(LOCAL))
    assert isinstance(plan, IpvsPlan)
    model.apply(plan)
    assert (model.servers, model.sets, plan.remove_dummy) == ({}, {}, True)


@pytest.mark.parametrize("family", [4, 6])
def test_rules_name_sets_that_are_made(family: int) -> None:
    made = {sets.set_name(name, family) for name in sets.TYPES}
    words = check_text(make_view(family=family)).split()
    used = {words[at + 1] for at, word in enumerate(words) if word == "--match-set"}
    assert used <= made
    assert used


def test_saved_sets_are_read_back() -> None:
    model = make_model(make_service(), near_and_far())
    lines = [sets.create_line(name, 4) + " hashsize 1024" for name in sets.TYPES]
    lines += [f"add {name} {element}" for name, elements in model.sets.items() for element in elements]
    assert sets.parse_save("\n".join([*lines, "create other hash:ip", "add other 1.2.3.4"]), 4) == model.sets


def random_objects(chance: random.Random) -> dict[str, tuple[Any, Any]]:
    """Services (with a shared external IP now and then) and their slices."""
    found = {}
    for number in range(4):
        if chance.random() < 0.3:
            continue
        name = f"s{number}"
        spec: dict[str, Any] = {"type": "NodePort"} if chance.random() < 0.4 else {}
        port = {"name": "http", "port": 80, "protocol": chance.choice(["TCP", "UDP"])}
        spec["ports"] = [port | ({"nodePort": 30000 + number} if spec else {})]
        if chance.random() < 0.4:
            spec["externalIPs"] = ["198.51.100.1"]
        if chance.random() < 0.3:
            spec["sessionAffinity"] = "ClientIP"
        if spec.get("type") and chance.random() < 0.5:
            spec["externalTrafficPolicy"] = "Local"
        endpoints = [
            make_endpoint(f"10.244.{n % 2}.{n + 2}", f"node-{n % 2 + 1}") for n in range(4) if chance.random() < 0.5
        ]
        ports = [{"name": "http", "port": 8080, "protocol": port["protocol"]}]
        found[name] = (make_service(name, f"10.96.0.{number + 1}", **spec), make_slice(endpoints, name, ports=ports))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_any_row_of_changes_ends_where_a_fresh_proxy_would_begin(seed: int) -> None:
    chance = random.Random(seed)
    dialect, view, service_map, model = IpvsDialect(), make_view(), ServiceMap(4), Model()
    before: dict[str, tuple[Any, Any]] = {}
    state = None
    for _ in range(8):
        after = random_objects(chance)
        for name in before.keys() | after.keys():
            old, new = before.get(name, (None, None)), after.get(name, (None, None))
            service_map.update_service(old[0], new[0])
            service_map.update_slice(old[1], new[1])
        changes = service_map.take()
        if state is None:
            plan = dialect.plan_full(service_map.snapshot(), view, Existing(local_ips=LOCAL))
        else:
            plan = dialect.plan_changes(service_map.snapshot(), changes.keys(), state, view)
        assert isinstance(plan, IpvsPlan)
        model.apply(plan)
        state, before = plan.state, after
        fresh = Model()
        whole = dialect.plan_full(service_map.snapshot(), view, Existing(local_ips=LOCAL))
        assert isinstance(whole, IpvsPlan)
        fresh.apply(whole)
        assert (model.servers, model.sets, model.addresses) == (fresh.servers, fresh.sets, fresh.addresses)
        assert dict(state.uses) == dict(whole.state.uses)


@pytest.mark.parametrize("excluded", [("192.0.2.0/24",), ("fd00::/8", "192.0.2.1/24")])
def test_somebody_elses_virtual_servers_stay_in_the_networks_excluded(excluded: tuple[str, ...]) -> None:
    kept, gone = ServerKey("tcp", "192.0.2.7", 80), ServerKey("tcp", "192.0.3.7", 80)
    own = ServerKey("tcp", "192.0.2.8", 80)  # ours in spite of the network, and with a real server too many
    config = ProxyConfig(mode="ipvs", ipvs_exclude_cidrs=excluded)
    existing = Existing(servers={key: (VirtualServer(), {FAR: RealState()}) for key in (kept, gone, own)})
    snapshot = make_map([make_service(externalIPs=["192.0.2.8"])]).snapshot()
    plan = IpvsDialect().plan_full(snapshot, make_view(config=config), existing)
    assert isinstance(plan, IpvsPlan)
    told = [str(operation) for operation in plan.operations]
    assert f"ipvsadm -D {gone}" in told
    assert f"ipvsadm -d {own} {FAR}" in told
    assert not any(str(kept) in words for words in told)
