"""Keeping one node's rules of one family in step with the service map.

One sync at a time, at once when there is something to do; what changes while it runs is collected for the next.
Source of the rhythm: kubernetes pkg/proxy/runner/bounded_frequency_runner.go, iptables/proxier.go (full and partial
sync).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from netsim.model.clock import Clock
from netsim.model.errors import KernelError, NetsimError
from proxy.collector import collector_paused, keep_for_good
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import AddressFollower, Dialect, Plan, Target
from proxy.servicemap import Change, Entry, ServicePortName, Snapshot
from proxy.staleflows import Frontends, plan_frontends

log = logging.getLogger(__name__)

LARGE_MAP = 1000  # service ports, from which on collections of garbage are felt


class Feed(Protocol):
    """Where a `NodeSync` gets the service map from."""

    def refresh(self, family: int) -> Snapshot:
        """The newest snapshot; tells every NodeSync of the family what changed, by `NodeSync.note`."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A target that keeps something open."""

    def close(self) -> None: ...


class FlowCleaner(Protocol):
    """Deletes stale UDP flows on one node."""

    async def clean(self, found: Frontends, node_ips: tuple[str, ...], family: int) -> int: ...


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One sync that succeeded."""

    full: bool
    took_s: float
    view: FamilyView
    triggers_s: Sequence[float]  # when what it wrote had changed, since the epoch, as far as slices say so
    rules: dict[str, int] | None = None  # rules written by table, where the dialect has such


class Observer(Protocol):
    """Whom a `NodeSync` tells how it is doing."""

    def queued(self) -> None:
        """Something waits to be written."""
        ...

    def synced(self, report: SyncReport) -> None: ...

    def failed(self, full: bool, took_s: float) -> None: ...

    def cleaned(self, took_s: float, deleted: int) -> None:
        """Stale UDP flows were looked for, and so many deleted."""
        ...


class NodeSync:
    """One node and one family."""

    def __init__(
        self,
        feed: Feed,
        dialect: Dialect,
        target: Target,
        cleaner: FlowCleaner,
        view: Callable[[], FamilyView],
        clock: Clock,
        gate: asyncio.Semaphore,
        observer: Observer | None = None,
    ) -> None:
        self._feed = feed
        self._dialect = dialect
        self._target = target
        self._follower = target if isinstance(target, AddressFollower) else None
        self._follows = False
        self._cleaner = cleaner
        self._view = view
        self._clock = clock
        self._gate = gate
        self._observer = observer
        self._triggers_s: list[float] = []
        self.view = view()
        self.state: Any = None  # what the node has; None: not known, the next sync is a full one
        self.generation = -1  # of the map, that the node has
        self._under_way = -1  # that which is being written
        self.error: NetsimError | None = None
        self.syncs = self.full_syncs = self.failures = 0
        self.last_sync_s = 0.0  # how long the last one took
        self._pending: dict[ServicePortName, Entry | None] = {}  # changed, with their state before
        self._stopped = False
        self._wake = asyncio.Event()
        self._wake.set()
        self._urgent = asyncio.Event()
        self._finished = asyncio.Event()  # replaced after each sync
        self._ended_s = -float("inf")
        self._full_at_s = 0.0
        self._failed_whole = False  # the last sync, and it was a full one
        self._looked_s = 0.0  # when the rules were looked at, or written whole
        self._unclean: dict[ServicePortName, Entry | None] = {}  # whose stale flows could not be removed

    @property
    def _config(self) -> ProxyConfig:
        return self.view.config

    @property
    def mode(self) -> str:
        return self._dialect.name

    @property
    def pending(self) -> Mapping[ServicePortName, Entry | None]:
        """Service ports that changed since the last sync, with their state before."""
        return self._pending

    def note(self, changes: Mapping[ServicePortName, Change], triggers_s: Sequence[float] = ()) -> None:
        """Service ports that changed; ``triggers_s``: when the endpoints did, as their slices say."""
        for name, change in changes.items():
            self._pending.setdefault(name, change.old)
        self._triggers_s.extend(triggers_s)
        self.wake()

    def wake(self) -> None:
        """There may be something to do."""
        if self._observer is not None and not self._wake.is_set():
            self._observer.queued()
        self._wake.set()

    def stop(self) -> None:
        """The node is no concern of ours any more: nobody waits for it, and ``run`` ends after what it is at."""
        self._stopped = True
        self._finished.set()
        self._wake.set()
        self._urgent.set()

    async def remove_rules(self) -> None:
        """Remove what this mode wrote on the node; to be called when ``run`` has ended. Raises NetsimError."""
        family = self.view.family
        async with self._gate:
            with _kernels_words(self.view.node.name):
                existing = await self._target.read(family)
                await self._target.apply(self._dialect.plan_cleanup(family, existing))

    def close(self) -> None:
        """Let go of what the target holds open; to be called when ``run`` has ended."""
        if isinstance(self._target, Closing):
            self._target.close()

    def is_current(self, generation: int) -> bool:
        """Whether the node has the map of ``generation`` and what it should have of itself."""
        if self._stopped:
            return True
        has = self.state is not None and self.generation >= generation and self.view == self._view()
        return has and not self._may_have_moved()

    def _has_moved(self) -> bool:
        """Whether the node got or lost addresses that its rules depend on. Raises NetsimError."""
        if self.state is None or self._follower is None:
            return False
        with _kernels_words(self.view.node.name):
            return self._follower.has_moved(self.view)

    def _may_have_moved(self) -> bool:
        """The same; also where that can't be seen now: the sync that follows says why."""
        try:
            return self._has_moved()
        except NetsimError:
            return True

    def _addresses_changed(self) -> None:
        if self._may_have_moved():
            self.wake()

    def _follow(self) -> None:
        """Hear of the node's addresses; where that can't be now, each check tries again."""
        if self._follower is None or self._follows:
            return
        try:
            with _kernels_words(self.view.node.name):
                self._follower.follow(self.view.family, self._addresses_changed)
        except NetsimError as error:
            log.warning("%s: changes of the node's addresses are not heard: %s", self.view.node.name, error)
        else:
            self._follows = True

    async def reach(self, generation: int) -> None:
        """Return when `is_current`, without regard to the least time between syncs.

        Raises the NetsimError of a full sync that failed while this waited.
        """
        failures = self.failures
        while not self.is_current(generation):
            trying_again = self._wake.is_set() or self._under_way >= 0
            if self.failures > failures and self.error is not None and not trying_again:
                raise self.error
            finished = self._finished
            if self._under_way < generation:  # else what is being written now may do
                self._urgent.set()
                self._wake.set()
            await finished.wait()

    async def run(self) -> None:
        """Sync whenever there is something to do, until cancelled or stopped."""
        self._follow()
        try:
            await self._run()
        finally:
            if self._follower is not None and self._follows:
                self._follower.unfollow(self.view.family)

    async def _run(self) -> None:
        self._looked_s = self._clock.monotonic_s()
        if self._observer is not None:
            self._observer.queued()  # the first sync
        while not self._stopped:
            woken = await self._wait_for(self._wake, self._idle_s())
            if not self._idle_s():  # also where changes never pause
                await self._check()
            if not woken:
                continue
            pause_s = self._ended_s + self._config.min_sync_period_s - self._clock.monotonic_s()
            if pause_s > 0:
                await self._wait_for(self._urgent, pause_s)
            async with self._gate:
                if not self._stopped:
                    with collector_paused() if self.state is None else nullcontext():
                        await self._sync()

    def _idle_s(self) -> float:
        """How long nothing need be done: until the next check for flushed rules, or the next attempt."""
        return max(0.0, self._looked_s + self._config.sync_period_s - self._clock.monotonic_s())

    async def _check(self) -> None:
        """Find out whether someone flushed our rules, or whether it is time for a full sync, and see to it."""
        self._follow()
        due = self._clock.monotonic_s() - self._full_at_s >= self._config.full_sync_period_s
        if self.state is None or due or not await self._is_intact():
            self.state = None
            self.wake()
        elif self._unclean:
            self.wake()
        self._looked_s = self._clock.monotonic_s()

    async def _is_intact(self) -> bool:
        """Whether the node has what was written; where that can't be seen it is written again."""
        try:
            if self._has_moved():
                return False
            async with self._gate:
                with _kernels_words(self.view.node.name):
                    if await self._target.is_intact(self.view):
                        return True
        except NetsimError as error:
            log.warning("%s: the proxy's rules can't be seen; writing them again: %s", self.view.node.name, error)
            return False
        log.warning("%s: the proxy's rules were flushed by someone else; writing them again", self.view.node.name)
        return False

    async def _sync(self) -> None:
        started_s = self._clock.monotonic_s()
        snapshot = self._feed.refresh(self.view.family)  # notes to this one, too, which this sync already heeds
        self._wake.clear()
        self._urgent.clear()
        self._under_way = snapshot.generation
        pending, self._pending = self._pending, {}
        triggers_s, self._triggers_s = self._triggers_s, []
        view = self._view()
        if view != self.view:
            self.view, self.state = view, None
        full = self.state is None
        first = self.generation < 0
        try:
            if self._has_moved():
                log.info("%s: the node's addresses changed; NodePorts follow them", self.view.node.name)
                self.state, full = None, True
            with _kernels_words(self.view.node.name):
                plan = await self._write(snapshot, pending)
        except NetsimError as error:
            self._triggers_s[:0] = triggers_s
            self._fail(error, pending, full, self._clock.monotonic_s() - started_s)
        else:
            self.generation, self.error, self._failed_whole = snapshot.generation, None, False
            if full:
                self._full_at_s = started_s
            self._report(plan, self._clock.monotonic_s() - started_s, triggers_s)
            # While rules were missing, flows to any service may have been tracked untranslated.
            await self._clean(snapshot, dict.fromkeys(snapshot.entries) | pending if full else pending)
            if first and len(snapshot.entries) >= LARGE_MAP:
                keep_for_good()
        self._under_way = -1
        self._ended_s = self._clock.monotonic_s()
        if full:
            self._looked_s = self._ended_s
        self.last_sync_s = self._ended_s - started_s
        finished, self._finished = self._finished, asyncio.Event()
        finished.set()

    def _report(self, plan: Plan[Any], took_s: float, triggers_s: Sequence[float]) -> None:
        if self._observer is None:
            return
        rules = count_rules(plan.text) if self._dialect.name == "iptables" else None
        self._observer.synced(SyncReport(plan.full, took_s, self.view, triggers_s, rules))
        if self._wake.is_set():  # changes that came while it wrote
            self._observer.queued()

    async def _write(self, snapshot: Snapshot, pending: Mapping[ServicePortName, Entry | None]) -> Plan[Any]:
        family = self.view.family
        if self.state is None:
            existing = await self._target.read(family)
            plan = self._dialect.plan_full(snapshot, self.view, existing)
            self.full_syncs += 1
        else:
            plan = self._dialect.plan_changes(snapshot, pending.keys(), self.state, self.view)
        if plan:
            self.syncs += 1
            await self._target.apply(plan)
        self.state = plan.state
        return plan

    def _fail(
        self, error: NetsimError, pending: dict[ServicePortName, Entry | None], full: bool, took_s: float
    ) -> None:
        """The old rules go on serving. A partial sync is tried again whole and at once; so is a full one, but when that
        fails too, after syncPeriod: what somebody took away while it was written (iptables-restore fails then) is there
        at once, and what can't be written is not tried without end.
        """
        log.error("%s: writing the proxy's rules failed: %s", self.view.node.name, error)
        self.failures += 1
        self.error = error
        if self._observer is not None:
            self._observer.failed(full, took_s)
        self.state = None
        self._pending = pending | {n: e for n, e in self._pending.items() if n not in pending}
        if not full or not self._failed_whole:
            self._wake.set()
        self._failed_whole = full

    async def _clean(self, snapshot: Snapshot, changed: Mapping[ServicePortName, Entry | None]) -> None:
        older = {name: entry for name, entry in self._unclean.items() if entry is not None or name not in changed}
        before = {**changed, **older}
        self._unclean = {}
        found = plan_frontends(before, snapshot.entries)
        if not found:
            return
        started_s = self._clock.monotonic_s()
        try:
            with _kernels_words(self.view.node.name):
                deleted = await self._cleaner.clean(found, self.view.node.ips, self.view.family)
        except NetsimError as error:  # the rules are good; the next sync, or the next check, tries again
            log.error("%s: removing stale UDP flows failed: %s", self.view.node.name, error)
            self.error = error
            self._unclean = before
            return
        if self._observer is not None:
            self._observer.cleaned(self._clock.monotonic_s() - started_s, deleted)

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> bool:
        """Whether the event came within ``seconds`` of the injected clock."""
        if event.is_set():
            return True
        tasks = (asyncio.create_task(event.wait()), asyncio.create_task(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return event.is_set()


@contextmanager
def _kernels_words(where: str) -> Iterator[None]:
    """What a socket says of itself (no buffer space, no descriptors left) is a failure to be repeated as any other."""
    try:
        yield
    except OSError as error:
        raise KernelError(error.strerror or str(error), errno=error.errno or 0, where=where) from error


def count_rules(text: str) -> dict[str, int]:
    """How many rules an iptables-restore input adds, by table; mangle has a canary only."""
    tables = f"\n{text}".split("\n*")[1:]
    counts = {table.split("\n", 1)[0]: table.count("\n-A ") for table in tables}
    return {table: counts.get(table, 0) for table in ("filter", "nat")}
