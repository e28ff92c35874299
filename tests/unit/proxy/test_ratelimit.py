"""Requests to the API server: so many at once, then so many a second."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from netsim.client.transport import NO_QUERY, Response, WatchStream
from proxy.ratelimit import LimitedTransport, limit
from tests.unit.proxy.cluster import HandClock, let_run


class Server:
    def __init__(self) -> None:
        self.asked = 0

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY, body: Any = None, content_type: str = ""
    ) -> Response:
        self.asked += 1
        return Response(200, {})

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        self.asked += 1
        raise AssertionError("no stream here")

    async def close(self) -> None: ...


def test_a_burst_and_then_a_rate() -> None:
    async def run() -> None:
        server, clock = Server(), HandClock()
        transport = LimitedTransport(server, qps=5, burst=3, clock=clock)
        tasks = [asyncio.create_task(transport.request("GET", "/")) for _ in range(10)]
        await let_run()
        assert server.asked == 3
        for done in (4, 5, 6):
            await clock.advance(0.2)
            assert server.asked == done
        await clock.advance(10)
        assert server.asked == 10
        # After a quiet time a burst again, and no more.
        await clock.advance(100)
        tasks += [asyncio.create_task(transport.request("GET", "/")) for _ in range(5)]
        await let_run()
        assert server.asked == 13
        await clock.advance(10)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_watch_is_a_request_too() -> None:
    async def run() -> None:
        server, clock = Server(), HandClock()
        transport = LimitedTransport(server, qps=1, burst=1, clock=clock)
        with pytest.raises(AssertionError, match="no stream"):
            await transport.watch("/", {})
        waiting = asyncio.create_task(transport.watch("/", {}))
        await let_run()
        assert server.asked == 1
        await clock.advance(1)
        assert server.asked == 2
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(run())


def test_below_zero_there_is_no_limit() -> None:
    server = Server()
    assert limit(server, -1, 1, HandClock()) is server
