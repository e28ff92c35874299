"""The caller's terminal and a process elsewhere: a pty between them, or plain file descriptors.

The process gets the pty's slave as its own terminal, so job control, line editing and Ctrl-C are its kernel's work, not
ours. Not chosen: handing over the caller's terminal itself; it can be the controlling terminal of one session only, and
that is the caller's shell's.
"""

import errno
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Signaller = Callable[[int], None]  # sends a signal to the process
# Runs the process on (stdin, stdout, stderr); calls back with a Signaller when it runs; returns its exit status
Run = Callable[[int, int, int, Callable[[Signaller], None]], int]

_CHUNK_BYTES = 65536


def run_with_pty(run: Run) -> int:
    """Run a process on a new pty that stands for the caller's terminal, and return its exit status."""
    master, slave = os.openpty()
    done_read, done_write = os.pipe()
    status: list[int | BaseException] = []
    copy_size(sys.stdin.fileno(), master)

    def work() -> None:
        try:
            status.append(run(slave, slave, slave, lambda _signaller: None))
        except BaseException as error:  # carried to the calling thread below
            status.append(error)
        finally:
            os.close(slave)  # what the process printed last stays readable from the master
            os.close(done_write)

    thread = threading.Thread(target=work, name="pty", daemon=True)
    with raw_terminal(sys.stdin.fileno()), _resized(sys.stdin.fileno(), master):
        thread.start()
        _relay(sys.stdin.fileno(), sys.stdout.fileno(), master, done_read)
    thread.join()
    os.close(master)
    os.close(done_read)
    return _result(status)


def run_plain(run: Run) -> int:
    """Run a process on the caller's own descriptors; SIGINT, SIGTERM and SIGHUP go to it as they come to us."""
    signallers: list[Signaller] = []
    waiting: list[int] = []
    status: list[int | BaseException] = []

    def started(signaller: Signaller) -> None:
        signallers.append(signaller)
        for number in waiting:
            signaller(number)

    def forward(number: int, _frame: Any) -> None:
        if not signallers:
            waiting.append(number)
            return
        with suppress(OSError):  # it ended this instant; its status is on the way
            signallers[0](number)

    def work() -> None:
        try:
            status.append(run(0, 1, 2, started))
        except BaseException as error:
            status.append(error)

    # In a thread, because a signal handler runs only when the main thread is not deep in one system call's retry loop.
    thread = threading.Thread(target=work, name="exec", daemon=True)
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _result(status)


def shell_status(returncode: int) -> int:
    """An exit status as shells count it: 128 + N for a process that signal N ended."""
    return 128 - returncode if returncode < 0 else returncode


def copy_size(source: int, target: int) -> None:
    """Give one terminal the size of another; nothing happens where one is none."""
    try:
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(target, termios.TIOCSWINSZ, size)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Every key goes through unread and unechoed; the terminal is as before afterwards, whatever happens."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # not TCSAFLUSH: what was typed ahead is for the process
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _resized(terminal: int, master: int) -> Iterator[None]:
    """Pass on changes of the window's size; the kernel tells the process (SIGWINCH) by itself."""
    before = signal.signal(signal.SIGWINCH, lambda *_: copy_size(terminal, master))
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _relay(keys: int, screen: int, master: int, done: int) -> None:
    """Copy both ways until the process has ended and all it printed is out."""
    sources = [keys, master, done]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if master in ready:
            try:
                data = os.read(master, _CHUNK_BYTES)
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: no process has the slave open any more
                    raise
                return
            _write_all(screen, data)
            continue  # first all its output, then its end
        if done in ready:
            return
        if keys in ready:
            data = os.read(keys, _CHUNK_BYTES)
            if data:
                _write_all(master, data)
            else:  # end of a piped input: Ctrl-D, as a person would end it
                _write_all(master, b"\x04")
                sources.remove(keys)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _result(status: list[int | BaseException]) -> int:
    if not status:
        return 1
    if isinstance(status[0], BaseException):
        raise status[0]
    return shell_status(status[0])
