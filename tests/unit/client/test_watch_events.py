"""What an informer makes of a real API server's watches: 410 inside of a stream, bookmarks, streams that break."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from netsim.client.api import Api
from netsim.client.informer import Informer
from netsim.client.transport import NO_QUERY, Response
from netsim.model.errors import ApiError
from netsim.model.kinds import CONFIG_MAP
from tests.fake_clock import FakeClock, run_ready

GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
ENDS = "ends"  # as with the server's own time limit
BREAKS = "breaks"
Script = list[Any]


def make_event(kind: str, name: str, revision: int) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": str(revision)}
    return {"type": kind, "object": {"kind": "ConfigMap", "metadata": meta}}


class Server:
    """Lists that are empty, and one watch after the other as scripts say; the last one stays open."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.asked: list[str] = []  # "list", and the revisions that watches began at

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY, body: Any = None, content_type: str = ""
    ) -> Response:
        self.asked.append("list")
        return Response(200, {"items": [], "metadata": {"resourceVersion": str(100 * self.asked.count("list"))}})

    async def watch(self, path: str, query: Mapping[str, str]) -> "Stream":
        assert query["allowWatchBookmarks"] == "true"
        self.asked.append(query["resourceVersion"])
        return Stream(self.scripts.pop(0) if self.scripts else [])

    async def close(self) -> None: ...


class Stream:
    def __init__(self, script: Script) -> None:
        self.script = script

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> dict[str, Any]:
        if not self.script:
            await asyncio.Event().wait()
        event = self.script.pop(0)
        if event == ENDS:
            raise StopAsyncIteration
        if event == BREAKS:
            raise ApiError(503, "ServiceUnavailable", "the watch broke")
        return dict(event)

    def delivered(self) -> int:
        return 0

    async def aclose(self) -> None: ...


def follow(server: Server, seconds: float = 0) -> list[str]:
    """What was asked of it."""

    async def run() -> None:
        clock = FakeClock()
        task = asyncio.create_task(Informer(Api(server), CONFIG_MAP, clock=clock).run())
        await run_ready(100)
        if seconds:
            await clock.advance(seconds)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return server.asked


@pytest.mark.parametrize(
    ("script", "seconds", "asked"),
    [
        ([make_event("ADDED", "a", 105), ENDS], 0, ["list", "100", "105"]),
        ([make_event("ADDED", "a", 105), make_event("BOOKMARK", "", 190), ENDS], 0, ["list", "100", "190"]),
        ([make_event("ADDED", "a", 105), GONE], 0, ["list", "100", "list", "200"]),  # at once
        ([make_event("ADDED", "a", 105), BREAKS], 0, ["list", "100"]),
        ([make_event("ADDED", "a", 105), BREAKS], 1, ["list", "100", "list", "200"]),
    ],
)
def test_where_the_next_watch_begins(script: Script, seconds: float, asked: list[str]) -> None:
    assert follow(Server(script), seconds) == asked


def test_a_server_that_finds_everything_too_old_is_not_asked_without_end() -> None:
    asked = follow(Server(*([GONE] for _ in range(1000))), seconds=20)
    assert 8 < asked.count("list") < 20
