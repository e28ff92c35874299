"""No more requests to the API server than ``clientConnection.qps`` and ``burst`` allow.

Source: client-go rest/config.go (defaults, negative means no limit), util/flowcontrol (a bucket of tokens).
"""

from collections.abc import Mapping
from typing import Any

from netsim.client.transport import NO_QUERY, Response, Transport, WatchStream
from netsim.model.clock import Clock


class LimitedTransport:
    """A transport before which requests wait for their token. A watch is one request, whatever comes over it."""

    def __init__(self, inner: Transport, qps: float, burst: int, clock: Clock) -> None:
        """``burst``: how many may go at once after a quiet time."""
        self._inner = inner
        self._qps = qps
        self._burst = max(1, burst)
        self._clock = clock
        self._tokens = float(self._burst)
        self._at_s = clock.monotonic_s()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        """As `Transport` says, when it is its turn."""
        await self._wait()
        return await self._inner.request(method, path, query=query, body=body, content_type=content_type)

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        """As `Transport` says, when it is its turn."""
        await self._wait()
        return await self._inner.watch(path, query)

    async def close(self) -> None:
        await self._inner.close()

    async def _wait(self) -> None:
        now_s = self._clock.monotonic_s()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._qps)
        self._at_s = now_s
        self._tokens -= 1  # below zero: those who wait have taken theirs, so that turns are in order
        if self._tokens < 0:
            await self._clock.sleep(-self._tokens / self._qps)


def limit(transport: Transport, qps: float, burst: int, clock: Clock) -> Transport:
    """``transport``, limited; below zero ``qps`` there is no limit."""
    return transport if qps < 0 else LimitedTransport(transport, qps, burst, clock)
