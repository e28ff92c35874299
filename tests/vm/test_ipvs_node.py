"""The ipvs mode on one node with real pods: schedulers, ARP, timeouts, affinity, other people's virtual servers, and
addresses that come later.
"""

import contextlib
import logging
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from netsim.kernel.ipvs import Ipvs, new_server
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.errors import FeatureMissing
from netsim.model.objects import Object
from netsim.ruleset.ipvs import ServerKey, Timeouts, VirtualServer
from netsim.testing.waiting import wait_until
from proxy.config import IpvsTimeouts, ProxyConfig
from proxy.ipvs.target import IpvsTarget
from tests.kernel.proxy.node import NODE_IP, PODS, SILENCE_S, RealNode, ask, real_node
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "ipvs", "dummy", "ipset", "command:ipvsadm")

CLUSTER_IP, OTHER_IP, NODE_PORT = "10.96.0.77", "10.96.0.78", 30080
CLIENTS = [f"203.0.113.{number}" for number in range(20, 32)]
GATEWAY = "172.18.0.1"  # the external host's address on the node's link


@contextlib.contextmanager
def ipvs_node(spawner: Spawner, **options: Any) -> Iterator[RealNode]:
    config = ProxyConfig(
        mode="ipvs",
        cluster_cidrs=("10.244.0.0/16",),
        healthz_bind_address="",
        metrics_bind_address="",
        **options,
    )
    with real_node(spawner, config) as node:
        yield node


def three_pods(service: str = "web", port: str = "TCP") -> Object:
    ports = [{"name": "http", "port": 8080, "protocol": port}]
    return make_slice([make_endpoint(ip) for ip in PODS.values()], service, ports=ports)


def who(ns: Netns, address: str, source: str = "") -> str:
    """The pod that answered."""
    client = None
    if source:
        client = ns.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.bind((source, 0))
    try:
        return ask(ns, address, 80, client=client).split(" ")[0]
    finally:
        if client is not None:
            client.close()


# --- schedulers ---


@pytest.mark.parametrize("scheduler", ["rr", "wrr"])
def test_round_robin_takes_each_in_turn(spawner: Spawner, scheduler: str) -> None:
    with ipvs_node(spawner, ipvs_scheduler=scheduler) as node:
        node.put(make_service(ip=CLUSTER_IP), three_pods())
        asked = [who(node.external, CLUSTER_IP) for _ in range(6)]
        assert set(asked[:3]) == set(PODS)
        assert asked[3:] == asked[:3]


def test_least_connection_leaves_the_busy_one_alone(spawner: Spawner) -> None:
    with ipvs_node(spawner, ipvs_scheduler="lc") as node, contextlib.ExitStack() as stack:
        ports = [{"name": "http", "port": 9999}]
        endpoints = [make_endpoint(ip) for ip in PODS.values()]
        node.put(make_service(ip=CLUSTER_IP), make_slice(endpoints, ports=ports))
        listening = {name: stack.enter_context(_listen(ns)) for name, ns in node.pods.items()}
        stack.enter_context(_connect(node.external))
        (name,) = _who_accepted(listening, stack)
        for _ in range(4):  # by turns one of these would be the busy one's
            with _connect(node.external) as other:
                assert name not in _who_accepted(listening, stack)
                # Ended by a reset: it is inactive at once, and counts a 256th.
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_source_hashing_keeps_a_client_and_destination_hashing_an_address(spawner: Spawner) -> None:
    objects = [make_service(ip=CLUSTER_IP), three_pods(), make_service("other", OTHER_IP), three_pods("other")]
    with ipvs_node(spawner, ipvs_scheduler="sh") as node:
        _add_clients(node)
        node.put(*objects)
        first = {client: who(node.external, CLUSTER_IP, client) for client in CLIENTS}
        assert {client: who(node.external, CLUSTER_IP, client) for client in CLIENTS} == first
        assert {client: who(node.external, OTHER_IP, client) for client in CLIENTS} == first
        assert len(set(first.values())) > 1
    with ipvs_node(spawner, ipvs_scheduler="dh") as node:
        _add_clients(node)
        node.put(*objects)
        for address in (CLUSTER_IP, OTHER_IP):
            assert len({who(node.external, address, client) for client in CLIENTS}) == 1


def test_a_scheduler_that_the_kernel_lacks_is_named(spawner: Spawner) -> None:
    import asyncio

    with Netns.create("lacking") as ns:
        target = IpvsTarget(ns, spawner, ProxyConfig(mode="ipvs", ipvs_scheduler="best"))
        with pytest.raises(FeatureMissing, match='no IPVS scheduler "best"'):
            asyncio.run(target.read(4))


def _add_clients(node: RealNode) -> None:
    node.run(node.external, "ip", "-batch", "-", input="".join(f"address add {ip}/32 dev lo\n" for ip in CLIENTS))


def _listen(ns: Netns) -> socket.socket:
    listening = ns.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("0.0.0.0", 9999))
    listening.listen(16)
    return listening


def _connect(ns: Netns) -> socket.socket:
    sock = ns.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(SILENCE_S)
    sock.connect((CLUSTER_IP, 80))
    return sock


def _who_accepted(listening: dict[str, socket.socket], held: contextlib.ExitStack) -> list[str]:
    """The pods that have a connection to accept, which then stays."""
    names = {sock: name for name, sock in listening.items()}
    ready = select.select(list(names), [], [], SILENCE_S)[0]
    for sock in ready:
        held.enter_context(sock.accept()[0])
    return [names[sock] for sock in ready]


