"""Services, and the fate of packets that meet the nftables dialect's table. The common cases are iptables' own."""

from dataclasses import replace
from typing import Any

import pytest

from netsim.ruleset.iptables_walk import Fate, Packet
from tests.unit.proxy.make import NODE_IP, make_endpoint, make_service, make_slice
from tests.unit.proxy.nftables.make import CONFIG, make_table, make_view, make_walker
from tests.unit.proxy.test_iptables_flows import (
    BOTH,
    BOTH_MASQ,
    CLUSTER_IP,
    DROP,
    EXTERNAL_IP,
    LB_IP,
    LOCAL,
    LOCAL_EP,
    NODE_PORT,
    NODE_PORT_AT,
    OTHER_POD,
    OUTSIDE,
    POD,
    REJECT,
    REMOTE,
    REMOTE_EP,
    TO_EXTERNAL,
    WAYS,
    web,
)

GATEWAY = "10.244.1.1"


def fates(objects: Any, source: str, to: tuple[str, int], **more: Any) -> Any:
    """REJECT, DROP, or the set of (endpoint, masqueraded) that may be."""
    walker = make_walker(objects, more.pop("view", None), recent=more.pop("recent", ()))
    interface = "" if source in (NODE_IP, "127.0.0.1") else "eth0"
    found = walker.walk(Packet(source, *to, interface=interface, **more))
    if {f.verdict for f in found} == {"ACCEPT"}:
        return {(f.destination if f.port == 8080 else f"{f.destination}:{f.port}", f.masqueraded) for f in found}
    (verdict,) = {f.verdict for f in found}
    return verdict


@pytest.mark.parametrize(
    ("source", "expected"),
    [(POD, BOTH), (REMOTE, {(OTHER_POD, False), (REMOTE, True)}), (OUTSIDE, BOTH_MASQ), (NODE_IP, BOTH_MASQ)],
)
@pytest.mark.parametrize("sticky", [{}, {"sessionAffinity": "ClientIP"}])
def test_cluster_ip(source: str, expected: Any, sticky: Any) -> None:
    assert fates(web(LOCAL_EP, REMOTE_EP, **sticky), source, CLUSTER_IP) == expected


@pytest.mark.parametrize("to", TO_EXTERNAL)
@pytest.mark.parametrize("source", [POD, OUTSIDE, NODE_IP])
@pytest.mark.parametrize("sticky", [{}, {"sessionAffinity": "ClientIP"}])
def test_from_outside_policy_cluster_always_masquerades(source: str, to: tuple[str, int], sticky: Any) -> None:
    assert fates(web(LOCAL_EP, REMOTE_EP, **WAYS, **sticky), source, to) == BOTH_MASQ


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
        ((), NODE_IP, REJECT),  # iptables: leaves the node
    ],
)
@pytest.mark.parametrize("sticky", [{}, {"sessionAffinity": "ClientIP"}])
def test_from_outside_policy_local(endpoints: Any, source: str, to: Any, expected: Any, sticky: Any) -> None:
    assert fates(web(*endpoints, **WAYS, **LOCAL, **sticky), source, to) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [((LOCAL_EP, REMOTE_EP), {(OTHER_POD, False)}), ((REMOTE_EP,), DROP), ((), REJECT)],
)
@pytest.mark.parametrize("sticky", [{}, {"sessionAffinity": "ClientIP"}])
def test_internal_policy_local(endpoints: Any, expected: Any, sticky: Any) -> None:
    assert fates(web(*endpoints, internalTrafficPolicy="Local", **sticky), POD, CLUSTER_IP) == expected


def test_without_a_way_to_tell_pods_apart_nothing_is_masqueraded_and_no_short_circuit() -> None:
    view = make_view(config=replace(CONFIG, cluster_cidrs=()))
    assert fates(web(REMOTE_EP), OUTSIDE, CLUSTER_IP, view=view) == {(REMOTE, False)}
    assert fates(web(REMOTE_EP, **WAYS, **LOCAL), POD, NODE_PORT_AT, view=view) == DROP


def test_masquerade_all() -> None:
    view = make_view(config=replace(CONFIG, masquerade_all=True))
    assert fates(web(REMOTE_EP), POD, CLUSTER_IP, view=view) == {(REMOTE, True)}


@pytest.mark.parametrize(
    ("mode", "names", "interface", "expected"),
    [
        ("BridgeInterface", {"bridge_interface": "cni0"}, "cni0", False),
        ("BridgeInterface", {"bridge_interface": "cni0"}, "cni01", True),
        ("InterfaceNamePrefix", {"interface_name_prefix": "veth"}, "veth9", False),
        ("InterfaceNamePrefix", {"interface_name_prefix": "veth"}, "eth0", True),
    ],
)
def test_pods_told_apart_by_their_interface(mode: str, names: Any, interface: str, expected: bool) -> None:
    view = make_view(config=replace(CONFIG, detect_local_mode=mode, **names))
    found = make_walker(web(REMOTE_EP), view).walk(Packet(POD, *CLUSTER_IP, interface=interface))
    assert {f.masqueraded for f in found} == {expected}


def test_wrong_ports_are_refused_and_free_addresses_dropped() -> None:
    objects = web(LOCAL_EP, **WAYS)
    for source in (POD, OUTSIDE, NODE_IP):
        assert fates(objects, source, ("10.96.0.10", 81)) == REJECT
        assert fates(objects, source, CLUSTER_IP, protocol="udp") == REJECT
        assert fates(objects, source, ("10.96.3.4", 80)) == DROP
    assert fates(objects, POD, ("10.244.2.7", 30080)) == {("10.244.2.7:30080", False)}  # no address of this node
    assert fates(objects, POD, ("192.0.2.1", 81)) == {("192.0.2.1:81", False)}


