"""The informers of one process: one for each kind, shared by every component."""

import asyncio
from collections.abc import Mapping

from netsim.client.api import Api
from netsim.client.informer import Informer
from netsim.model.clock import Clock, SystemClock
from netsim.model.kinds import Kind


class InformerSet:
    """Makes an informer when a kind is first asked for; ``run`` runs them all. A Component."""

    name = "informers"

    def __init__(
        self,
        api: Api,
        clock: Clock | None = None,
        *,
        fields: Mapping[Kind, str] | None = None,
        labels: Mapping[Kind, str] | None = None,
    ) -> None:
        """``fields``, ``labels``: selectors, for kinds of which not all objects are wanted."""
        self._api = api
        self._fields = fields or {}
        self._labels = labels or {}
        self._clock = clock or SystemClock()
        self._informers: dict[Kind, Informer] = {}
        self._changed = asyncio.Event()

    def of(self, kind: Kind) -> Informer:
        """The shared informer of a kind. May be called before and while ``run`` runs."""
        found = self._informers.get(kind)
        if found is None:
            fields, labels = self._fields.get(kind, ""), self._labels.get(kind, "")
            found = self._informers[kind] = Informer(self._api, kind, fields=fields, labels=labels, clock=self._clock)
            self._changed.set()
        return found

    async def run(self) -> None:
        """Run every informer, also those asked for later, until cancelled."""
        started: set[Kind] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for kind, informer in self._informers.items():
                    if kind not in started:
                        started.add(kind)
                        group.create_task(informer.run(), name=f"informer {kind.plural}")
                await self._changed.wait()

    async def synced(self) -> None:
        """Return when the first list of every informer asked for so far is in."""
        for informer in list(self._informers.values()):
            await informer.synced()

    async def settle(self, revision: int) -> None:
        """Return when every informer has told its handlers all up to ``revision``."""
        for informer in list(self._informers.values()):
            await informer.reached(revision)
