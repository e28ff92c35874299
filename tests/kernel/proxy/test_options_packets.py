"""What options do to real packets, in both modes: who counts as a pod, masquerading, a strict firewall, loopback."""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import read_sysctl
from netsim.model.kinds import NODE
from netsim.testing.waiting import wait_until
from proxy.config import ProxyConfig
from proxy.kernelsettings import ROUTE_LOCALNET
from tests.kernel.proxy.node import EXTERNAL_IP, GATEWAY, NODE_IP, PODS, RealNode, ask, real_node
from tests.kernel.proxy.test_health import fetch
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore", "nft")

IP, VIP = "10.96.0.77", "192.0.2.1"
NODE_PORT: dict[str, Any] = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
LOCAL = {"externalTrafficPolicy": "Local"}
HERE = make_slice([make_endpoint(PODS["pod-2"])])
THERE = make_slice([make_endpoint(PODS["pod-2"], "node-2")])  # the proxy takes it for another node's; it answers
MODES = ("iptables", "nftables")
CONFIGS = {mode: ProxyConfig(mode=mode, cluster_cidrs=("10.244.0.0/16",)) for mode in MODES}
both_modes = pytest.mark.parametrize("mode", MODES)


@contextlib.contextmanager
def node_with(spawner: Spawner, mode: str, **options: Any) -> Iterator[RealNode]:
    with real_node(spawner, replace(CONFIGS[mode], **options)) as node:
        yield node


# --- who is a pod ---

DETECTORS: dict[str, dict[str, Any]] = {
    "NodeCIDR": {"cluster_cidrs": (), "detect_local_mode": "NodeCIDR"},
    "BridgeInterface": {"cluster_cidrs": (), "detect_local_mode": "BridgeInterface", "bridge_interface": "cni0"},
    "InterfaceNamePrefix": {
        "cluster_cidrs": (),
        "detect_local_mode": "InterfaceNamePrefix",
        "interface_name_prefix": "cn",
    },
}


@both_modes
@pytest.mark.parametrize("detector", DETECTORS)
def test_pods_are_told_from_others(spawner: Spawner, mode: str, detector: str) -> None:
    with node_with(spawner, mode, **DETECTORS[detector]) as node:
        meta = {"name": "node-1"}
        obj = {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"podCIDR": "10.244.1.0/24"}}
        node.call(node.api.create(NODE, obj))
        node.put(make_service(ip=IP, **NODE_PORT, **LOCAL), THERE)
        assert ask(node.pods["pod-1"], IP, 80) == f"pod-2 {PODS['pod-1']}"
        assert ask(node.external, IP, 80) == f"pod-2 {GATEWAY}"
        # Policy Local is not for pods.
        assert ask(node.pods["pod-1"], NODE_IP, 30080) == f"pod-2 {PODS['pod-1']}"
        assert ask(node.external, NODE_IP, 30080) == "silence"


@both_modes
def test_without_a_detector_nobody_is_a_pod_and_nothing_masqueraded(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode, cluster_cidrs=()) as node:
        node.put(make_service(ip=IP, **NODE_PORT, **LOCAL), THERE)
        assert ask(node.external, IP, 80) == f"pod-2 {EXTERNAL_IP}"
        assert ask(node.pods["pod-1"], NODE_IP, 30080) == "silence"
        assert ask(node.node, NODE_IP, 30080) == f"pod-2 {GATEWAY}"


# --- affinity ---


def sticky(timeout_s: int, **spec: Any) -> Any:
    config = {"clientIP": {"timeoutSeconds": timeout_s}}
    return make_service(ip=IP, sessionAffinity="ClientIP", sessionAffinityConfig=config, **spec)


@both_modes
def test_a_client_is_the_same_by_every_address(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode) as node:
        node.put(sticky(60, externalIPs=[VIP], **NODE_PORT), make_slice([make_endpoint(ip) for ip in PODS.values()]))
        ways = ((NODE_IP, 30080), (VIP, 80), (IP, 80))
        assert len({ask(node.external, *way).split()[0] for way in ways * 4}) == 1


@both_modes
def test_affinity_ends_also_when_its_time_was_made_shorter(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode) as node:
        node.put(sticky(10800), make_slice([make_endpoint(ip) for ip in PODS.values()]))
        assert len({ask(node.pods["pod-1"], IP, 80) for _ in range(6)}) == 1
        node.put(sticky(1))
        seen = set()
        for _ in range(14):
            seen.add(ask(node.pods["pod-1"], IP, 80))
            if len(seen) > 1:
                return
            time.sleep(1.2)  # the kernel's clock, not ours
        pytest.fail(f"one endpoint for ever: {seen}")


