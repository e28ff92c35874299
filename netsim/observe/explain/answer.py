"""An explanation as JSON, and back, and as text. Pure."""

from collections.abc import Mapping
from typing import Any

from netsim.observe.explain.predict import Explanation, Way
from netsim.observe.folding import HANGING, fold
from netsim.observe.path import Path
from netsim.observe.pathjson import parse_path, render_path
from netsim.observe.pathtext import end, render_text

_LEAD = " " * (len("  100%  ") + HANGING)  # of what is left of a way's line in the summary


def dump_explanation(found: Explanation) -> dict[str, Any]:
    """As JSON has it: every way is a path as ``netsim trace -o json`` has them, beside its probability."""
    return {
        "complete": found.complete,
        "notes": list(found.notes),
        "ways": [{"probability": round(way.probability, 6), "path": render_path(way.path)} for way in found.ways],
    }


def load_explanation(document: Mapping[str, Any]) -> Explanation:
    """The inverse of `dump_explanation`."""
    ways = tuple(Way(float(way["probability"]), parse_path(way["path"])) for way in document["ways"])
    return Explanation(ways[0].path.question, ways, bool(document["complete"]), tuple(document["notes"]))


def render_explanation(
    found: Explanation,
    *,
    every_way: bool = False,
    colour: bool = False,
    everything: bool = False,
    width: int | None = None,
) -> str:
    """The likeliest way, and of the others where they end; or all of them at length. width: columns to fold at."""
    ways = found.ways if every_way else found.ways[:1]
    parts = []
    for number, way in enumerate(ways, 1):
        head = f"one of {len(found.ways)} ways: {number}, {way.probability:.0%}\n" if len(found.ways) > 1 else ""
        parts.append(head + render_text(way.path, colour=colour, everything=everything, width=width))
    if not every_way and len(found.ways) > 1:
        summary = [piece for line in _summary(found) for piece in fold(line, width, _LEAD)]
        parts.append("\n".join(["ways (--all-ways shows each at length):", *summary]))
    return "\n\n".join(parts)


def _summary(found: Explanation) -> list[str]:
    lines = []
    for way in found.ways:
        verdict, path = way.path.verdict, way.path
        where = f" by {path.answered_by}" if path.answered_by else (f" at {verdict.place}" if verdict.place else "")
        seen = f", which sees {path.seen_source}" if path.answered_by and path.seen_source else ""
        meant = "" if path.answered_by else _endpoint(path)
        lines.append(f"  {way.probability:4.0%}  {verdict.outcome}{where}{seen}{meant}")
    return lines if found.complete else [*lines, "  ... and more"]


def _endpoint(path: Path) -> str:
    """What chance had picked for a packet that did not come there: it tells one lost way from another."""
    picked = next((hop.packet for hop in reversed(path.hops) if hop.rewrite == "dnat"), None)
    if picked is None:
        return ""
    return f", on its way to {end(picked.destination, picked.destination_port, path.names)}"
