"""What faults do to packets: each with real traffic in a cluster, before, during and after."""

import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from netsim.cluster.handle import Cluster
from netsim.model.errors import FeatureMissing, NetsimError, UsageError
from netsim.testing.lookup import node_ip, pod_ip
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.features import missing_feature
from tests.kernel.faults.snapshot import run_in_sandbox
from tests.packets.world import UDP_PORT, make_pod

pytestmark = [pytest.mark.needs("root", "tbf"), pytest.mark.netsim(nodes=3)]

IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
ROUND_TRIP_S = 0.5  # an answer that was not lost is there long before


class World:
    """Two pods on two nodes, ``a`` and ``b``, and ``c`` beside ``a``."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.traffic = Traffic(cluster)
        self.a, self.b, self.c = (f"pod/{namespace}/{name}" for name in "abc")
        nodes = {"a": "node-1", "b": "node-2", "c": "node-1"}
        cluster.apply([make_pod(name, node=node) for name, node in nodes.items()], namespace=namespace)
        self.ip = {f"pod/{namespace}/{name}": pod_ip(cluster, name, namespace) for name in "abc"}

    def answers(self, source: str, target: str) -> bool:
        """Whether a datagram gets its answer, at one of two tries."""
        for _ in range(2):
            with contextlib.suppress(TimeoutError, OSError):
                self.traffic.udp_exchange(source, self.ip[target], UDP_PORT, "echo x", timeout_s=ROUND_TRIP_S)
                return True
        return False

    def count(self, source: str, target: str, sent: int) -> int:
        """How many of so many datagrams arrive."""
        with (
            self.cluster.socket(target, socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            self.cluster.socket(source, socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("0.0.0.0", 0))
            sender.connect((self.ip[target], receiver.getsockname()[1]))
            sender.send(b"first")  # whatever has to be learned on the way
            receiver.setblocking(False)
            arrived = 0
            for _ in range(sent):
                sender.send(b"x")
                # Within one machine a packet is delivered before the send returns, but for a softirq put off.
                arrived += _drain(receiver)
            time.sleep(0.05)  # the last of them
            return min(sent, arrived + _drain(receiver))

    def transfer_s(self, source: str, target: str, size: int) -> float:
        """How long so many bytes take over TCP."""
        with self.traffic.listen(target) as listener:
            port = listener.getsockname()[1]
            received: list[int] = []

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(30)
                    total = 0
                    while data := connection.recv(1 << 16):
                        total += len(data)
                    received.append(total)

            server = threading.Thread(target=serve)
            server.start()
            started = time.monotonic()
            with self.traffic.connect(source, self.ip[target], port, timeout_s=30) as client:
                client.sendall(bytes(size))
                client.shutdown(socket.SHUT_WR)
                server.join()
            assert received == [size]
            return time.monotonic() - started


def _drain(receiver: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(100)
            count += 1
    return count


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> Iterator[World]:
    yield World(cluster, namespace)
    cluster.undo_faults()


@pytest.mark.parametrize("place", ["node/node-2", "pod"])
def test_link_down_and_up(world: World, place: str) -> None:
    where = world.b if place == "pod" else place
    assert world.answers(world.a, world.b)
    with world.cluster.fault("link-down", where) as fault:
        assert fault.details["places"] == [where]
        assert not world.answers(world.a, world.b)
        assert world.answers(world.a, world.c)
        eth0 = next(one for one in world.cluster.interfaces(where) if one.name == "eth0")
        assert eth0.addresses  # as with a cable that was pulled
        carrier = world.cluster.exec(where, ["cat", "/sys/class/net/eth0/carrier"]) if place == "pod" else None
        assert carrier is None or carrier.stdout == "0\n"
    assert wait_until("the answer", lambda: world.answers(world.a, world.b))


def test_link_up_undoes_link_down(world: World) -> None:
    world.cluster.fault("link-down", "node/node-2", "node/node-3")
    (undone,) = world.cluster.undo_faults_at("link-down", "node/node-2")
    assert undone["places"] == ["node/node-2", "node/node-3"]
    with pytest.raises(UsageError, match="node/node-2 has no fault link-down"):
        world.cluster.undo_faults_at("link-down", "node/node-2")


@pytest.mark.parametrize("percent", [10, 50])
@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("place", ["node", "pod"])
def test_loss(world: World, place: str, direction: str, percent: int) -> None:
    where = "node/node-2" if place == "node" else world.b
    sent = 2000
    with world.cluster.fault("loss", where, percent=percent, direction=direction):
        to, back = world.count(world.a, world.b, sent), world.count(world.b, world.a, sent)
    lossy, clean = (to, back) if direction == "in" else (back, to)
    assert clean >= sent - 2
    expected = sent * (1 - percent / 100)
    # Six standard deviations of a binomial distribution: one run in a hundred million is outside.
    tolerance = 6 * (sent * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(lossy - expected) <= tolerance + 2
    assert world.count(world.a, world.b, 200) == 200


def test_all_is_lost_at_a_hundred_percent(world: World) -> None:
    with world.cluster.fault("loss", world.b, percent=100):
        assert world.count(world.a, world.b, 100) == 0
        assert world.answers(world.a, world.c)


def test_loss_says_by_what(world: World) -> None:
    by = "nft" if missing_feature("netem") else "netem"
    with world.cluster.fault("loss", world.b, percent=1) as fault:
        assert fault.details["by"] == by
        assert [one["by"] for one in world.cluster.faults()] == [by]


@pytest.mark.parametrize("place", ["node", "pod"])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_rate(world: World, place: str, direction: str) -> None:
    where = "node/node-2" if place == "node" else world.b
    source, target = (world.a, world.b) if direction == "in" else (world.b, world.a)
    size = 400_000
    free_s = world.transfer_s(source, target, size)
    times = {}
    for rate in ("4mbit", "16mbit"):
        with world.cluster.fault("rate", where, rate=rate, direction=direction):
            times[rate] = world.transfer_s(source, target, size)
    # At 4 Mbit/s it takes 0.8 s, less what goes in one burst. Loosely: others use this machine too.
    assert times["4mbit"] > 0.6
    assert times["4mbit"] > 1.8 * times["16mbit"]
    assert times["16mbit"] > free_s
    with world.cluster.fault("rate", where, rate="4mbit", direction="out" if direction == "in" else "in"):
        assert world.transfer_s(source, target, size) < times["4mbit"] / 2  # ACKs alone take little


def test_mtu_of_a_pod(world: World) -> None:
    def send(source: str, target: str, payload: int) -> bool:
        with (
            world.cluster.socket(target, socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            world.cluster.socket(source, socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("0.0.0.0", 0))
            receiver.settimeout(ROUND_TRIP_S)
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sender.connect((world.ip[target], receiver.getsockname()[1]))
            sender.send(bytes(payload))
            try:
                return len(receiver.recv(65535)) == payload
            except TimeoutError:
                return False

    headers = 28
    assert send(world.a, world.b, 1500 - headers)
    with world.cluster.fault("mtu", world.b, mtu=1400):
        assert send(world.a, world.b, 1400 - headers)
        # Lost, and nobody says so. veth has room for a VLAN tag of 4 bytes (__is_skb_forwardable, net/core/dev.c).
        assert not send(world.a, world.b, 1405 - headers)
        assert send(world.b, world.a, 1400 - headers)
        with pytest.raises(OSError, match="Message too long") as raised:  # it knows its own MTU
            send(world.b, world.a, 1401 - headers)
        assert raised.value.errno == errno.EMSGSIZE
    assert send(world.a, world.b, 1500 - headers)
    assert send(world.b, world.a, 1500 - headers)


def test_a_nodes_small_mtu_is_a_black_hole_for_tcp_towards_its_pods(world: World) -> None:
    """Pods agree on segments for 1500 bytes; the frames are lost at the node's port, cut from larger ones or not."""
    size = 100_000
    assert world.transfer_s(world.a, world.b, size) > 0
    with world.cluster.fault("mtu", "node/node-2", mtu=1400), world.traffic.listen(world.b) as listener:
        port = listener.getsockname()[1]
        with world.traffic.connect(world.a, world.ip[world.b], port) as client:
            connection, _ = listener.accept()
            with connection:
                client.setblocking(False)
                client.send(bytes(size))
                wait_until("it is sent again and again", lambda: _retransmissions(client) >= 2)
                connection.setblocking(False)
                with pytest.raises(BlockingIOError):
                    connection.recv(1)
                # From behind it, the node says what fits: ICMP "fragmentation needed", and the transfer goes on.
    with world.cluster.fault("mtu", "node/node-2", mtu=1400):
        assert world.transfer_s(world.b, world.a, size) > 0


