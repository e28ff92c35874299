"""What is set up in every place while a probe is under way: the rule trace, a tap, and legacy iptables' log.

Opened and closed in parallel: a packet ring takes the kernel an RCU grace period (some 12 ms) to make and two to take
down, and grace periods of several threads are the same ones.
"""

import contextlib
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from netsim.kernel.bpf import BpfProgram
from netsim.kernel.netns import Netns
from netsim.kernel.nf_log import LogMessage, TraceLog, has_legacy_rules
from netsim.kernel.nft_trace import RuleTrace, TraceMessage
from netsim.kernel.tap import Frame, Tap
from netsim.model.errors import KernelError, NetsimError

_THREADS = 32
_RING_BYTES = 512 * 1024
_RETIRE_MS = 1
# A frame is readable after twice the ring's latency, which the kernel rounds up to its tick.
_SILENCE_S = 0.012
_MOST_SILENCE_S = 0.1


@dataclass(slots=True)
class Post:
    """One place under observation. ``frames``, ``messages``, ``logged``: what was read so far."""

    place: str
    ns: Netns
    trace: RuleTrace | None = None
    tap: Tap | None = None
    log: TraceLog | None = None
    frames: list[Frame] = field(default_factory=list)
    messages: list[TraceMessage] = field(default_factory=list)
    logged: list[LogMessage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)
    _stopped: bool = False

    def interface(self, index: int) -> str:
        """The name of an interface; "" for none, "#N" for one that is gone."""
        if not index:
            return ""
        if index not in self._names:
            self._names[index] = (self.tap.name_of(index) if self.tap else "") or f"#{index}"
        return self._names[index]

    def open(self, table: bytes, filter: BpfProgram) -> None:
        """Whatever of it can't be had is noted; the rest goes on."""
        self._try("rules", self._open_trace, table)
        self._try("rules of legacy iptables", self._open_log)
        self._try("interfaces", self._open_tap, filter)

    def _open_trace(self, table: bytes) -> None:
        trace = RuleTrace(self.ns)
        try:
            trace.install(table)
        except BaseException:
            trace.close()
            raise
        self.trace = trace

    def _open_log(self) -> None:
        if has_legacy_rules(self.ns):
            self.log = TraceLog(self.ns)

    def _open_tap(self, filter: BpfProgram) -> None:
        self.tap = Tap(self.ns, filter=filter, buffer_bytes=_RING_BYTES, latency_ms=_RETIRE_MS)

    def _try(self, what: str, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(*arguments)
        except NetsimError as error:
            self.notes.append(f"{what} of {self.place}: {error.message}")

    def read(self) -> bool:
        """Take what has come; whether anything had."""
        before = len(self.frames), len(self.messages), len(self.logged)
        if self.tap:
            self.frames += self.tap.read()
        if self.trace:
            self.messages += self.trace.read()
        if self.log:
            self.logged += self.log.read()
        return before != (len(self.frames), len(self.messages), len(self.logged))

    def stop(self) -> None:
        """Nothing is marked or seen any more; what was can still be read. May be repeated."""
        if self._stopped:
            return
        self._stopped = True
        if self.tap:
            with contextlib.suppress(KernelError):  # the filter keeps what it keeps, and the tap is closed soon
                self.tap.stop()
        if self.trace:
            self._try("end of the rule trace", self.trace.remove)
        if self.log:
            self.log.close()

    def note_losses(self) -> None:
        """Say so where more came than could be kept."""
        if (self.trace and self.trace.lost) or (self.log and self.log.lost):
            self.notes.append(f"rules of {self.place}: more messages than fit, some are missing")
        dropped = self.tap.dropped() if self.tap else 0
        if dropped:
            self.notes.append(f"interfaces of {self.place}: {dropped} frames did not fit")

    def close(self) -> None:
        """May be repeated."""
        for one in (self.trace, self.tap, self.log):
            if one is not None:
                one.close()


def open_posts(places: Mapping[str, Netns], table: bytes, filter: BpfProgram) -> list[Post]:
    """A post in every place. What a place lacks is in its post's notes."""
    posts = [Post(place, ns) for place, ns in places.items()]
    try:
        with ThreadPoolExecutor(min(_THREADS, len(posts)) or 1, thread_name_prefix="trace-open") as pool:
            for done in [pool.submit(post.open, table, filter) for post in posts]:
                done.result()
    except BaseException:
        close_posts(posts)
        raise
    return posts


def wait_for_silence(posts: Sequence[Post]) -> None:
    """Read until nothing comes any more for a moment: the last packets are under way when the answer is there."""
    poll = select.poll()
    by_fd: dict[int, Post] = {}
    for post in posts:
        for one in (post.trace, post.tap, post.log):
            if one is not None:
                by_fd[one.fileno()] = post
                poll.register(one.fileno(), select.POLLIN)
    deadline = time.monotonic() + _MOST_SILENCE_S
    quiet = time.monotonic() + _SILENCE_S
    while (now := time.monotonic()) < min(quiet, deadline):
        for fd, _events in poll.poll((min(quiet, deadline) - now) * 1000):
            if by_fd[fd].read():
                quiet = time.monotonic() + _SILENCE_S


def close_posts(posts: Iterable[Post]) -> None:
    """Close all in the background: nobody has to wait for it, and until then they see nothing any more."""
    posts = list(posts)
    for post in posts:
        post.stop()
    pool = ThreadPoolExecutor(min(_THREADS, len(posts)) or 1, thread_name_prefix="trace-close")
    for post in posts:
        pool.submit(post.close)
    pool.shutdown(wait=False)
