"""The state directory: who holds it, what a second holder is told, and what a dead one leaves."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netsim.cluster import state as state_module
from netsim.cluster.state import StateDir, find_state, list_states, state_root
from netsim.model.errors import NetsimError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NETSIM_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("NETSIM_CLUSTER", raising=False)
    return tmp_path


def test_a_held_lock_refuses_a_second_cluster_and_names_its_process(root: Path) -> None:
    state = StateDir(root / "one")
    held = state.lock()
    state.write_status({"name": "one", "pid": 4711})
    try:
        with pytest.raises(NetsimError, match=r'cluster "one" is already running \(pid 4711\)') as caught:
            StateDir(root / "one").lock()
        assert "netsim down one" in caught.value.hint
    finally:
        os.close(held)


def test_taking_the_lock_clears_what_a_dead_cluster_left(root: Path) -> None:
    state = StateDir(root / "one")
    os.close(state.lock())
    (state.path / "store.db").write_text("old")
    (state.path / "cni" / "node-1").mkdir(parents=True)
    assert not state.is_running()
    os.close(state.lock())
    assert [entry.name for entry in state.path.iterdir()] == ["lock"]


def test_the_only_running_cluster_is_found_without_a_name(root: Path) -> None:
    held = StateDir(root / "one").lock()
    os.close(StateDir(root / "dead").lock())
    try:
        assert find_state(None).name == "one"
        assert [state.name for state in list_states()] == ["dead", "one"]
    finally:
        os.close(held)


def test_several_running_clusters_must_be_told_apart(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [StateDir(root / name).lock() for name in ("one", "two")]
    try:
        with pytest.raises(NetsimError, match="several clusters are running: one, two"):
            find_state(None)
        monkeypatch.setenv("NETSIM_CLUSTER", "two")
        assert find_state(None).name == "two"
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_a_dead_cluster_is_told_from_one_that_never_was(root: Path) -> None:
    os.close(StateDir(root / "dead").lock())
    with pytest.raises(NetsimError, match='the process of cluster "dead" has ended'):
        find_state("dead")
    with pytest.raises(NetsimError, match='no cluster "never" is running'):
        find_state("never")
    with pytest.raises(NetsimError, match=r"no cluster is running \(ended without `netsim down`: dead\)"):
        find_state(None)


def test_a_path_too_long_for_a_unix_socket_is_refused(root: Path) -> None:
    with pytest.raises(NetsimError, match="too long for a unix socket"):
        StateDir(root / ("x" * 120)).lock()


def test_state_root_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETSIM_STATE_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert state_root() == Path("/run/user/1000/netsim")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert state_root() == Path("/tmp/netsim-1000")


def test_removing_spares_what_a_new_cluster_has_taken_over(root: Path) -> None:
    state = StateDir(root / "one")
    held = state.lock()
    StateDir(root / "one").remove()
    assert (state.path / "lock").exists()
    os.close(held)
    StateDir(root / "one").remove()
    assert not state.path.exists()


def test_the_last_down_takes_the_folder_of_all_clusters_along_unless_it_was_chosen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come_and_go(path: Path) -> None:
        os.close(StateDir(path).lock())
        StateDir(path).remove()

    come_and_go(root / "chosen" / "one")
    assert (root / "chosen").exists()
    own = root / "run" / "netsim"
    monkeypatch.setattr(state_module, "_runtime_root", lambda: own)
    os.close(StateDir(own / "two").lock())
    come_and_go(own / "one")
    assert [path.name for path in own.iterdir()] == ["two"]
    come_and_go(own / "two")
    assert not own.exists()


def test_a_place_that_can_not_be_made_is_refused(root: Path) -> None:
    with pytest.raises(NetsimError, match="cannot make the state directory /proc/nowhere/one: No such file"):
        StateDir(Path("/proc/nowhere/one")).lock()


def test_starting_while_the_last_cluster_goes_never_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = root / "run" / "netsim"
    monkeypatch.setattr(state_module, "_runtime_root", lambda: own)

    def come_and_go(name: str) -> None:
        for _ in range(300):
            os.close(StateDir(own / name).lock())
            StateDir(own / name).remove()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(come_and_go, name) for name in ("a", "b", "c", "d")]:
            done.result()
    assert not own.exists()
