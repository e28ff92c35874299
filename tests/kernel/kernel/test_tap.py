"""Taps: frames, directions and times of one interface or all, filters by libpcap, losses counted."""

import select
import socket
import time
from collections.abc import Callable

import pytest

from netsim.kernel.bpf import compile_filter, keep_all
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl, del_link, new_veth, set_link
from netsim.kernel.small_tap import SmallTap
from netsim.kernel.stamps import await_stamps
from netsim.kernel.tap import Frame, Tap
from netsim.model.errors import KernelError, UsageError
from netsim.testing.waiting import wait_until

pytestmark = pytest.mark.needs("root", "netns", "packet")


def send(ns: Netns, count: int = 1, *, payload: bytes = b"x", port: int = 9999) -> None:
    """Datagrams over lo to a socket that takes them, or there would be an ICMP error for each."""
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink, ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sink.bind(("127.0.0.1", port))
        for _ in range(count):
            sender.sendto(payload, ("127.0.0.1", port))


def await_running(rtnl: Rtnl, name: str) -> None:
    """What is sent before that is dropped."""
    wait_until(f"{name} is running", lambda: (link := rtnl.link(name)) is not None and link.running)


def read_until(tap: Tap, enough: Callable[[list[Frame]], bool], timeout_s: float = 5.0) -> list[Frame]:
    frames: list[Frame] = []
    deadline = time.monotonic() + timeout_s
    while not enough(frames):
        left = deadline - time.monotonic()
        assert left > 0, f"seen so far: {frames}"
        select.select([tap], [], [], left)
        frames += tap.read()
    return frames


def test_a_frame_over_lo_is_seen_going_out_and_coming_in_at_times_in_order(ns: Netns) -> None:
    with Tap(ns) as tap:
        before = time.clock_gettime_ns(time.CLOCK_REALTIME)
        send(ns, payload=b"hello")
        out, in_ = read_until(tap, lambda f: len(f) >= 2)
        after = time.clock_gettime_ns(time.CLOCK_REALTIME)
        assert (out.outgoing, in_.outgoing) == (True, False)
        assert before <= out.time_ns <= in_.time_ns <= after
        assert out.data == in_.data
        assert out.data.endswith(b"hello")
        assert out.length == len(out.data) == 14 + 20 + 8 + 5
        assert tap.name_of(out.ifindex) == "lo"
        assert tap.dropped() == 0


def test_a_small_tap_has_the_time_of_coming_not_that_of_reading(ns: Netns) -> None:
    """Each round the first tap that wants stamps, where nobody else on the machine does."""
    for _ in range(20):
        with SmallTap(ns, keep_all(200)) as tap:
            with ns.entered():  # lo is up there
                assert await_stamps()
            tap.read()  # what it sent itself
            send(ns)
            sent_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
            out, in_ = tap.read()
            assert out.time_ns <= in_.time_ns <= sent_ns


def test_interfaces_that_come_later_are_seen_and_those_that_go_leave_the_rest(ns: Netns) -> None:
    with Tap(ns) as tap, Netns.create("far") as far, Rtnl(ns) as near_rtnl, Rtnl(far) as far_rtnl:
        near_rtnl.batch([new_veth("late", peer="eth0", peer_netns_fd=far.fd), set_link("late", up=True)])
        far_rtnl.batch([set_link("eth0", up=True)])
        await_running(near_rtnl, "late")
        with ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("late", 0))
            raw.send(b"\xff" * 12 + b"\x88\xb5" + b"test of a tap")
        frames = read_until(tap, lambda f: any(b"test of a tap" in one.data for one in f))
        index = tap.index_of("late")
        assert index in {frame.ifindex for frame in frames}
        near_rtnl.batch([del_link("late")])
        assert tap.name_of(index) == ""
        send(ns)
        read_until(tap, lambda f: len(f) >= 2)


def test_one_interface_only_when_it_is_named(ns: Netns) -> None:
    with Rtnl(ns) as rtnl:
        rtnl.batch([new_veth("one", peer="two"), set_link("one", up=True), set_link("two", up=True)])
        await_running(rtnl, "one")
    with Tap(ns, interface="two") as tap, ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("one", 0))
        send(ns)
        raw.send(b"\xff" * 12 + b"\x88\xb5" + b"over the pair")
        frames = read_until(tap, lambda f: any(b"over the pair" in one.data for one in f))
        assert {tap.name_of(frame.ifindex) for frame in frames} == {"two"}
        assert not any(f.outgoing for f in frames if b"over the pair" in f.data)


def test_a_filter_keeps_what_it_says_and_the_snaplen_cuts(ns: Netns) -> None:
    with Tap(ns, filter=compile_filter("udp port 53", snaplen=50)) as tap:
        send(ns, port=9999)
        send(ns, port=53, payload=b"y" * 100)
        frames = read_until(tap, lambda f: len(f) >= 2)
        assert {(len(f.data), f.length) for f in frames} == {(50, 142)}
    with Tap(ns, snaplen=14) as tap:
        send(ns)
        assert [len(f.data) for f in read_until(tap, lambda f: len(f) >= 2)] == [14, 14]


def test_what_does_not_fit_is_counted_and_nothing_else_is_lost(ns: Netns) -> None:
    with Tap(ns, buffer_bytes=1) as tap:  # the smallest there is: 4 blocks of 128 KiB
        send(ns, 2000, payload=b"z" * 1000)
        kept = len(read_until(tap, bool))
        assert 0 < kept < 4000
        assert kept + tap.dropped() == 4000
        assert tap.dropped() == 4000 - kept  # asking again does not forget
        send(ns)
        assert len(read_until(tap, lambda f: len(f) >= 2)) == 2  # and it goes on


def test_a_large_frame_is_whole(ns: Netns) -> None:
    with Tap(ns) as tap:
        send(ns, payload=b"w" * 65000)
        assert [f.length for f in read_until(tap, lambda f: len(f) >= 2)] == [65042, 65042]


def test_stop_ends_what_is_seen_and_keeps_what_was(ns: Netns) -> None:
    with Tap(ns) as tap:
        send(ns)
        tap.stop()
        send(ns)
        frames = read_until(tap, lambda f: len(f) >= 2)
        assert len(frames) == 2
        select.select([tap], [], [], 0.1)
        assert tap.read() == []


def test_a_vlan_tag_is_where_it_was_on_the_wire(ns: Netns) -> None:
    with Rtnl(ns) as rtnl:
        rtnl.batch([new_veth("one", peer="two"), set_link("one", up=True), set_link("two", up=True)])
        await_running(rtnl, "one")
    tagged = b"\xff" * 12 + b"\x81\x00\x00\x2a" + b"\x88\xb5" + b"tagged frame"
    with Tap(ns, interface="two") as tap, ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("one", 0))
        raw.send(tagged)
        frames = read_until(tap, lambda f: any(b"tagged frame" in one.data for one in f))
        assert [(f.data, f.length) for f in frames if b"tagged frame" in f.data] == [(tagged, len(tagged))]


def test_an_unknown_interface_is_refused_in_the_kernels_words(ns: Netns) -> None:
    with pytest.raises(KernelError, match="test: interface nope: No such device"):
        Tap(ns, interface="nope")


def test_a_wrong_filter_is_refused_in_libpcaps_words() -> None:
    with pytest.raises(UsageError, match=r'packet filter "tcp prt 80": .*syntax error'):
        compile_filter("tcp prt 80")
    assert compile_filter("tcp port 80").code != compile_filter("").code
    assert compile_filter("", snaplen=96).code == keep_all(96).code
