"""Real packets through the nftables dialect: what iptables mode does too, and where the modes differ."""

import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from netsim.kernel.process import Spawner
from proxy.config import ProxyConfig
from tests.kernel.proxy import test_packets as common
from tests.kernel.proxy.node import GATEWAY, NODE_IP, PODS, RealNode, ask, real_node
from tests.kernel.proxy.test_packets import ELSEWHERE, EVERYONE, IP, LOCAL, NODE_PORT
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "nft")

CONFIG = ProxyConfig(mode="nftables", cluster_cidrs=("10.244.0.0/16",), service_cidrs=("10.96.0.0/12",))

# The same tests, collected here with this module's node.
test_cluster_ip_spreads = common.test_cluster_ip_spreads_over_all_and_keeps_the_source
test_cluster_ip_from_outside = common.test_cluster_ip_from_outside_is_masqueraded
test_affinity = common.test_affinity_keeps_a_client_and_not_its_neighbour
test_without_endpoints = common.test_without_endpoints_a_client_is_refused
test_node_port_is_masqueraded = common.test_node_port_is_masqueraded
test_policy_local_keeps_the_source = common.test_policy_local_keeps_the_source
test_policy_local_drops = common.test_policy_local_drops_where_no_endpoint_is
test_internal_policy_local_drops = common.test_internal_policy_local_drops_where_no_endpoint_is
test_source_ranges_not_of_external_ips = common.test_source_ranges
test_terminating = common.test_a_terminating_endpoint_serves_when_it_is_the_last
test_established_survives = common.test_an_established_connection_survives_the_end_of_its_service
test_udp_moves_on = common.test_a_udp_client_moves_on_when_its_endpoint_goes


@pytest.fixture
def node(spawner: Spawner) -> Iterator[RealNode]:
    with real_node(spawner, CONFIG) as made:
        yield made


def test_node_ports_answer_on_the_nodes_own_address_alone(node: RealNode) -> None:
    node.put(make_service(ip=IP, **NODE_PORT), make_slice(EVERYONE[1:2]))
    assert ask(node.node, NODE_IP, 30080) == f"pod-2 {GATEWAY}"
    for address in ("127.0.0.1", GATEWAY):
        assert ask(node.node, address, 30080) == "refused", address  # nobody listens there


def test_node_ports_everywhere_but_on_loopback_when_asked_for(spawner: Spawner) -> None:
    config = ProxyConfig(mode="nftables", cluster_cidrs=("10.244.0.0/16",), node_port_addresses=("0.0.0.0/0",))
    with real_node(spawner, config) as node:
        node.put(make_service(ip=IP, **NODE_PORT), make_slice(EVERYONE[1:2]))
        assert ask(node.node, GATEWAY, 30080) == f"pod-2 {GATEWAY}"
        assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"
        assert ask(node.node, "127.0.0.1", 30080) == "refused"


def test_wrong_ports_are_refused_and_free_addresses_dropped(node: RealNode) -> None:
    node.put(make_service(ip=IP), make_slice(EVERYONE[1:2]))
    for source in (node.pods["pod-1"], node.external):
        assert ask(source, IP, 81) == "refused"
        assert ask(source, "10.96.0.99", 80) == "silence"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        assert ask(node.node, IP, 81, kind=kind) == "refused"


def test_pods_and_the_node_know_no_policy_local(node: RealNode) -> None:
    node.put(make_service(ip=IP, **NODE_PORT, **LOCAL, externalIPs=["192.0.2.1"]), make_slice([_remote("pod-2")]))
    for address, port in ((NODE_IP, 30080), ("192.0.2.1", 80)):
        assert ask(node.pods["pod-1"], address, port) == f"pod-2 {PODS['pod-1']}"
        assert ask(node.node, address, port) == f"pod-2 {GATEWAY}"
        assert ask(node.external, address, port) == "silence"


def _remote(pod: str) -> dict[str, object]:
    """An endpoint that the proxy takes for one of another node, though it can be reached here."""
    return make_endpoint(PODS[pod], "node-2")


def test_source_ranges_are_for_load_balancer_addresses(node: RealNode) -> None:
    spec = {"type": "LoadBalancer", "externalIPs": ["192.0.2.2"], "ports": NODE_PORT["ports"]}
    vip = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    for ranges, answer in (
        (["203.0.113.0/24", "203.0.113.4/30"], f"pod-2 {GATEWAY}"),
        (["198.51.100.0/24"], "silence"),
    ):
        node.put(make_service(ip=IP, loadBalancerSourceRanges=ranges, **spec), make_slice(EVERYONE[1:2]))
        node.status("web", vip)
        assert ask(node.external, "192.0.2.1", 80) == answer
        assert ask(node.external, "192.0.2.2", 80) == f"pod-2 {GATEWAY}"
        assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"


def test_internal_policy_local_uses_this_nodes(node: RealNode) -> None:
    node.put(make_service(ip=IP, internalTrafficPolicy="Local"), make_slice([EVERYONE[1], ELSEWHERE]))
    assert {ask(node.pods["pod-1"], IP, 80) for _ in range(10)} == {f"pod-2 {PODS['pod-1']}"}


