"""The terminal between a person and a process: keys, window size, Ctrl-C and the exit status go through."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from netsim.cli.terminal import shell_status

TIMEOUT_S = 20.0

# A program that runs `netsim.cli.terminal` with a process of this machine where a cluster's would be.
PROGRAM = """
import fcntl, subprocess, sys, termios
from netsim.cli.terminal import run_plain, run_with_pty

def start_session():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

def run(stdin, stdout, stderr, started):
    options = {"preexec_fn": start_session} if mode == "pty" else {}
    process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, **options)
    started(process.send_signal)
    return process.wait()

mode, argv = sys.argv[1], sys.argv[2:]
sys.exit({"pty": run_with_pty, "plain": run_plain}[mode](run))
"""


class Person:
    """Someone at a terminal in which the program runs."""

    def __init__(self, *argv: str) -> None:
        self.seen = ""
        pid, self._fd = pty.fork()
        if pid == 0:
            # As a login shell has them: under nohup, or as a job of a script, the tests have inherited them ignored.
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "pty", *argv])
        self._pid = pid

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def see(self, pattern: str) -> None:
        """Read until ``pattern`` is on the screen, and forget what was there before its end."""
        deadline = time.monotonic() + TIMEOUT_S
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; the screen has {self.seen!r}"
            self.seen += os.read(self._fd, 65536).decode()
        self.seen = self.seen[found.end() :]

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def leave(self) -> None:
        """Closing the terminal ends whatever is left (SIGHUP)."""
        os.close(self._fd)


@pytest.fixture
def shell() -> Iterator[Person]:
    person = Person("sh")
    try:
        person.type("PS1='ready''> '\n")  # typed ahead; the quotes keep its echo from looking like the prompt
        person.see("ready> ")
        yield person
    finally:
        person.leave()


def test_keys_output_and_exit_status_go_through(shell: Person) -> None:
    shell.type("tty -s && echo it is a $((1+1))nd terminal\n")
    shell.see("it is a 2nd terminal")
    shell.type("exit 7\n")
    assert shell.status() == 7


def test_the_window_size_is_passed_on_at_once_and_when_it_changes(shell: Person) -> None:
    shell.resize(33, 99)
    shell.type("until [ \"$(stty size)\" = '33 99' ]; do :; done; echo size $((33*3))\n")
    shell.see("size 99")
    shell.resize(40, 120)
    shell.type("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo size $((60*2))\n")
    shell.see("size 120")
    shell.type("exit\n")
    assert shell.status() == 0


def test_control_c_interrupts_the_process_and_not_the_relay(shell: Person) -> None:
    shell.type("sh -c 'echo go $((1+1)); exec sleep 1000'\n")  # by now the shell has given it the terminal
    shell.see("go 2")
    shell.type("\x03")
    shell.see("ready> ")
    shell.type("exit 3\n")
    assert shell.status() == 3


def test_all_output_arrives_before_the_end() -> None:
    person = Person("sh", "-c", "seq 1 20000; echo the end")
    person.see("20000\r\nthe end")
    assert person.status() == 0
    person.leave()


def test_without_a_terminal_pipes_and_status_go_through() -> None:
    argv = [sys.executable, "-c", PROGRAM, "plain", "sh", "-c", "cat; echo trouble >&2; exit 5"]
    done = subprocess.run(argv, input=b"hello\n", capture_output=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"hello\n", b"trouble\n")


def test_signals_are_passed_on_and_seen_in_the_status() -> None:
    argv = [sys.executable, "-c", PROGRAM, "plain", "sh", "-c", "echo started; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize(("returncode", "status"), [(0, 0), (3, 3), (-9, 137), (-15, 143)])
def test_exit_statuses_are_counted_as_shells_do(returncode: int, status: int) -> None:
    assert shell_status(returncode) == status
