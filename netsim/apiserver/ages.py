"""Cells of tables: durations, ages, labels.

Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/util/duration/duration.go``.
"""

from typing import Any

from netsim.model.objects import parse_time

UNKNOWN = "<unknown>"
NONE = "<none>"

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def human_duration(seconds: float) -> str:
    """``75s``, ``5m30s``, ``3h20m``, ``2d3h``, ``1y40d``."""
    if seconds < -1:
        return "<invalid>"
    s = max(0, int(seconds))
    if s < 2 * _MINUTE:
        return f"{s}s"
    if s < 10 * _MINUTE:
        return _two(s // _MINUTE, "m", s % _MINUTE, "s")
    if s < 3 * _HOUR:
        return f"{s // _MINUTE}m"
    if s < 8 * _HOUR:
        return _two(s // _HOUR, "h", s % _HOUR // _MINUTE, "m")
    if s < 2 * _DAY:
        return f"{s // _HOUR}h"
    if s < 8 * _DAY:
        return _two(s // _DAY, "d", s % _DAY // _HOUR, "h")
    if s < 2 * _YEAR:
        return f"{s // _DAY}d"
    if s < 8 * _YEAR:
        return _two(s // _YEAR, "y", s % _YEAR // _DAY, "d")
    return f"{s // _YEAR}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def age(timestamp: str | None, now_s: float) -> str:
    """The time since a timestamp, as the AGE column has it."""
    return human_duration(now_s - parse_time(timestamp)) if timestamp else UNKNOWN


def labels_text(labels: dict[str, Any] | None) -> str:
    """``a=b,c=d``, or ``<none>``: how columns show a selector's map."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE
