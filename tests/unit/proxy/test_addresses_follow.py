"""A node's rules follow the addresses of its links, for a target whose plans depend on them."""

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from netsim.model.errors import KernelError
from netsim.ruleset.iptables import Tables
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
    blind: bool = False  # the kernel has no room for the socket that asks
    deaf: bool = False  # nor for the one that is told

    async def read(self, family: int) -> Tables:
        _refuse_if(self.blind)
        return await super().read(family)

    async def apply(self, plan: Plan[Any]) -> None:
        await super().apply(plan)
        self.planned = self.now

    def follow(self, family: int, changed: Callable[[], None]) -> None:
        _refuse_if(self.deaf)
        self.followers[family] = changed

    def unfollow(self, family: int) -> None:
        del self.followers[family]

    def has_moved(self, view: FamilyView) -> bool:
        _refuse_if(self.blind)
        return self.now != self.planned


def _refuse_if(refused: bool) -> None:
    if refused:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


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


def test_addresses_that_cannot_be_seen_are_a_failure_to_be_repeated(target: FollowingTarget) -> None:
    async def run() -> None:
        async with running() as cluster:
            target.now, target.blind = "b", True
            target.followers[4]()
            with pytest.raises(KernelError, match=os.strerror(errno.ENOBUFS)):
                await cluster.settle()
            assert cluster.proxy.summary()["errors"]
            target.blind = False
            await cluster.settle()
            assert target.planned == "b"
            assert not cluster.proxy.summary()["errors"]

    asyncio.run(run())


def test_addresses_that_cannot_be_heard_at_first_are_heard_from_the_next_check_on(
    target: FollowingTarget, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        target.deaf = True
        async with running() as cluster:
            assert target.followers == {}
            target.deaf = False
            await cluster.clock.advance(31)
            target.now = "b"
            target.followers[4]()
            await let_run()
            assert target.planned == "b"

    asyncio.run(run())
    assert "addresses are not heard" in caplog.text
