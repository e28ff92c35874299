"""wait_until: patient, and plain about what it saw."""

import pytest

from netsim.model.errors import TimeoutExpired
from netsim.testing.waiting import wait_until


def test_the_first_truthy_value_is_returned() -> None:
    values = iter([0, "", None, "here"])
    assert wait_until("a value", lambda: next(values), timeout_s=5) == "here"


def test_the_timeout_names_what_was_awaited_and_the_last_state() -> None:
    with pytest.raises(TimeoutExpired, match=r"the port to open: not within 0\.02 s; last state: \[\]"):
        wait_until("the port to open", list, timeout_s=0.02)


def test_an_os_error_is_a_state_and_not_the_end() -> None:
    answers = iter([ConnectionRefusedError(111, "Connection refused"), None])

    def attempt() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "connected"

    assert wait_until("a connection", attempt, timeout_s=5) == "connected"


def test_the_last_error_is_shown() -> None:
    def refuse() -> bool:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(TimeoutExpired, match="Connection refused"):
        wait_until("a connection", refuse, timeout_s=0.02)


def test_other_exceptions_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until("never", lambda: 1 // 0, timeout_s=5)


def test_it_asks_at_least_once() -> None:
    assert wait_until("now", lambda: True, timeout_s=0) is True
