"""Services, and the fate of packets that meet their rules; a rule the walker does not know is an error."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from netsim.model.objects import Object
from netsim.ruleset.iptables_walk import Fate, Packet
from proxy.iptables.names import endpoint_chain, service_hash
from tests.unit.proxy.make import CONFIG, NODE_IP, make_endpoint, make_service, make_slice, make_view, make_walker

POD, OTHER_POD, REMOTE, OUTSIDE = "10.244.1.9", "10.244.1.2", "10.244.2.2", "203.0.113.5"
LOCAL_EP, REMOTE_EP = make_endpoint(OTHER_POD), make_endpoint(REMOTE, "node-2")
NODE_PORT = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]
WAYS = {
    "type": "LoadBalancer",
    "ports": NODE_PORT,
    "externalIPs": ["192.0.2.1"],
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
}
LOCAL, MASQ, REJECT, DROP = {"externalTrafficPolicy": "Local"}, True, "REJECT", "DROP"
CLUSTER_IP, NODE_PORT_AT, EXTERNAL_IP, LB_IP = (
    ("10.96.0.10", 80),
    (NODE_IP, 30080),
    ("192.0.2.1", 80),
    ("192.0.2.9", 80),
)
TO_EXTERNAL = (NODE_PORT_AT, EXTERNAL_IP, LB_IP)


def fates(objects: Iterable[Object], source: str, to: tuple[str, int], **more: Any) -> Any:
    """REJECT, DROP, or the set of (endpoint, masqueraded) that may be."""
    walker = make_walker(objects, more.pop("view", None), recent=more.pop("recent", ()))
    interface = "" if source in (NODE_IP, "127.0.0.1") else "eth0"
    found = walker.walk(Packet(source, *to, interface=interface, **more))
    if {f.verdict for f in found} == {"ACCEPT"}:
        return {(f.destination if f.port == 8080 else f"{f.destination}:{f.port}", f.masqueraded) for f in found}
    (verdict,) = {f.verdict for f in found}
    return verdict


def web(*endpoints: Object, **spec: Any) -> list[Object]:
    return [make_service(**spec), make_slice(endpoints)]


BOTH = {(OTHER_POD, False), (REMOTE, False)}
BOTH_MASQ = {(OTHER_POD, True), (REMOTE, True)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (POD, BOTH),
        (REMOTE, {(OTHER_POD, False), (REMOTE, True)}),  # hairpin: only the one that comes back to its sender
        (OUTSIDE, BOTH_MASQ),
        (NODE_IP, BOTH_MASQ),  # the node is no pod
    ],
)
def test_cluster_ip(source: str, expected: Any) -> None:
    assert fates(web(LOCAL_EP, REMOTE_EP), source, CLUSTER_IP) == expected


@pytest.mark.parametrize("to", TO_EXTERNAL)
@pytest.mark.parametrize("source", [POD, OUTSIDE, NODE_IP])
def test_from_outside_policy_cluster_always_masquerades(source: str, to: tuple[str, int]) -> None:
    assert fates(web(LOCAL_EP, REMOTE_EP, **WAYS), source, to) == BOTH_MASQ


@pytest.mark.parametrize("to", TO_EXTERNAL)
@pytest.mark.parametrize(
    ("endpoints", "source", "expected"),
    [
        ((LOCAL_EP, REMOTE_EP), OUTSIDE, {(OTHER_POD, False)}),
        ((LOCAL_EP, REMOTE_EP), POD, BOTH),  # short circuit
        ((LOCAL_EP, REMOTE_EP), NODE_IP, BOTH_MASQ),
        ((REMOTE_EP,), OUTSIDE, DROP),
        ((REMOTE_EP,), POD, {(REMOTE, False)}),
        ((REMOTE_EP,), NODE_IP, {(REMOTE, True)}),
        ((make_endpoint(OTHER_POD, state="terminating"), REMOTE_EP), OUTSIDE, {(OTHER_POD, False)}),
        ((), OUTSIDE, REJECT),
        ((), POD, REJECT),
    ],
)
def test_from_outside_policy_local(endpoints: Any, source: str, to: tuple[str, int], expected: Any) -> None:
    assert fates(web(*endpoints, **WAYS, **LOCAL), source, to) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ((LOCAL_EP, REMOTE_EP), {(OTHER_POD, False)}),
        ((REMOTE_EP,), DROP),
        ((make_endpoint(REMOTE, "node-2", "unready"),), REJECT),
        ((), REJECT),
    ],
)
def test_internal_policy_local(endpoints: Any, expected: Any) -> None:
    assert fates(web(*endpoints, internalTrafficPolicy="Local"), POD, CLUSTER_IP) == expected


def test_internal_policy_local_leaves_traffic_from_outside_alone() -> None:
    objects = web(REMOTE_EP, internalTrafficPolicy="Local", **WAYS)
    assert fates(objects, OUTSIDE, NODE_PORT_AT) == {(REMOTE, True)}
    assert fates(objects, OUTSIDE, CLUSTER_IP) == DROP


@pytest.mark.parametrize("to", [CLUSTER_IP, *TO_EXTERNAL])
@pytest.mark.parametrize("source", [POD, OUTSIDE, NODE_IP])
def test_without_endpoints_everything_is_refused(source: str, to: tuple[str, int]) -> None:
    # But KUBE-EXTERNAL-SERVICES hangs in INPUT and FORWARD: what the node itself sends to an external address leaves.
    leaves = source == NODE_IP and to in (EXTERNAL_IP, LB_IP)
    expected = {(f"{to[0]}:{to[1]}", False)} if leaves else REJECT
    for spec in ({}, LOCAL):
        assert fates(web(**WAYS, **spec), source, to) == expected
        assert fates(web(make_endpoint(OTHER_POD, state="unready"), **WAYS, **spec), source, to) == expected


def test_without_a_way_to_tell_pods_apart_nothing_is_masqueraded_and_no_short_circuit() -> None:
    view = make_view(config=replace(CONFIG, cluster_cidrs=()))
    assert fates(web(REMOTE_EP), OUTSIDE, CLUSTER_IP, view=view) == {(REMOTE, False)}
    assert fates(web(REMOTE_EP, **WAYS, **LOCAL), POD, NODE_PORT_AT, view=view) == DROP


def test_masquerade_all() -> None:
    view = make_view(config=replace(CONFIG, masquerade_all=True))
    assert fates(web(REMOTE_EP), POD, CLUSTER_IP, view=view) == {(REMOTE, True)}


@pytest.mark.parametrize(
    ("source", "interface", "expected"),
    [(POD, "cni0", {(REMOTE, False)}), (POD, "eth0", {(REMOTE, True)})],
)
def test_pods_told_apart_by_their_bridge(source: str, interface: str, expected: Any) -> None:
    config = replace(CONFIG, detect_local_mode="BridgeInterface", bridge_interface="cni0")
    walker = make_walker(web(REMOTE_EP), make_view(config=config))
    found = walker.walk(Packet(source, *CLUSTER_IP, interface=interface))
    assert {(f.destination, f.masqueraded) for f in found} == expected


def test_wrong_ports_and_other_addresses_pass_untouched() -> None:
    objects = web(LOCAL_EP, **WAYS)
    assert fates(objects, POD, ("10.96.0.10", 81)) == {("10.96.0.10:81", False)}
    assert fates(objects, POD, ("10.244.2.7", 30080)) == {("10.244.2.7:30080", False)}  # no address of this node
    assert fates(objects, POD, CLUSTER_IP, protocol="udp") == {("10.96.0.10:80", False)}


@pytest.mark.parametrize("address", [NODE_IP, "10.244.1.1"])
def test_node_ports_answer_on_every_local_address(address: str) -> None:
    assert fates(web(REMOTE_EP, **WAYS), OUTSIDE, (address, 30080)) == {(REMOTE, True)}


def test_node_port_on_localhost_and_the_way_in_from_outside_to_localhost() -> None:
    objects = web(REMOTE_EP, **WAYS)
    assert fates(objects, "127.0.0.1", ("127.0.0.1", 30080)) == {(REMOTE, True)}
    # A neighbour that sends to our 127.0.0.1: a NodePort works, anything else of this machine's is out of reach.
    assert fates(objects, OUTSIDE, ("127.0.0.1", 10250)) == DROP
    off = make_view(config=replace(CONFIG, localhost_node_ports=False))
    assert fates(objects, "127.0.0.1", ("127.0.0.1", 30080), view=off) == {("127.0.0.1:30080", False)}


@pytest.mark.parametrize(
    ("addresses", "to", "works"),
    [
        (("172.18.0.0/16",), NODE_IP, True),
        (("172.18.0.0/16",), "10.244.1.1", False),
        (("192.0.2.0/24",), NODE_IP, False),
        (("127.0.0.0/8",), "127.0.0.1", True),
        (("0.0.0.0/0",), "10.244.1.1", True),
        (("fd00::/8",), NODE_IP, False),  # of the other family only: none here
    ],
)
def test_node_port_addresses(addresses: tuple[str, ...], to: str, works: bool) -> None:
    view = make_view(config=replace(CONFIG, node_port_addresses=addresses))
    source = "127.0.0.1" if to == "127.0.0.1" else OUTSIDE
    expected = {(REMOTE, True)} if works else {(f"{to}:30080", False)}
    assert fates(web(REMOTE_EP, **WAYS), source, (to, 30080), view=view) == expected


def test_an_external_ip_that_is_a_node_address_goes_before_node_ports() -> None:
    other = make_service("api", "10.96.0.11", ports=[{"port": 30080}], externalIPs=[NODE_IP])
    objects = [
        *web(REMOTE_EP, **WAYS),
        other,
        make_slice([make_endpoint("10.244.1.77")], "api", ports=[{"name": "", "port": 8080}]),
    ]
    assert fates(objects, OUTSIDE, NODE_PORT_AT) == {("10.244.1.77", True)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [("198.51.100.7", {(REMOTE, True)}), (OUTSIDE, DROP), ("192.0.2.9", DROP)],
)
def test_source_ranges_guard_the_load_balancer_address_alone(source: str, expected: Any) -> None:
    objects = web(REMOTE_EP, **WAYS, loadBalancerSourceRanges=["198.51.100.0/24"])
    assert fates(objects, source, LB_IP) == expected
    assert fates(objects, source, NODE_PORT_AT) == {(REMOTE, True)}
    assert fates(objects, source, EXTERNAL_IP) == {(REMOTE, True)}


def test_a_node_in_the_source_ranges_may_send_as_the_load_balancer() -> None:
    objects = web(REMOTE_EP, **WAYS, loadBalancerSourceRanges=["172.18.0.0/16"])
    assert fates(objects, "192.0.2.9", LB_IP) == {(REMOTE, True)}


def test_source_ranges_of_the_other_family_are_none() -> None:
    assert fates(web(REMOTE_EP, **WAYS, loadBalancerSourceRanges=["fd00::/8"]), OUTSIDE, LB_IP) == {(REMOTE, True)}


def test_affinity_goes_before_chance() -> None:
    objects = web(LOCAL_EP, REMOTE_EP, sessionAffinity="ClientIP")
    first = endpoint_chain("ns/web:http", "tcp", f"{OTHER_POD}:8080")
    walker = make_walker(objects)
    found = walker.walk(Packet(POD, *CLUSTER_IP))
    assert Fate("ACCEPT", OTHER_POD, 8080, False, frozenset({first})) in found
    assert len(found) == 2
    assert fates(objects, POD, CLUSTER_IP, recent={(first, POD)}) == {(OTHER_POD, False)}
    assert fates(objects, OUTSIDE, CLUSTER_IP, recent={(first, POD)}) == BOTH_MASQ


def test_affinity_of_one_port_is_not_another_ports() -> None:
    ports = [{"name": "http", "port": 80}, {"name": "other", "port": 81}]
    numbers = [{"name": "http", "port": 8080}, {"name": "other", "port": 8080}]
    objects = [make_service(ports=ports, sessionAffinity="ClientIP"), make_slice([LOCAL_EP, REMOTE_EP], ports=numbers)]
    recent = {(endpoint_chain("ns/web:http", "tcp", f"{OTHER_POD}:8080"), POD)}
    assert fates(objects, POD, ("10.96.0.10", 80), recent=recent) == {(OTHER_POD, False)}
    assert fates(objects, POD, ("10.96.0.10", 81), recent=recent) == BOTH


def test_affinity_to_an_endpoint_of_another_node_does_not_count_for_policy_local() -> None:
    objects = web(LOCAL_EP, REMOTE_EP, **WAYS, **LOCAL, sessionAffinity="ClientIP")
    recent = {(endpoint_chain("ns/web:http", "tcp", f"{REMOTE}:8080"), source) for source in (OUTSIDE, POD)}
    assert fates(objects, OUTSIDE, NODE_PORT_AT, recent=recent) == {(OTHER_POD, False)}
    assert fates(objects, POD, NODE_PORT_AT, recent=recent) == {(REMOTE, False)}


def test_affinity_to_an_endpoint_that_is_no_longer_usable_is_forgotten() -> None:
    objects = web(make_endpoint(OTHER_POD, state="terminating"), REMOTE_EP, sessionAffinity="ClientIP")
    first = endpoint_chain("ns/web:http", "tcp", f"{OTHER_POD}:8080")
    assert fates(objects, POD, CLUSTER_IP, recent={(first, POD)}) == {(REMOTE, False)}


def test_policy_local_and_cluster_share_affinity() -> None:
    objects = web(LOCAL_EP, REMOTE_EP, **WAYS, **LOCAL, sessionAffinity="ClientIP")
    first = endpoint_chain("ns/web:http", "tcp", f"{OTHER_POD}:8080")
    for to in (CLUSTER_IP, NODE_PORT_AT):
        assert fates(objects, POD, to, recent={(first, POD)}) == {(OTHER_POD, False)}


def test_zones_send_traffic_to_their_own_endpoints() -> None:
    near = make_endpoint(OTHER_POD, hints={"forZones": [{"name": "a"}]})
    far = make_endpoint(REMOTE, "node-2", hints={"forZones": [{"name": "b"}]})
    for zone, expected in (("a", {(OTHER_POD, False)}), ("b", {(REMOTE, False)}), ("", BOTH)):
        assert fates(web(near, far), POD, CLUSTER_IP, view=make_view(zone=zone)) == expected


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_protocols_are_apart(protocol: str) -> None:
    ports = [{"name": "a", "port": 53, "protocol": protocol.upper()}]
    slice_ports = [{"name": "a", "port": 8080, "protocol": protocol.upper()}]
    objects = [make_service(ports=ports), make_slice([LOCAL_EP], ports=slice_ports)]
    assert fates(objects, POD, ("10.96.0.10", 53), protocol=protocol) == {(OTHER_POD, False)}
    other = "tcp" if protocol == "udp" else "udp"
    assert fates(objects, POD, ("10.96.0.10", 53), protocol=other) == {("10.96.0.10:53", False)}


def test_ipv6_is_the_same_with_other_addresses() -> None:
    config = replace(CONFIG, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/56"))
    objects = [
        make_service(ip="fd00:10:96::10", type="NodePort", ports=NODE_PORT),
        make_slice([make_endpoint("fd00:10:244:1::2")], addressType="IPv6"),
    ]
    walker = make_walker(objects, make_view(config=config, family=6))
    found = walker.walk(Packet("fd00:10:244::9", "fd00:10:96::10", 80))
    assert found == {Fate("ACCEPT", "fd00:10:244:1::2", 8080, False)}
    outside = walker.walk(Packet("2001:db8::1", "fd00:10:96::10", 80))
    assert outside == {Fate("ACCEPT", "fd00:10:244:1::2", 8080, True)}
    assert walker.walk(Packet("::1", "::1", 30080, interface="")) == {Fate("ACCEPT", "::1", 30080)}  # never on loopback


def test_chain_names_are_upstreams() -> None:
    # From pkg/proxy/iptables/proxier_test.go: ns1/svc1:p80 and its endpoint.
    assert service_hash("ns1/svc1:p80", "tcp") == "XPGD46QRK7WJZT7O"
    assert endpoint_chain("ns1/svc1:p80", "tcp", "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"