# --- masquerading ---


@both_modes
def test_a_client_leaves_an_endpoint_that_terminates_unless_all_do(spawner: Spawner, mode: str) -> None:
    def answers(node: RealNode, **states: str) -> set[str]:
        node.put(make_slice([make_endpoint(ip, state=states.get(name[-1], "ready")) for name, ip in PODS.items()]))
        return {ask(node.external, IP, 80).split()[0] for _ in range(8)}

    with node_with(spawner, mode) as node:
        node.put(sticky(60))
        (first,) = answers(node)
        (second,) = answers(node, **{first[-1]: "terminating"})
        assert second != first
        # Nobody is ready: those that still serve do, to a client as it had them.
        (third,) = answers(node, **dict.fromkeys("123", "terminating"))
        assert third == second
        (fourth,) = answers(node, **dict.fromkeys("123", "gone") | {first[-1]: "terminating"})
        assert fourth == first


@both_modes
def test_policy_local_asks_no_client_back_to_another_node(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode) as node:
        node.put(sticky(60, **NODE_PORT, **LOCAL), make_slice([make_endpoint(PODS["pod-1"], "node-2")]))
        assert ask(node.external, IP, 80).split()[0] == "pod-1"
        node.put(make_slice([make_endpoint(PODS["pod-1"], "node-2"), make_endpoint(PODS["pod-2"])]))
        assert {ask(node.external, NODE_IP, 30080) for _ in range(8)} == {f"pod-2 {EXTERNAL_IP}"}
        assert len({ask(node.external, IP, 80).split()[0] for _ in range(8)}) == 1  # and by this way it is still one


@both_modes
def test_masquerade_all(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode, masquerade_all=True) as node:
        node.put(make_service(ip=IP), HERE)
        assert ask(node.pods["pod-1"], IP, 80) == f"pod-2 {GATEWAY}"


@both_modes
@pytest.mark.parametrize("bit", [14, 3])
def test_the_masquerade_bit_is_taken_away_again_and_no_other(spawner: Spawner, mode: str, bit: int) -> None:
    with node_with(spawner, mode, masquerade_bit=bit) as node:
        node.put(make_service(ip=IP, **NODE_PORT), HERE)
        lines = (
            "add table ip seen",
            "add chain ip seen before { type filter hook prerouting priority -200; }",
            "add rule ip seen before meta mark set 0x1",
            "add chain ip seen between { type filter hook forward priority -5; }",
            f"add rule ip seen between ip daddr {PODS['pod-2']} tcp flags syn / syn,ack mark {1 << bit | 1} counter",
            "add chain ip seen after { type filter hook postrouting priority 200; }",
            "add rule ip seen after ip daddr 10.244.0.0/16 tcp flags syn / syn,ack meta mark 0x1 counter",
        )
        node.run(node.node, "nft", "-f", "-", input="\n".join(lines))
        assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"
        for chain in ("between", "after"):
            assert "counter packets 1 " in node.run(node.node, "nft", "list", "chain", "ip", "seen", chain)


# --- addresses that are the node's own ---


@both_modes
def test_a_load_balancers_address_that_the_node_has_passes_the_ranges_that_the_node_is_in(
    spawner: Spawner, mode: str
) -> None:
    """What the node sends to it comes from that very address (the rule beside ``allowFromNode``, proxier.go)."""
    with node_with(spawner, mode) as node:
        node.run(node.node, "ip", "addr", "add", f"{VIP}/32", "dev", "lo")
        for ranges, answer in ((["172.18.0.0/16"], f"pod-2 {GATEWAY}"), (["198.51.100.0/24"], "silence")):
            node.put(make_service(ip=IP, type="LoadBalancer", loadBalancerSourceRanges=ranges), HERE)
            node.status("web", {"loadBalancer": {"ingress": [{"ip": VIP}]}})
            assert ask(node.node, VIP, 80) == answer


@both_modes
def test_an_external_ip_goes_before_a_node_port_of_the_same_number(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode) as node:
        node.put(make_service("web", IP, **NODE_PORT), HERE)
        other = make_service("also", "10.96.0.78", externalIPs=[NODE_IP], ports=[{"name": "http", "port": 30080}])
        node.put(other, make_slice([make_endpoint(PODS["pod-3"])], "also"))
        assert ask(node.external, NODE_IP, 30080) == f"pod-3 {GATEWAY}"
        node.delete("also")
        assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"


