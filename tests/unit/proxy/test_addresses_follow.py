"""A node's rules follow the addresses of its links, for a target whose plans depend on them."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.component import NodeProxy
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import Plan
from tests.unit.proxy.cluster import MemoryTarget, ProxyCluster, let_run, running


@dataclass
class FollowingTarget(MemoryTarget):
    """``now``: the addresses of the links; ``planned``: those of the last plan."""

    now: str = "a"
    planned: str = "a"
    followers: dict[int, Callable[[], None]] = field(default_factory=dict)

    async def apply(self, plan: Plan[Any]) -> None:
        await super().apply(plan)
        self.planned = self.now

    def follow(self, family: int, changed: Callable[[], None]) -> None:
        self.followers[family] = changed

    def unfollow(self, family: int) -> None:
        del self.followers[family]

    def has_moved(self, view: FamilyView) -> bool:
        return self.now != self.planned


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> FollowingTarget:
    made = FollowingTarget()

    def make_hands(self: ProxyCluster, node: NodeProxy, config: ProxyConfig) -> tuple[Any, Any]:
        self.targets[node.name] = made
        return made, made

    monkeypatch.setattr(ProxyCluster, "_make_hands", make_hands)
    return made


def test_a_change_is_written_at_once_and_nobody_flushed_anything(
    target: FollowingTarget, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with running() as cluster:
            target.now = "b"
            target.followers[4]()
            await let_run()
            assert target.planned == "b"
            assert cluster.proxy.summary()["fullSyncs"] == 2

    caplog.set_level(logging.INFO)
    asyncio.run(run())
    assert "addresses changed" in caplog.text
    assert "flushed" not in caplog.text
    assert target.followers == {}


def test_settled_means_that_the_rules_follow_the_addresses_of_now(target: FollowingTarget) -> None:
    """Even when the loop has not heard of them yet: the barrier must not be too early."""

    async def run() -> None:
        async with running() as cluster:
            target.now = "b"
            await cluster.settle()
            assert target.planned == "b"

    asyncio.run(run())
