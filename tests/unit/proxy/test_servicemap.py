from typing import Any

import pytest

from netsim.model.objects import Object
from proxy.servicemap import ServiceMap, ServicePort, ServicePortName, read_service, read_slice
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice

HTTP = ServicePortName("ns", "web", "http", "TCP")


def only(service: Object, family: int = 4) -> ServicePort:
    (port,) = read_service(service, family).values()
    return port


@pytest.mark.parametrize(
    "service",
    [
        make_service(ip="None"),
        make_service(ip=""),
        make_service(type="ExternalName"),
        make_service(labels={"service.kubernetes.io/service-proxy-name": ""}),
        make_service(labels={"service.kubernetes.io/headless": ""}),
        make_service(ip="fd00::1"),
    ],
)
def test_services_that_are_not_for_this_proxy_have_no_ports(service: Object) -> None:
    assert read_service(service, 4) == {}


def test_the_same_number_in_two_protocols_is_two_service_ports() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]
    found = read_service(make_service(ports=ports), 4)
    assert [str(p.name) + "/" + p.protocol for p in found.values()] == ["ns/web:dns/udp", "ns/web:dns-tcp/tcp"]


def test_an_unnamed_port_has_no_colon_in_its_name() -> None:
    assert str(only(make_service(ports=[{"port": 80}])).name) == "ns/web"


def test_each_family_sees_its_own_addresses() -> None:
    service = make_service(
        type="LoadBalancer",
        clusterIPs=["10.96.0.10", "fd00::10"],
        externalIPs=["192.0.2.1", "fd00::e", "001.002.003.004"],
        loadBalancerSourceRanges=[" 198.51.100.0/24", "fd01::/64"],
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "fd00::9"}, {"hostname": "lb.example"}]}},
    )
    four, six = only(service), only(service, 6)
    assert (four.cluster_ip, four.external_ips, four.load_balancer_ips, four.source_ranges) == (
        "10.96.0.10",
        ("192.0.2.1", "1.2.3.4"),
        ("192.0.2.9",),
        ("198.51.100.0/24",),
    )
    assert (six.cluster_ip, six.external_ips, six.load_balancer_ips, six.source_ranges) == (
        "fd00::10",
        ("fd00::e",),
        ("fd00::9",),
        ("fd01::/64",),
    )


@pytest.mark.parametrize(("mode", "expected"), [("VIP", ("192.0.2.9",)), ("Proxy", ()), (None, ("192.0.2.9",))])
def test_load_balancer_addresses_of_mode_proxy_get_no_rules(mode: str | None, expected: tuple[str, ...]) -> None:
    ingress = {"ip": "192.0.2.9"} | ({"ipMode": mode} if mode else {})
    service = make_service(type="LoadBalancer", status={"loadBalancer": {"ingress": [ingress]}})
    assert only(service).load_balancer_ips == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, 0),
        ({"sessionAffinity": "None"}, 0),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}}, 9),
    ],
)
def test_affinity_timeout(spec: dict[str, Any], expected: int) -> None:
    assert only(make_service(**spec)).affinity_timeout_s == expected


