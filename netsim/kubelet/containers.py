"""Running containers: one interface over the responder's sockets, real processes and other components' servers."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from netsim.kernel.netns import Netns
from netsim.kernel.process import Process, ProcessSpec, Spawner
from netsim.kubelet.builtin.agnhost import BuiltinPlan, Listen
from netsim.kubelet.responder import Responder, Watcher
from netsim.model.clock import Clock
from netsim.model.errors import KernelError, UsageError
from netsim.model.networks import Families
from netsim.model.objects import Object

BACKLOG = 4096  # capped by the namespace's net.core.somaxconn
Exited = Callable[[int], None]  # exit code, -N: killed by signal N


class Running(Protocol):
    """A container that runs. Its end is told to the ``exited`` it was made with, once."""

    def terminate(self) -> None:
        """SIGTERM."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...

    def signal(self, number: int) -> None:
        """Any signal. Raises UsageError where no process is, and the signal is neither SIGTERM nor SIGKILL."""
        ...


class BuiltinServer(Protocol):
    """What another component runs for a container."""

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BuiltinContext:
    """What a provider is told about the container it is to serve. ``log`` adds a line to the container's output."""

    netns: Netns
    pod: Object
    container: Object
    log: Callable[[str], None]


class BuiltinProvider(Protocol):
    """A component of the cluster process that serves images of its own, such as cluster DNS."""

    def matches(self, container: Mapping[str, Any]) -> bool:
        """Whether a container is this provider's, usually by its image."""
        ...

    async def start(self, context: BuiltinContext) -> BuiltinServer:
        """Listening when it returns. Raises NetsimError."""
        ...


def open_listeners(netns: Netns, listens: Sequence[Listen], families: Families = (4,)) -> list[socket.socket]:
    """Sockets in ``netns`` that accept from now on. Raises KernelError, naming the port, with none left open.

    With IPv6 among ``families`` one socket serves both, as Go's listeners do; without it, not even the kernel need
    have IPv6.
    """
    opened: list[socket.socket] = []
    if not listens:
        return opened
    with netns.entered():
        for listen in listens:
            try:
                opened.append(_open_listener(listen, families))
            except (OSError, KernelError) as error:
                for sock in opened:
                    sock.close()
                if isinstance(error, KernelError):
                    raise
                words = os.strerror(error.errno or 0).lower()
                where = f"{listen.address}:{listen.port}"
                raise KernelError(
                    f"listen {listen.protocol.lower()} {where}: bind: {words}",
                    errno=error.errno or 0,
                    hint="two containers of a pod (or hostNetwork pods of a node) can't listen on one port",
                ) from error
    return opened


def _open_listener(listen: Listen, families: Families) -> socket.socket:
    if listen.protocol not in ("TCP", "UDP"):
        raise KernelError(f"listen {listen.protocol.lower()} :{listen.port}: protocol not supported")
    address = listen.address or ("::" if 6 in families else "0.0.0.0")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if listen.protocol == "TCP" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Go's and every server's listeners
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, listen.port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class BuiltinContainer:
    """Served by the responder, or by nobody when it listens on nothing (pause)."""

    __slots__ = (
        "_clock",
        "_ending",
        "_exited",
        "_families",
        "_name",
        "_over",
        "_plan",
        "_responder",
        "_served",
        "_task",
    )

    def __init__(
        self,
        name: str,
        plan: BuiltinPlan,
        responder: Responder,
        clock: Clock,
        exited: Exited,
        families: Families = (4,),
    ) -> None:
        self._families = families
        self._name = name
        self._plan = plan
        self._responder = responder
        self._clock = clock
        self._exited = exited
        self._served = False
        self._over = False
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    def start(
        self,
        netns: Netns,
        who: Mapping[str, str],
        options: Mapping[str, Any],
        logged: Callable[[Sequence[str]], None],
        shell: Callable[[str], Awaitable[tuple[str, str]]],
    ) -> None:
        """Open the sockets and hand them over. Raises KernelError (a port is taken), ResponderGone."""
        sockets = open_listeners(netns, self._plan.listens, self._families)
        if not sockets and not self._plan.netns:
            return
        watcher = Watcher(self._end, logged, shell)
        fd = netns.fd if self._plan.netns else -1
        self._responder.serve(self._name, self._plan.kind, who, options, sockets, watcher, fd)
        self._served = True

    def abandon(self) -> None:
        """Serve no more; nobody is told that it ended, as it counts as never started."""
        self._over = True
        if self._served:
            self._responder.stop(self._name)

    def terminate(self) -> None:
        """What the program in the image does on SIGTERM: some go on serving for a while."""
        if self._over or self._task is not None:
            return
        if not self._plan.linger_s:
            self._finish(self._plan.term_code)
            return
        if self._served:
            self._responder.drain(self._name)
        self._task = asyncio.get_running_loop().create_task(self._linger())

    async def _linger(self) -> None:
        await self._clock.sleep(self._plan.linger_s)
        self._finish(self._plan.term_code)

    def kill(self) -> None:
        self._finish(-signal.SIGKILL)

    def signal(self, number: int) -> None:
        _signal_without_process(self, number)

    def _finish(self, code: int) -> None:
        """It ends when its sockets are closed, as a process' are: the next one on the port may start at once."""
        if self._ending:
            return
        self._ending = True
        if self._served:
            self._responder.stop(self._name, lambda: self._end(code))
        else:
            self._end(code)

    def _end(self, code: int) -> None:
        if self._over:
            return
        self._over = True
        if self._task is not None:
            self._task.cancel()
        self._exited(code)


