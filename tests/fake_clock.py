"""A clock that moves only when a test says so."""

import asyncio
import heapq
from itertools import count


class FakeClock:
    """A netsim.model.clock.Clock. Starts at 2024-01-01T00:00:00Z."""

    def __init__(self, wall_s: float = 1_704_067_200.0) -> None:
        self._now_s = 0.0
        self._wall_s = wall_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = count()

    def monotonic_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._wall_s + self._now_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._sequence), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass: everything that sleeps so long wakes, in order, and gets to run."""
        until_s = self._now_s + seconds
        while True:
            await run_ready()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if not self._sleepers or self._sleepers[0][0] > until_s:
                break
            self._now_s, _, woken = heapq.heappop(self._sleepers)
            woken.set_result(None)
        self._now_s = until_s
        await run_ready()


async def run_ready(rounds: int = 20) -> None:
    """Let every task that can run do so, and what they wake in turn."""
    for _ in range(rounds):
        await asyncio.sleep(0)
