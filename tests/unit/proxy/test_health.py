"""What health checkers are told, and when; on a clock set by hand."""

import json
from typing import Any

import pytest

from proxy.health.counts import count_no_local, count_pending, read_trigger_s
from proxy.health.proxyhealth import Moment, ProxyHealth, format_time, is_eligible
from proxy.health.servicehealth import Check, CheckedServices, answer_check
from proxy.servicemap import ServiceMap
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice

TIMEOUT_S = 60.0
T0 = 1_704_067_200.0  # 2024-01-01


def at(seconds: float) -> Moment:
    return Moment(wall_s=seconds, monotonic_s=seconds)


def read(answer: Any) -> tuple[int, dict[str, Any]]:
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return answer.status, json.loads(answer.body)


def test_well_before_and_after_the_first_sync() -> None:
    health = ProxyHealth((4,), TIMEOUT_S)
    status, body = read(health.healthz(at(T0)))
    assert status == 200
    assert body == {
        "lastUpdated": "2024-01-01T00:00:00.000000Z",
        "currentTime": "2024-01-01T00:00:00.000000Z",
        "nodeEligible": True,
        "healthy": True,
        "status": {"IPv4": {"lastUpdated": "0001-01-01T00:00:00Z", "healthy": True}},
    }
    health.updated(4, at(T0 + 1))
    status, body = read(health.livez(at(T0 + 1000)))
    assert status == 200
    assert body["lastUpdated"] == body["currentTime"]  # as older releases, though nothing has changed since
    assert body["status"]["IPv4"]["lastUpdated"] == format_time(T0 + 1)
    assert "nodeEligible" not in body


def test_ill_when_a_change_waits_twice_the_sync_period() -> None:
    health = ProxyHealth((4, 6), TIMEOUT_S)
    for family in (4, 6):
        health.updated(family, at(T0))
    health.queued(4, at(T0 + 10))
    health.queued(4, at(T0 + 60))  # the oldest counts
    assert health.healthz(at(T0 + 10 + TIMEOUT_S - 0.1)).status == 200
    status, body = read(health.healthz(at(T0 + 10 + TIMEOUT_S)))
    assert status == 503
    assert (body["healthy"], body["nodeEligible"]) == (False, True)
    assert body["lastUpdated"] == format_time(T0)
    assert {family: part["healthy"] for family, part in body["status"].items()} == {"IPv4": False, "IPv6": True}
    assert health.livez(at(T0 + 10 + TIMEOUT_S)).status == 503
    health.updated(6, at(T0 + 80))  # the other family's does not help
    assert health.healthz(at(T0 + 80)).status == 503
    health.updated(4, at(T0 + 90))
    assert health.healthz(at(T0 + 90)).status == 200


def test_a_clock_that_is_set_makes_nobody_ill() -> None:
    health = ProxyHealth((4,), TIMEOUT_S)
    health.queued(4, at(T0))
    later = Moment(wall_s=T0 + 3600, monotonic_s=T0 + 1)
    assert health.healthz(later).status == 200
    assert read(health.healthz(later))[1]["currentTime"] == "2024-01-01T01:00:00.000000Z"
    assert health.healthz(Moment(wall_s=T0 - 3600, monotonic_s=T0 + TIMEOUT_S)).status == 503


def test_a_node_on_its_way_out_is_for_load_balancers_alone() -> None:
    health = ProxyHealth((4,), TIMEOUT_S)
    health.node_eligible = False
    status, body = read(health.healthz(at(T0)))
    assert (status, body["nodeEligible"], body["healthy"]) == (503, False, True)
    assert health.livez(at(T0)).status == 200
    assert health.is_healthy(at(T0))