@both_modes
def test_a_node_ports_number_at_another_address_is_untouched(spawner: Spawner, mode: str) -> None:
    with node_with(spawner, mode, node_port_addresses=("172.18.0.0/16",)) as node:
        node.put(make_service(ip=IP, **NODE_PORT), HERE)
        assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"
        for address in (GATEWAY, "127.0.0.1", PODS["pod-3"]):
            assert ask(node.node, address, 30080) == "refused", address  # nobody listens there


# --- a strict firewall of the host's ---

FIREWALL = b"*filter\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j DROP\n-A FORWARD -j DROP\nCOMMIT\n"


def test_what_comes_through_a_strict_firewall(spawner: Spawner) -> None:
    """iptables mode lets pass what it marks, with the answers, and the health checks; the rest is the firewall's."""
    with node_with(spawner, "iptables") as node:
        node.iptables().restore(FIREWALL)
        node.put(make_service(ip=IP, **NODE_PORT), HERE)
        assert ask(node.external, NODE_IP, 30080) == f"pod-2 {GATEWAY}"
        assert ask(node.external, IP, 80) == f"pod-2 {GATEWAY}"
        assert ask(node.pods["pod-1"], IP, 80) == "silence"
        balanced = {"type": "LoadBalancer", "healthCheckNodePort": 31000, **LOCAL}
        node.put(make_service("checked", "10.96.0.78", **balanced), make_slice([], "checked"))
        wait_until("the health check", lambda: fetch(node.node, "127.0.0.1", 31000) is not None)
        answer = fetch(node.external, NODE_IP, 31000)
        assert answer is not None
        assert answer[0] == 503
        assert ask(node.external, NODE_IP, 10256) == "silence"


def test_nftables_mode_undoes_no_drop_of_a_firewall(spawner: Spawner) -> None:
    with node_with(spawner, "nftables") as node:
        node.iptables().restore(FIREWALL)
        node.put(make_service(ip=IP, **NODE_PORT), HERE)
        assert ask(node.external, NODE_IP, 30080) == "silence"


# --- 127.0.0.0/8 ---


def send_martian(node: RealNode) -> None:
    """A datagram to the node's 127.0.0.1:9999 from the neighbour, whose own kernel would not send such a thing."""
    udp = struct.pack("!HHHH", 40000, 9999, 12, 0) + b"evil"  # checksum 0: none
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0))
    header += socket.inet_aton("172.18.0.1") + socket.inet_aton("127.0.0.1")
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = struct.pack("!H", ~total & 0xFFFF)
    words = node.run(node.node, "ip", "-o", "link", "show", "eth0").split()
    link = words[words.index("link/ether") + 1]
    with node.external.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        mac = bytes.fromhex(link.replace(":", ""))
        raw.sendto(bytes(header) + udp, ("eth0", 0x0800, 0, 0, mac))


def test_neighbours_do_not_reach_loopback(spawner: Spawner) -> None:
    """CVE-2020-8558: route_localnet opens the way, the rule in KUBE-FIREWALL closes it."""
    with node_with(spawner, "iptables") as node, node.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 9999))
        server.settimeout(5)
        send_martian(node)
        wait_until("the rule's count", lambda: "[1:" in _firewall_line(node))
        # Without the rule it would have come: the test can tell.
        node.iptables().restore(b"*filter\n-F KUBE-FIREWALL\nCOMMIT\n")
        send_martian(node)
        assert server.recv(10) == b"evil"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(10)  # the first one did not come


@pytest.mark.parametrize("addresses", [("172.18.0.0/16",), ("primary",), ("fd00::/8",)])
def test_where_no_node_port_answers_on_loopback_the_way_there_stays_closed(
    spawner: Spawner, addresses: tuple[str, ...]
) -> None:
    """There is no rule against neighbours then, so the sysctl must not be set either."""
    with (
        node_with(spawner, "iptables", node_port_addresses=addresses) as node,
        node.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind(("127.0.0.1", 9999))
        server.setblocking(False)
        send_martian(node)
        # Sent after it by the same way: when that is here, the first one was dropped.
        assert ask(node.external, NODE_IP, 30080) == "refused"
        with pytest.raises(BlockingIOError):
            server.recv(10)
        assert read_sysctl(node.node, ROUTE_LOCALNET) == "0"


def _firewall_line(node: RealNode) -> str:
    saved = node.run(node.node, "iptables-nft-save", "-c", "-t", "filter")
    return next(line for line in saved.splitlines() if "-A KUBE-FIREWALL" in line)
