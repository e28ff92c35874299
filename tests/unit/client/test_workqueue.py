"""The queue of keys, on a clock that only moves when told."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from netsim.client.workqueue import WorkQueue
from tests.fake_clock import FakeClock, run_ready

Body = Callable[[WorkQueue[str], FakeClock], Awaitable[None]]


def run(body: Body) -> None:
    async def main() -> None:
        clock = FakeClock()
        queue: WorkQueue[str] = WorkQueue(clock)
        async with asyncio.timeout(5):
            await body(queue, clock)
        queue.close()

    asyncio.run(main())


def is_waiting(task: asyncio.Task[None]) -> bool:
    return not task.done()


def test_a_key_added_twice_is_processed_once() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        queue.add("a")
        queue.add("b")
        queue.add("a")
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert len(queue) == 0

    run(body)


def test_a_key_added_while_processed_comes_again_afterwards() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        queue.add("a")
        await queue.get()
        queue.add("a")
        second = asyncio.create_task(queue.get())
        await run_ready()
        assert not second.done()  # one worker for a key at a time
        queue.done("a")
        assert await second == "a"

    run(body)


def test_back_off_doubles_until_the_key_goes_well() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        assert [queue.retry("a") for _ in range(4)] == [0.005, 0.01, 0.02, 0.04]
        assert queue.retry("b") == 0.005
        queue.forget("a")
        assert queue.retry("a") == 0.005

    run(body)


def test_a_key_comes_back_when_its_back_off_is_over() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        queue.add("a")
        await queue.get()
        delay_s = queue.retry("a")
        queue.done("a")
        again = asyncio.create_task(queue.get())
        await clock.advance(delay_s / 2)
        assert not again.done()
        await clock.advance(delay_s)
        assert await again == "a"

    run(body)


def test_the_earlier_of_two_delays_stands() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        queue.add_after("a", 10)
        queue.add_after("a", 1)
        queue.add_after("a", 20)
        got = asyncio.create_task(queue.get())
        await clock.advance(1.1)
        assert await got == "a"
        queue.done("a")
        again = asyncio.create_task(queue.get())
        await clock.advance(30)
        assert not again.done()  # the other dates are void
        again.cancel()

    run(body)


def test_idle_waits_for_work_and_delays_but_not_for_back_off() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        queue.retry("failing")
        await queue.idle()
        queue.add_after("a", 1)
        idle = asyncio.create_task(queue.idle())
        await run_ready()
        assert is_waiting(idle)
        await clock.advance(1)
        assert await queue.get() == "failing"
        queue.done("failing")
        assert await queue.get() == "a"
        await run_ready()
        assert is_waiting(idle)
        queue.done("a")
        await idle

    run(body)


def test_drained_cuts_delays_short_also_those_that_come_meanwhile() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        queue.add_after("a", 3600)
        drained = asyncio.create_task(queue.drained())
        assert await queue.get() == "a"
        queue.add_after("b", 3600)
        queue.done("a")
        assert await queue.get() == "b"
        queue.done("b")
        await drained

    run(body)


def test_a_cancelled_worker_passes_its_wake_up_on() -> None:
    async def body(queue: WorkQueue[str], clock: FakeClock) -> None:
        first = asyncio.create_task(queue.get())
        second = asyncio.create_task(queue.get())
        await run_ready()
        queue.add("a")
        first.cancel()
        assert await second == "a"
        with pytest.raises(asyncio.CancelledError):
            await first

    run(body)
