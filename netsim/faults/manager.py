"""The faults of a running cluster: made, listed, ended by time, undone, and forgotten with the places they were at.

One change after the other. What is active is what the kernel holds: a change that fails is taken back and not listed.
"""

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from netsim.faults.apply import Applier, netem_missing, read_cable, read_netem
from netsim.faults.fault import KINDS, Cable, Fault, describe_values, find_conflict, parse_fault, render_fault
from netsim.faults.plan import Wanted, forget_links, plan_change, plan_wanted
from netsim.kernel.netns import Netns
from netsim.model.clock import Clock
from netsim.model.errors import KernelError, NetsimError, UsageError
from netsim.model.networks import Families
from netsim.model.where import Where, parse_where

log = logging.getLogger(__name__)

ENDED_KEPT = 20  # how many ended faults are remembered
IPV6_MTU_MIN_BYTES = 1280  # RFC 8200; below it the kernel takes IPv6 off the link


@dataclass(frozen=True, slots=True)
class Socket:
    """Where a place is plugged in: its namespace, and the one with the cable's other end, named if known by name."""

    inner: Netns
    outer: Netns
    outer_link: str = ""


class FaultTarget(Protocol):
    """What only the cluster knows and can do. All raise NetsimError."""

    def find_socket(self, where: Where) -> Socket:
        """Where a place is plugged in."""
        ...

    async def kill_pod(self, where: Where, container: str | None, number: int) -> list[str]:
        """Send a signal to a pod's containers; the names of those that got it."""
        ...

    async def stop_node(self, name: str) -> None:
        """Its containers end, its kubelet is silent."""
        ...

    async def start_node(self, name: str) -> None: ...


