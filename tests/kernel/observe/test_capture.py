"""Captures over several namespaces: one order, interfaces that come and go, all the ways to end."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from netsim.kernel.bpf import compile_filter
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl, del_link, new_bridge, new_veth, set_link
from netsim.model.errors import NetsimError
from netsim.observe.capture import Capture, Totals, open_station
from netsim.observe.sinks import ListSink
from netsim.testing.waiting import wait_until

pytestmark = pytest.mark.needs("root", "netns", "packet", "veth", "bridge")

MARK = b"test of a capture"
OURS = "ether proto 0x88b5"


@dataclass(slots=True)
class Net:
    """left -- bridge in the middle -- right."""

    left: Netns
    middle: Netns
    right: Netns

    def send(self, count: int = 1, *, text: bytes = MARK) -> None:
        """Broadcasts from left's eth0."""
        with self.left.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for number in range(count):
                raw.send(b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + text + b" %d" % number)


def await_running(rtnl: Rtnl, name: str) -> None:
    """What is sent before that is dropped."""
    wait_until(f"{name} is running", lambda: (link := rtnl.link(name)) is not None and link.running)


@pytest.fixture
def net() -> Iterator[Net]:
    with Netns.create("left") as left, Netns.create("middle") as middle, Netns.create("right") as right:
        with Rtnl(middle) as rtnl:
            rtnl.batch([new_bridge("bridge")])
            bridge = rtnl.link("bridge")
            assert bridge is not None
            for name, ns in (("l", left), ("r", right)):
                rtnl.batch([new_veth(name, peer="eth0", peer_netns_fd=ns.fd, master=bridge.ifindex)])
                with Rtnl(ns) as inside:
                    inside.batch([set_link("eth0", up=True)])
                rtnl.batch([set_link(name, up=True)])
                await_running(rtnl, name)
        yield Net(left, middle, right)


class Run:
    """A capture in a thread."""

    def __init__(self, capture: Capture, sink: ListSink) -> None:
        self.capture = capture
        self.sink = sink
        self.totals: Totals | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.totals = self.capture.run()

    def finish(self) -> Totals:
        self.thread.join(10)
        assert self.totals is not None
        return self.totals

    @property
    def spots(self) -> list[str]:
        return [f"{crossing.interface} {crossing.direction}" for crossing in self.sink.crossings]


@contextmanager
def capturing(*places: tuple[Netns, str | None], filter: str = OURS, **options: object) -> Iterator[Run]:
    program = compile_filter(filter)
    stations = [
        open_station(ns, f"node/{ns.name}", netns=ns.name, interface=interface, program=program, taps=len(places))
        for ns, interface in places
    ]
    sink = ListSink()
    run = Run(Capture(stations, sink, **options), sink)  # type: ignore[arg-type]
    run.thread.start()
    try:
        yield run
    finally:
        run.capture.stop()
        run.thread.join(10)


WAY = [
    "node/left:eth0 out",
    "node/middle:l in",
    "node/middle:bridge in",
    "node/middle:r out",
    "node/right:eth0 in",
]


def test_a_frames_way_reads_in_order_however_the_places_are_named(net: Net) -> None:
    with capturing((net.right, None), (net.middle, None), (net.left, None)) as run:
        net.send(50)
    totals = run.finish()
    for number in range(50):
        way = [f"{c.interface} {c.direction}" for c in run.sink.crossings if c.data.endswith(b" %d" % number)]
        # The bridge hands the frame to itself and to the other port in an order of its own.
        assert sorted(way) == sorted(WAY)
        assert (way[0], way[1], way.index(WAY[3]) < way.index(WAY[4])) == (WAY[0], WAY[1], True)
    times = [crossing.time_ns for crossing in run.sink.crossings]
    assert times == sorted(times)
    assert totals.packets == 250
    assert totals.dropped == 0
    assert totals.by_place == {"node/right": (50, 0), "node/middle": (150, 0), "node/left": (50, 0)}
    assert totals.reason == "stopped"


def test_merging_leaves_each_frame_once(net: Net) -> None:
    with capturing((net.right, None), (net.middle, None), (net.left, None), merge=True) as run:
        net.send(3)
    run.finish()
    assert run.spots == [WAY[0]] * 3


def test_one_interface(net: Net) -> None:
    with capturing((net.middle, "r"), (net.left, "lo")) as run:
        net.send()
    assert run.finish().by_place == {"node/middle": (1, 0), "node/left": (0, 0)}
    assert run.spots == ["node/middle:r out"]


def test_no_such_interface_names_those_there_are(net: Net) -> None:
    with pytest.raises(NetsimError, match=r'node/middle: there is no interface "x"\n  next: interfaces: .*bridge'):
        open_station(net.middle, "node/middle", netns="m", interface="x", program=compile_filter(""))


def test_an_interface_that_comes_during_the_capture_is_named(net: Net) -> None:
    with capturing((net.right, None), filter="") as run, Rtnl(net.right) as rtnl:
        rtnl.batch([new_veth("late", peer="later"), set_link("late", up=True), set_link("later", up=True)])
        await_running(rtnl, "late")
        with net.right.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("late", 0))
            raw.send(b"\xff" * 12 + b"\x88\xb5" + MARK)
    run.finish()
    seen = [f"{c.interface.name} {c.direction}" for c in run.sink.crossings if MARK in c.data]
    assert seen == ["late out", "later in"]


def test_a_place_that_ends_is_noted_and_the_rest_goes_on(net: Net) -> None:
    notes: list[str] = []
    with capturing((net.left, None), (net.right, None), note=notes.append) as run:
        net.send()
        with Rtnl(net.right) as rtnl:
            rtnl.batch([del_link("eth0")])
        wait_until("the note", lambda: notes == ["node/right has ended: eth0 is gone"])
        net.send(text=b"later")
    assert run.finish().by_place == {"node/left": (2, 0), "node/right": (1, 0)}


def test_it_ends_when_all_places_have(net: Net) -> None:
    with capturing((net.left, None), (net.right, "eth0")) as run, Rtnl(net.middle) as rtnl:
        net.send()
        rtnl.batch([del_link("l"), del_link("r")])
        assert run.finish().reason == "places gone"
        assert run.spots == [WAY[0], WAY[4]]


def test_a_tapped_interface_that_goes_down_and_up_is_seen_again(net: Net) -> None:
    with capturing((net.right, "eth0")) as run:
        with Rtnl(net.right) as rtnl:
            rtnl.batch([set_link("eth0", up=False), set_link("eth0", up=True)])
            await_running(rtnl, "eth0")
        with Rtnl(net.middle) as rtnl:
            await_running(rtnl, "r")
        net.send()
    assert run.finish().packets == 1


def test_count_is_exact_and_of_the_first(net: Net) -> None:
    with capturing((net.left, None), (net.right, None), count=3) as run:
        net.send(50)
        totals = run.finish()
    assert (totals.packets, totals.reason) == (3, "count")
    assert run.spots[0] == WAY[0]


def test_duration_ends_it(net: Net) -> None:
    with capturing((net.left, None), duration_s=0.05) as run:
        totals = run.finish()
    assert totals.reason == "duration"
    assert totals.ended_ns - totals.started_ns > 50_000_000
