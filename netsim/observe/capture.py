"""Capture: the taps of any number of places, read together, brought into one order, and handed to a sink.

Blocking, for a thread or a process of its own; it asks the cluster for nothing while it runs. How the order comes
about: all taps are stamped by one clock, a tap shows a frame at most twice its latency late, so what is older than that
and some slack, when all taps have just been read, can be followed by nothing older.
"""

import errno
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from netsim.kernel.bpf import BpfProgram
from netsim.kernel.rtnl import Rtnl
from netsim.kernel.rtnl_read import Link
from netsim.kernel.rtnl_socket import SocketSource
from netsim.kernel.tap import BLOCK_BYTES, BUFFER_BYTES, Frame, Tap
from netsim.model.errors import KernelError, NetsimError
from netsim.observe.crossing import Crossing, Interface, Merger, Sorter
from netsim.observe.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW
from netsim.observe.sinks import Sink, Unfinished

SLACK_MS = 50  # kernels that time a ring's blocks by ticks of 10 ms are up to two ticks late, twice
GONE_CHECK_S = 0.5
_BUFFERS_BYTES = 128 * 1024 * 1024  # kernel memory for all taps together
_BUFFER_MIN_BYTES = 8 * BLOCK_BYTES
_SIDE_BY_SIDE = 16
_FEW_TAPS, _FEW_LATENCY_MS, _MANY_LATENCY_MS = 50, 10, 50


@dataclass(slots=True)
class Station:
    """A tap, where it is, and the interfaces it has shown."""

    place: str
    netns: str
    tap: Tap
    links: dict[int, Link]
    whole: bool  # all interfaces of the place, not one of them
    interfaces: dict[int, Interface] = field(default_factory=dict)
    dropped: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """What a capture came to."""

    packets: int
    dropped: int  # by the kernel, because they came faster than they were read
    started_ns: int
    ended_ns: int
    reason: str  # why it ended: "stopped", "count", "duration", "reader gone", "places gone", or a watched end's word
    by_place: Mapping[str, tuple[int, int]]  # packets, dropped
    failure: str = ""  # why writing ended early: the kernel's words


def choose_latency_ms(taps: int) -> int:
    """How late a tap may be: a thousand of them must not wake us a hundred times a second each."""
    return _FEW_LATENCY_MS if taps <= _FEW_TAPS else _MANY_LATENCY_MS


