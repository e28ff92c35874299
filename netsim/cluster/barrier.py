"""The barrier: everything applied so far is in the kernel on every node."""

import asyncio
from collections.abc import Callable, Sequence

from netsim.client.controller import Component
from netsim.model.errors import TimeoutExpired

MAX_ROUNDS = 20


class Barrier:
    """Waits through the components in the order a change travels, until a whole round made no new revision.

    A round asks each component to have acted on all the store holds when its turn comes. What it writes meanwhile (a
    status, an EndpointSlice) raises the revision, so the next component waits for that too, and another round follows.
    Under steady change (a crash loop, a rolling update) rounds would never be quiet: MAX_ROUNDS ends them, and what was
    applied before the first round has by then travelled the whole way more than once.
    """

    def __init__(self, revision: Callable[[], int], stages: Sequence[Component]) -> None:
        self._revision = revision
        self._stages = stages

    async def wait(self, timeout_s: float) -> None:
        """Raises TimeoutExpired naming the component that was waited for."""
        waiting_for = ""
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(MAX_ROUNDS):
                    before = self._revision()
                    for stage in self._stages:
                        waiting_for = stage.name
                        await stage.settle(self._revision())
                    if self._revision() == before:
                        return
        except TimeoutError:
            raise TimeoutExpired(
                f"the barrier did not pass within {timeout_s:g} s: still waiting for {waiting_for}",
                hint="netsim get events says what keeps it busy",
            ) from None
