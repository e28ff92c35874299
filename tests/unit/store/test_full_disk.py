"""A store whose disk is full: the write is refused in SQLite's words, and what was there stays as it was."""

from pathlib import Path

import pytest

from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.store.store import Store
from tests.unit.apiserver.server import SERVICES, Server, make_service


def limit_pages(store: Store) -> None:
    """No page more than there are now, as on a full disk: SQLITE_FULL (pragma max_page_count)."""
    store._log._db.execute("PRAGMA max_page_count = 1")  # is raised to what is in use


def lift_limit(store: Store) -> None:
    store._log._db.execute("PRAGMA max_page_count = 1000000")


def make_object(size: int) -> dict[str, object]:
    return {"metadata": {"name": "a"}, "data": {"key": "x" * size}}


def test_a_refused_write_is_told_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    store.put("things", "", "a", make_object(1))
    limit_pages(store)
    with pytest.raises(ApiError, match=rf"cannot write {path}: database or disk is full") as caught:
        store.put("things", "", "a", make_object(100_000))
    assert caught.value.code == 500
    assert store.refused is caught.value
    assert store.revision == 1
    record = store.get("things", "", "a")
    assert record is not None
    assert record.value == {"metadata": {"name": "a", "resourceVersion": "1"}, "data": {"key": "x"}}
    lift_limit(store)
    assert store.put("things", "", "a", make_object(100_000)).revision == 2


def test_what_a_refused_write_had_allocated_is_free_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    server = Server(ClusterConfig(), store)
    wanted = make_service("big", clusterIP="10.96.7.7")
    wanted["metadata"]["annotations"] = {"padding": "x" * 100_000}
    limit_pages(store)
    with pytest.raises(ApiError, match="database or disk is full"):
        server.create(SERVICES, wanted)
    lift_limit(store)
    assert server.create(SERVICES, wanted)["spec"]["clusterIP"] == "10.96.7.7"


def test_a_file_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=rf"{tmp_path}/nowhere/store.db: unable to open database file"):
        Store(tmp_path / "nowhere" / "store.db")
