"""Watches and logs on a wire: pieces of bytes, ready to be sent one after the other.

A watch is one JSON document a line (https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from netsim.apiserver.request import is_true, whole_number
from netsim.apiserver.state import State
from netsim.apiserver.strategies.base import Strategy
from netsim.apiserver.tables import make_event_table
from netsim.apiserver.watching import BOOKMARK, ServerWatch, WatchEvent
from netsim.store.log import ADDED, DELETED, MODIFIED, encode

BOOKMARK_EVERY_S = 60.0  # as upstream's watch cache; client-go's reflector expects about one a minute
_OBJECT_EVENTS = frozenset({ADDED, MODIFIED, DELETED})


def _line(event: WatchEvent) -> bytes:
    data = event.data if event.data is not None else encode(event.object)
    return b'{"type":"' + event.type.encode() + b'","object":' + data + b"}\n"


class _Tables:
    """Turns the objects of a stream into Tables."""

    def __init__(self, state: State, strategy: Strategy, include: str) -> None:
        self._state = state
        self._strategy = strategy
        self._include = include
        self._first = True

    def convert(self, event: WatchEvent) -> WatchEvent:
        if event.type not in _OBJECT_EVENTS:
            return event
        now_s = self._state.clock.wall_s()
        table = make_event_table(self._strategy, event.object, now_s, self._include, first=self._first)
        self._first = False
        return WatchEvent(event.type, table)


async def watch_lines(
    state: State, watch: ServerWatch, strategy: Strategy, query: Mapping[str, str], *, table: bool
) -> AsyncIterator[bytes]:
    """The lines of a watch, many at a time, until the query's timeoutSeconds, the server's end, or the watch's.

    With allowWatchBookmarks a BOOKMARK comes every minute and at the end, so that the client can go on from there.
    """
    limit_s = whole_number(query, "timeoutSeconds")
    bookmarks = is_true(query, "allowWatchBookmarks")
    tables = _Tables(state, strategy, query.get("includeObject", "Metadata")) if table else None
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limit_s if limit_s else None
    while True:
        wait_s = min(BOOKMARK_EVERY_S, end_s - loop.time()) if end_s is not None else BOOKMARK_EVERY_S
        try:
            async with asyncio.timeout(max(wait_s, 0)):
                # Cancelled only where it waits: no change is taken and then lost.
                events = await watch.batch()
        except TimeoutError:
            if bookmarks:
                yield _line(watch.bookmark())
            if end_s is not None and loop.time() >= end_s:
                return
            continue
        if not events:
            return
        wanted = [event for event in events if bookmarks or event.type != BOOKMARK]
        yield b"".join(_line(tables.convert(event) if tables else event) for event in wanted)