def test_masquerade_all(spawner: Spawner) -> None:
    config = ProxyConfig(mode="nftables", cluster_cidrs=("10.244.0.0/16",), masquerade_all=True)
    with real_node(spawner, config) as node:
        node.put(make_service(ip=IP), make_slice(EVERYONE[1:2]))
        assert ask(node.pods["pod-1"], IP, 80) == f"pod-2 {GATEWAY}"


@pytest.mark.parametrize("count", [1, 3])
def test_affinity_through_every_address(node: RealNode, count: int) -> None:
    service = make_service(ip=IP, **NODE_PORT, sessionAffinity="ClientIP", externalIPs=["192.0.2.1"])
    node.put(service, make_slice(EVERYONE[:count]))
    ways = ((NODE_IP, 30080), ("192.0.2.1", 80), (IP, 80))
    assert len({ask(node.external, *way).split()[0] for way in ways * 5}) == 1


def test_affinity_ends(node: RealNode) -> None:
    timeout = {"clientIP": {"timeoutSeconds": 1}}
    service = make_service(ip=IP, sessionAffinity="ClientIP", sessionAffinityConfig=timeout)
    node.put(service, make_slice(EVERYONE))
    seen: Counter[str] = Counter()
    for _ in range(12):
        seen[ask(node.pods["pod-1"], IP, 80).split()[0]] += 1
        time.sleep(1.1)  # the kernel's clock, not ours: the element must time out
        if len(seen) > 1:
            return
    pytest.fail(f"one endpoint for ever: {seen}")


def test_affinity_survives_a_rebuild_of_the_table(node: RealNode) -> None:
    node.put(make_service(ip=IP, sessionAffinity="ClientIP"), make_slice(EVERYONE))
    first = ask(node.pods["pod-1"], IP, 80)
    node.rebuild()
    assert {ask(node.pods["pod-1"], IP, 80) for _ in range(10)} == {first}


def test_an_endpoint_change_leaves_the_others_where_they_are(node: RealNode) -> None:
    node.put(make_service(ip=IP), make_slice(EVERYONE))
    node.put(make_slice(EVERYONE[1:]))
    answers = Counter(ask(node.pods["pod-1"], IP, 80).split()[0] for _ in range(60))
    assert set(answers) == {"pod-2", "pod-3"}
    assert min(answers.values()) > 10
    node.put(make_slice(EVERYONE))
    assert {ask(node.pods["pod-1"], IP, 80).split()[0] for _ in range(60)} == set(PODS)


def test_an_address_that_two_services_claim_is_the_first_ones(node: RealNode) -> None:
    node.put(make_service("web", IP, externalIPs=["192.0.2.1"]), make_slice(EVERYONE[1:2]))
    node.put(make_service("also", "10.96.0.78", externalIPs=["192.0.2.1", IP]), make_slice(EVERYONE[2:], "also"))
    assert ask(node.external, "192.0.2.1", 80) == f"pod-3 {GATEWAY}"  # by name
    assert ask(node.external, IP, 80) == f"pod-2 {GATEWAY}"  # a ClusterIP is its service's whatever others say
    node.delete("also")
    assert ask(node.external, "192.0.2.1", 80) == f"pod-2 {GATEWAY}"


def test_a_mark_of_somebody_elses_stays(node: RealNode) -> None:
    """0x1 is set before our rules and still there after them, our own bit not."""
    node.put(make_service(ip=IP, **NODE_PORT), make_slice(EVERYONE[1:2]))
    lines = (
        "add table ip seen",
        "add chain ip seen before { type filter hook prerouting priority -200; }",
        "add rule ip seen before meta mark set 0x1",
        "add chain ip seen after { type filter hook postrouting priority 200; }",
        "add rule ip seen after ip daddr 10.244.0.0/16 tcp flags syn / syn,ack meta mark 0x1 counter",
    )
    node.run(node.node, "nft", "-f", "-", input="\n".join(lines))
    assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"
    assert "counter packets 1 " in node.run(node.node, "nft", "list", "chain", "ip", "seen", "after")


def test_the_service_network_that_the_api_names_is_dropped(spawner: Spawner) -> None:
    """As the program has it from ServiceCIDR objects, which come after the first rules."""
    with real_node(spawner, ProxyConfig(mode="nftables", cluster_cidrs=("10.244.0.0/16",))) as node:
        node.put(make_service(ip=IP), make_slice(EVERYONE[1:2]))
        node.run(node.external, "ip", "addr", "add", "10.96.0.99/32", "dev", "lo")
        node.responder.serve(node.external, "external")
        node.run(node.node, "ip", "route", "add", "10.96.0.99/32", "via", "172.18.0.1")
        assert ask(node.node, "10.96.0.99", 8080).startswith("external ")

        async def tell(*cidrs: str) -> None:
            node.proxy.set_service_cidrs(cidrs)
            await node.proxy.settle(node.server.revision())

        node.call(tell("10.96.0.0/24", "fd00:10:96::/112"))
        assert ask(node.node, "10.96.0.99", 8080) == "silence"
        assert ask(node.node, IP, 80) == f"pod-2 {GATEWAY}"
        node.call(tell("10.97.0.0/24"))
        assert ask(node.node, "10.96.0.99", 8080).startswith("external ")
