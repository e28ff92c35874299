"""A request to the zygote while it is under way: who waits for it, and what its process has written so far."""

import os
from concurrent.futures import Future

_READ_BYTES = 256 * 1024


class Output:
    """The reading end of a process's stdout or stderr, and what came out of it."""

    __slots__ = ("chunks", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.chunks: list[bytes] = []

    def drain(self) -> bool:
        """Read what is there; False at the end of file."""
        while True:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.chunks.append(data)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Pending:
    """A request under way: what the reader thread fills in."""

    __slots__ = ("exited", "id", "outputs", "started", "where")

    def __init__(self, number: int, where: str) -> None:
        self.id = number
        self.where = where
        self.started: Future[int] = Future()
        self.exited: Future[int] = Future()
        for future in (self.started, self.exited):
            future.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it for the others
        self.outputs: list[Output] = []


def make_memory_file(name: str, data: bytes) -> int:
    """A descriptor of a file in memory with ``data``, at its beginning."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
