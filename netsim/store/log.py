"""The log on disk: every write is a row of one SQLite table, in order of its revision.

Schema (one table, one row for each write):

    revision   the write's number; one counter for the whole store, from 1, without gaps
    type       ADDED, MODIFIED or DELETED: what the write did to its key
    resource   with namespace and name the key: "pods", "deployments.apps"; namespace is "" for cluster-wide objects
    previous   the revision this write replaced, 0 for none; it is what compaction follows
    value      the object as JSON after the write; of a DELETED row, its last state with the deletion's resourceVersion

and ``meta(compacted)``: the highest revision whose history is gone. The shape is kine's (github.com/k3s-io/kine,
pkg/drivers/sqlite), without its polling: writers and readers are one process here.

The state dies with the cluster, so nothing is synced to disk, and a crash of the machine may tear the file.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netsim.model.errors import ApiError

log = logging.getLogger(__name__)

ADDED = "ADDED"
MODIFIED = "MODIFIED"
DELETED = "DELETED"

Key = tuple[str, str, str]  # (resource, namespace, name)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
  revision INTEGER PRIMARY KEY, type TEXT NOT NULL, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  previous INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (compacted INTEGER NOT NULL);
"""
_INSERT = "INSERT INTO log (revision, type, resource, namespace, name, previous, value) VALUES (?, ?, ?, ?, ?, ?, ?)"
_REPLAY = """
SELECT l.revision, l.type, l.namespace, l.name, l.value, p.value FROM log l LEFT JOIN log p ON p.revision = l.previous
WHERE l.revision > ? AND l.resource = ? ORDER BY l.revision LIMIT ?
"""


@dataclass(slots=True)
class Change:
    """One write, as watchers see it. ``value`` and ``previous`` are shared: never mutate them."""

    revision: int
    type: str
    namespace: str
    name: str
    value: dict[str, Any]
    previous: dict[str, Any] | None
    data: bytes  # ``value`` as JSON


def encode(value: Any) -> bytes:
    """Compact JSON. The standard library's C encoder takes about 25 µs for a pod."""
    return json.dumps(value, separators=(",", ":")).encode()


class Log:
    """The table. Used by one thread at a time; ``path`` may be ``:memory:``."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self.refused: ApiError | None = None
        try:
            self._open()
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        # A journal in memory and an exclusive lock halve the cost of a write (20 µs to 10 µs); a journal file would
        # only serve a process that outlives a crash.
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        row = self._db.execute("SELECT compacted FROM meta").fetchone()
        if row is None:
            self._db.execute("INSERT INTO meta VALUES (0)")
        self.compacted: int = row[0] if row else 0
        self._insert = self._db.execute

    def append(self, revision: int, type_: str, key: Key, previous: int, data: bytes) -> None:
        """Add the row of one write. Raises ApiError 500 with SQLite's words, such as that the disk is full."""
        try:
            self._insert(_INSERT, (revision, type_, *key, previous, data))
        except sqlite3.Error as error:
            self.refused = self._refusal(error)
            raise self.refused from error

    def _refusal(self, error: sqlite3.Error) -> ApiError:
        words = f"Internal error occurred: the store cannot write {self._path}: {error}"
        return ApiError(500, "InternalError", words, hint="make room there; NETSIM_STATE_DIR chooses another place")

    def last_revision(self) -> int:
        newest: int = self._db.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()[0]
        return max(newest, self.compacted)

    def load(self) -> Iterator[tuple[int, Key, bytes]]:
        """The newest row of every key that is not deleted: the current state."""
        query = (
            "SELECT revision, resource, namespace, name, value FROM log WHERE type != 'DELETED' AND revision NOT IN"
            " (SELECT previous FROM log) ORDER BY revision"
        )
        for revision, resource, namespace, name, value in self._db.execute(query):
            yield revision, (resource, namespace, name), value

    def replay(self, after: int, resource: str, limit: int) -> list[Change]:
        """At most ``limit`` changes of one resource after a revision, oldest first."""
        rows = self._db.execute(_REPLAY, (after, resource, limit)).fetchall()
        return [
            Change(
                revision,
                type_,
                namespace,
                name,
                json.loads(value),
                json.loads(before) if before else None,
                value,
            )
            for revision, type_, namespace, name, value, before in rows
        ]

    def compact(self, revision: int) -> None:
        """Forget what was replaced or deleted up to ``revision``; the current state stays.

        Where that fails the history stays, and is told by no error: it is longer than it need be, no more.
        """
        try:
            self._compact(revision)
        except sqlite3.Error as error:
            log.warning("compaction of %s: %s", self._path, error)
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _compact(self, revision: int) -> None:
        self._db.execute("BEGIN")
        self._db.execute(
            "DELETE FROM log WHERE revision IN (SELECT previous FROM log WHERE revision <= ? AND previous > 0)",
            (revision,),
        )
        self._db.execute("DELETE FROM log WHERE revision <= ? AND type = 'DELETED'", (revision,))
        self._db.execute("UPDATE meta SET compacted = ?", (revision,))
        self._db.execute("COMMIT")
        self.compacted = revision

    def close(self) -> None:
        self._db.close()
