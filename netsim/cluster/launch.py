"""Starting a cluster process: everything that is done in the machine's own namespaces, before the sandbox is
entered."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from netsim.cluster import wire
from netsim.cluster.state import StateDir, explain_os_error
from netsim.model.errors import NetsimError, TimeoutExpired

POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Launch:
    """What the cluster process is told on its standard input, as JSON. The numbers are inherited file descriptors."""

    state_dir: str
    config: dict[str, Any]  # as netsim.model.config.parse_config takes it
    lock_fd: int
    api_fd: int  # listening unix socket of the API server
    tcp_fd: int  # listening loopback socket of the API server, in the machine's network namespace
    control_fd: int  # listening unix socket of the control protocol
    report_fd: int  # the launcher reads lines of JSON from its other end
    owner_fd: int  # -1, or a pipe whose end of file means "the owner is gone: stop"


def launch(
    state: StateDir,
    config: dict[str, Any],
    *,
    owned: bool,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], int]:
    """Start the cluster process and wait until its cluster is ready.

    Returns its status and the owner's end of the owner pipe (-1 unless ``owned``). Raises NetsimError with the
    process's own words if it does not come up; nothing is left then.
    """
    try:
        return _launch(state, config, owned=owned, progress=progress)
    except OSError as error:  # no room for a file, no descriptor left
        raise explain_os_error(error, state.path) from error


def _launch(
    state: StateDir, config: dict[str, Any], *, owned: bool, progress: Callable[[str], None] | None
) -> tuple[dict[str, Any], int]:
    lock_fd = state.lock()
    handed: list[int] = [lock_fd]
    report_read, owner_write = -1, -1
    try:
        sockets = _open_listeners(state)
        handed += [sock.detach() for sock in sockets]
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
        owner_read, owner_write = os.pipe2(os.O_CLOEXEC) if owned else (-1, -1)
        handed += [report_write] + ([owner_read] if owned else [])
        api_fd, tcp_fd, control_fd = handed[1:4]
        plan = Launch(str(state.path), config, lock_fd, api_fd, tcp_fd, control_fd, report_write, owner_read)
        process = _start(plan, handed, state.log)
    except BaseException:
        _close(handed + [fd for fd in (report_read, owner_write) if fd >= 0])
        state.remove()
        raise
    _close(handed)
    try:
        with os.fdopen(report_read, "rb") as reports:
            return _await_ready(reports, process, state, progress), owner_write
    except BaseException:
        if owner_write >= 0:
            os.close(owner_write)
        stop(state)
        raise


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _open_listeners(state: StateDir) -> list[socket.socket]:
    """The API's unix socket, its loopback port, and the control socket; the files are for the owner only."""
    sockets = []
    for path, kind in (
        (state.api_socket, socket.SOCK_STREAM),
        (None, 0),
        (state.control_socket, socket.SOCK_SEQPACKET),
    ):
        if path is None:
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            tcp.bind(("127.0.0.1", 0))
            sockets.append(tcp)
        else:
            unix = socket.socket(socket.AF_UNIX, kind)
            unix.bind(str(path))
            path.chmod(0o600)
            sockets.append(unix)
        sockets[-1].listen(1024)
    return sockets


def _start(plan: Launch, handed: list[int], log: Path) -> "subprocess.Popen[bytes]":
    message = json.dumps({field: getattr(plan, field) for field in Launch.__slots__}).encode()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "netsim.cluster.daemon"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=handed,
            start_new_session=True,
            cwd="/",
        )
    with process.stdin as pipe:  # type: ignore[union-attr]  # PIPE was asked for
        pipe.write(message)
    return process


def _await_ready(
    reports: BinaryIO,
    process: "subprocess.Popen[bytes]",
    state: StateDir,
    progress: Callable[[str], None] | None,
) -> dict[str, Any]:
    for line in reports:
        report = json.loads(line)
        if "progress" in report and progress is not None:
            progress(report["progress"])
        if "error" in report:
            process.wait()
            raise wire.rebuild_error(report["error"])
        if "ready" in report:
            process.wait()  # the outer process has done its part: it only forked the sandbox's init
            ready: dict[str, Any] = report["ready"]
            return ready
    process.wait()
    tail = "".join(state.log.read_text(errors="replace").splitlines(keepends=True)[-20:])
    raise NetsimError(
        f"the cluster process ended before the cluster was ready\n{tail}".rstrip(),
        hint="look at the end of its log, above" if tail else "it said nothing: is the disk full?",
    )


def stop(state: StateDir, timeout_s: float = 20.0) -> None:
    """End the cluster process and remove its state directory. Returns when its namespaces' init is gone.

    SIGTERM and SIGKILL are equally thorough, since the kernel does the cleaning: pods get no grace.
    Raises TimeoutExpired.
    """
    deadline = time.monotonic() + timeout_s
    while (pid_fd := _open_cluster_process(state)) < 0 and state.is_running():
        # Somebody is just starting it: its pid will be known in a moment.
        if time.monotonic() > deadline:
            raise TimeoutExpired(f'cluster "{state.name}" is starting, and has no process yet', where=str(state.path))
        time.sleep(POLL_S)
    if pid_fd >= 0:
        try:
            _end(pid_fd, timeout_s)
        finally:
            os.close(pid_fd)
    state.remove()


def _open_cluster_process(state: StateDir) -> int:
    """A pidfd of the cluster process, or -1 if it is gone. The lock is asked after, so the pid can't be another's."""
    pid = state.read_status().get("pid")
    if not isinstance(pid, int):
        return -1
    try:
        pid_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    if state.is_running():
        return pid_fd
    os.close(pid_fd)
    return -1


def _end(pid_fd: int, timeout_s: float) -> None:
    import select

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            signal.pidfd_send_signal(pid_fd, number)
        except ProcessLookupError:
            return
        if select.select([pid_fd], [], [], timeout_s)[0]:
            return
    raise TimeoutExpired(f"the cluster process did not end within {timeout_s:g} s of SIGKILL")
