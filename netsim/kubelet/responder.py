"""The kubelet's side of the responder process: start it, hand it sockets, hear what happens in it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netsim.model.errors import NetsimError

SEND_BUFFER_BYTES = 1 << 20  # the kernel caps it at net.core.wmem_max for those who may not force it
SOCKETS_MAX = 240  # one message carries at most SCM_MAX_FD (253) descriptors, include/net/scm.h


class ResponderGone(NetsimError):
    """The responder process ended; built-in containers can't run any more."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """What a served container's owner wants to hear. ``shell`` runs a command and gives (output, error)."""

    exited: Callable[[int], None]
    logged: Callable[[Sequence[str]], None]
    shell: Callable[[str], Awaitable[tuple[str, str]]]


class Responder:
    """A handle to the responder process. All methods but ``start`` belong to the event loop's thread."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self.pid = pid
        self._channel = channel
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: dict[str, Watcher] = {}
        self._stopping: dict[str, Callable[[], None]] = {}
        self._outgoing: list[tuple[bytes, list[int]]] = []  # descriptors are ours, and closed once sent
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = False

    @classmethod
    def start(cls) -> "Responder":
        """Fork the responder. Call it before threads and the event loop exist, and before heavy imports."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        pid = os.fork()
        if pid == 0:
            _run_child(theirs.detach())
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    def _attach(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._channel, self._read)
        return self._loop

    def serve(
        self,
        name: str,
        kind: str,
        who: Mapping[str, str],
        options: Mapping[str, Any],
        sockets: Sequence[socket.socket],
        watcher: Watcher,
        netns_fd: int = -1,
    ) -> None:
        """Hand over ``sockets`` (which are closed here) of the container ``name``. Listening ones accept already, so
        nothing has to be waited for. Raises ResponderGone."""
        self._attach()
        message = {"op": "serve", "id": name, "kind": kind, "who": who, "options": options, "netns": netns_fd >= 0}
        try:
            if len(sockets) > SOCKETS_MAX:
                raise NetsimError(f"{len(sockets)} ports are more than {SOCKETS_MAX}, the most one container can have")
            if self._gone:
                raise ResponderGone("the responder process is gone", hint="netsim down, then netsim up")
        except NetsimError:
            for sock in sockets:
                sock.close()
            raise
        self._watchers[name] = watcher
        fds = [sock.detach() for sock in sockets]
        if netns_fd >= 0:
            fds.append(os.dup(netns_fd))
        self._send(message, fds)

    def drain(self, name: str) -> None:
        """SIGTERM was sent: it goes on serving, and says so to who asks for readiness."""
        self._send({"op": "drain", "id": name})

    def stop(self, name: str, stopped: Callable[[], None] = lambda: None) -> None:
        """The container's process is gone: its sockets close, and then ``stopped`` is called: its ports are free.

        May be repeated.
        """
        if self._watchers.pop(name, None) is None or self._gone:
            stopped()
            return
        self._stopping[name] = stopped
        self._send({"op": "stop", "id": name})

    def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        self._outgoing.append((json.dumps(message).encode(), list(fds)))
        if len(self._outgoing) == 1:
            self._write()

    def _write(self) -> None:
        """Send what is queued, in order; wait for room when the channel is full."""
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                if fds:
                    socket.send_fds(self._channel, [data], fds)
                elif not self._gone:
                    self._channel.send(data)
            except BlockingIOError:
                self._attach().add_writer(self._channel, self._write)
                return
            except OSError:
                self._lost()
            for fd in fds:
                os.close(fd)
            del self._outgoing[0]
        if self._loop is not None and not self._gone:
            self._loop.remove_writer(self._channel)

    def _read(self) -> None:
        while True:
            try:
                data = self._channel.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self._take(json.loads(data))

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["op"] == "stopped":
            if (stopped := self._stopping.pop(message["id"], None)) is not None:
                stopped()
            return
        watcher = self._watchers.get(message["id"])
        if watcher is None:
            return
        if message["op"] == "exit":
            del self._watchers[message["id"]]
            watcher.exited(message["code"])
        elif message["op"] == "log":
            watcher.logged(message["lines"])
        elif message["op"] == "shell":
            task = asyncio.get_running_loop().create_task(self._shell(watcher, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _shell(self, watcher: Watcher, message: Mapping[str, Any]) -> None:
        output, error = await watcher.shell(message["command"])
        answer = {"op": "shell", "id": message["id"], "request": message["request"]}
        self._send(answer | {"output": output[:60000], "error": error[:4000]})

    def _lost(self) -> None:
        """The process is gone: every container it served has ended as by SIGKILL."""
        if self._gone:
            return
        self._gone = True
        if self._loop is not None:
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
        stopping, self._stopping = self._stopping, {}
        for stopped in stopping.values():
            stopped()
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers.values():
            watcher.exited(-signal.SIGKILL)

    def close(self) -> None:
        """End the process and wait for it."""
        self._gone = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
        for task in self._tasks:
            task.cancel()
        self._channel.close()
        with contextlib.suppress(ChildProcessError):  # somebody else reaped it: an init reaps everything
            os.waitpid(self.pid, 0)


def _run_child(fd: int) -> None:
    """In the forked child: keep nothing of the parent's but the channel and the standard streams; never return."""
    status = 1
    try:
        kept = {0, 1, 2, fd}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        # Late: only the child needs the server side.
        from netsim.kubelet.builtin.server import main

        main(socket.socket(fileno=fd))
        status = 0
    finally:
        os._exit(status)
