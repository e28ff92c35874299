"""Waiting for something to become true, in one place that says what was waited for and what was there instead."""

import time
from collections.abc import Callable
from typing import TypeVar

from netsim.model.errors import NetsimError, TimeoutExpired

T = TypeVar("T")

POLL_INTERVAL_S = 0.01


def wait_until(what: str, function: Callable[[], T], timeout_s: float = 10.0) -> T:
    """The first truthy value ``function()`` returns, asked every ``POLL_INTERVAL_S``.

    An OSError, NetsimError or AssertionError raised by ``function`` is a state like any other: not there yet.
    Raises TimeoutExpired naming ``what`` and the last state seen. ``function`` is asked at least once, and once more
    after the time is over, so that a machine that stood still in between does not fail a test.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last_try = time.monotonic() >= deadline
        state: object
        try:
            value = function()
            if value:
                return value
            state = value
        except (OSError, NetsimError, AssertionError) as error:
            state = error
        if last_try:
            raise TimeoutExpired(f"{what}: not within {timeout_s:g} s; last state: {state!r}")
        time.sleep(POLL_INTERVAL_S)
