"""The proof that tests leave the machine as it was must itself be able to fail."""

import os
import subprocess
import sys

from netsim.testing.waiting import wait_until
from tests.machine import SESSION_VARIABLE, _without_counters, differences, processes_of_session


def test_differences_name_what_came_and_what_went() -> None:
    before = {"links": "lo\neth0", "sysctl net/x": "0\n"}
    after = {"links": "lo\nveth7", "sysctl net/x": "1\n"}
    assert differences(before, after) == ["links: -eth0 | +veth7", "sysctl net/x: -0 | +1"]
    assert differences(before, before) == []


def test_counters_and_dates_are_no_difference() -> None:
    first = "# Generated on Monday\n:INPUT ACCEPT [5:400]\ncounter packets 3 bytes 180 drop\n"
    second = "# Generated on Friday\n:INPUT ACCEPT [9:720]\ncounter packets 7 bytes 420 drop\n"
    assert _without_counters(first) == _without_counters(second)


def test_a_process_left_behind_is_found_by_its_environment() -> None:
    session = f"unit-{os.getpid()}"
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, SESSION_VARIABLE: session})
    try:
        found = wait_until("the process to be found", lambda: processes_of_session(session))
        assert found[0].startswith(f"{child.pid} ")
    finally:
        child.communicate()
    assert processes_of_session(session) == []
