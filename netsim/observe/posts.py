"""What is set up in every place while a probe is under way: the rule trace, a tap, and legacy iptables' log.

Opened and closed in parallel: a packet ring takes the kernel an RCU grace period (some 12 ms) to make and two to take
down, and grace periods of several threads are the same ones. Pods, of which there may be a thousand, have no ring.
"""

import contextlib
import select
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from netsim.kernel.bpf import BpfProgram
from netsim.kernel.netns import Netns
from netsim.kernel.nf_log import LogMessage, TraceLog, has_legacy_rules
from netsim.kernel.nft_trace import RuleTrace, TraceMessage
from netsim.kernel.small_tap import SmallTap
from netsim.kernel.stamps import await_stamps
from netsim.kernel.tap import Frame, Tap
from netsim.model.errors import KernelError, NetsimError

_THREADS = 64
_RING_BYTES = 512 * 1024
_RETIRE_MS = 1
# A frame is readable after twice the ring's latency, which the kernel rounds up to its tick.
_SILENCE_S = 0.012
_TICKS_S = 0.008
_LATE_S, _MOST_LATES = 0.004, 4
_MOST_SILENCE_S = 0.1
# A namespace has one listener for the log of legacy iptables, so probes take turns where there is any.
_legacy_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is set up in a place: the transaction that makes its table of rules, and what its taps keep.

    ``maybe`` is for a tap of its own: other traffic that it keeps can't push out what is the probe's for certain.
    """

    batch: bytes
    filter: BpfProgram
    maybe: BpfProgram | None = None


@dataclass(slots=True)
class Post:
    """One place under observation. ``frames``, ``messages``, ``logged``: what was read so far."""

    place: str
    ns: Netns
    trace: RuleTrace | None = None
    tap: Tap | SmallTap | None = None
    maybe: Tap | SmallTap | None = None
    log: TraceLog | None = None
    frames: list[Frame] = field(default_factory=list)
    messages: list[TraceMessage] = field(default_factory=list)
    logged: list[LogMessage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)
    _stopped: bool = False
    _dropped_before: int = 0

    def interface(self, index: int) -> str:
        """The name of an interface; "" for none, "#N" for one that is gone."""
        if not index:
            return ""
        if index not in self._names:
            self._names[index] = (self.tap.name_of(index) if self.tap else "") or f"#{index}"
        return self._names[index]

    def open(self, plan: Plan, legacy: bool, small: bool) -> None:
        """Whatever of it can't be had is noted; the rest goes on."""
        self._try("rules", self._open_trace, plan.batch)
        if legacy:
            self._try("rules of legacy iptables", self._open_log)
        self._try("interfaces", self._open_taps, plan, self._open_small if small else self._open_ring)

    def _open_trace(self, batch: bytes) -> None:
        trace = RuleTrace(self.ns)
        try:
            trace.install(batch)
        except BaseException:
            trace.close()
            raise
        self.trace = trace

    def _open_log(self) -> None:
        self.log = TraceLog(self.ns)

    def _open_taps(self, plan: Plan, open: "Callable[[BpfProgram], Tap | SmallTap]") -> None:
        self.tap = open(plan.filter)
        if plan.maybe is not None:
            self.maybe = open(plan.maybe)

    def _open_ring(self, filter: BpfProgram) -> Tap:
        return Tap(self.ns, filter=filter, buffer_bytes=_RING_BYTES, latency_ms=_RETIRE_MS)

    def _open_small(self, filter: BpfProgram) -> SmallTap:
        return SmallTap(self.ns, filter)

    @property
    def _taps(self) -> "list[Tap | SmallTap]":
        return [tap for tap in (self.tap, self.maybe) if tap is not None]

    def _try(self, what: str, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(*arguments)
        except NetsimError as error:
            self.notes.append(f"{what} of {self.place}: {error.message}")

    def read(self) -> bool:
        """Take what has come; whether anything had."""
        before = len(self.frames), len(self.messages), len(self.logged)
        for tap in self._taps:
            self.frames += tap.read()
        if self.trace:
            self.messages += self.trace.read()
        if self.log:
            self.logged += self.log.read()
        return before != (len(self.frames), len(self.messages), len(self.logged))

    def forget(self) -> None:
        """Make room: what came before the probe is sent is not its."""
        self.read()
        self.frames.clear()
        self.messages.clear()
        self.logged.clear()
        for one in (self.trace, self.log):
            if one is not None:
                one.lost = False
        self._dropped_before = sum(tap.dropped() for tap in self._taps)

    def stop(self, table: str) -> None:
        """Nothing is marked or seen any more; what was can still be read. May be repeated."""
        if self._stopped:
            return
        self._stopped = True
        for tap in self._taps:
            with contextlib.suppress(KernelError):  # the filter keeps what it keeps, and the tap is closed soon
                tap.stop()
        if self.trace:
            self._try("end of the rule trace", self.trace.remove, table)
        if self.log:
            self.log.stop()

    def note_losses(self) -> None:
        """Say so where more came than could be kept."""
        if (self.trace and self.trace.lost) or (self.log and self.log.lost):
            self.notes.append(f"rules of {self.place}: more messages than fit, some are missing")
        dropped = sum(tap.dropped() for tap in self._taps) - self._dropped_before
        if dropped:
            self.notes.append(f"interfaces of {self.place}: {dropped} frames did not fit")

    def close(self) -> None:
        """May be repeated."""
        for one in (self.trace, *self._taps, self.log):
            if one is not None:
                one.close()


class Closable(Protocol):
    """Whatever has an end."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


def _rest() -> None:
    """Until a ring has handed over what it took last: two ticks of a kernel with HZ 250, and not late ones."""
    for _ in range(_MOST_LATES):
        began = time.monotonic()
        time.sleep(_TICKS_S)
        if time.monotonic() - began - _TICKS_S <= _LATE_S:
            return


class Posts:
    """All posts of one probe, and nothing left of them at its end."""

    def __init__(self, places: Mapping[str, Netns], table: str, of_nodes: Plan, of_pods: Plan) -> None:
        """Opens a post in every place. What a place lacks is in its post's notes."""
        self._table = table
        self._turn = ExitStack()
        self._later: list[Closable] = []
        self.all = [Post(place, ns) for place, ns in places.items()]
        legacy = {post.place for post in self.all if has_legacy_rules(post.ns)}
        if legacy:
            self._turn.enter_context(_legacy_turn)
        try:
            # The small ones first: while the rings are made, the kernel begins to stamp frames with their time.
            small = [post for post in self.all if post.place.startswith("pod/")]
            rings = [post for post in self.all if not post.place.startswith("pod/")]
            for post in small:
                post.open(of_pods, post.place in legacy, small=True)
            with ThreadPoolExecutor(min(_THREADS, len(rings)) or 1, thread_name_prefix="trace-open") as pool:
                opening = [pool.submit(post.open, of_nodes, post.place in legacy, small=False) for post in rings]
                for done in opening:
                    done.result()
            await_stamps()
        except BaseException:
            self.close()
            raise

    def forget(self) -> None:
        """What came up to now is not the probe's, which is sent next."""
        for post in self.all:
            post.forget()

    def read(self) -> None:
        """Take what has come, so that there is room for more."""
        for post in self.all:
            post.read()

    def wait_for_silence(self) -> None:
        """Read until nothing comes any more for a moment: the last packets are under way when the answer is there."""
        poll = select.poll()
        by_fd: dict[int, Post] = {}
        for post in self.all:
            for one in (post.trace, post.tap, post.maybe, post.log):
                if one is not None:
                    by_fd[one.fileno()] = post
                    poll.register(one.fileno(), select.POLLIN)
        deadline = time.monotonic() + _MOST_SILENCE_S
        quiet = time.monotonic() + _SILENCE_S
        lates = _MOST_LATES
        while (now := time.monotonic()) < min(quiet, deadline):
            ready = poll.poll((min(quiet, deadline) - now) * 1000)
            heard = [by_fd[fd].read() for fd, _events in ready]
            late = lates > 0 and time.monotonic() - quiet > _LATE_S
            if any(heard) or late:
                quiet = time.monotonic() + _SILENCE_S
            if late:  # so may be the timers that make frames readable: that was no silence
                lates -= 1
                deadline = max(deadline, quiet)

    def stop(self) -> None:
        """Nothing is marked, logged or seen any more; all that was has been read. May be repeated."""
        for post in self.all:
            post.stop(self._table)
        _rest()
        for post in self.all:
            post.read()
            post.note_losses()
        self._turn.close()

    def close(self) -> None:
        """Stop now, and close in the background: nobody has to wait for it."""
        try:
            for post in self.all:
                post.stop(self._table)
        finally:
            self._turn.close()
            pool = ThreadPoolExecutor(min(_THREADS, len(self.all)) or 1, thread_name_prefix="trace-close")
            for one in (*self.all, *self._later):
                pool.submit(one.close)
            pool.shutdown(wait=False)

    def close_later(self, one: T) -> T:
        """Have ``one`` closed with the posts: also perf events and netfilter sockets take the kernel a while."""
        self._later.append(one)
        return one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
