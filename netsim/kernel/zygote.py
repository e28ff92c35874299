"""The spawner's process: forked early and kept small, it forks every process netsim runs, and reaps it.

It has one thread and one loop. Requests come over a SEQPACKET socket as JSON with descriptors beside them;
answers go back the same way: ``pid`` when the program has been executed, ``error`` when it could not be,
``exit`` when it has ended.

What a request's child does before exec happens in the child, so a slow mount never holds up the next
request; only what must happen before the fork (choosing the PID namespace) happens here.
"""

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
from collections.abc import Mapping
from typing import Any, NoReturn

from netsim.kernel import child, libc
from netsim.kernel.passing import receive_fds
from netsim.model.errors import KernelError

MAX_MESSAGE_BYTES = 64 * 1024
MAX_FDS = 10
_HOMES = {"net": libc.CLONE_NEWNET, "uts": libc.CLONE_NEWUTS}


class Zygote:
    """The loop. ``children`` maps pid to request id; a pid that is not there is an orphan we only reap."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.children: dict[int, int] = {}
        self.pids: dict[int, int] = {}
        self.starting: dict[int, tuple[int, bytes]] = {}  # status pipe -> request id, what it said so far
        self.poller = select.epoll()
        self.running = True
        self.own_pid_ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.homes = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _HOMES}
        self.signals, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        self.running = False

    def run(self) -> None:
        """Serve until the other end closes or SIGTERM, then kill what still runs."""
        self.poller.register(self.control, select.EPOLLIN)
        self.poller.register(self.signals, select.EPOLLIN)
        while self.running:
            for fd, _events in self.poller.poll():
                if fd == self.control.fileno():
                    self._take_request()
                elif fd == self.signals:
                    self._reap()
                elif fd in self.starting:  # may have gone since poll: reaping looks there too
                    self._read_status(fd)
        self._end_all()

    def _end_all(self) -> None:
        """Kill and reap what still runs, and then what comes to us because its parent has ended."""
        for pid in self.children:
            _kill(pid, signal.SIGKILL, group=True)
        while pids := self._list_children():
            for pid in pids:
                _kill(pid, signal.SIGKILL, group=False)
            for pid in pids:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                self.children.pop(pid, None)

    def _list_children(self) -> list[int]:
        try:
            with open("/proc/thread-self/children", encoding="ascii") as file:
                return [int(word) for word in file.read().split()]
        except OSError:  # a kernel without CONFIG_PROC_CHILDREN: those we know
            return list(self.children)

    def _answer(self, **answer: Any) -> None:
        try:
            self.control.send(json.dumps(answer).encode())
        except OSError:
            self.running = False  # nobody is left to tell

    def _take_request(self) -> None:
        raw, fds = receive_fds(self.control, MAX_MESSAGE_BYTES, MAX_FDS)
        if not raw:
            self.running = False
            return
        try:
            request = json.loads(raw)
            if request["op"] == "kill":
                pid = self.pids.get(request["id"])
                if pid is not None:
                    _kill(pid, request["signal"], group=request["group"])
                return
            if request["op"] == "large":  # too big for a message: the text is in a file, the last descriptor
                size = os.fstat(fds[-1]).st_size
                request = json.loads(os.pread(fds[-1], size, 0))
            self._start(request, dict(zip(request["fds"], fds, strict=False)))
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, request: dict[str, Any], fds: Mapping[str, int]) -> None:
        number = request["id"]
        if request["plain"] and self._may_come_back(fds):
            try:
                pid = self._spawn_plain(request, fds)
            except KernelError as error:
                self._answer(id=number, error=error.message, errno=error.errno, hint=error.hint)
                return
            except (IndexError, TypeError, ValueError) as error:  # no program, no text, a NUL: not worth our own end
                self._answer(id=number, error=f"exec: {error}", errno=errno.EINVAL, hint="")
                return
            self.children[pid] = number
            self.pids[number] = pid
            self._answer(id=number, pid=pid)
            return
        status_read, status_write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(request, fds)
        except (KernelError, OSError) as error:
            os.close(status_read)
            os.close(status_write)
            hint = error.hint if isinstance(error, KernelError) else ""
            words = error.message if isinstance(error, KernelError) else f"fork: {error.strerror}"
            self._answer(id=number, error=words, errno=error.errno or 0, hint=hint)
            return
        if pid == 0:
            child.become(request, fds, status_write)
        os.close(status_write)
        self.children[pid] = number
        self.pids[number] = pid
        self.starting[status_read] = (number, b"")
        self.poller.register(status_read, select.EPOLLIN)

    def _may_come_back(self, fds: Mapping[str, int]) -> bool:
        """Whether we may enter our own namespaces of the kinds in ``fds``: in a user namespace that does not own them
        we may not, and a child has to go in our place.
        """
        return not any(libc.try_setns(self.homes[name], kind) for name, kind in _HOMES.items() if name in fds)

    def _spawn_plain(self, request: Mapping[str, Any], fds: Mapping[str, int]) -> int:
        """Start a program that needs no mounts, PID namespace, terminal or directory: a third of a fork's
        cost.

        posix_spawn shares our memory until exec (vfork), so nothing is copied; the price is that we enter the
        namespaces ourselves, for its duration. Raises KernelError.
        """
        argv, env = request["argv"], request["env"]
        path = child.find_program(argv[0], env)
        actions = [(os.POSIX_SPAWN_DUP2, fds[name], target) for target, name in enumerate(child.STDIO)]
        entered: list[str] = []
        try:
            for name, kind in _HOMES.items():
                if name in fds:
                    libc.setns(fds[name], kind)
                    entered.append(name)
            return os.posix_spawn(
                path,
                argv,
                os.environ if env is None else env,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=child.IGNORED_SIGNALS,
            )
        except OSError as error:
            raise child.exec_error(path, error.errno or 0) from error
        finally:
            for name in entered:
                _go_back(self.homes[name], _HOMES[name])

    def _fork(self, request: Mapping[str, Any], fds: Mapping[str, int]) -> int:
        """Fork into the PID namespace asked for: an existing one, a new one, or ours.

        unshare and setns choose the namespace of the *next* children, so the child is the namespace's init
        itself: no process in between. Going back to our own before the next fork needs permission there,
        which is asked for first.
        """
        if not request["new_pid"] and "pid" not in fds:
            return os.fork()
        try:
            libc.setns(self.own_pid_ns, libc.CLONE_NEWPID)
        except KernelError as error:
            raise KernelError(
                "cannot make a PID namespace: this process may not come back to its own",
                errno=error.errno,
                hint="start the spawner in a PID namespace that belongs to its user namespace",
            ) from error
        if "pid" in fds:
            libc.setns(fds["pid"], libc.CLONE_NEWPID)
        else:
            libc.unshare(libc.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
            return pid
        except OSError as error:
            if error.errno == errno.ENOMEM and "pid" in fds:  # how pid_namespaces(7) says that its init is gone
                raise KernelError("the PID namespace has ended", errno=errno.ESRCH) from error
            raise
        finally:
            if pid:
                _go_back(self.own_pid_ns, libc.CLONE_NEWPID)

    def _read_status(self, fd: int) -> None:
        """The child says why it could not execute, or its end closes because it has executed."""
        number, said = self.starting[fd]
        data = os.read(fd, MAX_MESSAGE_BYTES)
        if data:
            self.starting[fd] = (number, said + data)
            return
        del self.starting[fd]
        self.poller.unregister(fd)
        os.close(fd)
        if said:
            self._answer(id=number, **json.loads(said))
        else:
            self._answer(id=number, pid=self.pids[number])

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.signals, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self.children.get(pid)
            if number is None:
                continue
            for fd in [fd for fd, (owner, _) in self.starting.items() if owner == number]:
                while fd in self.starting:  # "pid" or "error" goes before "exit"
                    self._read_status(fd)
            del self.children[pid], self.pids[number]
            self._answer(id=number, exit=os.waitstatus_to_exitcode(status))


def _go_back(home: int, kind: int) -> None:
    """Return to a namespace of our own. Everything forked later would be in the wrong one, so failing that we end."""
    number = libc.try_setns(home, kind)
    if number:
        os.write(2, f"netsim: the spawner cannot leave a namespace: {os.strerror(number)}\n".encode())
        os.abort()


def _kill(pid: int, number: int, *, group: bool) -> None:
    """Send a signal to a child that has not been reaped, so that its pid is still its own."""
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    if group and number == signal.SIGKILL:
        # A child that has not yet called setsid has no group of its own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def serve(control: socket.socket) -> NoReturn:
    """Be the spawner's process; called in the forked child, never returns."""
    status = 1
    try:
        os.umask(0o022)
        os.setsid()  # the terminal's signals are for the foreground process, not for us
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        with contextlib.suppress(OSError):
            _write("/proc/self/comm", b"netsim-spawner")
        _close_others(control.fileno())
        gc.disable()  # garbage is next to none, and a collection would touch (copy) pages after every fork
        gc.freeze()
        Zygote(control).run()
        status = 0
    except BaseException:
        import traceback  # late: only needed to die with the reason said

        traceback.print_exc()
    finally:
        os._exit(status)


def _close_others(keep: int) -> None:
    """Close what was inherited, such as the lock on the state directory, which must end with the cluster
    process.
    """
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 20)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
