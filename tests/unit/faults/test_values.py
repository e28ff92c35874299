"""Durations, rates and percentages as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.faults.values import (
    RATE_MAX_BITS,
    RATE_MIN_BITS,
    parse_duration,
    parse_percent,
    parse_rate,
    render_duration,
    render_rate,
)
from netsim.model.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("250ms", 0.25), ("1.5m", 90), (".5s", 0.5), ("2h", 7200), ("80us", 8e-5), (3, 3), (0.5, 0.5)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1d", "1 0s", "ten", True, None, -1, math.nan, math.inf, "1e3s"]
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(UsageError, match="is no duration"):
        parse_duration(text)


@given(st.integers(1, 10**9))
def test_a_duration_is_read_as_it_was_written(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert parse_duration(render_duration(seconds)) == pytest.approx(seconds, rel=1e-8)


@pytest.mark.parametrize(
    ("text", "bits"), [("10mbit", 10_000_000), ("512kbit", 512_000), ("1.5Gbit", 1_500_000_000), ("9600bit", 9600)]
)
def test_rates(text: object, bits: int) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["10", "10mbps", "10m", "0mbit", "-1kbit", "2000gbit", "999bit", True, None, math.nan])
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(UsageError, match="is no rate"):
        parse_rate(text)


@given(st.integers(RATE_MIN_BITS, RATE_MAX_BITS))
def test_a_rate_is_read_as_it_was_written(bits: int) -> None:
    assert parse_rate(render_rate(bits)) == pytest.approx(bits, rel=1e-9)


@pytest.mark.parametrize(("text", "percent"), [("5", 5), ("0.1%", 0.1), (100, 100), (2.5, 2.5)])
def test_percentages(text: object, percent: float) -> None:
    assert parse_percent(text) == percent


@pytest.mark.parametrize("text", ["0", "-1", "101", "nan", "five", "", None, True, [5]])
def test_what_is_no_percentage(text: object) -> None:
    with pytest.raises(UsageError, match="is no percentage"):
        parse_percent(text)