@pytest.mark.parametrize(
    ("node", "eligible"),
    [
        (None, True),
        ({"metadata": {}}, True),
        ({"metadata": {}, "spec": {"taints": [{"key": "other"}]}}, True),
        ({"metadata": {}, "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}}, False),
        ({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}, False),
    ],
)
def test_which_nodes_are_eligible(node: Any, eligible: bool) -> None:
    assert is_eligible(node) is eligible


BALANCED: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}
PORTS = [{"name": "http", "port": 80}, {"name": "https", "port": 443}]


def checked(service_map: ServiceMap, found: CheckedServices) -> CheckedServices:
    found.note(service_map.take())
    return found


def test_a_check_counts_distinct_ready_endpoints_of_its_node() -> None:
    service_map = ServiceMap()
    endpoints = [
        make_endpoint("10.244.1.2"),
        make_endpoint("10.244.1.3"),
        make_endpoint("10.244.1.4", state="terminating"),
        make_endpoint("10.244.1.5", state="unready"),
        make_endpoint("10.244.2.2", node="node-2"),
    ]
    service_map.update_service(None, make_service(ports=PORTS, **BALANCED))
    item = make_slice(endpoints, ports=[{"name": "http", "port": 8080}, {"name": "https", "port": 8443}])
    service_map.update_slice(None, item)
    found = checked(service_map, CheckedServices())
    key = ("ns", "web")
    assert [found.checks(f"node-{n}")[key].endpoints for n in (1, 2, 3)] == [2, 1, 0]
    assert found.checks("node-1")[key].port == 31000


def test_checks_come_and_go_with_their_services() -> None:
    service_map, found = ServiceMap(), CheckedServices()
    plain, balanced = make_service(), make_service(**BALANCED)
    service_map.update_service(None, plain)
    assert not checked(service_map, found)
    service_map.update_service(plain, balanced)
    assert checked(service_map, found).checks("node-1") == {("ns", "web"): Check(31000, 0)}
    moved = make_service(**BALANCED | {"healthCheckNodePort": 31001})
    service_map.update_service(balanced, moved)
    assert checked(service_map, found).checks("node-1") == {("ns", "web"): Check(31001, 0)}
    service_map.update_service(moved, make_service(**BALANCED | {"externalTrafficPolicy": "Cluster"}))
    assert not checked(service_map, found)


@pytest.mark.parametrize(("endpoints", "healthy", "status"), [(2, True, 200), (0, True, 503), (2, False, 503)])
def test_what_a_check_answers(endpoints: int, healthy: bool, status: int) -> None:
    answer = answer_check(("ns", "web"), Check(31000, endpoints), healthy)
    assert read(answer) == (
        status,
        {
            "service": {"namespace": "ns", "name": "web"},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        },
    )
    assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == str(endpoints)


def test_services_without_local_endpoints_by_kind_of_traffic() -> None:
    objects = [
        make_service("inside", "10.96.0.1", internalTrafficPolicy="Local"),
        make_service("outside", "10.96.0.2", externalIPs=["192.0.2.1"], externalTrafficPolicy="Local"),
        make_service("none", "10.96.0.3", internalTrafficPolicy="Local"),  # no endpoint anywhere: not counted
        make_service("here", "10.96.0.4", internalTrafficPolicy="Local"),
        make_slice([make_endpoint("10.244.2.2", node="node-2")], "inside"),
        make_slice([make_endpoint("10.244.2.2", node="node-2")], "outside"),
        make_slice([make_endpoint("10.244.1.2")], "here"),
    ]
    snapshot = make_map(objects).snapshot()
    assert count_no_local(snapshot, "node-1", "") == {"internal": 1, "external": 1}
    assert count_no_local(snapshot, "node-2", "") == {"internal": 1, "external": 0}


def test_pending_changes_are_told_apart() -> None:
    service_map = make_map([make_service(), make_slice([make_endpoint("10.244.1.2")])])
    before = dict(service_map.snapshot().entries)
    service_map.update_slice(None, make_slice([make_endpoint("10.244.1.3")]))
    changes = service_map.take()
    assert count_pending({name: change.old for name, change in changes.items()}, service_map.snapshot()) == (0, 1)
    service_map.update_service(make_service(), None)
    service_map.take()
    assert count_pending(dict(before), service_map.snapshot()) == (1, 1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, "2024-01-01T00:00:01Z", T0 + 1),
        ("2024-01-01T00:00:01Z", "2024-01-01T00:00:01Z", None),  # this change is another's
        ("2024-01-01T00:00:01Z", "2024-01-01T00:00:02.5Z", T0 + 2.5),
        (None, "yesterday", None),
        (None, None, None),
    ],
)
def test_when_a_slice_says_that_it_changed(old: str | None, new: str | None, expected: float | None) -> None:
    def item(text: str | None) -> Any:
        found = make_slice([])
        if text is not None:
            found["metadata"]["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": text}
        return found

    assert read_trigger_s(item(old), item(new)) == expected
    assert read_trigger_s(item(old), None) is None