@pytest.mark.parametrize(
    ("addresses", "to", "works"),
    [
        ((), NODE_IP, True),
        ((), GATEWAY, False),
        ((), "127.0.0.1", False),
        (("172.18.0.0/16",), NODE_IP, True),
        (("192.0.2.0/24",), NODE_IP, False),
        (("127.0.0.0/8",), "127.0.0.1", False),
        (("0.0.0.0/0",), GATEWAY, True),
        (("0.0.0.0/0",), "127.0.0.1", False),
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
    others = make_slice([make_endpoint("10.244.1.77")], "api", ports=[{"name": "", "port": 8080}])
    assert fates([*web(REMOTE_EP, **WAYS), other, others], OUTSIDE, NODE_PORT_AT) == {("10.244.1.77", True)}


@pytest.mark.parametrize(
    ("ranges", "source", "expected"),
    [
        (["198.51.100.0/24"], "198.51.100.7", {(REMOTE, True)}),
        (["198.51.100.0/24", "198.51.100.7/32"], "198.51.100.7", {(REMOTE, True)}),
        (["198.51.100.0/24"], OUTSIDE, DROP),
        (["198.51.100.0/24"], "192.0.2.9", DROP),
        (["172.18.0.0/16"], "192.0.2.9", {(REMOTE, True)}),  # the node may send as the load balancer
        (["0.0.0.0/0"], OUTSIDE, {(REMOTE, True)}),
        (["fd00::/8"], OUTSIDE, {(REMOTE, True)}),  # of the other family: none
    ],
)
def test_source_ranges_guard_the_load_balancer_address_alone(ranges: Any, source: str, expected: Any) -> None:
    objects = web(REMOTE_EP, **WAYS, loadBalancerSourceRanges=ranges)
    assert fates(objects, source, LB_IP) == expected
    for to in (NODE_PORT_AT, EXTERNAL_IP):
        assert fates(objects, source, to) == {(REMOTE, True)}


def test_source_ranges_guard_a_service_without_endpoints_too() -> None:
    objects = web(**WAYS, loadBalancerSourceRanges=["198.51.100.0/24"])
    assert fates(objects, OUTSIDE, LB_IP) == DROP
    assert fates(objects, "198.51.100.7", LB_IP) == REJECT


def affinity_set(objects: Any, address: str) -> str:
    (name,) = [n for n in make_table(objects).sets if n.startswith("affinity-") and n.endswith(f"__{address}/8080")]
    return name


@pytest.mark.parametrize("to", [CLUSTER_IP, *TO_EXTERNAL])
def test_affinity_goes_before_chance(to: tuple[str, int]) -> None:
    objects = web(LOCAL_EP, REMOTE_EP, **WAYS, sessionAffinity="ClientIP")
    first = affinity_set(objects, OTHER_POD)
    found = make_walker(objects).walk(Packet(OUTSIDE, *to))
    assert Fate("ACCEPT", OTHER_POD, 8080, True, frozenset({first})) in found
    assert len(found) == 2
    assert fates(objects, OUTSIDE, to, recent={(first, OUTSIDE)}) == {(OTHER_POD, True)}
    assert fates(objects, OUTSIDE, to, recent={(first, POD)}) == BOTH_MASQ


def test_affinity_to_an_endpoint_that_is_no_longer_usable_is_forgotten() -> None:
    objects = web(LOCAL_EP, REMOTE_EP, **WAYS, **LOCAL, sessionAffinity="ClientIP")
    remote = affinity_set(objects, REMOTE)
    assert fates(objects, POD, NODE_PORT_AT, recent={(remote, POD)}) == {(REMOTE, False)}
    assert fates(objects, OUTSIDE, NODE_PORT_AT, recent={(remote, OUTSIDE)}) == {(OTHER_POD, False)}


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
    assert fates(objects, POD, ("10.96.0.10", 53), protocol="tcp" if protocol == "udp" else "udp") == REJECT


def test_an_address_that_two_services_claim() -> None:
    """A ClusterIP is its service's, anything else the first one's by name; iptables: the first by name, always."""
    also = make_service("also", "10.96.0.11", externalIPs=["10.96.0.10", "192.0.2.1"])
    objects = [*web(REMOTE_EP, **WAYS), also, make_slice([LOCAL_EP], "also")]
    assert fates(objects, POD, CLUSTER_IP) == {(REMOTE, False)}
    assert fates(objects, POD, EXTERNAL_IP) == {(OTHER_POD, True)}


def test_ipv6_is_the_same_with_other_addresses() -> None:
    config = replace(CONFIG, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/56"))
    objects = [
        make_service(ip="fd00:10:96::10", type="NodePort", ports=NODE_PORT),
        make_slice([make_endpoint("fd00:10:244:1::2")], addressType="IPv6"),
    ]
    walker = replace(make_walker(objects, make_view(config=config, family=6)), local=("fd00::2",))
    endpoint = Fate("ACCEPT", "fd00:10:244:1::2", 8080, False)
    assert walker.walk(Packet("fd00:10:244::9", "fd00:10:96::10", 80)) == {endpoint}
    for to in (("fd00:10:96::10", 80), ("fd00::2", 30080)):
        assert walker.walk(Packet("2001:db8::1", *to)) == {replace(endpoint, masqueraded=True)}
    assert walker.walk(Packet("::1", "::1", 30080, interface="")) == {Fate("ACCEPT", "::1", 30080)}
