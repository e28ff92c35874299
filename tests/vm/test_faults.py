"""Faults that need netem: delay, jitter, duplicates, corruption, order, and loss by netem."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import pod_ip
from netsim.testing.traffic import Traffic
from tests.kernel.faults.snapshot import differences, read_kernel, run_in_sandbox
from tests.packets.world import UDP_PORT, make_pod

pytestmark = [
    pytest.mark.needs("root", "netem", "tbf"),
    pytest.mark.netsim(nodes=2, proxy_mode="nftables"),
]


class World:
    """Two pods on two nodes."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.traffic = Traffic(cluster)
        self.a, self.b = f"pod/{namespace}/a", f"pod/{namespace}/b"
        cluster.apply([make_pod("a", node="node-1"), make_pod("b", node="node-2")], namespace=namespace, timeout_s=120)
        self.ip = pod_ip(cluster, "b", namespace)

    def round_trips_s(self, count: int) -> list[float]:
        """How long datagrams and their answers take, one after the other."""
        times = []
        for _ in range(count):
            started = time.monotonic()
            self.traffic.udp_exchange(self.a, self.ip, UDP_PORT, "echo x", timeout_s=20)
            times.append(time.monotonic() - started)
        return times

    def send(self, count: int, settle_s: float = 1.0) -> list[int]:
        """Send numbered datagrams from a to b; the numbers that arrive, in their order."""
        with (
            self.cluster.socket(self.b, socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            self.cluster.socket(self.a, socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("0.0.0.0", 0))
            receiver.settimeout(settle_s)
            sender.connect((self.ip, receiver.getsockname()[1]))
            arrived: list[int] = []
            for start in range(0, count, 50):  # never more than a receive buffer holds
                for number in range(start, min(start + 50, count)):
                    sender.send(number.to_bytes(4, "big") + bytes(60))
                with contextlib.suppress(TimeoutError):
                    while len(arrived) < start + 50:
                        arrived.append(int.from_bytes(receiver.recv(100)[:4], "big"))
            return arrived


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> Iterator[World]:
    yield World(cluster, namespace)
    cluster.undo_faults()


def test_delay_both_ways_and_one_way(world: World) -> None:
    world.round_trips_s(3)
    free_s = min(world.round_trips_s(10))
    with world.cluster.fault("delay", "node/node-2", delay="100ms") as fault:
        assert fault.details["by"] == "netem"
        assert min(world.round_trips_s(5)) >= 0.2
    for place, direction in ((world.b, "in"), (world.b, "out"), ("node/node-2", "in")):
        with world.cluster.fault("delay", place, delay="100ms", direction=direction):
            assert 0.1 <= min(world.round_trips_s(5)) < 0.2 + free_s
    assert min(world.round_trips_s(10)) < 0.1


def test_jitter_spreads_the_delay(world: World) -> None:
    with world.cluster.fault("delay", world.b, delay="200ms", jitter="150ms", direction="in"):
        times = world.round_trips_s(20)
    assert min(times) >= 0.05
    assert max(times) - min(times) > 0.05


def test_loss_is_netems(world: World) -> None:
    with world.cluster.fault("loss", world.b, percent=30, direction="in") as fault:
        assert fault.details["by"] == "netem"
        arrived = len(world.send(500, settle_s=0.3))
    assert 250 < arrived < 450  # 350, and six standard deviations are 61
    assert len(world.send(100)) == 100


def test_duplicates(world: World) -> None:
    with world.cluster.fault("duplicate", world.b, percent=100, direction="in"):
        arrived = world.send(20)
    assert sorted(set(arrived)) == list(range(20))
    assert len(arrived) > 30


def test_corruption_is_found_by_checksums(world: World) -> None:
    # What is sent between namespaces of one machine has no checksum yet, unless netem computes it before it spoils it
    # (netem_enqueue, net/sched/sch_netem.c).
    with world.cluster.fault("corrupt", world.b, percent=100, direction="in"):
        assert len(world.send(20)) < 20
    assert len(world.send(20)) == 20


def test_reordering(world: World) -> None:
    with world.cluster.fault("reorder", world.b, percent=50, delay="50ms", direction="in"):
        arrived = world.send(50)
    assert sorted(arrived) == list(range(50))
    assert arrived != sorted(arrived)


def test_all_at_once_and_undone_exactly(world: World) -> None:
    before = read_kernel(world.cluster)
    faults = [
        world.cluster.fault("rate", world.b, rate="1mbit"),
        world.cluster.fault("delay", world.b, delay="50ms", jitter="5ms"),
        world.cluster.fault("loss", world.b, percent=1),
        world.cluster.fault("duplicate", world.b, percent=1),
        world.cluster.fault("corrupt", world.b, percent=0.1),
    ]

    def netem() -> str:
        shown = run_in_sandbox(world.cluster, "ip netns exec node-2 tc qdisc show")
        return next(line for line in shown.splitlines() if "fa20:" in line)

    line = netem()
    for words in ("delay 50ms", "5ms", "loss 1%", "duplicate 1%", "corrupt 0.1%", "rate 1Mbit"):
        assert words in line
    faults[0].undo()
    assert "rate" not in netem()
    faults[1].undo()
    assert "delay" not in netem()
    assert "loss 1%" in netem()
    for fault in faults[2:]:
        fault.undo()
    assert differences(before, read_kernel(world.cluster)) == []


def test_a_rate_and_a_delay_become_one_and_part_again(world: World) -> None:
    def kind() -> str:
        shown = run_in_sandbox(world.cluster, "ip netns exec node-2 tc qdisc show")
        return " ".join(line.split()[1] for line in shown.splitlines() if " fa" in line)

    with world.cluster.fault("rate", world.b, rate="10mbit", direction="in"):
        assert kind() == "tbf"
        with world.cluster.fault("delay", world.b, delay="1ms", direction="in"):
            assert kind() == "netem"
        assert kind() == "tbf"
    assert kind() == ""
