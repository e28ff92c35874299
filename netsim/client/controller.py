"""The shape of every control loop: informers feed a queue of keys, workers bring the world in line."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from netsim.client.informer import Informer
from netsim.client.workqueue import WorkQueue
from netsim.model.clock import Clock, SystemClock
from netsim.model.errors import ApiError, NetsimError
from netsim.model.objects import Key, Object, controller_of, key_of, namespace_of

log = logging.getLogger(__name__)

CONFLICT_RETRIES = 8
CONFLICT_DELAY_S = 0.001  # doubles; real time, since it waits for the cache and not for a date
YIELD_EVERY = 8  # keys; requests in process never suspend, so a full queue would keep the loop to itself


class Component(Protocol):
    """A part of the control plane that the cluster runs."""

    name: str

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    async def settle(self, revision: int) -> None:
        """Return when everything the API held at ``revision`` has been acted on."""
        ...


class Controller:
    """A Component with a queue. Subclasses add handlers in ``__init__`` and override ``reconcile``.

    ``reconcile`` must be safe to repeat. A NetsimError from it is retried with back-off and logged; a
    Conflict, which means that the cache was behind, is retried at once and still holds up ``settle``.
    """

    def __init__(
        self, name: str, informers: Sequence[Informer], *, workers: int = 1, clock: Clock | None = None
    ) -> None:
        self.name = name
        self.informers = list(informers)
        self.clock: Clock = clock or SystemClock()
        self.queue: WorkQueue[Any] = WorkQueue(self.clock)
        self._workers = workers

    async def reconcile(self, key: Any) -> None:
        """Bring the object of ``key`` in line with its specification."""
        raise NotImplementedError

    async def run(self) -> None:
        for informer in self.informers:
            await informer.synced()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"{self.name} worker {number}")
        finally:
            self.queue.close()

    async def settle(self, revision: int) -> None:
        for informer in self.informers:
            await informer.reached(revision)
        await self.queue.drained()

    async def _work(self) -> None:
        handled = 0
        while True:
            handled += 1
            if handled % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            key = await self.queue.get()
            try:
                await self.reconcile(key)
                self.queue.forget(key)
            except ApiError as error:
                await self._after_api_error(key, error)
            except NetsimError as error:
                delay_s = self.queue.retry(key)
                log.warning("%s: %s: %s; again in %.3f s", self.name, key, error, delay_s)
            except Exception:  # a fault of ours: say where, and go on with the other keys
                self.queue.retry(key)
                log.exception("%s: %s failed", self.name, key)
            finally:
                self.queue.done(key)

    async def _after_api_error(self, key: Any, error: ApiError) -> None:
        if _is_namespace_going(error):
            self.queue.forget(key)  # nothing can be made there any more, and what is there goes
            log.debug("%s: %s: %s", self.name, key, error)
            return
        attempts = self.queue.failures(key)
        delay_s = self.queue.retry(key)
        if error.reason == "Conflict" and attempts < CONFLICT_RETRIES:
            log.debug("%s: %s: %s; again", self.name, key, error)
            await asyncio.sleep(CONFLICT_DELAY_S * 2**attempts)
            self.queue.add(key)
        else:
            log.warning("%s: %s: %s; again in %.3f s", self.name, key, error, delay_s)


def _is_namespace_going(error: ApiError) -> bool:
    """Refused because the namespace is being deleted (apierrors.HasStatusCause NamespaceTerminatingCause)."""
    causes = error.details.get("causes") or ()
    return error.code == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def enqueue_key(queue: WorkQueue[Key]) -> Callable[[Object | None, Object | None], None]:
    """A handler that enqueues the changed object itself."""

    def handle(old: Object | None, new: Object | None) -> None:
        queue.add(key_of(new if new is not None else old or {}))

    return handle


def controller_keys(kind: str, *objects: Object | None) -> Iterable[Key]:
    """The keys of the controllers of ``kind`` that own any of ``objects`` (old and new of a handler)."""
    keys: list[Key] = []
    for obj in objects:
        if obj is None:
            continue
        reference = controller_of(obj)
        if reference is not None and reference["kind"] == kind:
            key = (namespace_of(obj), reference["name"])
            if key not in keys:
                keys.append(key)
    return keys
