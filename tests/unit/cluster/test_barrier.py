"""The barrier: rounds until nothing new was written, and whom it names when it does not pass."""

import asyncio

import pytest

from netsim.cluster.barrier import MAX_ROUNDS, Barrier
from netsim.model.errors import TimeoutExpired


class Stage:
    """Settles at once; ``writes`` times it makes a new revision as it does."""

    def __init__(self, name: str, log: list[str], store: list[int], writes: int = 0) -> None:
        self.name = name
        self._log = log
        self._store = store
        self._writes = writes

    async def run(self) -> None: ...

    async def settle(self, revision: int) -> None:
        self._log.append(f"{self.name}@{revision}")
        if self._writes:
            self._writes -= 1
            self._store[0] += 1


class Stuck(Stage):
    async def settle(self, revision: int) -> None:
        await asyncio.Event().wait()


def test_each_stage_waits_for_what_the_stage_before_wrote() -> None:
    log: list[str] = []
    store = [5]
    stages = [Stage("slices", log, store, writes=1), Stage("proxy", log, store)]
    asyncio.run(Barrier(lambda: store[0], stages).wait(1))
    assert log == ["slices@5", "proxy@6", "slices@6", "proxy@6"]


def test_steady_change_does_not_hold_it_up_for_ever() -> None:
    log: list[str] = []
    store = [0]
    asyncio.run(Barrier(lambda: store[0], [Stage("busy", log, store, writes=10**6)]).wait(5))
    assert len(log) == MAX_ROUNDS


def test_it_names_the_stage_it_waited_for() -> None:
    with pytest.raises(TimeoutExpired, match=r"within 0.01 s: still waiting for kube-proxy"):
        asyncio.run(Barrier(lambda: 0, [Stuck("kube-proxy", [], [0])]).wait(0.01))
