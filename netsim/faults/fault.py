"""A fault as data: its kind, where it is, how much of it, how long; from a request and into words. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netsim.faults.values import parse_duration, parse_percent, parse_rate, render_duration, render_rate
from netsim.model.errors import UsageError
from netsim.model.where import parse_where

DIRECTIONS = ("both", "in", "out")  # as the place sees it
REORDER_DELAY_S = 0.01
MTU_MIN_BYTES, MTU_MAX_BYTES = 68, 65535  # RFC 791; what veth takes


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of fault needs and may stand at.

    needs:   values that must be given.
    may:     values that may be.
    at:      kinds of places.
    group:   two faults of one group can't be at one place in one direction; "": they can.
    """

    name: str
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    at: tuple[str, ...] = ("pod", "node", "host")
    group: str = ""
    netem: bool = False  # there is no other way in the kernel

    @property
    def directed(self) -> bool:
        return "direction" in self.may


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("link-down", group="link-down"),
        Kind("rate", ("rate",), ("direction",), group="rate"),
        Kind("loss", ("percent",), ("direction",), group="loss"),
        Kind("delay", ("delay",), ("jitter", "direction"), group="delay", netem=True),
        Kind("duplicate", ("percent",), ("direction",), group="duplicate", netem=True),
        Kind("corrupt", ("percent",), ("direction",), group="corrupt", netem=True),
        Kind("reorder", ("percent",), ("delay", "direction"), group="delay", netem=True),  # netem has one delay
        Kind("mtu", ("mtu",), group="mtu"),
        Kind("partition", ("sets",), ("one_way",), at=("node", "host")),
        Kind("stop", at=("node",), group="stop"),
    )
}


@dataclass(frozen=True, slots=True)
class End:
    """One end of a cable: a link in a network namespace of the cluster."""

    netns: str
    link: str


@dataclass(frozen=True, slots=True)
class Cable:
    """The cable of a place: ``inner`` is its eth0, ``outer`` the port it is plugged into, in the fabric or, of a pod,
    in its node. What is in the cable was so before the fault.
    """

    place: str
    inner: End
    outer: End
    mtu: int = 1500  # of inner
    gso_max_segs: int = 65535  # of outer
    redirected: bool = False  # tc takes what arrives at outer, before nft's ingress hook


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``number`` is 0 and ``cables`` empty until it is made.

    sets: of a partition; ``places`` are then those of all sets. by: what does it in the kernel.
    until_s: on the cluster's monotonic clock; None: until undone.
    """

    kind: str
    places: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...] = ()
    direction: str = "both"
    one_way: bool = False
    rate_bits: int = 0
    percent: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    mtu: int = 0
    duration_s: float | None = None
    number: int = 0
    by: str = ""
    started_wall_s: float = 0.0
    until_s: float | None = None
    cables: tuple[Cable, ...] = ()

    @property
    def goes_in(self) -> bool:
        """It concerns what the places receive."""
        return self.direction in ("both", "in")

    @property
    def goes_out(self) -> bool:
        """It concerns what the places send."""
        return self.direction in ("both", "out")


def parse_fault(request: Mapping[str, Any]) -> Fault:
    """A fault from a request: ``kind``, ``places`` (or ``sets``), and the kind's values. Raises UsageError."""
    kind = KINDS.get(str(request.get("kind")))
    if kind is None:
        raise UsageError(f'there is no fault "{request.get("kind")}"', hint=f"one of {', '.join(KINDS)}, kill")
    given = {key: value for key, value in request.items() if value is not None and key not in ("kind", "places", "for")}
    for name in given:
        if name not in (*kind.needs, *kind.may):
            raise UsageError(f'{kind.name}: "{name}" is not among its values', hint=_known(kind))
    for name in kind.needs:
        if name not in given:
            raise UsageError(f'{kind.name}: "{name}" is missing', hint=_known(kind))
    values: dict[str, Any] = {}
    for name, value in given.items():
        values |= _PARSE[name](value)
    sets = values.get("sets", ())
    named = [place for one in sets for place in one] if sets else request.get("places") or ()
    places = _parse_places(kind, named)
    if kind.name == "reorder":
        values.setdefault("delay_s", REORDER_DELAY_S)
    if kind.netem and values.get("delay_s", 1.0) <= 0:
        raise UsageError(f"{kind.name}: a delay of 0 delays nothing")
    if values.get("jitter_s", 0.0) > values.get("delay_s", 0.0):
        raise UsageError("delay: the jitter is larger than the delay", hint="a packet can't arrive before it is sent")
    duration_s = request.get("for")
    if duration_s is not None:
        values["duration_s"] = parse_duration(duration_s, "for")
    if values.get("duration_s") == 0:
        raise UsageError("for: a fault for 0 seconds is none")
    return Fault(kind.name, places, **values)


