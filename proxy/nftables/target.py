"""The nftables dialect's hands on one node."""

import asyncio
import logging
from typing import Any

from netsim.kernel import nft_wire as wire
from netsim.kernel.netns import Netns
from netsim.kernel.nft_socket import NftSocket
from netsim.kernel.rtnl_wire import text
from netsim.model.errors import KernelError
from proxy.config import FamilyView
from proxy.dialect import Plan
from proxy.nftables.plan import Existing, NftPlan
from proxy.nftables.skeleton import TABLE, service_sets

log = logging.getLogger(__name__)
_SET_COUNT = 20  # NFTA_SET_COUNT, include/uapi/linux/netfilter/nf_tables.h
_INLINE_ELEMENTS = 2000  # a transaction of so many takes about 2 ms; larger ones go to a thread


class NftablesTarget:
    """`proxy.dialect.Target` for a network namespace. Keeps one netlink socket open in it."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._socket: NftSocket | None = None
        self._written: dict[int, tuple[int, dict[str, int]]] = {}  # by family: how many rules, and elements by set
        self._replace: set[int] = set()  # families whose last full sync failed
        self._turn = asyncio.Lock()  # one socket for both families

    def close(self) -> None:
        """Close the socket; may be repeated."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def read(self, family: int) -> Existing | None:
        """The table's chains and sets, None without a table. Raises KernelError, FeatureMissing."""
        async with self._turn:
            found = self._open()
            if found.get(wire.GETTABLE, text(1, TABLE), family) is None:
                return None
            chains = tuple(_word(item[3]) for item in found.dump(wire.GETCHAIN, TABLE, family))
            sets = tuple(_word(item[2]) for item in found.dump(wire.GETSET, TABLE, family))
        return Existing(chains, sets, replace=family in self._replace)

    async def apply(self, plan: Plan[Any]) -> None:
        """One transaction. Raises KernelError."""
        if not isinstance(plan, NftPlan):
            raise TypeError(f"{type(plan).__name__} is no plan of this dialect")
        async with self._turn:
            try:
                await self._commit(plan)
            except KernelError:
                if plan.full:  # perhaps for something in the table that is not ours: next time it goes as a whole
                    self._replace.add(plan.family)
                raise
        self._replace.discard(plan.family)
        self._written[plan.family] = plan.state.rules, dict(plan.state.sizes)

    async def _commit(self, plan: NftPlan) -> None:
        size = sum(len(getattr(edit, "elements", ())) for edit in plan.edits)
        if size > _INLINE_ELEMENTS:
            await asyncio.to_thread(self._open().commit, plan.edits, TABLE, plan.family)
        else:
            self._open().commit(plan.edits, TABLE, plan.family)

    async def is_intact(self, view: FamilyView) -> bool:
        """Whether our chains and sets still have as many rules and elements as we wrote.

        Older kernels do not say how many elements a set has: of them it is only asked that they are there.
        """
        async with self._turn:
            found = self._open()
            try:
                rules = len(found.dump(wire.GETRULE, TABLE, view.family))
                sets = {_word(item[2]): item.get(_SET_COUNT) for item in found.dump(wire.GETSET, TABLE, view.family)}
            except KernelError as error:  # ENOENT: no such table
                log.info("%s", error)
                return False
        written, sizes = self._written.get(view.family, (0, {}))
        if rules != written:
            log.info("%s: %d rules where %d were written", self._netns.name, rules, written)
            return False
        for name in (*(spec.name for spec in service_sets(view.family)), *sizes):
            count = sets.get(name, b"\xff")
            if count is not None and int.from_bytes(count, "big") != sizes.get(name, 0):
                log.info(
                    "%s: set %s has not the %d elements that were written", self._netns.name, name, sizes.get(name, 0)
                )
                return False
        return True

    def _open(self) -> NftSocket:
        if self._socket is None:
            self._socket = NftSocket(self._netns)
        return self._socket


def _word(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
