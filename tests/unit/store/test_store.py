"""The store: revisions, watches from any revision, compaction, reopening."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from netsim.model.errors import ApiError
from netsim.store import store as store_module
from netsim.store.log import ADDED, DELETED, MODIFIED, Change
from netsim.store.store import Cursor, Store


def make(text: str = "") -> dict[str, Any]:
    return {"metadata": {"name": "x"}, "text": text}


def take_all(cursor: Cursor) -> list[Change]:
    """Everything up to now, however many reads it takes."""
    found: list[Change] = []
    while not cursor.caught_up:
        found += cursor.take()
    return found


def test_every_write_gets_the_next_revision_and_carries_it() -> None:
    store = Store()
    first = store.put("pods", "ns", "a", make())
    second = store.put("services", "ns", "b", make())
    assert (first.revision, second.revision, store.revision) == (1, 2, 2)
    assert first.value["metadata"]["resourceVersion"] == "1"
    gone = store.delete("pods", "ns", "a")
    assert gone is not None
    assert gone["metadata"]["resourceVersion"] == "3"
    assert first.value["metadata"]["resourceVersion"] == "1"  # what was handed out stays as it was
    assert store.get("pods", "ns", "a") is None
    assert store.delete("pods", "ns", "a") is None
    assert store.revision == 3


def test_records_come_ordered_by_namespace_and_name() -> None:
    store = Store()
    for namespace, name in (("b", "1"), ("a", "2"), ("a", "1")):
        store.put("pods", namespace, name, make(f"{namespace}{name}"))
    assert [record.value["text"] for record in store.records("pods")] == ["a1", "a2", "b1"]
    assert [record.value["text"] for record in store.records("pods", "a")] == ["a1", "a2"]
    assert store.records("pods", "none") == []
    assert store.records("services") == []


def test_a_watch_replays_from_a_revision() -> None:
    store = Store()
    store.put("pods", "ns", "a", make("1"))
    store.put("pods", "ns", "a", make("2"))
    store.put("other", "ns", "a", make())
    store.delete("pods", "ns", "a")
    changes = store.watch("pods", None, 1).take()
    assert [(c.type, c.revision, c.value["text"]) for c in changes] == [(MODIFIED, 2, "2"), (DELETED, 4, "2")]
    assert changes[0].previous is not None
    assert changes[0].previous["text"] == "1"
    assert [c.type for c in store.watch("pods", None, 0).take()] == [ADDED, MODIFIED, DELETED]


def test_a_watch_sees_one_namespace() -> None:
    store = Store()
    cursor = store.watch("pods", "a", 0)
    store.put("pods", "b", "x", make())
    assert cursor.take() == []
    assert cursor.delivered == 1
    store.put("pods", "a", "x", make())
    assert [c.namespace for c in cursor.take()] == ["a"]


def test_a_watch_from_before_the_window_reads_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WINDOW", 10)
    store = Store()
    lagging = store.watch("pods", None, 0)
    for number in range(95):
        store.put("pods", "ns", f"n{number % 7}", make(str(number)))
    wanted = [str(number) for number in range(95)]
    assert [c.value["text"] for c in take_all(lagging)] == wanted
    late = take_all(store.watch("pods", None, 3))
    assert [c.value["text"] for c in late] == wanted[3:]
    assert [c.previous["text"] for c in late if c.previous] == wanted[:88][: len([c for c in late if c.previous])]


def test_a_log_longer_than_one_read_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WINDOW", 10)
    monkeypatch.setattr(store_module, "_REPLAY_LIMIT", 7)
    store = Store()
    for number in range(50):
        store.put("pods", "ns", "a", make(str(number)))
        store.put("other", "ns", "a", make(str(number)))
    assert [c.value["text"] for c in take_all(store.watch("pods", None, 0))] == [str(n) for n in range(50)]


def test_watch_from_compacted_revision_is_gone() -> None:
    store = Store()
    for number in range(10):
        store.put("pods", "ns", "a", make(str(number)))
    store.compact(5)
    with pytest.raises(ApiError, match=r"too old resource version: 4 \(5\)") as caught:
        store.watch("pods", None, 4)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    assert [c.value["text"] for c in store.watch("pods", None, 5).take()] == ["5", "6", "7", "8", "9"]


def test_compaction_keeps_the_current_state_and_what_the_next_change_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    store.put("pods", "ns", "old", make("kept"))
    store.put("pods", "ns", "a", make("1"))
    store.put("pods", "ns", "gone", make())
    store.delete("pods", "ns", "gone")
    store.put("pods", "ns", "a", make("2"))
    store.compact(4)
    store.close()
    store = Store(tmp_path / "db")
    assert [r.value["text"] for r in store.records("pods")] == ["2", "kept"]
    (change,) = store.watch("pods", None, 4).take()
    assert change.previous is not None
    assert change.previous["text"] == "1"


def test_a_watcher_that_compaction_has_overtaken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WINDOW", 5)
    store = Store()
    slow = store.watch("pods", None, 0)
    for number in range(30):
        store.put("pods", "ns", "a", make(str(number)))
    store.compact(20)
    with pytest.raises(ApiError, match="too old resource version: 0") as caught:
        slow.take()
    assert caught.value.code == 410


def test_a_watcher_that_has_seen_all_survives_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WINDOW", 5)
    store = Store()
    idle = store.watch("quiet", None, 0)
    for number in range(30):
        store.put("pods", "ns", "a", make(str(number)))
    assert idle.take() == []
    store.compact(30)
    store.put("quiet", "ns", "a", make("news"))
    assert [c.value["text"] for c in idle.take()] == ["news"]


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COMPACT_EVERY", 10)
    store = Store(keep_revisions=50)
    for number in range(500):
        store.put("pods", "ns", "a", make(str(number)))
    assert 500 - 50 - 10 <= store.compacted <= 500 - 50
    assert len(take_all(store.watch("pods", None, store.compacted))) == 500 - store.compacted


def test_reopening_finds_state_and_revision(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    store.put("pods", "ns", "a", make("1"))
    store.put("pods", "ns", "b", make("2"))
    store.delete("pods", "ns", "b")
    store.close()
    again = Store(tmp_path / "db")
    assert again.revision == 3
    assert [r.value["text"] for r in again.records("pods")] == ["1"]
    assert [c.type for c in again.watch("pods", None, 0).take()] == [ADDED, ADDED, DELETED]


def test_a_revision_is_never_given_twice_even_when_the_last_write_is_compacted(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    store.put("pods", "ns", "a", make())
    store.delete("pods", "ns", "a")
    store.compact(2)
    store.close()
    again = Store(tmp_path / "db")
    assert again.revision == 2
    assert again.put("pods", "ns", "a", make()).revision == 3


def test_a_waiting_watcher_wakes_for_its_resource_only() -> None:
    async def scenario() -> None:
        store = Store()
        cursor = store.watch("pods", None, 0)
        waiting = asyncio.create_task(cursor.wait())
        await asyncio.sleep(0)
        store.put("other", "ns", "a", make())
        await asyncio.sleep(0)
        assert not waiting.done()
        store.put("pods", "ns", "a", make())
        await asyncio.wait_for(waiting, 5)
        assert len(cursor.take()) == 1

    asyncio.run(scenario())


def test_closing_wakes_every_watcher() -> None:
    async def scenario() -> None:
        store = Store()
        cursor = store.watch("pods", None, 0)
        waiting = asyncio.create_task(cursor.wait())
        await asyncio.sleep(0)
        store.close()
        await asyncio.wait_for(waiting, 5)
        assert cursor.closed
        assert cursor.take() == []

    asyncio.run(scenario())


def test_a_cancelled_waiter_is_forgotten() -> None:
    async def scenario() -> None:
        store = Store()
        cursor = store.watch("pods", None, 0)
        waiting = asyncio.create_task(cursor.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert store._resource("pods").waiters == []
        store.put("pods", "ns", "a", make())
        assert len(cursor.take()) == 1

    asyncio.run(scenario())


def test_delivered_is_what_was_taken() -> None:
    store = Store()
    cursor = store.watch("pods", None, 0)
    store.put("other", "ns", "a", make())
    assert cursor.delivered == 1  # nothing of this resource is left to take
    store.put("pods", "ns", "a", make())
    store.put("other", "ns", "a", make())
    assert cursor.delivered < 2
    cursor.take()
    assert cursor.delivered == 3