def _known(kind: Kind) -> str:
    words = [*kind.needs, *(f"[{name}]" for name in kind.may)]
    return f"{kind.name} takes {', '.join(words)}" if words else f"{kind.name} takes no values"


def _parse_places(kind: Kind, named: Sequence[str]) -> tuple[str, ...]:
    if not named:
        raise UsageError(f"{kind.name}: where?", hint="name a place: " + ", ".join(f"{word}/NAME" for word in kind.at))
    places = []
    for text in named:
        where = parse_where(str(text))
        if where.kind not in kind.at:
            raise UsageError(f"{kind.name}: not at {where}", hint=f"it is for {' and '.join(kind.at)} places")
        if str(where) in places:
            raise UsageError(f"{kind.name}: {where} is named twice")
        places.append(str(where))
    return tuple(places)


def _parse_direction(value: object) -> dict[str, Any]:
    if value not in DIRECTIONS:
        raise UsageError(
            f"direction: {value!r} is none", hint="in (what the place receives), out (what it sends) or both"
        )
    return {"direction": value}


def _parse_mtu(value: object) -> dict[str, Any]:
    text = str(value)
    if isinstance(value, bool) or not text.isdigit() or not MTU_MIN_BYTES <= int(text) <= MTU_MAX_BYTES:
        raise UsageError(f"mtu: {value!r} is none", hint=f"bytes, from {MTU_MIN_BYTES} to {MTU_MAX_BYTES}")
    return {"mtu": int(text)}


def _parse_sets(value: object) -> dict[str, Any]:
    sets = value if isinstance(value, list | tuple) else ()
    parsed = tuple(tuple(one) if isinstance(one, list | tuple) else (str(one),) for one in sets)
    if len(parsed) < 2 or not all(parsed):
        raise UsageError("partition: needs two sets of nodes", hint="netsim fault partition node/a,node/b node/c")
    return {"sets": tuple(tuple(str(parse_where(str(place))) for place in one) for one in parsed)}


_PARSE: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "rate": lambda value: {"rate_bits": parse_rate(value)},
    "percent": lambda value: {"percent": parse_percent(value)},
    "delay": lambda value: {"delay_s": parse_duration(value, "delay")},
    "jitter": lambda value: {"jitter_s": parse_duration(value, "jitter")},
    "direction": _parse_direction,
    "one_way": lambda value: {"one_way": bool(value)},
    "mtu": _parse_mtu,
    "sets": _parse_sets,
}


def find_conflict(new: Fault, active: Sequence[Fault]) -> tuple[Fault, str] | None:
    """An active fault that does the same at one of the new one's places, and that place."""
    group = KINDS[new.kind].group
    if not group:
        return None
    for other in active:
        meets = (new.goes_in and other.goes_in) or (new.goes_out and other.goes_out)
        if KINDS[other.kind].group != group or not meets:
            continue
        for place in new.places:
            if place in other.places:
                return other, place
    return None


def describe_values(fault: Fault) -> str:
    """How much of it, in words: ``5% both ways``."""
    words = []
    if fault.rate_bits:
        words.append(render_rate(fault.rate_bits))
    if fault.percent:
        words.append(f"{fault.percent:g}%")
    if fault.delay_s:
        words.append(render_duration(fault.delay_s))
    if fault.jitter_s:
        words.append(f"± {render_duration(fault.jitter_s)}")
    if fault.mtu:
        words.append(f"{fault.mtu} bytes")
    if fault.sets:
        words.append((" -> " if fault.one_way else " | ").join(",".join(one) for one in fault.sets))
    if KINDS[fault.kind].directed:
        words.append("both ways" if fault.direction == "both" else fault.direction)
    return " ".join(words)


def render_fault(fault: Fault, now_s: float) -> dict[str, Any]:
    """A fault as ``netsim fault list -o json`` has it; ``now_s`` on the clock of ``until_s``."""
    rendered: dict[str, Any] = {
        "id": fault.number,
        "kind": fault.kind,
        "places": list(fault.places),
        "what": describe_values(fault),
        "by": fault.by,
        "started": fault.started_wall_s,
        "remainingS": None if fault.until_s is None else max(0.0, round(fault.until_s - now_s, 3)),
    }
    if KINDS[fault.kind].directed:
        rendered["direction"] = fault.direction
    for name, value in (
        ("rateBitsPerS", fault.rate_bits),
        ("percent", fault.percent),
        ("delayS", fault.delay_s),
        ("jitterS", fault.jitter_s),
        ("mtu", fault.mtu),
        ("sets", [list(one) for one in fault.sets]),
        ("oneWay", fault.one_way),
    ):
        if value:
            rendered[name] = value
    return rendered