def open_station(
    ns: SocketSource,
    place: str,
    *,
    netns: str,
    interface: str | None,
    program: BpfProgram,
    taps: int = 1,
) -> Station:
    """Tap a place, or one interface of it; of ``taps`` altogether. It sees from now on.

    Raises NetsimError, for no such interface with the names of those there are.
    """
    buffer_bytes = max(_BUFFER_MIN_BYTES, min(BUFFER_BYTES, _BUFFERS_BYTES // taps))
    try:
        tap = Tap(
            ns, interface=interface, filter=program, buffer_bytes=buffer_bytes, latency_ms=choose_latency_ms(taps)
        )
    except KernelError as error:
        if interface is None or error.errno != errno.ENODEV:
            raise
        with Rtnl(ns) as rtnl:
            names = ", ".join(link.name for link in rtnl.links())
        raise NetsimError(f'there is no interface "{interface}"', where=place, hint=f"interfaces: {names}") from None
    try:
        with Rtnl(ns) as rtnl:
            links = {link.ifindex: link for link in rtnl.links() if interface in (None, link.name)}
    except BaseException:
        tap.close()
        raise
    return Station(place, netns, tap, links, whole=interface is None)


def close_stations(stations: Sequence[Station]) -> None:
    """Let go of their taps. Side by side: the kernel takes milliseconds for each, in which it waits for RCU."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        list(pool.map(lambda station: station.tap.close(), stations))


class Capture:
    """One run over some stations into one sink. It owns them and what ends it: all are closed when it ends."""

    def __init__(
        self,
        stations: Sequence[Station],
        sink: Sink,
        *,
        count: int | None = None,
        duration_s: float | None = None,
        merge: bool = False,
        ends: Mapping[int, str] | None = None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """``count`` and ``duration_s`` end it, and a descriptor of ``ends`` that becomes readable, for the reason that
        stands there. ``merge`` leaves of each frame its first crossing. ``note`` is told what happens to places.
        """
        self._stations = list(stations)
        self._sink = sink
        self._left = count
        self._duration_s = duration_s
        self._merger = Merger() if merge else None
        self._note = note
        self._sorter = Sorter()
        self._interfaces: list[Interface] = []
        self._reason = ""
        self._failure = ""
        self._window_ns = (2 * choose_latency_ms(len(self._stations)) + SLACK_MS) * 1_000_000
        # So that stop() never writes to a descriptor of that number that is somebody else's by then. Reentrant, for a
        # signal handler may come in between.
        self._stopping = threading.RLock()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ends = {self._stop_fd: "stopped", **(ends or {})}

    @property
    def taps(self) -> int:
        """How many places and single interfaces it is about."""
        return len(self._stations)

    def stop(self) -> None:
        """End it soon, with all that was seen until now. From any thread or signal handler, and at any time."""
        with self._stopping:
            if self._stop_fd >= 0:
                os.eventfd_write(self._stop_fd, 1)

    def run(self) -> Totals:
        """Until it ends. What the sink can't take ends it, and is told in the totals."""
        started_ns, started = time.time_ns(), time.monotonic()
        try:
            try:
                for station in self._stations:
                    for link in station.links.values():
                        self._add_interface(station, link.ifindex, link.name, link.mac)
                self._loop(started)
                if self._reason not in ("count", "reader gone"):
                    self._drain()
                self._sink.finish(self._interfaces, started_ns, time.time_ns())
            except BrokenPipeError:
                self._reason = "reader gone"
            except OSError as error:
                self._reason = "failed"
                self._failure = error.strerror or str(error)
            self._count_dropped()
            return self._totals(started_ns)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of all that it has; `run` does so at its end."""
        close_stations(self._stations)
        self._sink.close()
        with self._stopping:
            ends, self._ends, self._stop_fd = self._ends, {}, -1
        for descriptor in ends:
            os.close(descriptor)

    def _loop(self, started: float) -> None:
        poll = select.poll()
        for station in self._stations:
            poll.register(station.tap.fileno(), select.POLLIN)
        for descriptor in self._ends:
            poll.register(descriptor, select.POLLIN)
        reader = self._sink.fileno()
        if reader is not None:
            poll.register(reader, 0)  # POLLERR and POLLHUP come unasked: nobody reads any more
        deadline = None if self._duration_s is None else started + self._duration_s
        check_at = started + GONE_CHECK_S
        while not self._reason:
            now = time.monotonic()
            wait_s = min(check_at, deadline or check_at) - now
            if len(self._sorter):
                wait_s = min(wait_s, self._window_ns / 1e9)
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, wait_s) * 1000)}
            self._read_all()
            ended = [reason for descriptor, reason in self._ends.items() if descriptor in ready]
            now = time.monotonic()
            if not self._reason and ended:
                self._reason = ended[0]
            elif reader in ready:
                self._reason = "reader gone"
            elif deadline is not None and now >= deadline:
                self._reason = "duration"
            elif now >= check_at:
                self._check_gone(poll)
                check_at = now + GONE_CHECK_S

    def _drain(self) -> None:
        """See nothing more; wait for the blocks that are not full; hand on all."""
        alive = [station for station in self._stations if not station.ended]
        for station in alive:
            station.tap.stop()
        until = time.monotonic() + self._window_ns / 1e9
        while alive and time.monotonic() < until:
            self._read_all()
            time.sleep(0.005)  # nothing says that a ring has nothing more to come
        self._read_all()
        self._hand_on(self._sorter.release())

    def _read_all(self) -> None:
        """All taps, not only those that poll named: the order rests on it."""
        before_ns = time.time_ns() - self._window_ns
        for station in self._stations:
            if not station.ended and (frames := station.tap.read()):
                self._sorter.add(self._crossings(station, frames))
        self._hand_on(self._sorter.release(before_ns))

    def _crossings(self, station: Station, frames: list[Frame]) -> list[Crossing]:
        known = station.interfaces
        found = []
        for ifindex, outgoing, time_ns, data, length in frames:
            interface = known.get(ifindex)
            if interface is None:  # it came after the start
                name = station.tap.name_of(ifindex) or f"if{ifindex}"
                interface = self._add_interface(station, ifindex, name, "")
            found.append(Crossing(time_ns, interface, outgoing, data, length))
        return found

    def _hand_on(self, crossings: list[Crossing]) -> None:
        if self._merger is not None:
            crossings = self._merger.first_only(crossings)
        if self._left is not None:
            crossings = crossings[: self._left]
        if not crossings:
            return
        try:
            self._sink.write(crossings)
        except Unfinished as error:
            _count(crossings[: error.taken])
            raise
        _count(crossings)
        if self._left is not None:
            self._left -= len(crossings)
            if not self._left:
                self._reason = "count"

    def _add_interface(self, station: Station, ifindex: int, name: str, mac: str) -> Interface:
        linktype = LINKTYPE_ETHERNET if station.tap.is_ethernet(name) else LINKTYPE_RAW
        interface = Interface(len(self._interfaces), station.place, name, station.netns, mac, linktype)
        self._sink.add_interface(interface)
        self._interfaces.append(interface)
        station.interfaces[ifindex] = interface
        return interface

    def _check_gone(self, poll: "select.poll") -> None:
        """Note places whose interfaces went away, and let go of their namespaces, which our sockets would hold."""
        for station in self._stations:
            if station.ended:
                continue
            counted = [i for i in station.interfaces.values() if i.name != "lo" or not station.whole]
            # Gone already at the last check: since then what it saw last has become readable, and was read.
            if counted and all(interface.gone for interface in counted):
                station.ended = True
                station.dropped = station.tap.dropped()
                poll.unregister(station.tap.fileno())
                station.tap.close()
                names = ", ".join(interface.name for interface in counted)
                self._note(f"{station.place} has ended: {names} is gone")
                continue
            for ifindex, interface in station.interfaces.items():
                interface.gone = interface.gone or not station.tap.name_of(ifindex)
        if self._stations and all(station.ended for station in self._stations):
            self._hand_on(self._sorter.release())
            self._reason = "places gone"

    def _count_dropped(self) -> None:
        for station in self._stations:
            if not station.ended:
                station.dropped = station.tap.dropped()

    def _totals(self, started_ns: int) -> Totals:
        by_place: dict[str, tuple[int, int]] = {}
        for station in self._stations:
            packets, dropped = by_place.get(station.place, (0, 0))
            packets += sum(interface.packets for interface in station.interfaces.values())
            by_place[station.place] = (packets, dropped + station.dropped)
        return Totals(
            packets=sum(packets for packets, _ in by_place.values()),
            dropped=sum(dropped for _, dropped in by_place.values()),
            started_ns=started_ns,
            ended_ns=time.time_ns(),
            reason=self._reason,
            by_place=by_place,
            failure=self._failure,
        )


def _count(crossings: Sequence[Crossing]) -> None:
    for crossing in crossings:
        crossing.interface.packets += 1
