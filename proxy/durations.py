"""Durations as Go writes them: ``1h0m0s``, ``500ms``. Source: Go's time.ParseDuration and Duration.String."""

import re

from netsim.model.errors import UsageError

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|[smh])")


def parse_duration(text: str) -> float:
    """Go's notation (``1m30s``, ``500ms``, ``0``, ``-1s``) in seconds. Raises UsageError."""
    unsigned = text.removeprefix("-")
    parts = _PART.findall(unsigned)
    if unsigned != "0" and (not parts or "".join(number + unit for number, unit in parts) != unsigned):
        raise UsageError(f'"{text}" is no duration', hint="such as 30s, 1m30s, 500ms")
    total = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return -total if text.startswith("-") else total


def render_duration(seconds: float) -> str:
    """The inverse, in Go's spelling; whole milliseconds."""
    if seconds < 0:
        return f"-{render_duration(-seconds)}"
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
