"""Processes in namespaces, forked by a small process that was itself forked early.

A fork of the cluster process would copy its page tables (hundreds of megabytes with a thousand pods) and
its threads' locks in whatever state they are; a fork of the `zygote` copies ten megabytes. Results come
back to a reader thread, so that asyncio code awaits them and worker threads may block on them.
"""

import asyncio
import contextlib
import itertools
import json
import os
import select
import signal as signals
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from netsim.kernel import zygote
from netsim.kernel.passing import receive_fds
from netsim.kernel.pending import Output, Pending, make_memory_file
from netsim.model.errors import KernelError, TimeoutExpired

if TYPE_CHECKING:
    from netsim.kernel.container import ContainerView
    from netsim.kernel.netns import Netns

_KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A program to run and the namespaces to run it in.

    argv:            program and arguments; a program without ``/`` is looked for in the PATH of ``env``.
    env:             its whole environment; None: that of the process the spawner was started from. cwd:
    directory to start in, as the process sees it; None: ``/`` in a view, else the spawner's. netns, uts_fd:
    namespaces to enter; None: the spawner's. view:            mount view: built for this process alone, or
    the descriptor `Spawner.make_view` returned; None: the
                     spawner's mounts.
    new_pid:         a PID namespace of its own, in which it is process 1, with a /proc of its own.
    pid_fd:          an existing PID namespace to enter (``/proc/PID/ns/pid``).
    controlling_tty: stdin is a terminal and becomes the controlling one.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    netns: "Netns | None" = None
    uts_fd: int | None = None
    view: "ContainerView | int | None" = None
    new_pid: bool = False
    pid_fd: int | None = None
    controlling_tty: bool = False

    @property
    def where(self) -> str:
        """The namespace, for messages."""
        return self.netns.name if self.netns else ""


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that has ended; ``returncode`` -N: killed by signal N."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Process:
    """A running process. ``pid`` is its number as the spawner's PID namespace sees it."""

    __slots__ = ("_pending", "_spawner", "pid")

    def __init__(self, spawner: "Spawner", pending: Pending, pid: int) -> None:
        self._spawner = spawner
        self._pending = pending
        self.pid = pid

    async def wait(self) -> int:
        """The exit status once it has ended; -N: killed by signal N. May be awaited by several."""
        return await asyncio.wrap_future(self._pending.exited)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._pending.exited.result() if self._pending.exited.done() else None

    def kill(self, signal: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole process group; nothing happens when it has ended.

        Process 1 of a PID namespace ignores what it has no handler for, except SIGKILL (pid_namespaces(7)).
        """
        self._spawner._kill(self._pending, signal, group=group)


class Spawner:
    """Starts processes through the zygote. Thread safe; one is enough for a cluster.

    The zygote and everything it started end when this is closed, and when this process dies.
    """

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self._control = control
        self._ids = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._outputs: dict[int, Output] = {}
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._poller = select.epoll()
        self._poller.register(control, select.EPOLLIN)
        self._closed = False
        self._ended = False  # nobody reads answers any more

    @classmethod
    def start(cls) -> Self:
        """Fork the zygote. Call it early: before threads and event loop exist, while this process is small.

        Call it in a thread that lives as long as the spawner, such as the main thread: the kernel tells the
        zygote when that thread ends. Raises OSError.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            zygote.serve(theirs)
        theirs.close()
        return cls(ours, pid)

    async def run(self, spec: ProcessSpec, *, input: bytes = b"", timeout_s: float | None = None) -> Completed:
        """Run to the end, with ``input`` as stdin.

        Raises KernelError when it cannot be started, TimeoutExpired when it has not ended in time; its
        process group (PID namespace, if it has one) is killed then, and when the caller is cancelled.
        """
        pending = self._start_captured(spec, input)
        try:
            await asyncio.wrap_future(pending.started)
            exited = asyncio.wrap_future(pending.exited)
            done, _ = await asyncio.wait((exited,), timeout=timeout_s)
        except asyncio.CancelledError:
            self._kill(pending, signals.SIGKILL, group=True)
            raise
        if not done:
            self._kill(pending, signals.SIGKILL, group=True)
            await asyncio.wait((exited,), timeout=_KILL_WAIT_S)
            raise _expired(spec, pending, timeout_s)
        return _completed(pending)

    def run_blocking(self, spec: ProcessSpec, *, input: bytes = b"", timeout_s: float | None = None) -> Completed:
        """As `run`, for worker threads."""
        pending = self._start_captured(spec, input)
        pending.started.result()
        try:
            pending.exited.result(timeout_s)
        except TimeoutError:
            self._kill(pending, signals.SIGKILL, group=True)
            with contextlib.suppress(TimeoutError):
                pending.exited.result(_KILL_WAIT_S)
            raise _expired(spec, pending, timeout_s) from None
        return _completed(pending)

    async def spawn(self, spec: ProcessSpec, *, stdin: int, stdout: int, stderr: int) -> Process:
        """Start with these descriptors; the caller closes its own copies. Raises KernelError."""
        pending = self._submit(spec, {"stdin": stdin, "stdout": stdout, "stderr": stderr})
        try:
            pid = await asyncio.wrap_future(pending.started)
        except asyncio.CancelledError:
            self._kill(pending, signals.SIGKILL, group=True)
            raise
        return Process(self, pending, pid)

    def spawn_blocking(self, spec: ProcessSpec, *, stdin: int, stdout: int, stderr: int) -> Process:
        """As `spawn`, for worker threads."""
        pending = self._submit(spec, {"stdin": stdin, "stdout": stdout, "stderr": stderr})
        return Process(self, pending, pending.started.result())

    def make_view(self, view: "ContainerView", *, netns: "Netns | None" = None) -> int:
        """Build a mount view once and return its mount namespace as a descriptor, which the caller closes.

        For `ProcessSpec.view`, so that several processes of one container see the same files. Blocks for some
        milliseconds. Raises KernelError.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                spec = ProcessSpec((), view=view, netns=netns)
                pending = self._submit(spec, {"reply": theirs.fileno()}, op="view")
            pending.started.result()
            pending.exited.result()
            _data, fds = receive_fds(ours, 16, 1)
        if not fds:
            raise KernelError("the mount view was not built", where=spec.where)
        return fds[0]

    def close(self) -> None:
        """End the zygote and everything it started; may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._control.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ChildProcessError):  # whoever is process 1 may have reaped it
            os.waitpid(self.pid, 0)
        if self._reader is not None:
            self._reader.join()
        else:
            self._fail_all()
        self._control.close()
        self._poller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _start_captured(self, spec: ProcessSpec, data: bytes) -> Pending:
        """Submit with stdin from memory and stdout, stderr to pipes.

        stdin is a file, so that nobody has to feed it; the outputs are not, because a program that opens
        /dev/stderr by name would overwrite a file from its beginning.
        """
        fds: dict[str, int] = {}
        outputs: list[Output] = []
        try:
            fds["stdin"] = make_memory_file("stdin", data) if data else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for name in ("stdout", "stderr"):
                reading, fds[name] = os.pipe2(os.O_CLOEXEC)
                outputs.append(Output(reading))
                os.set_blocking(reading, False)
            ours = list(fds.values())
        except OSError:  # no descriptors left: what there is must not be kept from those who try again
            for fd in (*fds.values(), *(output.fd for output in outputs)):
                os.close(fd)
            raise
        try:
            return self._submit(spec, fds, outputs=outputs)
        finally:
            for fd in ours:
                os.close(fd)

    def _submit(
        self, spec: ProcessSpec, fds: dict[str, int], *, op: str = "spawn", outputs: list[Output] | None = None
    ) -> Pending:
        with self._lock:
            pending = Pending(next(self._ids), spec.where)
            request = _render_request(pending.id, op, spec, fds)
            pending.outputs = outputs or []
            self._pending[pending.id] = pending
            try:
                if self._ended:
                    raise KernelError("the spawner has been closed" if self._closed else "the spawner has ended")
                for output in pending.outputs:
                    self._outputs[output.fd] = output
                    self._poller.register(output.fd, select.EPOLLIN)
                self._send(request, list(fds.values()))
            except BaseException:
                self._finish(pending)
                raise
        return pending

    def _send(self, request: Mapping[str, Any], fds: list[int]) -> None:
        """Hand a request to the zygote; called with the lock held, so that messages go out in order of
        their ids.
        """
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="spawner-reader", daemon=True)
            self._reader.start()
        raw = json.dumps(request).encode()
        try:
            if len(raw) <= zygote.MAX_MESSAGE_BYTES:
                socket.send_fds(self._control, [raw], fds)
                return
            text = make_memory_file("request", raw)
            try:
                socket.send_fds(self._control, [b'{"op":"large"}'], [*fds, text])
            finally:
                os.close(text)
        except OSError as error:
            raise KernelError(f"the spawner does not answer: {error.strerror}", errno=error.errno or 0) from error

    def _kill(self, pending: Pending, number: int, *, group: bool) -> None:
        with self._lock, contextlib.suppress(KernelError):  # a spawner that is gone has killed it
            if pending.exited.done() or self._ended:
                return
            self._send({"op": "kill", "id": pending.id, "signal": int(number), "group": group}, [])

    def _read(self) -> None:
        """The reader thread: collects output and resolves what was waited for, until the zygote is gone."""
        control = self._control.fileno()
        while True:
            for fd, _events in self._poller.poll():
                output = self._outputs.get(fd)
                if output is not None and not output.drain():
                    self._poller.unregister(fd)
                if fd != control:
                    continue
                try:
                    raw = self._control.recv(2 * zygote.MAX_MESSAGE_BYTES)
                except ConnectionResetError:
                    raw = b""
                if not raw:
                    self._fail_all()
                    return
                self._take_answer(json.loads(raw))

    def _take_answer(self, answer: dict[str, Any]) -> None:
        pending = self._pending.get(answer["id"])
        if pending is None:
            return
        if "pid" in answer:
            pending.started.set_result(answer["pid"])
            return
        self._finish(pending)
        if "exit" in answer:
            pending.exited.set_result(answer["exit"])
            return
        error = KernelError(answer["error"], errno=answer["errno"], where=pending.where, hint=answer.get("hint", ""))
        pending.started.set_exception(error)
        pending.exited.set_exception(error)

    def _finish(self, pending: Pending) -> None:
        """Nothing more will be heard of it: take what is left in its pipes and close them."""
        self._pending.pop(pending.id, None)
        for output in pending.outputs:
            self._outputs.pop(output.fd, None)
            output.drain()
            output.close()  # which also takes it out of the poller

    def _fail_all(self) -> None:
        error = KernelError("the spawner has ended")
        with self._lock:
            self._ended = True
        for pending in list(self._pending.values()):
            self._finish(pending)
            for future in (pending.started, pending.exited):
                if not future.done():
                    future.set_exception(error)


