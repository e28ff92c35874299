"""One watch: a store cursor seen through selectors.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from netsim.model.errors import ApiError
from netsim.model.selectors import FieldSelector, LabelSelector
from netsim.store.log import ADDED, DELETED, MODIFIED, Change
from netsim.store.store import Cursor, Record

Object = dict[str, Any]
BOOKMARK = "BOOKMARK"
ERROR = "ERROR"


class WatchEvent(NamedTuple):
    """One event. ``data`` is the object as JSON where the store has it already."""

    type: str
    object: Object
    data: bytes | None = None


class Selection:
    """The label and field selectors of one request."""

    __slots__ = ("_everything", "_fields", "_labels")

    def __init__(self, labels: LabelSelector, fields: FieldSelector) -> None:
        self._labels = labels
        self._fields = fields
        self._everything = labels.everything and fields.everything

    @property
    def everything(self) -> bool:
        return self._everything

    def matches(self, obj: Object) -> bool:
        return self._everything or (self._labels.matches(obj["metadata"].get("labels")) and self._fields.matches(obj))


class ServerWatch:
    """A running watch; the in-process WatchStream, and what HTTP reads in batches.

    An object that comes to match is ADDED, one that ceases to match is DELETED, whatever the write was.
    """

    def __init__(
        self,
        cursor: Cursor,
        selection: Selection,
        initial: list[WatchEvent],
        bookmark: Callable[[int, bool], WatchEvent],
    ) -> None:
        self._cursor = cursor
        self._selection = selection
        self._ready: list[WatchEvent] = initial[::-1]  # taken from the end
        self._initial_left = len(initial)
        self._bookmark = bookmark
        self._ended = False

    def __aiter__(self) -> "ServerWatch":
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._ready:
            batch = await self.batch()
            if not batch:
                raise StopAsyncIteration
            self._ready = batch[::-1]
        event = self._ready.pop()
        self._initial_left = max(0, self._initial_left - 1)
        return {"type": event.type, "object": event.object}

    async def batch(self) -> list[WatchEvent]:
        """What there is now, else what comes next; empty when the watch has ended."""
        while not self._ended or self._ready:
            self._fill()
            if self._ready:
                ready, self._ready = self._ready[::-1], []
                self._initial_left = 0
                return ready
            if self._cursor.closed:
                break
            await self._cursor.wait()
        return []

    def _fill(self) -> None:
        """Take what is there, and drop what this watch does not select."""
        while not self._ready and not self._ended and not self._cursor.caught_up:
            try:
                changes = self._cursor.take()
            except ApiError as error:  # compaction has overtaken this watch: say so, and end
                self._ended = True
                self._ready = [WatchEvent(ERROR, error.to_status())]
                return
            if not changes and self._cursor.closed:
                return
            events = [event for change in changes if (event := self._see(change)) is not None]
            self._ready = events[::-1]

    def _see(self, change: Change) -> WatchEvent | None:
        selection = self._selection
        if selection.everything:
            return WatchEvent(change.type, change.value, change.data)
        matches = change.type != DELETED and selection.matches(change.value)
        matched = change.previous is not None and selection.matches(change.previous)
        if matches:
            return WatchEvent(MODIFIED if matched else ADDED, change.value, change.data)
        return WatchEvent(DELETED, change.value, change.data) if matched else None

    def delivered(self) -> int:
        """Every event up to this revision has been handed out."""
        self._fill()
        if not self._ready:
            return self._cursor.delivered
        if self._initial_left or self._ready[-1].type == ERROR:
            return 0  # initial events come by name, not by revision; after an error nothing is sure
        return int(self._ready[-1].object["metadata"]["resourceVersion"]) - 1

    def bookmark(self, *, initial_end: bool = False) -> WatchEvent:
        """A BOOKMARK at ``delivered()``."""
        return self._bookmark(self.delivered(), initial_end)

    async def aclose(self) -> None:
        """End the watch; may be repeated."""
        self._ended = True
        self._ready = []


def as_added(record: Record) -> WatchEvent:
    """The ADDED event a watch without a resourceVersion starts with, for each object there is."""
    return WatchEvent(ADDED, record.value, record.data)