# --- ARP ---

_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_ETH_P_ARP, _REQUEST, _REPLY = 0x0806, 1, 2


def _arp_socket(ns: Netns) -> socket.socket:
    wire = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
    wire.bind(("eth0", _ETH_P_ARP))
    wire.settimeout(SILENCE_S)
    return wire


def _arp_senders(wire: socket.socket, operation: int) -> Iterator[str]:
    """Who says something, as it comes; ends with silence."""
    while True:
        try:
            frame = wire.recv(2048)
        except TimeoutError:
            return
        _, _, _, _, _, _, _, code, _, sender, _, _ = _ARP.unpack_from(frame)
        if code == operation:
            yield socket.inet_ntoa(sender)


@pytest.mark.parametrize("strict", [False, True])
def test_strict_arp_on_the_wire(spawner: Spawner, strict: bool) -> None:
    """Whose address CLUSTER_IP is, is asked on the node's eth0; and the node asks for a neighbour on behalf of it."""
    with ipvs_node(spawner, ipvs_strict_arp=strict) as node:
        node.put(make_service(ip=CLUSTER_IP), three_pods())
        with _arp_socket(node.external) as wire:
            mac = wire.getsockname()[4]
            asked = (mac, socket.inet_aton(GATEWAY), b"\0" * 6, socket.inet_aton(CLUSTER_IP))
            wire.send(_ARP.pack(b"\xff" * 6, mac, _ETH_P_ARP, 1, 0x0800, 6, 4, _REQUEST, *asked))
            assert (CLUSTER_IP in _arp_senders(wire, _REPLY)) is not strict
        node.run(node.node, "ip", "neigh", "flush", "all")
        with _arp_socket(node.external) as wire, node.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((CLUSTER_IP, 0))
            sock.sendto(b"?", (GATEWAY, 9))
            assert set(_arp_senders(wire, _REQUEST)) == {NODE_IP if strict else CLUSTER_IP}


# --- what the flags say ---


def test_timeouts_are_the_kernels_and_zero_leaves_one(spawner: Spawner) -> None:
    with Netns.create("untouched") as ns, Ipvs(ns) as ipvs:
        before = ipvs.timeouts()
    assert before.tcp_fin_s > 0
    with (
        ipvs_node(spawner, ipvs_timeouts=IpvsTimeouts(tcp_s=600, udp_s=77)) as node,
        Ipvs(node.node) as ipvs,
    ):
        assert ipvs.timeouts() == Timeouts(600, before.tcp_fin_s, 77)


def test_virtual_servers_in_excluded_networks_stay(spawner: Spawner) -> None:
    kept, gone = ServerKey("tcp", "192.0.2.7", 80), ServerKey("tcp", "192.0.3.7", 80)
    with ipvs_node(spawner, ipvs_exclude_cidrs=("192.0.2.0/24",)) as node, Ipvs(node.node) as ipvs:
        node.put(make_service(ip=CLUSTER_IP))
        ipvs.run([new_server(key, VirtualServer()) for key in (kept, gone)])
        node.rebuild()
        assert {kept, gone} & set(ipvs.servers()) == {kept}


def test_affinity_ends_when_its_time_is_over(spawner: Spawner) -> None:
    """By UDP, whose connections end by a timeout that can be set; a client is kept as long as one is remembered."""
    affinity: Object = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 4}}}
    ports = [{"name": "http", "port": 80, "protocol": "UDP"}]
    with ipvs_node(spawner, ipvs_timeouts=IpvsTimeouts(udp_s=2)) as node:
        node.put(make_service(ip=CLUSTER_IP, ports=ports, **affinity), three_pods(port="UDP"))

        def asked() -> str:
            return ask(node.external, CLUSTER_IP, 80, kind=socket.SOCK_DGRAM)

        first = asked()
        assert first.split(" ")[0] in PODS
        assert {asked() for _ in range(5)} == {first}
        connections = ("ipvsadm", "-L", "-c", "-n")
        wait_until("the client is forgotten", lambda: "UDP" not in node.run(node.node, *connections), 60.0)
        assert asked().split(" ")[0] in PODS.keys() - {first.split(" ")[0]}  # the next one's turn


# --- addresses that come later ---


def test_node_ports_answer_at_once_on_an_address_that_comes_later(
    spawner: Spawner, caplog: pytest.LogCaptureFixture
) -> None:
    """The check for flushed rules, which would find out too, runs every 30 s."""
    later = "172.18.0.99"
    caplog.set_level(logging.INFO)
    with ipvs_node(spawner) as node, Ipvs(node.node) as ipvs:
        ports = [{"name": "http", "port": 80, "nodePort": NODE_PORT}]
        node.put(make_service(ip=CLUSTER_IP, type="NodePort", ports=ports), three_pods())
        assert ask(node.external, NODE_IP, NODE_PORT).startswith("pod-")
        node.run(node.node, "ip", "address", "add", f"{later}/16", "dev", "eth0")
        node.call(node.proxy.settle(node.server.revision()))
        assert ServerKey("tcp", later, NODE_PORT) in ipvs.servers()
        assert ask(node.external, later, NODE_PORT).startswith("pod-")
        node.run(node.node, "ip", "address", "delete", f"{later}/16", "dev", "eth0")
        wait_until(  # without anybody asking whether all is settled
            "no NodePort on an address that went",
            lambda: ServerKey("tcp", later, NODE_PORT) not in ipvs.servers(),
            15.0,
        )
    assert "addresses changed" in caplog.text
    assert "flushed" not in caplog.text
