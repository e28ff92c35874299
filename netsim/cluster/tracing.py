"""``netsim trace`` in the cluster process, which has every namespace: the probe is sent and watched from a thread."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from netsim.cluster.observing import find_place, map_places, name_all, note_destination, resolve
from netsim.cluster.site import Site
from netsim.kernel.netns import Netns
from netsim.model.errors import NetsimError, UsageError
from netsim.model.kinds import ENDPOINT_SLICE
from netsim.model.target import PROTOCOLS, Destination, Protocol, parse_target
from netsim.model.where import Where, parse_where
from netsim.observe.assemble import assemble
from netsim.observe.collect import collect
from netsim.observe.path import Question, with_notes
from netsim.observe.pathjson import render_path
from netsim.observe.reader import KernelReader

MAX_TIMEOUT_S = 60.0
MAX_SIZE_BYTES = 65000
# Each place costs a packet ring and a rule table for the time of the trace; beyond this many pods only those are
# watched that the packet is likely to come by.
MAX_PODS = 200
# Threads of its own: a probe waits for an answer, and what else the cluster has threads for must not wait with it.
_AT_ONCE = 32
_pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="trace")


async def trace(site: Site, request: dict[str, Any]) -> dict[str, Any]:
    """Send one probe and return its path as JSON has it. Raises UsageError, ApiError, NetsimError.

    Cancelled, it waits for no answer any more, and what watches the probe goes.
    """
    given_up = threading.Event()

    def heed() -> None:
        if given_up.is_set():
            raise NetsimError("the trace was given up")

    try:
        return await asyncio.get_running_loop().run_in_executor(_pool, _trace, site, request, heed)
    finally:
        given_up.set()


def _trace(site: Site, request: dict[str, Any], heed: Callable[[], None]) -> dict[str, Any]:
    where, target = parse_where(request["from"]), parse_target(request["to"])
    protocol = _check_protocol(request.get("protocol"))
    timeout_s, size = float(request["timeout_s"]), int(request.get("size") or 0)
    check_limits(timeout_s, size)
    every = map_places(site)
    source = find_place(site, every, where)
    family = request.get("family") or _family_of(target.address)
    destination = resolve(site, target, protocol, family)
    if size and destination.protocol == "tcp":
        raise UsageError("a TCP probe is a handshake, which carries nothing", hint="--size goes with udp and icmp")
    question = Question(source, str(target), destination.protocol, destination.address, destination.port, size)
    chosen, notes = choose_places(every, source, find_likely(site, destination, target.place))
    spawner = site.spawner
    evidence = collect(question, chosen, source, timeout_s=timeout_s, spawner=spawner, heed=heed)
    path = assemble(evidence, KernelReader(chosen), name_all(site, chosen))
    return render_path(with_notes(path, [*note_destination(site, destination), *notes]))


def check_limits(timeout_s: float, size: int = 0) -> None:
    """Raises UsageError."""
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"a probe can be waited for up to {MAX_TIMEOUT_S:g} s, not {timeout_s:g} s")
    if not 0 <= size <= MAX_SIZE_BYTES:
        raise UsageError(f"a probe can be 0 to {MAX_SIZE_BYTES} bytes large, not {size}")


def find_likely(site: Site, destination: Destination, place: Where | None) -> set[str]:
    """The pods that a packet for this destination is meant for: endpoints of whatever Service has that port."""
    found = {str(place)} if place is not None else set()
    for piece in site.informers.of(ENDPOINT_SLICE).items():
        namespace = piece["metadata"].get("namespace", "default")
        for endpoint in piece.get("endpoints") or ():
            reference = endpoint.get("targetRef") or {}
            if reference.get("kind") == "Pod":
                found.add(f"pod/{reference.get('namespace', namespace)}/{reference['name']}")
    return found


def choose_places(
    every: dict[str, Netns], source: str, likely: set[str], limit: int = MAX_PODS
) -> tuple[dict[str, Netns], list[str]]:
    """Those that are watched, and a note where that is not all."""
    pods = [place for place in every if place.startswith("pod/")]
    if len(pods) <= limit:
        return every, []
    kept = [p for p in pods if p == source] + [p for p in pods if p in likely and p != source]
    kept = kept[:limit]
    chosen = {place: netns for place, netns in every.items() if not place.startswith("pod/")}
    note = f"{len(kept)} of {len(pods)} pods were watched: the source, and endpoints of Services"
    return chosen | {place: every[place] for place in kept}, [note]


def _family_of(address: str) -> int | None:
    if not address:
        return None
    return 6 if ":" in address else 4


def _check_protocol(word: str | None) -> Protocol | None:
    found = next((known for known in PROTOCOLS if known == word), None)
    if word is not None and found is None:
        raise UsageError(f'"{word}" is no protocol of a probe', hint=f"one of {', '.join(PROTOCOLS)}")
    return found
