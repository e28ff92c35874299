"""One node's sync by itself: how often it runs for what changed."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from netsim.model.errors import KernelError
from netsim.ruleset.iptables_model import make_tables
from proxy.config import FamilyView
from proxy.dialect import Plan
from proxy.iptables.plan import IptablesDialect
from proxy.nodesync import NodeSync
from proxy.servicemap import ServiceMap, Snapshot
from proxy.staleflows import Frontends
from tests.unit.proxy.cluster import HandClock, MemoryTarget, let_run
from tests.unit.proxy.make import CONFIG, make_endpoint, make_service, make_slice, make_view

DNS = make_service("dns", "10.96.0.78", ports=[{"name": "dns", "port": 53, "protocol": "UDP"}])


class Stage:
    """A `proxy.nodesync.Feed` of one node, which counts how often the node asked: once for each sync."""

    def __init__(self) -> None:
        self.map = ServiceMap(4)
        self.target = MemoryTarget()
        self.asked = 0
        self.clock = HandClock()
        view = make_view()
        gate = asyncio.Semaphore(1)
        self.sync = NodeSync(self, IptablesDialect(), self.target, self.target, lambda: view, self.clock, gate)

    def refresh(self, family: int) -> Snapshot:
        self.asked += 1
        if self.map.dirty:
            changes = self.map.take()
            if changes:
                self.sync.note(changes)
        return self.map.snapshot()

    async def change(self, address: str) -> None:
        self.map.update_slice(None, make_slice([make_endpoint(address)]))
        self.sync.wake()
        await let_run()


def play(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Stage()
        stage.map.update_service(None, make_service())
        task = asyncio.create_task(stage.sync.run())
        await let_run()
        try:
            await scenario(stage)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_one_change_is_one_sync() -> None:
    async def scenario(stage: Stage) -> None:
        assert stage.asked == 1
        for number in range(2, 5):
            await stage.change(f"10.244.1.{number}")
        assert stage.asked == len(stage.target.written) == 4

    play(scenario)


def test_who_waits_for_what_is_being_written_causes_no_other_sync() -> None:
    async def scenario(stage: Stage) -> None:
        stage.target.hold.clear()
        await stage.change("10.244.1.2")
        waiting = asyncio.create_task(stage.sync.reach(stage.map.generation))
        await let_run()
        assert not waiting.done()
        stage.target.hold.set()
        await asyncio.wait_for(waiting, 5)
        await let_run()
        assert stage.asked == 2

    play(scenario)


def test_what_changes_while_one_writes_is_the_next_ones() -> None:
    async def scenario(stage: Stage) -> None:
        stage.target.hold.clear()
        await stage.change("10.244.1.2")
        await stage.change("10.244.1.3")
        stage.target.hold.set()
        await let_run()
        assert stage.asked == 3
        assert "10.244.1.3:8080" in stage.target.written[-1]

    play(scenario)


def test_flushed_rules_are_noticed_also_where_changes_never_pause() -> None:
    async def scenario(stage: Stage) -> None:
        stage.target.tables = make_tables() | {"nat": stage.target.tables["nat"]}
        for number in range(4):
            await stage.clock.advance(CONFIG.sync_period_s / 3)
            await stage.change(f"10.244.1.{number + 2}")
        assert "KUBE-FORWARD" in stage.target.tables["filter"]
        assert stage.sync.full_syncs == 2

    play(scenario)


def test_the_hourly_full_sync_comes_also_where_changes_never_pause() -> None:
    async def scenario(stage: Stage) -> None:
        for number in range(400):
            await stage.clock.advance(10)
            await stage.change(f"10.244.1.{number % 200 + 2}")
        assert stage.sync.full_syncs == 2

    play(scenario)


def test_a_socket_that_fails_is_a_failure_to_be_repeated(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(stage: Stage) -> None:
        plain = stage.target.apply
        refused = [OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))]

        async def apply(plan: Plan[Any]) -> None:
            if refused:
                raise refused.pop()
            await plain(plan)

        stage.target.apply = apply  # type: ignore[method-assign]
        await stage.change("10.244.1.2")
        await let_run()
        assert (stage.sync.failures, stage.sync.error) == (1, None)
        assert "10.244.1.2:8080" in stage.target.written[-1]

    play(scenario)
    assert "node-1: writing the proxy's rules failed: node-1: No buffer space available" in caplog.text


def test_rules_that_cannot_be_looked_at_are_written_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(stage: Stage) -> None:
        async def is_intact(_view: FamilyView) -> bool:
            raise KernelError("nf_tables: No buffer space available")

        stage.target.is_intact = is_intact  # type: ignore[method-assign]
        await stage.clock.advance(CONFIG.sync_period_s)
        assert stage.sync.full_syncs == 2
        await stage.change("10.244.1.2")
        assert "10.244.1.2:8080" in stage.target.written[-1]

    play(scenario)
    assert "No buffer space" in caplog.text


def test_stale_flows_that_could_not_be_removed_are_tried_again() -> None:
    async def scenario(stage: Stage) -> None:
        plain = stage.target.clean

        async def fail(_found: Frontends, _ips: tuple[str, ...], _family: int) -> int:
            raise KernelError("list flows: No buffer space available")

        stage.target.clean = fail  # type: ignore[method-assign]
        stage.map.update_service(None, DNS)
        stage.sync.wake()
        await let_run()
        assert isinstance(stage.sync.error, KernelError)
        stage.target.clean = plain  # type: ignore[method-assign]
        await stage.clock.advance(CONFIG.sync_period_s)
        assert [found.addresses for found in stage.target.cleaned] == [{("10.96.0.78", 53): frozenset()}]
        assert stage.sync.error is None
        await stage.clock.advance(CONFIG.sync_period_s)
        assert len(stage.target.cleaned) == 1

    play(scenario)


def test_a_full_sync_looks_for_stale_flows_of_every_service() -> None:
    """A datagram that came while the rules were gone is tracked untranslated, whoever's it was."""

    async def scenario(stage: Stage) -> None:
        stage.map.update_service(None, DNS)
        stage.sync.wake()
        await let_run()
        stage.target.cleaned.clear()
        stage.target.tables = make_tables()
        await stage.clock.advance(CONFIG.sync_period_s)
        assert [found.addresses for found in stage.target.cleaned] == [{("10.96.0.78", 53): frozenset()}]

    play(scenario)