class ProcessContainer:
    """A real process, process 1 of a PID namespace of its own."""

    __slots__ = ("_exited", "_process", "_task")

    def __init__(self, process: Process, exited: Exited) -> None:
        self._process = process
        self._exited = exited
        self._task = asyncio.get_running_loop().create_task(self._wait())

    @classmethod
    async def start(cls, spawner: Spawner, spec: ProcessSpec, log_fd: int, exited: Exited) -> "ProcessContainer":
        """Start it with its output going to ``log_fd``. Raises KernelError."""
        stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            process = await spawner.spawn(spec, stdin=stdin, stdout=log_fd, stderr=log_fd)
        finally:
            os.close(stdin)
        return cls(process, exited)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _wait(self) -> None:
        try:
            code = await self._process.wait()
        except KernelError:  # the spawner is gone, and with it all it started
            code = -signal.SIGKILL
        self._exited(code)

    def terminate(self) -> None:
        self._process.kill(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill(signal.SIGKILL)

    def signal(self, number: int) -> None:
        self._process.kill(number)


class ProvidedContainer:
    """A server of another component of this process."""

    __slots__ = ("_exited", "_server", "_task")

    def __init__(self, server: BuiltinServer, exited: Exited) -> None:
        self._server = server
        self._exited = exited
        self._task: asyncio.Task[None] | None = None

    def terminate(self) -> None:
        self._stop(0)

    def kill(self) -> None:
        self._stop(-signal.SIGKILL)

    def signal(self, number: int) -> None:
        _signal_without_process(self, number)

    def _stop(self, code: int) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run_stop(code))

    async def _run_stop(self, code: int) -> None:
        with contextlib.suppress(OSError):
            await self._server.stop()
        self._exited(code)


def _signal_without_process(container: BuiltinContainer | ProvidedContainer, number: int) -> None:
    if number == signal.SIGKILL:
        container.kill()
    elif number == signal.SIGTERM:
        container.terminate()
    else:
        name = signal.Signals(number).name
        raise UsageError(f"a built-in container has no process for {name}", hint="it knows SIGTERM and SIGKILL")


class Inside:
    """The namespaces of one container, for exec: its mounts and its PIDs, held by descriptor."""

    __slots__ = ("_holder", "mnt_fd", "pid_fd")

    def __init__(self, pid: int, holder: Process | None = None) -> None:
        """Of the running process ``pid``. Raises KernelError when it has just ended. ``holder`` dies with us."""
        self._holder = holder
        self.mnt_fd = self.pid_fd = -1
        try:
            self.mnt_fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            self.pid_fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise KernelError("the container has just ended", errno=error.errno or 0) from error

    @classmethod
    async def make(cls, spawner: Spawner, spec: ProcessSpec) -> "Inside":
        """Namespaces for a container that has no process: one that sleeps holds them. Raises KernelError."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            holder = await spawner.spawn(spec, stdin=null, stdout=null, stderr=null)
        finally:
            os.close(null)
        return cls(holder.pid, holder)

    def close(self) -> None:
        """Let go, which ends everything still running inside a holder's namespaces. May be repeated."""
        for fd in (self.mnt_fd, self.pid_fd):
            if fd >= 0:
                os.close(fd)
        self.mnt_fd = self.pid_fd = -1
        if self._holder is not None:
            self._holder.kill(signal.SIGKILL)
            self._holder = None
