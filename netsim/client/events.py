"""Events: what happened to an object, for `describe` and `get events`. Written behind, repeats counted."""

import asyncio
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import count

from netsim.client.api import Api
from netsim.model.clock import Clock, SystemClock
from netsim.model.errors import ApiError, NetsimError
from netsim.model.kinds import EVENT
from netsim.model.objects import Object, format_time, make_reference, name_of, namespace_of, uid_of

log = logging.getLogger(__name__)

# client-go tools/record/events_cache.go: after 10 events that differ in their message alone, within 10
# minutes, one event stands for the rest; an object gets at most 25 events at once.
SIMILAR_MAX = 10
SIMILAR_WINDOW_S = 600.0
COMBINED_PREFIX = "(combined from similar events): "
CACHE_MAX = 4096
BACKLOG_MAX = 20_000
COUNT_DELAY_S = 0.2  # repeats within this time are one write
NAME_MAX = 253  # characters of an object's name


@dataclass(slots=True)
class _Known:
    """An event that was written, or is about to be."""

    obj: Object
    count: int = 1
    written: int = 0
    queued: bool = False


@dataclass(slots=True)
class _Similar:
    """How many different messages one object had for one reason."""

    started_s: float
    messages: set[str] = field(default_factory=set)


class EventRecorder:
    """Writes core/v1 Events in the background. A Component: ``run`` must run for anything to be written."""

    def __init__(self, api: Api, component: str, *, host: str = "", clock: Clock | None = None) -> None:
        self.name = f"events of {component}"
        self._api = api
        self._source = {"component": component, **({"host": host} if host else {})}
        self._component = component
        self._clock = clock or SystemClock()
        self._known: OrderedDict[tuple[str, str, str, str], _Known] = OrderedDict()
        self._similar: OrderedDict[tuple[str, str, str], _Similar] = OrderedDict()
        self._backlog: deque[_Known] = deque()
        self._repeats: dict[int, _Known] = {}
        self._wake = asyncio.Event()
        self._sequence = count()
        self._busy = False

    def event(self, obj: Object, type: str, reason: str, message: str) -> None:
        """Record that ``reason`` (UpperCamelCase) happened to ``obj``; ``type`` is Normal or Warning."""
        uid = uid_of(obj) or f"{namespace_of(obj)}/{name_of(obj)}"
        message = self._combine((uid, type, reason), message)
        # As in upstream's aggregator, all messages of a combined event are one event.
        same = (uid, type, reason, COMBINED_PREFIX if message.startswith(COMBINED_PREFIX) else message)
        known = self._known.get(same)
        if known is None:
            known = self._known[same] = _Known(self._make(obj, type, reason, message))
            if len(self._known) > CACHE_MAX:
                self._known.popitem(last=False)
            self._enqueue(known)
            return
        self._known.move_to_end(same)
        known.count += 1
        known.obj = {**known.obj, "message": message, "lastTimestamp": format_time(self._clock.wall_s())}
        if not known.queued:
            self._repeats[id(known)] = known
            self._wake.set()

    async def run(self) -> None:
        """Write what was recorded until cancelled; an event the API refuses is logged and dropped."""
        while True:
            await self._wake.wait()
            self._busy = True
            try:
                await self._drain()
            finally:
                self._busy = False
            if self._repeats:
                await self._clock.sleep(COUNT_DELAY_S)
                self._flush_repeats()

    async def settle(self, revision: int) -> None:
        """Nothing waits for events: they describe what was done, nobody acts on them."""

    def _combine(self, group: tuple[str, str, str], message: str) -> str:
        now_s = self._clock.monotonic_s()
        similar = self._similar.get(group)
        if similar is None or now_s - similar.started_s > SIMILAR_WINDOW_S:
            similar = self._similar[group] = _Similar(now_s)
            if len(self._similar) > CACHE_MAX:
                self._similar.popitem(last=False)
        if message in similar.messages:
            return message
        if len(similar.messages) >= SIMILAR_MAX:
            return COMBINED_PREFIX + message
        similar.messages.add(message)
        return message

    def _make(self, obj: Object, type: str, reason: str, message: str) -> Object:
        now_s = self._clock.wall_s()
        now = format_time(now_s)
        # Unique as upstream's: the object's name and the time, here with a number against two in one
        # nanosecond.
        suffix = f".{int(now_s * 1e9) + next(self._sequence):x}"
        name = f"{name_of(obj)[: NAME_MAX - len(suffix)].rstrip('-.')}{suffix}"
        involved = {"apiVersion": obj.get("apiVersion", ""), **make_reference(obj)}
        if version := obj["metadata"].get("resourceVersion"):
            involved["resourceVersion"] = version
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace_of(obj) or "default"},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": type,
            "source": self._source,
            "reportingComponent": self._component,
            "reportingInstance": self._source.get("host", ""),
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    def _enqueue(self, known: _Known) -> None:
        if len(self._backlog) >= BACKLOG_MAX:
            log.warning("%s: more than %d events wait; dropping some", self.name, BACKLOG_MAX)
            return
        known.queued = True
        self._backlog.append(known)
        self._wake.set()

    def _flush_repeats(self) -> None:
        repeats, self._repeats = self._repeats, {}
        for known in repeats.values():
            if not known.queued:
                self._enqueue(known)

    async def _drain(self) -> None:
        self._wake.clear()
        while self._backlog:
            known = self._backlog.popleft()
            known.queued = False
            await self._write(known)
            await asyncio.sleep(0)  # events are the least urgent writes: let the others go first

    async def _write(self, known: _Known) -> None:
        obj = known.obj
        counted = known.count
        try:
            if not known.written:
                await self._api.create(EVENT, {**obj, "count": counted})
            else:
                patch = {"count": counted, "lastTimestamp": obj["lastTimestamp"], "message": obj["message"]}
                await self._api.patch(EVENT, name_of(obj), patch, namespace_of(obj))
            known.written = counted
        except ApiError as error:
            # In a namespace that is being deleted no event can be made; one whose event was deleted starts
            # anew.
            known.written = 0
            level = logging.DEBUG if error.code in (403, 404, 409) else logging.WARNING
            log.log(level, "%s: %s", self.name, error)
        except NetsimError as error:
            log.warning("%s: %s", self.name, error)
