"""The manager on a clock of the test's own: time that is up, time that is cut short, and what a failure leaves."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from netsim.faults.manager import Faults, Socket
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl, new_veth
from netsim.kernel.rtnl_tc import new_tbf, read_qdiscs
from netsim.model.errors import KernelError, NetsimError
from netsim.model.where import Where
from tests.fake_clock import FakeClock

pytestmark = pytest.mark.needs("root")


class Target:
    """A fabric with two nodes, which are no more than a cable each."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.fabric = stack.enter_context(contextlib.closing(Netns.create("fabric")))
        self.nodes = {name: stack.enter_context(contextlib.closing(Netns.create(name))) for name in ("a", "b")}
        with Rtnl(self.fabric) as rtnl:
            rtnl.batch([new_veth(name, peer="eth0", peer_netns_fd=node.fd) for name, node in self.nodes.items()])
        self.stopped: list[str] = []
        self.refuses = False

    def find_socket(self, where: Where) -> Socket:
        if where.name not in self.nodes:
            raise NetsimError(f"there is no {where}")
        return Socket(self.nodes[where.name], self.fabric, where.name)

    async def kill_pod(self, where: Where, container: str | None, number: int) -> list[str]:
        raise NotImplementedError

    async def stop_node(self, name: str) -> None:
        if self.refuses:
            raise KernelError("no")
        self.stopped.append(name)

    async def start_node(self, name: str) -> None:
        self.stopped.remove(name)

    def is_up(self, node: str) -> bool:
        with Rtnl(self.fabric) as rtnl:
            link = rtnl.link(node)
            return link is not None and link.up


@pytest.fixture
def target() -> Iterator[Target]:
    with contextlib.ExitStack() as stack:
        yield Target(stack)


def run(target: Target, scenario: Callable[[Faults, FakeClock], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with asyncio.timeout(20):
            await scenario(Faults(target, target.fabric, (4,), clock), clock)

    asyncio.run(main())


async def until(done: Callable[[], bool]) -> None:
    """Kernel work is done in threads, which no clock waits for."""
    while not done():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


def test_a_fault_ends_on_the_clusters_clock(target: Target) -> None:
    async def scenario(faults: Faults, clock: FakeClock) -> None:
        await faults.add({"kind": "link-down", "places": ["node/a"], "for": "1h"})
        await faults.add({"kind": "stop", "places": ["node/b"], "for": "2h"})
        assert not target.is_up("a")
        await clock.advance(3599)
        assert [one["remainingS"] for one in faults.describe()["faults"]] == [1, 3601]
        await clock.advance(1)
        await until(lambda: target.is_up("a"))
        assert target.stopped == ["b"]
        await clock.advance(3600)
        await until(lambda: not faults.describe()["faults"])
        assert target.is_up("b")
        assert target.stopped == []
        assert [(one["id"], one["why"]) for one in faults.describe()["ended"]] == [(1, "time is up"), (2, "time is up")]

    run(target, scenario)


def test_what_was_undone_is_not_undone_again_when_its_time_comes(target: Target) -> None:
    async def scenario(faults: Faults, clock: FakeClock) -> None:
        await faults.add({"kind": "link-down", "places": ["node/a"], "for": "10s"})
        await faults.undo([1])
        await faults.add({"kind": "link-down", "places": ["node/a"]})
        await clock.advance(11)
        assert [one["id"] for one in faults.describe()["faults"]] == [2]
        assert not target.is_up("a")
        await faults.undo(None)
        assert target.is_up("a")

    run(target, scenario)


def test_a_change_that_fails_half_way_is_taken_back(target: Target) -> None:
    async def scenario(faults: Faults, _clock: FakeClock) -> None:
        with Rtnl(target.fabric) as rtnl:
            before = [rtnl.link(name) for name in ("a", "b")]
        # b's port has a queueing discipline that somebody put there, so the second of the two places fails.
        with Rtnl(target.fabric) as rtnl:
            index = {name: link.ifindex for name in ("a", "b") if (link := rtnl.link(name)) is not None}
            rtnl.batch([new_tbf(index["b"], rate_bytes=10**6, burst_bytes=10**5)])
            with pytest.raises(NetsimError, match="no fault put there: tbf 1:"):
                await faults.add({"kind": "rate", "places": ["node/a", "node/b"], "rate": "1mbit"})
            assert [qdisc.kind for qdisc in read_qdiscs(rtnl, index["a"])] == ["noqueue"]
            assert [qdisc.kind for qdisc in read_qdiscs(rtnl, index["b"])] == ["tbf"]
            assert [rtnl.link(name) for name in ("a", "b")] == before
        assert faults.describe() == {"faults": [], "ended": []}

    run(target, scenario)


def test_changes_at_the_same_time_wait_for_each_other(target: Target) -> None:
    async def scenario(faults: Faults, _clock: FakeClock) -> None:
        request = {"kind": "link-down", "places": ["node/a"]}
        answers = await asyncio.gather(*(faults.add(request) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(answer, dict) for answer in answers) == 1
        assert all("is there already" in answer.message for answer in answers if isinstance(answer, NetsimError))
        await faults.undo(None)
        assert target.is_up("a")

    run(target, scenario)


def test_a_node_that_cannot_be_stopped_has_its_cable_again(target: Target) -> None:
    async def scenario(faults: Faults, _clock: FakeClock) -> None:
        target.refuses = True
        with pytest.raises(KernelError):
            await faults.add({"kind": "stop", "places": ["node/a"]})
        assert faults.describe()["faults"] == []
        assert target.is_up("a")

    run(target, scenario)