def _render_request(number: int, op: str, spec: ProcessSpec, fds: dict[str, int]) -> dict[str, Any]:
    """What the zygote is told; the descriptors of ``spec`` are added to ``fds``, which go beside it in that order."""
    named = {"net": spec.netns.fd if spec.netns else None, "uts": spec.uts_fd, "pid": spec.pid_fd}
    if isinstance(spec.view, int):
        named["mnt"] = spec.view
    fds.update({name: fd for name, fd in named.items() if fd is not None})
    return {
        "id": number,
        "op": op,
        "argv": spec.argv,
        "env": None if spec.env is None else dict(spec.env),
        "cwd": spec.cwd,
        "view": None if spec.view is None or isinstance(spec.view, int) else spec.view.to_wire(),
        "new_pid": spec.new_pid,
        "tty": spec.controlling_tty,
        "fds": list(fds),
        "plain": op == "spawn" and _is_plain(spec),
    }


def _is_plain(spec: ProcessSpec) -> bool:
    """True if the zygote can start it without a fork of its own."""
    special = spec.new_pid or spec.controlling_tty
    return not special and spec.view is None and spec.pid_fd is None and spec.cwd is None


def _completed(pending: Pending) -> Completed:
    stdout, stderr = (b"".join(output.chunks) for output in pending.outputs)
    return Completed(pending.exited.result(), stdout, stderr)


def _expired(spec: ProcessSpec, pending: Pending, timeout_s: float | None) -> TimeoutExpired:
    said = b"".join(chunk for output in pending.outputs for chunk in output.chunks)[-200:]
    words = f"; it said: {said.decode(errors='replace').strip()}" if said else ""
    return TimeoutExpired(
        f"{' '.join(spec.argv)[:200]} did not end within {timeout_s or 0:g} s{words}", where=spec.where
    )
