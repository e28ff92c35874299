"""Evidence of probes through real clusters, beside what scapy saw at both ends."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.observe.collect import collect
from netsim.observe.evidence import Evidence
from netsim.observe.path import FABRIC, Question
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.packets import Packets
from netsim.testing.waiting import wait_until
from tests.features import missing_feature
from tests.kernel.observe.line import crossings, decoded, rule_texts
from tests.packets.world import EXTERNAL, HTTP_PORT, UDP_PORT, make_pod, make_service

_SIOCGSKNS = 0x894C
MODES = [mode for mode, needs in (("iptables", "iptables-nft"), ("nftables", "nft")) if not missing_feature(needs)]

pytestmark = [pytest.mark.needs("netns", "nft_trace", "packet"), pytest.mark.netsim(nodes=2, ip_family="dual")]


@pytest.fixture(params=[(mode, network) for mode in MODES for network in ("routes", "vxlan")], ids="-".join)
def netsim_options(netsim_options: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**netsim_options, "proxy_mode": request.param[0], "pod_network": request.param[1]}


class Probes:
    """Sends probes among the places of a cluster of two nodes: a client on node-1, ``web`` on node-2."""

    def __init__(self, cluster: Cluster, namespace: str, spawner: Spawner, places: dict[str, Netns]) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.client, self.web = f"pod/{namespace}/client", f"pod/{namespace}/web"
        self.places = places
        self._spawner = spawner

    def ask(self, protocol: Any, address: str, port: int = 0, source: str = "") -> Evidence:
        source = source or self.client
        return collect(Question(source, "", protocol, address, port), self.places, source, spawner=self._spawner)


@pytest.fixture
def probes(cluster: Cluster, namespace: str, spawner: Spawner) -> Iterator[Probes]:
    ports = {"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"}
    cluster.apply(
        [make_pod("client", node="node-1"), make_pod("web", node="node-2"), make_service("web", app="web", **ports)],
        namespace=namespace,
    )
    with ExitStack() as stack:
        wheres = (f"pod/{namespace}/client", f"pod/{namespace}/web", "node/node-1", "node/node-2", EXTERNAL)
        places = {where: stack.enter_context(netns_at(cluster, where)) for where in wheres}
        places[FABRIC] = stack.enter_context(Netns.open(f"/proc/{cluster.status()['pid']}/ns/net", FABRIC))
        yield Probes(cluster, namespace, spawner, places)


def netns_at(cluster: Cluster, where: str) -> Netns:
    """By a socket that lives there."""
    with cluster.socket(where, socket.AF_INET, socket.SOCK_DGRAM) as there:
        return Netns(where, fcntl.ioctl(there.fileno(), _SIOCGSKNS))


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_both_ends_saw_what_scapy_saw(probes: Probes, packets: Packets, protocol: str, family: int) -> None:
    address = cluster_ip(probes.cluster, "web", probes.namespace, family=family)
    with packets.sniffer(probes.client) as at_client, packets.sniffer(probes.web) as at_web:
        evidence = probes.ask(protocol, address, {"tcp": 80, "udp": 81}[protocol])
        assert evidence.reply.result in ("connected", "answered")
        assert evidence.notes == ()
        for sniffer, place in ((at_client, probes.client), (at_web, probes.web)):
            mine = [(one.direction, one.frame) for one in evidence.sightings if one.place == place]
            assert len(mine) == {"tcp": 3, "udp": 2}[protocol]
            seen = wait_until("scapy saw them", lambda s=sniffer: [*s.seen()])
            theirs = [(one.direction, one.raw) for one in seen]
            assert [one for one in theirs if one in mine] == mine
    target = {"tcp": HTTP_PORT, "udp": UDP_PORT}[protocol]
    arrived = decoded(next(one for one in evidence.sightings if one.place == probes.web)).packet
    endpoint = pod_ip(probes.cluster, "web", probes.namespace, family=family)
    assert (arrived.destination, arrived.destination_port) == (endpoint, target)


def test_the_rules_that_chose_the_endpoint(probes: Probes) -> None:
    address = cluster_ip(probes.cluster, "web", probes.namespace)
    evidence = probes.ask("tcp", address, 80)
    endpoint = pod_ip(probes.cluster, "web", probes.namespace)
    texts = rule_texts(evidence, "node/node-1", "prerouting")
    assert "?" not in rule_texts(evidence, "node/node-1") + rule_texts(evidence, "node/node-2")
    if probes.cluster.status()["proxyMode"] == "iptables":
        assert any(f"--to-destination {endpoint}:{HTTP_PORT}" in text for text in texts)
    else:
        assert f"{address} . tcp . 80 . 0x00000000 : {endpoint} . {HTTP_PORT}" in evidence.elements.values()
        assert f"{address} . tcp . 80 : goto cluster-1" in evidence.elements.values()
    [entry] = evidence.conntrack["node/node-1"]
    assert f"dst={address}" in entry
    assert f"src={endpoint}" in entry


def test_the_network_between_the_nodes(probes: Probes) -> None:
    evidence = probes.ask("icmp", pod_ip(probes.cluster, "web", probes.namespace))
    between = [one for one in crossings(evidence, "echo request") if one.startswith(FABRIC)]
    assert between == ["fabric node-1 in", "fabric node-2 out"]
    at_fabric = decoded(next(one for one in evidence.sightings if one.place == FABRIC)).packet
    vxlan = probes.cluster.status()["podNetwork"] == "vxlan"
    assert (at_fabric.outer is not None) == vxlan
    if vxlan:
        assert crossings(evidence, "echo request")[3:5] == ["node/node-1 vxlan0 out", "node/node-1 eth0 out"]


def test_a_pod_that_reaches_itself_by_its_service(probes: Probes) -> None:
    evidence = probes.ask("tcp", cluster_ip(probes.cluster, "web", probes.namespace), 80, probes.web)
    assert evidence.reply.result == "connected"
    own = [one for one in crossings(evidence, "SYN") if one.startswith(probes.web)]
    assert own == [f"{probes.web} eth0 out", f"{probes.web} eth0 in"]
    sources = [decoded(one).packet.source for one in evidence.sightings if one.place == probes.web][:2]
    assert sources[0] == pod_ip(probes.cluster, "web", probes.namespace)
    assert sources[1] != sources[0], "it is masqueraded, or the pod would answer itself directly"


def test_from_the_external_host_and_from_a_node(probes: Probes) -> None:
    port = node_port(probes.cluster, "web", probes.namespace)
    address = node_ip(probes.cluster, "node-1")
    outside = probes.ask("tcp", address, port, EXTERNAL)
    assert outside.reply.result == "connected"
    assert crossings(outside, "SYN")[0] == f"{EXTERNAL} eth0 out"
    assert [one for one in crossings(outside, "SYN") if one.startswith(probes.web)] == [f"{probes.web} eth0 in"]
    arrived = decoded(next(one for one in outside.sightings if one.place == probes.web)).packet
    assert arrived.source != decoded(outside.sightings[0]).packet.source, "masqueraded by node-1"
    node = probes.ask("tcp", cluster_ip(probes.cluster, "web", probes.namespace), 80, "node/node-1")
    assert node.reply.result == "connected"
    assert {event.hook for event in node.events if event.place == "node/node-1"} >= {"output", "postrouting"}


def test_dns_gets_a_real_question(probes: Probes) -> None:
    evidence = probes.ask("udp", "10.96.0.10", 53)
    assert evidence.reply.result == "answered"
    assert evidence.reply.data[2] & 0x80, "an answer, by RFC 1035"
    assert b"netsim-" in evidence.reply.data