class Faults:
    """Owned by the cluster process."""

    def __init__(self, target: FaultTarget, fabric: Netns, families: Families, clock: Clock) -> None:
        self._target = target
        self._fabric = fabric
        self._families = families
        self._clock = clock
        self._active: dict[int, Fault] = {}
        self._ended: deque[dict[str, Any]] = deque(maxlen=ENDED_KEPT)
        self._namespaces: dict[str, Netns] = {fabric.name: fabric}
        self._applier = Applier(self._namespaces)
        self._wanted = Wanted()
        self._numbers = 0
        self._timers: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._netem: bool | None = None

    # --- what is asked ---

    async def add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make a fault. Raises UsageError, NetsimError (another one is in the way, no such place), FeatureMissing,
        KernelError; nothing has changed then.
        """
        if request.get("kind") == "kill":
            return await self._kill(request)
        fault = parse_fault(request)
        async with self._turn:
            if (found := find_conflict(fault, list(self._active.values()))) is not None:
                other, place = found
                raise NetsimError(
                    f"fault {other.number} is there already: {other.kind} {describe_values(other)}".rstrip(),
                    where=place,
                    hint=f"netsim fault undo {other.number}",
                )
            made = await self._make(fault)
        return render_fault(made, self._clock.monotonic_s())

    async def undo(
        self, numbers: Sequence[int] | None, why: str = "undone", *, if_there: bool = False
    ) -> list[dict[str, Any]]:
        """End these faults, or all (None). Raises UsageError for one there is not, before any is ended."""
        async with self._turn:
            if numbers is not None and if_there:
                numbers = [number for number in numbers if number in self._active]
            if numbers is not None and (unknown := [n for n in numbers if n not in self._active]):
                there = ", ".join(map(str, self._active)) or "none"
                raise UsageError(f"there is no fault {unknown[0]}", hint=f"netsim fault list shows them: {there}")
            faults = [self._active[n] for n in dict.fromkeys(self._active if numbers is None else numbers)]
            now_s = self._clock.monotonic_s()
            for fault in faults:
                await self._end(fault, why)
            return [render_fault(fault, now_s) for fault in faults]

    async def undo_kind(self, kind: str, places: Sequence[str]) -> list[dict[str, Any]]:
        """End the faults of a kind that are at any of these places. Raises UsageError where there is none."""
        named = {str(parse_where(place)) for place in places}
        found = [f for f in self._active.values() if f.kind == kind and named & set(f.places)]
        if missing := sorted(named - {place for fault in found for place in fault.places}):
            raise UsageError(f"{missing[0]} has no fault {kind}", hint="netsim fault list shows what there is")
        return await self.undo([fault.number for fault in found])

    def describe(self) -> dict[str, Any]:
        """``faults`` that are active, and the last ones that ``ended``, with why."""
        now_s = self._clock.monotonic_s()
        return {
            "faults": [render_fault(fault, now_s) for fault in self._active.values()],
            "ended": list(self._ended),
        }

    def namespace_gone(self, name: str) -> None:
        """A pod's network namespace goes, and with it one end of each fault at this pod."""
        if any(cable.inner.netns == name for fault in self._active.values() for cable in fault.cables):
            self._later(self._drop_place(name))

    # --- making and ending ---

    async def _make(self, fault: Fault) -> Fault:
        by = await self._choose_means(fault)
        sockets = {place: self._target.find_socket(parse_where(place)) for place in fault.places}
        self._check_mtu(fault)
        cables = tuple(await asyncio.to_thread(_read_cables, sockets))
        _check_reach(fault, by, cables)
        for socket in sockets.values():
            for netns in (socket.inner, socket.outer):
                self._namespaces[netns.name] = netns
        self._numbers += 1
        now_s = self._clock.monotonic_s()
        made = replace(
            fault,
            number=self._numbers,
            by=by,
            cables=cables,
            started_wall_s=self._clock.wall_s(),
            until_s=None if fault.duration_s is None else now_s + fault.duration_s,
        )
        await self._change({**self._active, made.number: made})
        if made.kind == "stop":
            try:
                for place in made.places:
                    await self._target.stop_node(parse_where(place).name)
            except NetsimError:
                await self._change({number: other for number, other in self._active.items() if other is not made})
                raise
        if made.duration_s is not None:
            self._timers[made.number] = asyncio.create_task(self._expire(made.number, made.duration_s))
        log.info("fault %d: %s at %s %s", made.number, made.kind, ", ".join(made.places), describe_values(made))
        return made

    async def _choose_means(self, fault: Fault) -> str:
        """What does it in the kernel. Raises FeatureMissing."""
        kind = KINDS[fault.kind]
        if kind.netem or kind.name == "loss":
            if self._netem is None:
                self._netem = await asyncio.to_thread(read_netem, self._fabric)
            if kind.netem and not self._netem:
                raise netem_missing(kind.name)
            return "netem" if self._netem else "nft"
        return {"rate": "tbf", "partition": "nft"}.get(kind.name, "link")

    def _check_mtu(self, fault: Fault) -> None:
        if fault.mtu and fault.mtu < IPV6_MTU_MIN_BYTES and 6 in self._families:
            raise UsageError(
                f"mtu: {fault.mtu} is too small for IPv6", hint=f"{IPV6_MTU_MIN_BYTES} bytes at least (RFC 8200)"
            )

    async def _change(self, active: dict[int, Fault]) -> None:
        """Make the kernel what these faults ask for, and remember them. Raises NetsimError; all is as before then."""
        wanted = plan_wanted(active.values(), self._fabric.name)
        await asyncio.to_thread(self._applier.apply, plan_change(self._wanted, wanted))
        self._wanted = wanted
        self._active = active

    async def _end(self, fault: Fault, why: str) -> None:
        await self._change({number: other for number, other in self._active.items() if number != fault.number})
        timer = self._timers.pop(fault.number, None)
        if timer is not None and timer is not asyncio.current_task():
            timer.cancel()
        if fault.kind == "stop":
            for place in fault.places:
                await self._target.start_node(parse_where(place).name)
        self._remember(fault, why)

    def _remember(self, fault: Fault, why: str) -> None:
        described = render_fault(fault, self._clock.monotonic_s())
        self._ended.append({**described, "ended": self._clock.wall_s(), "why": why})
        log.info("fault %d: %s", fault.number, why)

    async def _expire(self, number: int, duration_s: float) -> None:
        await self._clock.sleep(duration_s)
        try:
            await self.undo([number], "time is up", if_there=True)
        except NetsimError as error:  # it stays listed, and can be undone by hand
            log.error("fault %d can't be undone: %s", number, error)

    async def _drop_place(self, netns: str) -> None:
        """Forget what was at a pod that is gone; a fault that was nowhere else ends."""
        async with self._turn:
            remaining: dict[int, Fault] = {}
            ended: list[Fault] = []
            gone: list[Cable] = []
            for number, fault in self._active.items():
                cables = tuple(cable for cable in fault.cables if cable.inner.netns != netns)
                gone += [cable for cable in fault.cables if cable.inner.netns == netns]
                places = tuple(cable.place for cable in cables)
                if cables:
                    remaining[number] = replace(fault, cables=cables, places=places)
                else:
                    ended.append(fault)
            self._wanted = forget_links(self._wanted, (end for cable in gone for end in (cable.inner, cable.outer)))
            await self._forget_tables(remaining)
            self._namespaces.pop(netns, None)
            for fault in ended:
                timer = self._timers.pop(fault.number, None)
                if timer is not None:
                    timer.cancel()
                self._remember(fault, f"{', '.join(fault.places)} is gone")

    async def _forget_tables(self, remaining: dict[int, Fault]) -> None:
        try:
            await self._change(remaining)
        except KernelError as error:
            log.error("after a pod's end its faults could not be cleared away: %s", error)
            self._active = remaining

    # --- killing, which is not undone ---

    async def _kill(self, request: Mapping[str, Any]) -> dict[str, Any]:
        places = [parse_where(str(place)) for place in request.get("places") or ()]
        if not places or any(where.kind != "pod" for where in places):
            raise UsageError("kill: which pod?", hint="netsim fault kill pod/NAME")
        number = parse_signal(request.get("signal"))
        killed = {str(where): await self._target.kill_pod(where, request.get("container"), number) for where in places}
        name = signal.Signals(number).name
        return {"kind": "kill", "places": list(killed), "signal": name, "containers": killed, "what": name}

    def _later(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def parse_signal(value: object) -> int:
    """``KILL``, ``SIGTERM``, ``9``; nothing means SIGKILL. Raises UsageError."""
    text = str(value or "KILL").upper()
    try:
        if text.isdigit():
            return int(signal.Signals(int(text)))
        return int(signal.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except (KeyError, ValueError):
        raise UsageError(f'there is no signal "{value}"', hint="such as KILL, TERM, HUP, or its number") from None


def _check_reach(fault: Fault, by: str, cables: Iterable[Cable]) -> None:
    """Raises NetsimError where nft would never see the packets that it is to lose: after a redirection by tc a packet
    comes back behind nft's hook (skip_classify, __netif_receive_skb_core, net/core/dev.c).
    """
    for cable in cables:
        if fault.kind == "loss" and by == "nft" and fault.goes_out and cable.redirected:
            raise NetsimError(
                f"loss of what it sends: tc redirects that at {cable.outer.link}, and this kernel has no netem",
                where=cable.place,
                hint="take the annotation kubernetes.io/egress-bandwidth off the pod, or use --direction in",
            )


def _read_cables(sockets: Mapping[str, Socket]) -> Iterable[Cable]:
    return [read_cable(place, one.inner, one.outer, one.outer_link) for place, one in sockets.items()]
