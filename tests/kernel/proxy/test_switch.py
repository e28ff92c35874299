"""Another mode under a running proxy: connections live on, new ones always find rules, nothing of the old stays."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import read_sysctl
from netsim.model.errors import InputError, NetsimError
from netsim.testing.waiting import wait_until
from proxy.nftables.target import NftablesTarget
from tests.features import missing_feature
from tests.kernel.proxy.node import PODS, RealNode, ask, knock, real_node
from tests.kernel.proxy.test_health import METRICS, fetch
from tests.unit.proxy.make import CONFIG, make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore", "nft")

CLUSTER_IP, NODE_PORT = "10.96.0.77", 30080
ECHO_NODE_PORT = 30081
ECHO_PORT = 8081
SERVICE = make_service(
    ip=CLUSTER_IP,
    type="NodePort",
    ports=[
        {"name": "http", "port": 80, "nodePort": NODE_PORT},
        {"name": "echo", "port": 81, "nodePort": ECHO_NODE_PORT},
    ],
)
SLICE_PORTS = [{"name": "http", "port": 8080}, {"name": "echo", "port": ECHO_PORT}]


@contextlib.contextmanager
def echo_server(ns: Netns, clients: int = 1) -> Iterator[None]:
    """Sends back what each of so many clients sends, for as long as its connection lives."""
    listener = ns.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("0.0.0.0", ECHO_PORT))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(5)
        listener.close()


class Knocking:
    """New connections, one after the other, for as long as it lasts; ``failed`` says what came instead of an answer."""

    def __init__(self, ns: Netns) -> None:
        self.count = 0
        self.failed: list[str] = []
        self._ns = ns
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            answer = knock(self._ns, CLUSTER_IP, 80)
            self.count += 1
            if not answer.startswith("pod-"):
                self.failed.append(answer)

    def __enter__(self) -> "Knocking":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def web(node: RealNode) -> RealNode:
    node.put(SERVICE, make_slice([make_endpoint(PODS["pod-1"])], ports=SLICE_PORTS))
    return node


def kube_chains(node: RealNode) -> list[str]:
    return [line for line in node.iptables().save().splitlines() if line.startswith(":KUBE")]


def has_nft_table(ns: Netns) -> bool:
    target = NftablesTarget(ns)
    try:
        return asyncio.run(target.read(4)) is not None
    finally:
        target.close()


def test_there_and_back_under_traffic(web: RealNode) -> None:
    """Established connections by every way go on: of a pod, masqueraded ones from outside, of a pod that meets itself,
    and of the node itself.
    """
    ways = (
        (web.pods["pod-2"], CLUSTER_IP, 81),
        (web.external, "172.18.0.2", ECHO_NODE_PORT),
        (web.pods["pod-1"], CLUSTER_IP, 81),
        (web.node, "172.18.0.2", ECHO_NODE_PORT),
    )
    clients = [ns.socket(socket.AF_INET, socket.SOCK_STREAM) for ns, _, _ in ways]

    def echoes() -> bool:
        for client in clients:
            client.sendall(b"alive")
        return all(client.recv(100) == b"alive" for client in clients)

    with contextlib.ExitStack() as stack:
        stack.enter_context(echo_server(web.pods["pod-1"], len(ways)))
        for client, (_, address, port) in zip(clients, ways, strict=True):
            stack.enter_context(client)
            client.settimeout(10)
            client.connect((address, port))
        knocking = stack.enter_context(Knocking(web.pods["pod-2"]))
        assert echoes()
        assert kube_chains(web)
        for mode in ("nftables", "iptables", "nftables"):
            seen = knocking.count
            web.call(web.proxy.switch_mode(mode))
            assert web.proxy.mode == web.proxy.summary()["mode"] == mode
            assert bool(kube_chains(web)) == (mode == "iptables")
            assert has_nft_table(web.node) == (mode == "nftables")
            assert echoes()
            wait_until("connections in the new mode", lambda seen=seen: knocking.count > seen + 20)
            assert ask(web.external, "172.18.0.2", NODE_PORT).startswith("pod-1 ")
        assert knocking.failed == []
    answer = fetch(web.node, "127.0.0.1", METRICS, "/proxyMode")
    assert answer is not None
    assert answer[2] == b"nftables"


def test_changes_go_on_in_the_new_mode(web: RealNode) -> None:
    web.call(web.proxy.switch_mode("nftables"))
    web.put(make_slice([make_endpoint(PODS["pod-3"])], ports=SLICE_PORTS))
    assert ask(web.pods["pod-2"], CLUSTER_IP, 80).startswith("pod-3 ")
    web.delete("web")
    assert not ask(web.pods["pod-2"], CLUSTER_IP, 80).startswith("pod-")


def test_127_is_no_way_in_any_more(web: RealNode) -> None:
    name = "net.ipv4.conf.all.route_localnet"
    assert read_sysctl(web.node, name) == "1"
    web.call(web.proxy.switch_mode("nftables"))
    assert read_sysctl(web.node, name) == "0"  # the rule that guarded it went too (CVE-2020-8558)


def test_nor_after_a_change_to_iptables_mode_that_failed(spawner: Spawner) -> None:
    with real_node(spawner, replace(CONFIG, mode="nftables")) as node:
        # Somebody's rule leads to a stale chain, which so can't be deleted.
        stale = b"*nat\n:MINE - [0:0]\n:KUBE-SEP-STALE - [0:0]\n-A MINE -j KUBE-SEP-STALE\nCOMMIT\n"
        node.iptables().restore(stale)
        with pytest.raises(NetsimError, match="busy"):
            node.call(node.proxy.switch_mode("iptables"))
        assert node.proxy.mode == "nftables"
        assert read_sysctl(node.node, "net.ipv4.conf.all.route_localnet") == "0"


def test_a_mode_there_is_not_changes_nothing(web: RealNode) -> None:
    with pytest.raises(InputError, match="userspace"):
        web.call(web.proxy.switch_mode("userspace"))
    assert web.proxy.mode == "iptables"
    assert ask(web.pods["pod-2"], CLUSTER_IP, 80).startswith("pod-1 ")


def test_a_mode_the_node_cannot_have_leaves_the_old_one_serving(spawner: Spawner) -> None:
    if missing_feature("ipvs") is None:
        pytest.skip("this kernel has IPVS")
    with real_node(spawner, replace(CONFIG, sync_period_s=0.2)) as node:
        node.put(SERVICE, make_slice([make_endpoint(PODS["pod-1"])], ports=SLICE_PORTS))
        before = kube_chains(node)
        with pytest.raises(NetsimError, match=r"(?i)ipvs"):
            node.call(node.proxy.switch_mode("ipvs"))
        assert node.proxy.mode == "iptables"
        node.put(make_slice([make_endpoint(PODS["pod-3"])], ports=SLICE_PORTS))
        assert ask(node.pods["pod-2"], CLUSTER_IP, 80).startswith("pod-3 ")
        assert len(kube_chains(node)) == len(before)
