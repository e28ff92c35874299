"""The values of faults as people write them: durations, rates, percentages. Pure; parse_ and render_ are inverses."""

import math
import re

from netsim.model.errors import UsageError

_DURATION_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_RATE_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
RATE_MIN_BITS, RATE_MAX_BITS = 1_000, 10**12
DURATION_MAX_S = 366 * 86400.0


def parse_duration(value: object, what: str = "duration") -> float:
    """``10s``, ``250ms``, ``1.5m``, ``2h``, or a number of seconds, as seconds. Raises UsageError."""
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(_NUMBER + r"\s*(us|ms|s|m|h)", value.strip())):
        seconds = float(match[1]) * _DURATION_S[match[2]]
    if not 0 <= seconds <= DURATION_MAX_S:  # NaN is none either
        raise UsageError(
            f"{what}: {value!r} is no duration", hint="a number with us, ms, s, m or h, such as 250ms or 10s"
        )
    return seconds


def render_duration(seconds: float) -> str:
    """In the largest unit that makes it at least 1: ``250ms``, ``10s``, ``1.5m``."""
    for unit in ("h", "m", "s", "ms"):
        if seconds >= _DURATION_S[unit]:
            return f"{_trim(seconds / _DURATION_S[unit])}{unit}"
    return f"{_trim(seconds / _DURATION_S['us'])}us" if seconds else "0s"


def parse_rate(value: object) -> int:
    """``10mbit``, ``512kbit``, ``1gbit``, or a number of bits in a second, as bits/s. Raises UsageError.

    tc's ``mbps`` is refused: there it means megabytes, nearly everywhere else megabits.
    """
    bits = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        bits = float(value)
    elif isinstance(value, str) and (
        match := re.fullmatch(_NUMBER + r"\s*(bit|kbit|mbit|gbit)", value.strip().lower())
    ):
        bits = float(match[1]) * _RATE_BITS[match[2]]
    if not RATE_MIN_BITS <= bits <= RATE_MAX_BITS:
        raise UsageError(
            f"rate: {value!r} is no rate", hint="from 1kbit to 1000gbit, as a number with bit, kbit, mbit or gbit"
        )
    return round(bits)


def render_rate(bits: int) -> str:
    """``10mbit``."""
    for unit in ("gbit", "mbit", "kbit"):
        if bits >= _RATE_BITS[unit]:
            return f"{_trim(bits / _RATE_BITS[unit])}{unit}"
    return f"{bits}bit"


def parse_percent(value: object) -> float:
    """``5``, ``0.1``, ``5%``: above 0, at most 100. Raises UsageError."""
    text = value.strip().removesuffix("%") if isinstance(value, str) else value
    try:
        percent = math.nan if isinstance(text, bool) else float(text)  # type: ignore[arg-type]  # what is none says so
    except (TypeError, ValueError):
        percent = math.nan
    if not 0 < percent <= 100:
        raise UsageError(f"percent: {value!r} is no percentage", hint="a number above 0 and at most 100")
    return percent


def _trim(value: float) -> str:
    return f"{value:.10g}"
