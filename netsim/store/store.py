"""The store: current objects in memory, history in the log, cursors for watchers.

A watcher is a cursor over the log: it holds a revision, not a queue. Recent changes are read from a window in memory
that all cursors share, older ones from SQLite, and a cursor that compaction has overtaken gets Expired. So a slow
watcher costs no memory and is never starved in silence. Not chosen: a queue for each watcher, as upstream's cacher
has, which must be bounded and then drops the watcher at a load that the log could have carried.

Everything is called from one thread, the event loop's.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netsim.model.errors import ApiError
from netsim.store.log import ADDED, DELETED, MODIFIED, Change, Log, encode

KEEP_REVISIONS = 10_000  # history for watches, about 30 MB of pods on disk; upstream keeps five minutes of it
COMPACT_EVERY = 500  # writes; each compaction then deletes few rows (2 ms) instead of many at once
WINDOW = 1_000  # newest changes of each resource that cursors read from memory
_REPLAY_LIMIT = 500

_NOTHING: Mapping[str, "Record"] = {}


class Record:
    """The current state of one key. ``value`` is shared: never mutate it."""

    __slots__ = ("data", "revision", "value")

    def __init__(self, value: dict[str, Any], data: bytes, revision: int) -> None:
        self.value = value
        self.data = data
        self.revision = revision


class _Resource:
    """One resource's objects, its window of recent changes and the cursors that wait for more."""

    __slots__ = ("floor", "objects", "start", "waiters", "window")

    def __init__(self, floor: int) -> None:
        self.objects: dict[str, dict[str, Record]] = {}  # namespace -> name -> record
        self.window: list[Change] = []
        self.start = 0  # how many changes have left the window: an absolute index minus this is one into it
        self.floor = floor  # every change of this resource after this revision is in the window
        self.waiters: list[asyncio.Future[None]] = []


class Store:
    """The key space. A key is (resource, namespace, name); a value is an object with ``metadata``.

    Every write gets the next revision and writes it to ``metadata.resourceVersion``, the one field the store sets. The
    store keeps the dict it was given: the caller hands it over and never changes it again.
    """

    def __init__(self, path: str | Path = ":memory:", *, keep_revisions: int = KEEP_REVISIONS) -> None:
        self._log = Log(path)
        self._keep = keep_revisions
        self._revision = self._log.last_revision()
        self._next_compaction = self._revision + keep_revisions + COMPACT_EVERY
        self._resources: dict[str, _Resource] = {}
        self._closed = False
        for revision, (resource, namespace, name), data in self._log.load():
            objects = self._resource(resource).objects.setdefault(namespace, {})
            objects[name] = Record(json.loads(data), data, revision)

    @property
    def revision(self) -> int:
        """The last write's number."""
        return self._revision

    @property
    def refused(self) -> ApiError | None:
        """The last write that could not be stored, since the disk is full or so."""
        return self._log.refused

    @property
    def compacted(self) -> int:
        """The oldest revision a watch may start from."""
        return self._log.compacted

    def _resource(self, name: str) -> _Resource:
        found = self._resources.get(name)
        if found is None:
            found = self._resources[name] = _Resource(self._revision)
        return found

    def get(self, resource: str, namespace: str, name: str) -> Record | None:
        return self._resource(resource).objects.get(namespace, _NOTHING).get(name)

    def records(self, resource: str, namespace: str | None = None) -> list[Record]:
        """The objects of one namespace, or of all (None), ordered by namespace and name."""
        objects = self._resource(resource).objects
        if namespace is not None:
            found = objects.get(namespace, _NOTHING)
            return [found[name] for name in sorted(found)]
        return [found[name] for _, found in sorted(objects.items()) for name in sorted(found)]

    def count(self, resource: str) -> int:
        return sum(map(len, self._resource(resource).objects.values()))

    def put(self, resource: str, namespace: str, name: str, value: dict[str, Any]) -> Record:
        """Create or replace. The caller has checked what is there; there is no other writer."""
        into = self._resource(resource)
        objects = into.objects.setdefault(namespace, {})
        old = objects.get(name)
        revision = self._revision + 1
        value["metadata"]["resourceVersion"] = str(revision)
        data = encode(value)
        type_ = MODIFIED if old else ADDED
        self._log.append(revision, type_, (resource, namespace, name), old.revision if old else 0, data)
        self._revision = revision
        record = objects[name] = Record(value, data, revision)
        self._publish(into, Change(revision, type_, namespace, name, value, old.value if old else None, data))
        return record

    def delete(self, resource: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Remove a key. Returns its last state with the deletion's resourceVersion; None if it is not there."""
        into = self._resource(resource)
        objects = into.objects.get(namespace, {})
        old = objects.get(name)
        if old is None:
            return None
        revision = self._revision + 1
        value = {**old.value, "metadata": {**old.value["metadata"], "resourceVersion": str(revision)}}
        data = encode(value)
        self._log.append(revision, DELETED, (resource, namespace, name), old.revision, data)
        self._revision = revision
        del objects[name]
        if not objects:
            into.objects.pop(namespace, None)
        self._publish(into, Change(revision, DELETED, namespace, name, value, old.value, data))
        return value

    def _publish(self, into: _Resource, change: Change) -> None:
        window = into.window
        window.append(change)
        if len(window) >= 2 * WINDOW:  # in halves, so that trimming costs nothing for each write
            into.floor = window[WINDOW - 1].revision
            into.start += WINDOW
            del window[:WINDOW]
        if into.waiters:
            self._wake(into)
        if self._revision >= self._next_compaction:
            self.compact(self._revision - self._keep)

    @staticmethod
    def _wake(resource: _Resource) -> None:
        waiters, resource.waiters = resource.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def compact(self, revision: int) -> None:
        """Forget the history up to ``revision``: watches from before it are Expired."""
        if revision > self._log.compacted:
            self._log.compact(min(revision, self._revision))
        self._next_compaction = self._revision + COMPACT_EVERY

    def watch(self, resource: str, namespace: str | None, after: int) -> "Cursor":
        """A cursor over one resource's changes after a revision. Raises ApiError 410 Expired."""
        return Cursor(self, self._resource(resource), resource, namespace, after)

    def close(self) -> None:
        """Close the log; every watcher ends."""
        self._closed = True
        for resource in self._resources.values():
            self._wake(resource)
        self._log.close()


def expired(revision: int, compacted: int) -> ApiError:
    """410 in upstream's words (apiserver pkg/storage/etcd3/errors.go)."""
    return ApiError(410, "Expired", f"too old resource version: {revision} ({compacted})")


class Cursor:
    """A place in the history of one resource, optionally of one namespace only."""

    __slots__ = ("_index", "_log", "_namespace", "_resource", "_resource_name", "_seen", "_store")

    def __init__(self, store: Store, resource: _Resource, name: str, namespace: str | None, after: int) -> None:
        self._store = store
        self._log = store._log
        self._resource = resource
        self._resource_name = name
        self._namespace = namespace
        self._seen = after  # every change up to this revision is behind the cursor
        self._index: int | None = None  # of the next change in the window, absolute; None: not in the window (yet)
        self._check()

    def _check(self) -> None:
        if self._seen < self._log.compacted:
            raise expired(self._seen, self._log.compacted)

    @property
    def delivered(self) -> int:
        """Every change up to this revision has been taken."""
        return self._store.revision if self.caught_up else self._seen

    @property
    def caught_up(self) -> bool:
        """Nothing is left to take."""
        resource = self._resource
        if self._index is not None and self._index >= resource.start:
            return self._index >= resource.start + len(resource.window)
        return self._seen >= (resource.window[-1].revision if resource.window else resource.floor)

    @property
    def closed(self) -> bool:
        return self._store._closed

    def take(self) -> list[Change]:
        """The changes since the last call, at once and without waiting; empty when there are none.

        Raises ApiError 410 when compaction has overtaken the cursor.
        """
        if self.closed:
            return []
        if self.caught_up:
            self._seen = max(self._seen, self._store.revision)
            return []
        resource = self._resource
        if self._index is None or self._index < resource.start:
            if self._seen < resource.floor:
                return self._take_from_log()
            self._index = resource.start + bisect_right(resource.window, self._seen, key=lambda c: c.revision)
        changes = resource.window[self._index - resource.start :]
        self._index += len(changes)
        if changes:
            self._seen = changes[-1].revision
        return self._in_namespace(changes)

    def _take_from_log(self) -> list[Change]:
        self._check()
        self._index = None
        changes = self._log.replay(self._seen, self._resource_name, _REPLAY_LIMIT)
        if changes:
            self._seen = changes[-1].revision
        else:
            self._seen = self._resource.floor
        return self._in_namespace(changes)

    def _in_namespace(self, changes: list[Change]) -> list[Change]:
        if self._namespace is None:
            return changes
        return [change for change in changes if change.namespace == self._namespace]

    async def wait(self) -> None:
        """Return when there may be something to take, or the store was closed."""
        if not self.caught_up or self.closed:
            return
        self._seen = max(self._seen, self._store.revision)
        waiter = asyncio.get_running_loop().create_future()
        self._resource.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter.cancelled():
                self._resource.waiters = [w for w in self._resource.waiters if w is not waiter]
