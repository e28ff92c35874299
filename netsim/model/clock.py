"""Time as an argument: components take a Clock, so that tests need not sleep."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where a component gets its time from."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...

    def wall_s(self) -> float:
        """Seconds since the Unix epoch, for timestamps in objects."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
