"""What iptables mode has the kernel count: NodePorts on loopback, packets dropped as invalid."""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netsim.kernel.iptables import Backend, Iptables, choose_backend
from netsim.kernel.netns import Netns
from netsim.kernel.nfacct import delete_counters, ensure_counters, read_counters
from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import write_sysctl
from netsim.model.errors import FeatureMissing, KernelError
from netsim.testing.waiting import wait_until
from proxy.iptables.names import COUNTERS, INVALID_COUNTER, LOCALHOST_COUNTER
from tests.kernel.proxy.node import GATEWAY, NODE_IP, PODS, RealNode, ask, real_node
from tests.kernel.proxy.test_health import METRICS, fetch
from tests.unit.proxy.make import CONFIG, make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore")

NODE_PORT = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}


@pytest.fixture
def ns() -> Iterator[Netns]:
    made = Netns.create("counted")
    try:
        ensure_counters(made, ["probe"])
        delete_counters(made, ["probe"])
    except FeatureMissing as error:
        made.close()
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture
def counted(ns: Netns, spawner: Spawner) -> Iterator[RealNode]:
    with real_node(spawner, CONFIG) as node:
        node.put(make_service(ip="10.96.0.77", **NODE_PORT), make_slice([make_endpoint(PODS["pod-2"])]))
        yield node


def make_christmas_tree(source: str, destination: str) -> bytes:
    """A TCP segment with SYN and FIN, which no connection has: conntrack's tcp_error finds it invalid."""
    segment = bytearray(struct.pack("!HHIIBBHHH", 40000, 8080, 1, 0, 5 << 4, 0x03, 1024, 0, 0))
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6, len(segment))
    total = sum(struct.unpack(f"!{(len(pseudo) + len(segment)) // 2}H", pseudo + segment))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    segment[16:18] = struct.pack("!H", ~total & 0xFFFF)
    return bytes(segment)


def scraped(node: RealNode, name: str) -> str:
    answer = fetch(node.node, "127.0.0.1", METRICS, "/metrics")
    lines = answer[2].decode().splitlines() if answer else []
    return next((line.split()[1] for line in lines if line.startswith(f"kubeproxy_{name} ")), "")


def test_counters_come_once_count_and_go(ns: Netns) -> None:
    for _ in range(2):
        ensure_counters(ns, ["one", "two"])
    assert read_counters(ns) == {"one": 0, "two": 0}
    for _ in range(2):
        delete_counters(ns, ["two"])
    assert read_counters(ns) == {"one": 0}


def test_a_counter_in_use_stays(counted: RealNode) -> None:
    with pytest.raises(KernelError) as caught:
        delete_counters(counted.node, [INVALID_COUNTER])
    assert caught.value.errno == errno.EBUSY


def test_connections_to_node_ports_on_loopback_are_counted(counted: RealNode) -> None:
    for address in ("127.0.0.1", "127.0.0.1", NODE_IP):
        assert ask(counted.node, address, 30080) == f"pod-2 {GATEWAY}"
    assert read_counters(counted.node)[LOCALHOST_COUNTER] == 2
    wait_until("the metric", lambda: scraped(counted, "iptables_localhost_nodeports_accepted_packets_total") == "2.0")


def test_invalid_packets_are_dropped_and_counted(counted: RealNode) -> None:
    with counted.pods["pod-1"].socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.sendto(make_christmas_tree(PODS["pod-1"], PODS["pod-2"]), (PODS["pod-2"], 0))
    wait_until("the count", lambda: read_counters(counted.node)[INVALID_COUNTER] == 1)
    wait_until("the metric", lambda: scraped(counted, "iptables_ct_state_invalid_dropped_packets_total") == "1.0")


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_tool_that_knows_no_counters_writes_rules_without(
    backend: Backend, ns: Netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_feature: Callable[[str], None]
) -> None:
    require_feature(f"iptables-{backend}")
    extension = next(Path("/usr/lib").glob("**/xtables/libxt_nfacct.so"))
    for file in extension.parent.iterdir():
        if file.name != extension.name:
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setenv("XTABLES_LIBDIR", str(tmp_path))
    with Spawner.start() as spawner:  # of which nothing is known yet
        if backend == "legacy":
            Iptables(ns, spawner, backend="legacy").restore(b"*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n")
        assert choose_backend(spawner, ns) == backend
        with real_node(spawner, CONFIG) as node:
            node.put(make_service(ip="10.96.0.77", **NODE_PORT), make_slice([make_endpoint(PODS["pod-2"])]))
            assert ask(node.node, "127.0.0.1", 30080) == f"pod-2 {GATEWAY}"
            saved = node.iptables().save()
            assert "--ctstate INVALID -j DROP" in saved
            assert "nfacct" not in saved


def test_a_liberal_node_drops_no_invalid_packets(spawner: Spawner) -> None:
    with real_node(spawner, CONFIG) as node:
        assert "INVALID" in node.iptables().save()
        write_sysctl(node.node, "net.netfilter.nf_conntrack_tcp_be_liberal", 1)
        node.rebuild()
        assert "INVALID" not in node.iptables().save()


def test_they_go_with_the_rules_and_come_back_with_them(counted: RealNode) -> None:
    for mode, names in (("nftables", set()), ("iptables", set(COUNTERS))):
        counted.call(counted.proxy.switch_mode(mode))
        assert set(read_counters(counted.node)) == names
