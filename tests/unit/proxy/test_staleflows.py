import pytest

from proxy.servicemap import Change, Entry, ServicePortName
from proxy.staleflows import Frontends, is_stale, plan_frontends
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice

UDP = [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]
NODE_IPS = ("172.18.0.2",)


def frontends(*endpoints: dict[str, object]) -> Frontends:
    ways = {"type": "NodePort", "externalIPs": ["192.0.2.1"]}
    objects = [make_service("dns", ports=UDP, **ways), make_slice(endpoints, "dns", ports=UDP)]
    entries = make_map(objects).snapshot().entries
    return plan_frontends(dict.fromkeys(entries), entries)


@pytest.mark.parametrize(
    ("destination", "port", "reply", "stale"),
    [
        ("10.96.0.10", 53, "10.244.1.2", False),
        ("10.96.0.10", 53, "10.244.1.3", False),  # terminating, and still serving
        ("10.96.0.10", 53, "10.244.1.4", True),  # not serving any more
        ("10.96.0.10", 53, "10.96.0.10", True),  # from before there were endpoints: never translated (#48370)
        ("192.0.2.1", 53, "10.244.1.9", True),
        ("10.96.0.10", 54, "10.244.1.9", False),
        ("172.18.0.2", 30053, "10.244.1.9", True),
        ("172.18.0.2", 30053, "172.18.0.2", True),
        ("127.0.0.1", 30053, "127.0.0.1", True),
        ("10.244.1.1", 30053, "10.244.1.9", True),
        ("203.0.113.5", 30053, "203.0.113.5", False),  # passes through to a host elsewhere
    ],
)
def test_stale_flows(destination: str, port: int, reply: str, stale: bool) -> None:
    states = ("ready", "terminating", "gone")
    found = frontends(*(make_endpoint(f"10.244.1.{n}", state=s) for n, s in enumerate(states, 2)))
    assert is_stale(found, destination, port, reply, NODE_IPS) is stale


def test_without_endpoints_every_flow_is_stale() -> None:
    assert is_stale(frontends(), "10.96.0.10", 53, "10.244.1.2", NODE_IPS)


def test_tcp_is_never_in_it() -> None:
    entries = make_map([make_service(), make_slice([make_endpoint("10.244.1.2")])]).snapshot().entries
    assert not plan_frontends(dict.fromkeys(entries), entries)


def test_addresses_given_up_are_in_it_and_those_passed_on_are_the_new_owners() -> None:
    ways = {"type": "NodePort", "externalIPs": ["192.0.2.1"]}
    service_map = make_map([make_service("dns", ports=UDP, **ways)])
    service_map.update_service(None, make_service("dns", ports=[{"name": "dns", "port": 53, "protocol": "UDP"}]))
    other = make_service("other", "10.96.0.11", ports=UDP, type="NodePort")
    service_map.update_service(None, other)
    service_map.update_slice(None, make_slice([make_endpoint("10.244.1.2")], "other", ports=UDP))
    changes: dict[ServicePortName, Change] = service_map.take()
    before: dict[ServicePortName, Entry | None] = {name: change.old for name, change in changes.items()}
    found = plan_frontends(before, service_map.snapshot().entries)
    assert found.addresses[("192.0.2.1", 53)] == frozenset()
    assert found.node_ports[30053] == frozenset({"10.244.1.2"})
