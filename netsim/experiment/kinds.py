"""The kinds of steps: their arguments, and the facts that they find out and that expectations are about. Pure data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Literal

from netsim.model.errors import NetsimError, UsageError
from netsim.model.target import PROTOCOLS, parse_service, parse_target
from netsim.model.where import parse_where

FactType = Literal["text", "number", "list"]
Check = Callable[[Any], str]  # "": right; else what it must be
OUTCOMES = ("delivered", "refused", "rejected", "dropped", "no reply", "no route")
GENERATED = "services"  # as a target: the Services that the step "services" has made
MOST = 1_000_000


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value else "must be text"


def _number(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
    return "" if good else f"must be a whole number, 1 to {MOST}"


def _positive(value: Any) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return "" if good else "must be a number above 0"


def _texts(value: Any) -> str:
    good = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return "" if good else "must be a list of texts"


def _place(value: Any) -> str:
    return _told_by(parse_where, value)


def _target(value: Any) -> str:
    return _told_by(parse_target, value)


def _target_or_generated(value: Any) -> str:
    return "" if value == GENERATED else _target(value)


def _address(value: Any) -> str:
    try:
        ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return "must be an IP address"
    return ""


def _service(value: Any) -> str:
    return _told_by(parse_service, value)


def _told_by(parse: Callable[[str], Any], value: Any) -> str:
    if not isinstance(value, str):
        return "must be text"
    try:
        parse(value)
    except (UsageError, NetsimError) as error:
        return f"{error.message}: {error.hint}" if error.hint else error.message
    return ""


def _places(value: Any) -> str:
    """Of a fault: a place, several, or the sets of a partition."""
    items = value if isinstance(value, list) else [value]
    flat = [one for item in items for one in (item if isinstance(item, list) else [item])]
    return next((words for one in flat if (words := _place(one))), "") if flat else "must be a place or several"


def _count(value: Any) -> str:
    return "" if type(value) is int and 0 <= value <= MOST else f"must be a whole number, 0 to {MOST}"


def _one_of(*words: str) -> Check:
    return lambda value: "" if value in words else f"must be one of {', '.join(words)}"


def _object(value: Any) -> str:
    return "" if isinstance(value, dict) and value else "must be an object"


def _anything(_value: Any) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class StepKind:
    """``shorthand`` is the argument that is meant when the step's value is no mapping: ``wait: barrier``."""

    required: Mapping[str, Check]
    optional: Mapping[str, Check] = field(default_factory=dict)
    facts: Mapping[str, FactType] = field(default_factory=dict)
    figures: tuple[str, ...] = ()  # facts that are drawn
    shorthand: str = ""
    measuring: bool = False
    rest: Check | None = None  # arguments of other names too


_LATENCIES: dict[str, FactType] = {
    "count": "number",
    "errors": "number",
    "p50Ms": "number",
    "p90Ms": "number",
    "p99Ms": "number",
    "maxMs": "number",
    "meanMs": "number",
}
_PROBE_FACTS: dict[str, FactType] = {
    "verdict": "text",
    "at": "text",
    "cause": "text",
    "answeredBy": "text",
    "source": "text",
    "seenAs": "text",
    "through": "list",
    "rewrites": "list",
    "rules": "list",
    "endpoints": "number",
}

STEP_KINDS: dict[str, StepKind] = {
    "probe": StepKind(
        {"from": _place, "to": _target},
        {
            "protocol": _one_of(*PROTOCOLS),
            "ipFamily": _one_of("ipv4", "ipv6"),
            "size": _number,
            "count": _number,
            "timeout": _positive,
        },
        _PROBE_FACTS,
    ),
    "rules": StepKind(
        {"service": _service}, {"node": _text}, {"lines": "list", "count": "number"}, shorthand="service"
    ),
    "load": StepKind(
        {"from": _place, "to": _target_or_generated, "connections": _number},
        {"parallel": _number, "protocol": _one_of("tcp", "udp", "http"), "timeout": _positive},
        {**_LATENCIES, "rate": "number", "errorPercent": "number"},
        ("p50Ms", "p99Ms", "rate", "errors"),
        measuring=True,
    ),
    "first-packet": StepKind(
        {"from": _place, "to": _target_or_generated},
        {"count": _number, "timeout": _positive},
        _LATENCIES,
        ("p50Ms", "p90Ms"),
        measuring=True,
    ),
    "rule-update": StepKind({}, {"count": _number}, _LATENCIES, ("p50Ms", "maxMs"), measuring=True),
    "sync": StepKind({}, {}, {"ms": "number"}, ("ms",), measuring=True),
    "services": StepKind(
        {"count": _number},
        {"name": _text, "selector": _object, "port": _number, "timeout": _positive},
        {"ms": "number", "count": "number"},
        shorthand="count",
    ),
    "fault": StepKind({"kind": _text, "at": _places}, rest=_anything),
    "undo": StepKind({"fault": _text}, shorthand="fault"),
    "apply": StepKind({"manifests": _anything}, {"timeout": _positive}, {"ms": "number"}, shorthand="manifests"),
    "delete": StepKind({"kind": _text, "name": _text}, {"namespace": _text}, {"ms": "number"}),
    "patch": StepKind({"kind": _text, "name": _text, "patch": _object}, {"namespace": _text}, {"ms": "number"}),
    "load-balancer": StepKind({"service": _service, "address": _address, "nodes": _texts}, {}, {"ms": "number"}),
    "scale": StepKind(
        {"deployment": _text, "replicas": _count}, {"namespace": _text, "timeout": _positive}, {"ms": "number"}
    ),
    "wait": StepKind({"for": _anything}, shorthand="for"),
    "exec": StepKind(
        {"in": _place, "command": _texts},
        {"timeout": _positive, "input": _text},
        {"exit": "number", "stdout": "text", "stderr": "text"},
    ),
}
