"""A queue of keys: each at most once, one worker for a key at a time, back-off for those that failed.

Source of the behaviour: client-go ``util/workqueue``. Added here: delays for batching, and
``drained``, on which the barrier rests.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

from netsim.model.clock import Clock, SystemClock

K = TypeVar("K", bound=Hashable)

BACKOFF_BASE_S = 0.005  # client-go DefaultControllerRateLimiter
BACKOFF_MAX_S = 30.0  # client-go waits up to 1000 s; nobody watches an emulator that long


class WorkQueue(Generic[K]):
    """For one event loop. Not thread safe."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        backoff_base_s: float = BACKOFF_BASE_S,
        backoff_max_s: float = BACKOFF_MAX_S,
    ) -> None:
        self._clock = clock or SystemClock()
        self._backoff_base_s = backoff_base_s
        self._backoff_max_s = backoff_max_s
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()  # ready, or to be made ready again when its processing ends
        self._processing: set[K] = set()
        self._delayed: dict[K, float] = {}  # key -> when due; counts as work for idle()
        self._backing_off: dict[K, float] = {}  # key -> when due; does not
        self._failures: dict[K, int] = {}
        self._due: list[tuple[float, int, K]] = []
        self._sequence = count()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = 0.0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._idlers: list[asyncio.Future[None]] = []
        self._hurrying = 0

    def __len__(self) -> int:
        """Keys waiting for a worker, delayed ones included, those in back-off not."""
        return len(self._ready) + len(self._delayed)

    def add(self, key: K) -> None:
        """Have ``key`` processed as soon as a worker is free; a pending delay is cut short."""
        if key in self._dirty:
            return
        self._delayed.pop(key, None)
        self._backing_off.pop(key, None)
        self._dirty.add(key)
        if key in self._processing:
            return
        self._ready.append(key)
        self._wake_getter()

    def add_after(self, key: K, delay_s: float) -> None:
        """Have ``key`` processed after ``delay_s`` at the latest; an earlier date stands."""
        if self._hurrying:
            self.add(key)
        if key in self._dirty:
            return
        due_s = self._clock.monotonic_s() + delay_s
        pending_s = self._delayed.get(key)
        if pending_s is not None and pending_s <= due_s:
            return
        self._delayed[key] = due_s
        self._schedule(due_s, key)

    def add_later(self, key: K, delay_s: float) -> None:
        """As add_after, for work that is not due yet and nobody waits for (a TTL, minReadySeconds)."""
        due_s = self._clock.monotonic_s() + delay_s
        pending_s = self._backing_off.get(key)
        if key in self._dirty or key in self._delayed or (pending_s is not None and pending_s <= due_s):
            return
        self._backing_off[key] = due_s
        self._schedule(due_s, key)

    def retry(self, key: K) -> float:
        """Have ``key`` processed again after its back-off, which doubles each time; it is returned."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay_s = min(self._backoff_base_s * 2.0 ** min(failures, 32), self._backoff_max_s)
        self.add_later(key, delay_s)
        return delay_s

    def failures(self, key: K) -> int:
        """How often ``key`` was retried since it last went well."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """``key`` went well: its next back-off starts small again."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, which no other worker gets until ``done``."""
        while not self._ready:
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake_getter()  # the wake-up was meant for a worker; pass it on
                raise
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """The processing of ``key`` ended; if it was added meanwhile, it is ready again."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wake_getter()
        elif self._idlers and self._is_idle():
            self._wake_idlers()

    async def drained(self) -> None:
        """As idle, without the batching delays: those there are, and those that come meanwhile, are due at once."""
        self._hurrying += 1
        try:
            for key in list(self._delayed):
                self.add(key)
            await self.idle()
        finally:
            self._hurrying -= 1

    async def idle(self) -> None:
        """Return when nothing is ready, delayed or in process. Keys in back-off do not count."""
        while not self._is_idle():
            idler = asyncio.get_running_loop().create_future()
            self._idlers.append(idler)
            await idler

    def close(self) -> None:
        """Stop the timer; call when the workers are gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_idle(self) -> bool:
        return not (self._ready or self._processing or self._delayed)

    def _wake_getter(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _wake_idlers(self) -> None:
        idlers, self._idlers = self._idlers, []
        for idler in idlers:
            if not idler.done():
                idler.set_result(None)

    def _schedule(self, due_s: float, key: K) -> None:
        heapq.heappush(self._due, (due_s, next(self._sequence), key))
        if self._timer is None or self._timer.done() or due_s < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due_s
            self._timer = asyncio.get_running_loop().create_task(self._run_timer())

    async def _run_timer(self) -> None:
        while self._due:
            self._timer_due = self._due[0][0]
            wait_s = self._timer_due - self._clock.monotonic_s()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
                continue
            due_s, _, key = heapq.heappop(self._due)
            # An entry whose date was moved or cancelled meanwhile is stale.
            if self._delayed.get(key) == due_s or self._backing_off.get(key) == due_s:
                self.add(key)