def _retransmissions(sock: socket.socket) -> int:
    """tcpi_total_retrans, include/uapi/linux/tcp.h."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 100)[0])


def test_partition(world: World) -> None:
    addresses = {name: node_ip(world.cluster, name) for name in ("node-1", "node-2", "node-3")}

    def pings(source: str, target: str) -> bool:
        done = world.cluster.exec(f"node/{source}", ["ping", "-c1", "-W1", addresses[target]])
        return done.returncode == 0

    with world.cluster.fault("partition", ["node/node-1", "node/node-3"], "node/node-2"):
        assert not world.answers(world.a, world.b)
        assert not pings("node-1", "node-2")
        assert not pings("node-2", "node-3")
        assert pings("node-1", "node-3")
        assert world.answers(world.a, world.c)
        # What is outside the sets, and the API, are not concerned.
        assert world.cluster.exec("host/external", ["ping", "-c1", "-W1", addresses["node-2"]]).returncode == 0
        assert all(node["ready"] for node in world.cluster.status()["nodes"])
    assert pings("node-1", "node-2")
    assert world.answers(world.a, world.b)


def test_partition_from_the_external_host(world: World) -> None:
    def reached(node: str) -> bool:
        address = node_ip(world.cluster, node)
        return world.cluster.exec("host/external", ["ping", "-c3", "-i0.2", "-W1", address]).returncode == 0

    with world.cluster.fault("partition", "host/external", "node/node-1"):
        assert not reached("node-1")
        assert reached("node-2")
        assert world.answers(world.a, world.b)
    assert reached("node-1")


def test_partition_one_way_shows_who_hears_whom(world: World) -> None:
    with world.cluster.fault("partition", "node/node-1", "node/node-2", one_way=True):
        assert world.count(world.a, world.b, 50) == 0
        assert world.count(world.b, world.a, 50) == 50


def test_overlapping_faults_each_do_their_own(world: World) -> None:
    rate = world.cluster.fault("rate", world.b, rate="100mbit")
    cut = world.cluster.fault("partition", "node/node-1", "node/node-2")
    loss = world.cluster.fault("loss", world.b, percent=100, direction="in")
    cut.undo()
    assert world.count(world.a, world.b, 50) == 0
    assert world.count(world.b, world.a, 50) == 50
    loss.undo()
    assert world.count(world.a, world.b, 50) == 50
    assert [one["id"] for one in world.cluster.faults()] == [rate.id]


def test_a_rule_of_a_person_is_left_alone(world: World) -> None:
    run_in_sandbox(
        world.cluster,
        "nft add table bridge mine; tc qdisc add dev node-3 root handle 7: tbf rate 1gbit burst 100k latency 1s",
    )
    try:
        with pytest.raises(NetsimError, match="a queueing discipline that no fault put there: tbf 7:"):
            world.cluster.fault("rate", "node/node-3", rate="1mbit", direction="in")
        assert world.cluster.faults() == []
        with world.cluster.fault("partition", "node/node-1", "node/node-3"):
            pass
        kept = run_in_sandbox(world.cluster, "nft list tables; tc qdisc show dev node-3")
        assert "table bridge mine" in kept
        assert "qdisc tbf 7: root" in kept
        assert "netsim-fault" not in kept
    finally:
        run_in_sandbox(world.cluster, "nft delete table bridge mine; tc qdisc delete dev node-3 root")


@pytest.mark.needs("ifb")
def test_a_pod_with_bandwidth_annotations(cluster: Cluster, namespace: str) -> None:
    """Its link has a tbf, and its traffic takes a detour, which no fault must take away or pretend to stand in."""
    pod = make_pod("narrow")
    annotations = {f"kubernetes.io/{word}-bandwidth": "50M" for word in ("ingress", "egress")}
    pod["metadata"]["annotations"] = annotations
    cluster.apply(pod, namespace=namespace)
    where = f"pod/{namespace}/narrow"
    with pytest.raises(NetsimError, match="no fault put there: tbf 1:"):
        cluster.fault("rate", where, rate="1mbit")
    if missing_feature("netem"):
        with pytest.raises(NetsimError, match="tc redirects that"):
            cluster.fault("loss", where, percent=100)
        with cluster.fault("loss", where, percent=100, direction="in"):
            pass
    with cluster.fault("rate", where, rate="1mbit", direction="out"):
        pass
    assert cluster.faults() == []


@pytest.mark.needs("vxlan")
@pytest.mark.netsim(pod_network="vxlan")
def test_faults_of_nodes_concern_what_travels_in_vxlan(world: World) -> None:
    with world.cluster.fault("partition", "node/node-1", "node/node-2"):
        assert not world.answers(world.a, world.b)
        assert world.answers(world.a, world.c)
    # The nodes' own addresses are learned by ARP here, whose answers would be lost too.
    wait_until("the answer", lambda: world.answers(world.a, world.b))
    with world.cluster.fault("loss", "node/node-2", percent=100, direction="in"):
        assert world.count(world.a, world.b, 20) == 0
        assert world.count(world.b, world.a, 20) == 20
    with world.cluster.fault("mtu", "node/node-2", mtu=1400):  # the wrong MTU behind VXLAN
        assert world.answers(world.a, world.b)
        with pytest.raises(TimeoutError):
            world.traffic.udp_exchange(world.a, world.ip[world.b], UDP_PORT, b"echo " + bytes(1400), timeout_s=0.5)
    big = b"echo " + b"x" * 1400
    assert world.traffic.udp_exchange(world.a, world.ip[world.b], UDP_PORT, big)


def test_what_is_refused(world: World) -> None:
    cluster = world.cluster
    with pytest.raises(NetsimError, match='there is no node "node-9"'):
        cluster.fault("link-down", "node/node-9")
    with pytest.raises(NetsimError, match='pods "nope" not found'):
        cluster.fault("link-down", "pod/nope")
    with pytest.raises(UsageError, match="is no rate"):
        cluster.fault("rate", "node/node-1", rate="fast")
    with pytest.raises(UsageError, match="there is no fault 999"):
        cluster.undo_faults(999)
    with cluster.fault("loss", "node/node-1", percent=5) as first:
        with pytest.raises(NetsimError, match=f"fault {first.id} is there already: loss 5% both ways") as raised:
            cluster.fault("loss", "node/node-1", percent=10, direction="out")
        assert raised.value.hint == f"netsim fault undo {first.id}"
    # Atomic: the second place is not there, so nothing happened at the first.
    with pytest.raises(NetsimError):
        cluster.fault("link-down", "node/node-1", "node/node-9")
    assert cluster.faults() == []


@pytest.mark.skipif(missing_feature("netem") is None, reason="this kernel has netem")
@pytest.mark.parametrize("kind", ["delay", "duplicate", "corrupt", "reorder"])
def test_without_netem_it_is_named(world: World, kind: str) -> None:
    values = {"delay": "10ms"} if kind == "delay" else {"percent": 5}
    with pytest.raises(FeatureMissing, match=rf"fault {kind}: .*CONFIG_NET_SCH_NETEM") as raised:
        world.cluster.fault(kind, "node/node-1", **values)
    assert "modprobe sch_netem" in raised.value.hint
    assert world.cluster.faults() == []


def test_a_fault_ends_when_its_time_is_up(world: World) -> None:
    with world.cluster.fault("link-down", "node/node-2", for_="300ms") as fault:
        assert 0 < world.cluster.faults()[0]["remainingS"] <= 0.3
        wait_until("it has ended", lambda: world.cluster.faults() == [])
        assert wait_until("the answer", lambda: world.answers(world.a, world.b))
    (ended,) = [one for one in world.cluster.describe_faults()["ended"] if one["id"] == fault.id]
    assert ended["why"] == "time is up"


def test_a_fault_at_a_pod_that_goes_is_forgotten(world: World) -> None:
    cluster = world.cluster
    _, namespace, name = world.b.split("/")
    gone = cluster.fault("loss", world.b, percent=5)
    both = cluster.fault("loss", world.a, world.c, percent=5)
    cluster.delete("pod", name, namespace=namespace)
    wait_until("it is forgotten", lambda: gone.id not in [one["id"] for one in cluster.faults()])
    (ended,) = [one for one in cluster.describe_faults()["ended"] if one["id"] == gone.id]
    assert ended["why"] == f"{world.b} is gone"
    assert f"netsim-fault-{gone.id}" not in run_in_sandbox(cluster, "ip netns exec node-2 nft list tables")
    # Of a fault at two places one remains.
    _, namespace, name = world.c.split("/")
    cluster.delete("pod", name, namespace=namespace)
    wait_until("one place is left", lambda: [one["places"] for one in cluster.faults()] == [[world.a]])
    both.undo()
    assert "netsim-fault" not in run_in_sandbox(cluster, "ip netns exec node-1 nft list tables")
