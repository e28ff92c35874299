"""Laws of the store: a watch from any revision, applied to the state at that revision, gives the state now."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.model.errors import ApiError
from netsim.store import store as store_module
from netsim.store.log import ADDED, DELETED, Change
from netsim.store.store import Cursor, Store

Key = tuple[str, str]
State = dict[Key, str]

RESOURCES = ("pods", "services")
WRITES = st.lists(
    st.tuples(
        st.sampled_from(RESOURCES),
        st.sampled_from(("a", "b")),
        st.sampled_from(("x", "y", "z")),
        st.one_of(st.none(), st.text(max_size=3)),  # None deletes
    ),
    max_size=60,
)


@contextmanager
def window_of(size: int) -> Iterator[None]:
    """A small window, so that few writes reach the log on disk."""
    before = store_module.WINDOW
    store_module.WINDOW = size
    try:
        yield
    finally:
        store_module.WINDOW = before


def write(store: Store, resource: str, namespace: str, name: str, text: str | None) -> None:
    if text is None:
        store.delete(resource, namespace, name)
    else:
        store.put(resource, namespace, name, {"metadata": {}, "text": text})


def state_of(store: Store, resource: str) -> State:
    return {
        (namespace, name): record.value["text"]
        for namespace, found in store._resource(resource).objects.items()
        for name, record in found.items()
    }


def take_all(cursor: Cursor) -> list[Change]:
    found: list[Change] = []
    while not cursor.caught_up:
        found += cursor.take()
    return found


def apply(state: State, changes: list[Change]) -> State:
    """The state after the changes; each must fit what is there."""
    state = dict(state)
    for change in changes:
        key = (change.namespace, change.name)
        before = state.get(key)
        assert (change.previous["text"] if change.previous else None) == before
        assert (change.type == ADDED) == (before is None)
        if change.type == DELETED:
            del state[key]
        else:
            state[key] = change.value["text"]
    return state


@given(WRITES, st.integers(1, 8))
def test_replay_from_any_revision_gives_the_state(writes: list[tuple[str, str, str, str | None]], window: int) -> None:
    with window_of(window):
        store = Store()
        history = {resource: {0: {}} for resource in RESOURCES}
        for one in writes:
            write(store, *one)
            for resource in RESOURCES:
                history[resource][store.revision] = state_of(store, resource)
        for resource, states in history.items():
            for revision, state in states.items():
                changes = take_all(store.watch(resource, None, revision))
                assert [c.revision for c in changes] == sorted({c.revision for c in changes})
                assert all(c.revision > revision for c in changes)
                assert apply(state, changes) == state_of(store, resource)
        store.close()


@given(WRITES, WRITES, st.integers(0, 60), st.integers(1, 8))
def test_compaction_changes_no_watch_but_refuses_older_ones(
    before: list[tuple[str, str, str, str | None]],
    after: list[tuple[str, str, str, str | None]],
    at: int,
    window: int,
) -> None:
    with window_of(window):
        plain, compacted = Store(), Store()
        for one in before:
            write(plain, *one)
            write(compacted, *one)
        at = min(at, compacted.revision)
        compacted.compact(at)
        for one in after:
            write(plain, *one)
            write(compacted, *one)
        for resource in RESOURCES:
            assert state_of(plain, resource) == state_of(compacted, resource)
            for revision in range(plain.revision + 1):
                if revision < compacted.compacted:
                    with pytest.raises(ApiError) as caught:
                        compacted.watch(resource, None, revision)
                    assert caught.value.code == 410
                    continue
                wanted = [
                    (c.type, c.revision, c.value, c.previous) for c in take_all(plain.watch(resource, None, revision))
                ]
                found = [
                    (c.type, c.revision, c.value, c.previous)
                    for c in take_all(compacted.watch(resource, None, revision))
                ]
                assert found == wanted
        plain.close()
        compacted.close()
