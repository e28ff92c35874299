"""The pieces that descriptions are made of: aligned fields, small tables, events, ages."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from netsim.cli.output import render_table
from netsim.model.objects import Object

_LABEL_WIDTH = 18


def field_lines(fields: Sequence[tuple[str, Any]], indent: int = 0) -> list[str]:
    """``Name:  value`` lines; fields without a value are left out."""
    pad = " " * indent
    return [f"{pad}{label + ':':<{_LABEL_WIDTH}}{value}" for label, value in fields if value not in (None, "")]


def text_lines(label: str, text: str, indent: int = 0) -> list[str]:
    """``label: text`` on one line, or below the label, deeper, a text of several lines as it is.

    What a terminal would act on is escaped.
    """
    lines = ["".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line) for line in text.split("\n")]
    pad = " " * indent
    if len(lines) == 1:
        return [f"{pad}{label}: {lines[0]}".rstrip()]
    ended = lines[-1] == ""  # the usual end of a file is not a line more
    return [f"{pad}{label}:", *(f"{pad}  {line}" if line else "" for line in (lines[:-1] if ended else lines))]


def join_map(values: Mapping[str, Any] | None) -> str:
    """``a=1, b=2``."""
    return ", ".join(f"{key}={value}" for key, value in (values or {}).items()) or "<none>"


def sub_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A titled, indented table; ``<none>`` when it has no rows."""
    if not rows:
        return [f"{title + ':':<{_LABEL_WIDTH}}<none>"]
    return [f"{title}:", *(f"  {line}" for line in render_table(header, rows).splitlines())]


def events_text(events: Sequence[Object]) -> list[str]:
    """The events of an object, oldest first."""
    rows = []
    for event in sorted(events, key=_when):
        count = int(event.get("count") or 1)
        times = f"{age(_when(event))} (x{count})" if count > 1 else age(_when(event))
        rows.append([event.get("type", ""), event.get("reason", ""), times, str(event.get("message", "")).strip()])
    return sub_table("Events", ("TYPE", "REASON", "AGE", "MESSAGE"), rows)


def age(timestamp: str | None) -> str:
    """How long ago, as kubectl writes it: ``42s``, ``5m``, ``3h``, ``2d``."""
    if not timestamp:
        return "<unknown>"
    try:
        then = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    except ValueError:
        return "<unknown>"
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 7200:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 172800 else f"{seconds // 86400}d"


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
