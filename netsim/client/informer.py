"""A local copy of one kind, kept by list and watch, with indexes and synchronous handlers."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable

from netsim.client.api import Api
from netsim.client.transport import WatchStream
from netsim.model.clock import Clock, SystemClock
from netsim.model.errors import ApiError, NetsimError
from netsim.model.kinds import Kind
from netsim.model.objects import Key, Object, key_of, revision_of, uid_of

log = logging.getLogger(__name__)

Handler = Callable[[Object | None, Object | None], None]
IndexKey = Callable[[Object], Iterable[str]]

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0
BACKOFF_RESET_S = 30.0  # a watch that lasted so long was a good one: its end is no failure more in a row
_TURNS = 10  # of the event loop, before reached() sleeps: in process an event is here after two or three
_POLL_FIRST_S = 0.001
_POLL_MAX_S = 0.02


class _Index:
    """One index: value -> the objects that have it."""

    __slots__ = ("key", "values")

    def __init__(self, key: IndexKey) -> None:
        self.key = key
        self.values: dict[str, dict[Key, Object]] = {}

    def change(self, key: Key, old: Object | None, new: Object | None) -> None:
        before = tuple(self.key(old)) if old is not None else ()
        after = tuple(self.key(new)) if new is not None else ()
        for value in before:
            if value not in after:
                objects = self.values[value]
                del objects[key]
                if not objects:
                    del self.values[value]
        if new is not None:
            for value in after:
                self.values.setdefault(value, {})[key] = new


class Informer:
    """One kind's objects as the API has them. They are shared: never change one, copy it first.

    ``run`` keeps it current until cancelled. It lists, then watches from the list's revision; when the watch
    is refused as too old (410) or the server goes away it lists again and tells the handlers the difference,
    so handlers see every object's way from one state to a later one, though not each state in between.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.kind = kind
        self.revision = 0  # of the last list, event or bookmark
        self._api = api
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._clock = clock or SystemClock()
        self._objects: dict[Key, Object] = {}
        self._indexes: dict[str, _Index] = {}
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._stream: WatchStream | None = None
        self._watching_s = float("inf")  # since when

    # --- reading ---

    def get(self, namespace: str | None, name: str) -> Object | None:
        return self._objects.get((namespace or "", name))

    def items(self) -> Collection[Object]:
        """All objects; do not keep it across an ``await``, it is a live view."""
        return self._objects.values()

    def __len__(self) -> int:
        return len(self._objects)

    def add_index(self, index: str, key: IndexKey) -> None:
        """Index the objects by the values ``key`` gives for each. A second one of the same name is ignored."""
        if index in self._indexes:
            return
        made = self._indexes[index] = _Index(key)
        for object_key, obj in self._objects.items():
            made.change(object_key, None, obj)

    def by_index(self, index: str, value: str) -> list[Object]:
        found = self._indexes[index].values.get(value)
        return list(found.values()) if found else []

    def count_index(self, index: str, value: str) -> int:
        """How many by_index would return, without building the list."""
        return len(self._indexes[index].values.get(value, ()))

    def index_values(self, index: str) -> Collection[str]:
        """Every value some object has in that index."""
        return self._indexes[index].values.keys()

    # --- following ---

    def add_handler(self, handler: Handler) -> None:
        """Call ``handler(old, new)`` on every change: (None, new) added, (old, None) deleted.

        It runs synchronously and must be quick, usually ``queue.add(key)``. Objects already here are told at
        once as added.
        """
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            self._call(handler, None, obj)

    async def synced(self) -> None:
        """Return when the first list is in."""
        await self._synced.wait()

    async def reached(self, revision: int) -> None:
        """Return when every change up to ``revision`` is in the cache and was told to the handlers."""
        await self._synced.wait()
        turns, poll_s = _TURNS, _POLL_FIRST_S
        while True:
            stream = self._stream
            if self.revision >= revision or (stream is not None and stream.delivered() >= revision):
                return
            # The stream knows without telling: a revision that was another kind's brings no event here.
            if turns:
                turns -= 1
                await asyncio.sleep(0)
                continue
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 2, _POLL_MAX_S)

    async def run(self) -> None:
        """Follow the API until cancelled; its absence is waited out with back-off."""
        failures = 0
        relist = True
        while True:
            try:
                if relist:
                    await self._list()
                    relist = False
                await self._watch()
                failures = 0  # a clean end: the server's own time limit; go on from where it stopped
            except NetsimError as error:
                relist = True
                if self._clock.monotonic_s() - self._watching_s >= BACKOFF_RESET_S:
                    failures = 0
                self._watching_s = float("inf")
                expired = isinstance(error, ApiError) and error.code == 410
                delay_s = 0.0 if expired and not failures else min(BACKOFF_FIRST_S * 2**failures, BACKOFF_MAX_S)
                delay_s *= 1 + random.random()  # all nodes lost the server at once, and must not all come at once
                failures = min(failures + 1, 16)
                log.info("%s: %s; listing again in %.2f s", self.kind.resource, error, delay_s)
                if delay_s:
                    await self._clock.sleep(delay_s)

    async def _list(self) -> None:
        listed = await self._api.list(self.kind, self._namespace, labels=self._labels, fields=self._fields)
        current = {key_of(obj): obj for obj in listed.items}
        for key in [key for key in self._objects if key not in current]:
            self._change(key, None)
        for key, obj in current.items():
            old = self._objects.get(key)
            if old is None or old["metadata"].get("resourceVersion") != obj["metadata"].get("resourceVersion"):
                self._change(key, obj)
        self.revision = listed.revision
        self._synced.set()

    async def _watch(self) -> None:
        stream = await self._api.watch(
            self.kind, self._namespace, revision=self.revision, labels=self._labels, fields=self._fields
        )
        self._stream = stream
        self._watching_s = self._clock.monotonic_s()
        try:
            async for event in stream:
                kind = event["type"]
                obj = event["object"]
                if kind == "ERROR":
                    raise ApiError.from_status(obj)
                self.revision = revision_of(obj)
                if kind != "BOOKMARK":
                    self._change(key_of(obj), None if kind == "DELETED" else obj)
        finally:
            self._stream = None
            await stream.aclose()

    def _change(self, key: Key, new: Object | None) -> None:
        old = self._objects.get(key)
        if old is None and new is None:
            return
        if old is not None and new is not None and uid_of(old) != uid_of(new):
            self._change(key, None)  # deleted and made anew while nobody looked
            old = None
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        for index in self._indexes.values():
            index.change(key, old, new)
        for handler in self._handlers:
            self._call(handler, old, new)

    def _call(self, handler: Handler, old: Object | None, new: Object | None) -> None:
        try:
            handler(old, new)
        except Exception:  # one broken handler must not stop the cache that everybody shares
            log.exception("%s: a handler failed", self.kind.resource)
