"""Sandboxes that go at the same time are removed together; each pod hears of its own failure."""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cni.types import CniError
from netsim.kernel.netns import Netns
from netsim.kubelet.cni_config import parse_conflist
from netsim.kubelet.cni_runtime import Attachment
from netsim.kubelet.sandboxes import Removals, Sandbox

NETWORK = parse_conflist({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "netsim-cni"}]})
WAIT_S = 10.0


class Runtime:
    """Deletes nothing; the first job waits until it may go on. "bad" fails, "worse" is a fault of ours."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def delete_all(self, node: Netns, attached: Sequence[tuple[Any, Attachment]]) -> list[CniError | None]:
        names = [one.container_id for _, one in attached]
        self.jobs.append(names)
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        if "worse" in names:
            raise ZeroDivisionError("a fault")
        return [CniError(100, "not this one") if name == "bad" else None for name in names]


@pytest.fixture
def here() -> Iterator[Netns]:
    with Netns.current() as here:
        yield here


def remove(here: Netns, first: list[str], later: list[str]) -> tuple[Runtime, list[Any], list[Sandbox]]:
    """``later`` ones are asked for while the job of the ``first`` is on its way."""
    runtime: Any = Runtime()
    sandboxes = [
        Sandbox(Netns(name, os.dup(here.fd)), (), Attachment(name, "", "", {}), NETWORK) for name in first + later
    ]

    async def scenario() -> list[Any]:
        removals = Removals(runtime)
        tasks = [asyncio.create_task(removals.remove(here, sandbox)) for sandbox in sandboxes[: len(first)]]
        async with asyncio.timeout(WAIT_S):
            await asyncio.to_thread(runtime.begun.wait, WAIT_S)
            tasks += [asyncio.create_task(removals.remove(here, sandbox)) for sandbox in sandboxes[len(first) :]]
            await asyncio.sleep(0)
            runtime.go_on.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    return runtime, asyncio.run(scenario()), sandboxes


def test_those_that_come_meanwhile_go_together(here: Netns) -> None:
    runtime, answers, sandboxes = remove(here, ["a", "b"], ["c", "bad", "d"])
    assert runtime.jobs == [["a", "b"], ["c", "bad", "d"]]
    assert [str(answer) for answer in answers] == ["None", "None", "None", str(CniError(100, "not this one")), "None"]
    assert [sandbox.netns.fd for sandbox in sandboxes] == [-1] * 5


def test_a_fault_is_told_to_all_who_wait(here: Netns) -> None:
    _, answers, sandboxes = remove(here, ["worse"], ["a"])
    assert [type(answer) for answer in answers] == [ZeroDivisionError, ZeroDivisionError]
    assert [sandbox.netns.fd for sandbox in sandboxes] == [-1, -1]
