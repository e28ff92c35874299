"""The control socket's client: blocking, thread safe (every operation has its own connection)."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from netsim.cluster import wire
from netsim.model.errors import NetsimError, UsageError


class ControlClient:
    """Asks a cluster process for what only it can hand out. Raises what the cluster process raised."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One request and its answer, which carries no file descriptors."""
        with closing(self._connect()) as sock:
            reply, fds = self._exchange(sock, {"op": operation, **fields}, [])
            for descriptor in fds:
                os.close(descriptor)
            return reply

    def ask_socket(self, operation: str, **fields: Any) -> socket.socket:
        """One request whose answer is a socket."""
        with closing(self._connect()) as sock:
            _, fds = self._exchange(sock, {"op": operation, **fields}, [])
            return socket.socket(fileno=fds[0])

    def exec(
        self,
        where: str | None,
        argv: Sequence[str],
        fds: Sequence[int],
        *,
        started: Callable[[Callable[[int], None]], None] | None = None,
        **options: Any,
    ) -> int:
        """Run a command on three file descriptors and wait for it.

        Returns its exit status, negative for the number of the signal that ended it. ``started`` is given a function
        that sends it a signal.
        """
        check_command(argv)
        with closing(self._connect()) as sock:
            self._exchange(sock, {"op": "exec", "where": where, "argv": list(argv), **options}, list(fds))
            if started is not None:
                started(lambda number: wire.send(sock, {"signal": number}))
            received = _receive(sock)
            if received is None:
                raise NetsimError("the cluster process ended while the command ran", hint="netsim list shows what runs")
            if "error" in received[0]:
                raise wire.rebuild_error(received[0]["error"])
            return int(received[0]["exit"])

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            sock.close()
            raise NetsimError(
                f"the cluster process does not answer: {error.strerror}",
                where=str(self._path),
                hint="netsim list shows whether it runs",
            ) from error
        return sock

    def _exchange(
        self, sock: socket.socket, message: dict[str, Any], fds: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        try:
            wire.send(sock, message, fds)
        except (BrokenPipeError, ConnectionResetError):
            received = None
        else:
            received = _receive(sock)
        if received is None:
            raise NetsimError("the cluster process ended", hint="netsim list shows what runs")
        reply, reply_fds = received
        if "error" in reply:
            raise wire.rebuild_error(reply["error"])
        answer: dict[str, Any] = reply["ok"]
        return answer, reply_fds


def _receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """wire.receive; a process that was killed with a message unread is an end like any other."""
    try:
        return wire.receive(sock)
    except ConnectionResetError:
        return None


def check_command(argv: Sequence[str]) -> None:
    """Raises UsageError if ``argv`` is no command."""
    if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
        raise UsageError(f"a command is a list of strings, not {argv!r}", hint='such as ["ping", "-c", "1", "web"]')
    if any("\0" in word for word in argv):
        raise UsageError(f"no word of a command has a NUL: {argv!r}")