@pytest.mark.parametrize(
    ("spec", "cluster", "local"),
    [
        ({}, True, False),
        ({"internalTrafficPolicy": "Local"}, False, True),
        ({"externalTrafficPolicy": "Local"}, True, False),
        (
            {"externalTrafficPolicy": "Local", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
            True,
            True,
        ),
        ({"internalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}, True, True),
        ({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}, True, True),
    ],
)
def test_which_endpoint_sets_a_service_uses(spec: dict[str, Any], cluster: bool, local: bool) -> None:
    port = only(make_service(**spec))
    assert (port.uses_cluster_endpoints, port.uses_local_endpoints) == (cluster, local)


@pytest.mark.parametrize(
    ("kind", "policy", "expected"),
    [("LoadBalancer", "Local", 31000), ("LoadBalancer", "Cluster", 0), ("NodePort", "Local", 0)],
)
def test_health_check_port_needs_a_load_balancer_with_policy_local(kind: str, policy: str, expected: int) -> None:
    service = make_service(type=kind, externalTrafficPolicy=policy, healthCheckNodePort=31000)
    assert only(service).health_check_node_port == expected


def test_unset_conditions_mean_ready_and_serving() -> None:
    item = make_slice([{"addresses": ["10.244.1.2"]}])
    (endpoint,) = read_slice(item, 4)[("http", "TCP")]
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)


def test_unset_serving_is_true_also_of_what_is_not_ready() -> None:
    item = make_slice([{"addresses": ["10.244.1.2"], "conditions": {"ready": False, "terminating": True}}])
    (endpoint,) = read_slice(item, 4)[("http", "TCP")]
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (False, True, True)


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    item = make_slice([{"addresses": ["10.244.1.2", "10.244.1.3"]}, {"addresses": []}])
    assert [e.ip for e in read_slice(item, 4)[("http", "TCP")]] == ["10.244.1.2"]


@pytest.mark.parametrize(
    "fields",
    [
        {"addressType": "IPv6"},
        {"addressType": "FQDN"},
        {"labels": {"service.kubernetes.io/headless": ""}},
        {"ports": [{"name": "http", "protocol": "TCP"}]},  # no number: all ports, which a proxy cannot say
        *({"ports": [{"name": "http", "protocol": "TCP", "port": number}]} for number in (0, -1, 65536)),
    ],
)
def test_slices_without_meaning_here(fields: dict[str, Any]) -> None:
    assert read_slice(make_slice([make_endpoint("10.244.1.2")], **fields), 4) == {}


def test_slices_of_one_service_are_merged_and_may_have_different_numbers() -> None:
    other = [{"name": "http", "port": 9090, "protocol": "TCP"}]
    objects = [
        make_service(),
        make_slice([make_endpoint("10.244.1.2"), make_endpoint("10.244.1.10")], name="a"),
        make_slice([make_endpoint("10.244.2.2", "node-2")], name="b", ports=other),
        make_slice([make_endpoint("10.244.1.2", state="unready")], name="c"),  # again: the first slice wins
    ]
    entry = make_map(objects).snapshot().entries[HTTP]
    assert [str(e) for e in entry.endpoints] == ["10.244.1.10:8080", "10.244.1.2:8080", "10.244.2.2:9090"]
    assert all(e.ready for e in entry.endpoints)


def test_a_change_that_is_taken_back_counts_as_none() -> None:
    item = make_slice([make_endpoint("10.244.1.2")])
    service_map = make_map([make_service(), item])
    service_map.update_slice(item, make_slice([]))
    service_map.update_slice(make_slice([]), make_slice([make_endpoint("10.244.1.2")]))
    service_map.update_service(make_service(), None)
    service_map.update_service(None, make_service())
    assert service_map.dirty
    assert service_map.take() == {}
    assert not service_map.dirty
    assert service_map.generation == 1


def test_changes_name_their_state_before_and_after() -> None:
    service_map = make_map([make_service()])
    service_map.update_slice(None, make_slice([make_endpoint("10.244.1.2")]))
    (change,) = service_map.take().values()
    assert change.old is not None
    assert change.new is not None
    assert (change.old.endpoints, len(change.new.endpoints)) == ((), 1)
    service_map.update_service(make_service(), None)
    assert [(c.old, c.new) for c in service_map.take().values()] == [(change.new, None)]
    assert service_map.snapshot().entries == {}


def test_slices_may_come_before_their_service() -> None:
    service_map = make_map([make_slice([make_endpoint("10.244.1.2")])])
    assert service_map.snapshot().entries == {}
    service_map.update_service(None, make_service())
    (change,) = service_map.take().values()
    assert change.new is not None
    assert len(change.new.endpoints) == 1


def test_a_slice_may_move_to_another_service() -> None:
    old = make_slice([make_endpoint("10.244.1.2")])
    service_map = make_map([make_service(), make_service("api", "10.96.0.11"), old])
    service_map.update_slice(old, make_slice([make_endpoint("10.244.1.2")], "api", name="web-abc"))
    service_map.take()
    entries = service_map.snapshot().entries
    assert {name.name: len(entry.endpoints) for name, entry in entries.items()} == {"api": 1, "web": 0}


def test_a_port_that_is_removed_goes() -> None:
    two = [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]
    service_map = make_map([make_service(ports=two)])
    service_map.update_service(None, make_service(ports=two[:1]))
    assert [name.port for name in service_map.take()] == ["admin"]
    assert list(service_map.snapshot().entries) == [HTTP]


def test_a_snapshot_stays_as_it_was_and_is_in_order() -> None:
    service_map = make_map([make_service("b", "10.96.0.2"), make_service("c", "10.96.0.3")])
    before = service_map.snapshot()
    service_map.update_service(None, make_service("a", "10.96.0.1"))
    service_map.take()
    assert [name.name for name in before.entries] == ["b", "c"]
    assert [name.name for name in service_map.snapshot().entries] == ["a", "b", "c"]


def test_total_counts_endpoints_of_services_alone() -> None:
    service_map = ServiceMap(4)
    item = make_slice([make_endpoint("10.244.1.2"), make_endpoint("10.244.1.3")])
    service_map.update_slice(None, item)
    service_map.take()
    assert service_map.snapshot().total_endpoints == 0
    service_map.update_service(None, make_service())
    service_map.take()
    assert service_map.snapshot().total_endpoints == 2
    service_map.update_slice(item, None)
    service_map.take()
    assert service_map.snapshot().total_endpoints == 0
