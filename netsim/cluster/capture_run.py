"""A capture over any number of places, run in the caller's own process.

The cluster process only makes the sockets, one round trip each; reading, ordering and writing cost it nothing.
"""

import os
import resource
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

from netsim.cluster.control_client import ControlClient
from netsim.kernel.bpf import BpfProgram, compile_filter, keep_all
from netsim.kernel.tap import SNAPLEN_MAX
from netsim.model.errors import NetsimError, UsageError
from netsim.model.where import Where, parse_spot
from netsim.observe.capture import Capture, Station, Totals, close_stations, open_station
from netsim.observe.crossing import Crossing
from netsim.observe.sinks import ListSink, Sink, TeeSink

CLUSTER_ENDED = "the cluster has ended"
_SPARE_DESCRIPTORS = 64
_DESCRIPTORS_EACH = 3
_SIDE_BY_SIDE = 16

Spot = tuple[Where, str | None]


class RunningCapture:
    """A capture in the background, as a context manager: it sees from the first line in the block to its last."""

    def __init__(self, start: Callable[[Callable[[], Sink]], Capture], make_file: Callable[[], Sink] | None) -> None:
        self._start = start
        self._make_file = make_file
        self._kept = ListSink()
        self._capture: Capture | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.totals: Totals | None = None  # after the block

    @property
    def frames(self) -> list[Crossing]:
        """What was seen so far, by time; after the block, all of it."""
        return list(self._kept.crossings)

    def __enter__(self) -> Self:
        self._capture = self._start(self._make_sink)
        self._thread = threading.Thread(target=self._run, name="netsim-capture", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._capture is not None and self._thread is not None:
            self._capture.stop()
            self._thread.join()
        if kind is not None:
            return
        if self._failure is not None:
            raise self._failure
        if self.totals is not None and self.totals.failure:
            raise NetsimError(f"the capture ended early: {self.totals.failure}")

    def _make_sink(self) -> Sink:
        return self._kept if self._make_file is None else TeeSink([self._make_file(), self._kept])

    def _run(self) -> None:
        if self._capture is None:
            return
        try:
            self.totals = self._capture.run()
        except BaseException as error:  # told to whom the block belongs
            self._failure = error


def start_capture(
    control: ControlClient,
    pid: int,
    spots: Sequence[Spot],
    make_sink: Callable[[], Sink],
    *,
    filter: str = "",
    snaplen: int = SNAPLEN_MAX,
    skip_missing: bool = False,
    note: Callable[[str], None] = lambda _text: None,
    **options: Any,
) -> Capture:
    """See `netsim.cluster.capturing_client.Capturing.start_capture`; ``pid`` is the cluster process'."""
    program = compile_filter(filter, snaplen=snaplen) if filter else keep_all(snaplen)
    _need_descriptors(_DESCRIPTORS_EACH * len(spots))
    stations: list[Station] = []
    failures: list[NetsimError] = []
    ends: dict[int, str] = {}
    try:
        for (where, _), found in zip(spots, _open_all(control, spots, program), strict=True):
            if isinstance(found, Station):
                stations.append(found)
            elif skip_missing:
                note(f"{where} is left out: {found.message}")
            else:
                failures.append(found)
        if failures:
            raise failures[0]
        ends = _ends(pid)
        return Capture(stations, make_sink(), ends=ends, note=note, **options)
    except BaseException:
        close_stations(stations)
        for descriptor in ends:
            os.close(descriptor)
        raise


def _open_all(control: ControlClient, spots: Sequence[Spot], program: BpfProgram) -> list[Station | NetsimError]:
    """Side by side, for the kernel takes milliseconds for each ring, in which it only waits (for RCU)."""

    def open_one(spot: Spot) -> Station | NetsimError:
        where, interface = spot
        source = _Place(control, where)
        try:
            return open_station(
                source, str(where), netns=where.netns, interface=interface, program=program, taps=len(spots)
            )
        except NetsimError as error:
            return error

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return list(pool.map(open_one, spots))


def _ends(pid: int) -> dict[int, str]:
    """What ends a capture: the end of the cluster, whose namespaces our sockets would hold."""
    try:
        return {os.pidfd_open(pid): CLUSTER_ENDED}
    except OSError as error:
        raise NetsimError(
            f"the cluster process can't be watched: {error.strerror}", hint="netsim list shows whether it runs"
        ) from error


class _Place:
    """Opens sockets at a place of the cluster, as a Netns does at its own."""

    def __init__(self, control: ControlClient, where: Where) -> None:
        self._control = control
        self._where = str(where)
        self.name = self._where

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
        # Close on exec is what passing a descriptor over sees to (netsim.kernel.passing).
        return self._control.ask_socket("socket", where=self._where, family=int(family), type=int(type), proto=proto)


def parse_spots(words: Sequence[str], namespace: str = "default") -> list[Spot]:
    """Places and interfaces, each once; one that is there as a whole has its interfaces in it. Raises UsageError."""
    if not words:
        raise UsageError("a capture needs a place", hint="pod/NAME, node/NAME, host/external or fabric, or several")
    found = list(dict.fromkeys(parse_spot(word, namespace) for word in words))
    whole = {where for where, interface in found if interface is None}
    return [(where, interface) for where, interface in found if interface is None or where not in whole]


def application_name() -> str:
    """What a capture file says about who wrote it."""
    return f"netsim {version('netsim')}"


def _need_descriptors(count: int) -> None:
    """Let this process have ``count`` more descriptors than usual. Raises NetsimError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and wanted > soft:
        if hard != resource.RLIM_INFINITY and wanted > hard:
            raise NetsimError(
                f"so many places need {wanted} open files, and {hard} are allowed", hint=f"ulimit -n {wanted}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
