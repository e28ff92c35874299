"""From what a step has seen to facts that expectations are about. Pure."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil
from typing import Any

from netsim.experiment.shape import seen_address
from netsim.observe.path import Path


def describe_path(path: Path) -> dict[str, Any]:
    """The facts of one probe. ``source``: whether the far end saw the client's own address."""
    there = [hop for hop in path.hops if hop.leg == "there"]
    seen = seen_address(path)
    own = there[0].packet.source if there else ""
    return {
        "verdict": path.verdict.outcome,
        "at": path.verdict.place,
        "cause": path.verdict.cause,
        "answeredBy": path.answered_by,
        "source": ("kept" if seen == own else "rewritten") if seen and own else "unknown",
        "seenAs": path.names.get(seen, seen),
        "through": [place for place, _ in groupby(hop.place for hop in there)],
        "rewrites": [f"{hop.rewrite} at {hop.place}" for hop in there if hop.kind == "rewrite"],
        "rules": [
            f"{rule.family} {rule.table} {rule.chain}: {rule.text}" + (f" {{ {rule.element} }}" if rule.element else "")
            for hop in there
            for rule in hop.rules
        ],
    }


def describe_latencies(samples_ms: Sequence[float], errors: Mapping[str, int]) -> dict[str, Any]:
    """Percentiles by the nearest rank, so that each is a time that was measured. Without samples only the counts."""
    facts: dict[str, Any] = {"count": len(samples_ms), "errors": sum(errors.values())}
    if not samples_ms:
        return facts
    ordered = sorted(samples_ms)
    for name, share in (("p50Ms", 0.5), ("p90Ms", 0.9), ("p99Ms", 0.99), ("maxMs", 1.0)):
        facts[name] = round(ordered[ceil(share * len(ordered)) - 1], 4)
    facts["meanMs"] = round(sum(ordered) / len(ordered), 4)
    return facts
