"""What a forked child does before it executes its program: become what the request asked for, or say why
not.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import termios
from collections.abc import Mapping
from typing import Any, NoReturn

from netsim.kernel import container, libc
from netsim.model.errors import KernelError

IGNORED_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)  # by us or by Python; an ignored signal survives exec
STDIO = ("stdin", "stdout", "stderr")
_MAX_WORDS_BYTES = 32 * 1024
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def become(request: Mapping[str, Any], fds: Mapping[str, int], status: int) -> NoReturn:
    """Execute the request's program, or write the reason why not to ``status`` as JSON; never returns."""
    failure: dict[str, Any]
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        _prepare(request, fds)
        if request["op"] == "view":
            _send_mount_namespace(fds["reply"])
            os._exit(0)
        _execute(request["argv"], request["env"])
    except KernelError as error:
        failure = {"error": error.message[:_MAX_WORDS_BYTES], "errno": error.errno, "hint": error.hint}
    except OSError as error:
        words = os.strerror(error.errno or 0)
        failure = {"error": f"{error.filename}: {words}" if error.filename else words, "errno": error.errno}
    except Exception as error:  # whatever it is must reach the caller: this process has nobody else to tell
        failure = {"error": f"{type(error).__name__}: {error}", "errno": 0}
    with contextlib.suppress(OSError):
        os.write(status, json.dumps(failure).encode())
    os._exit(127)


def _prepare(request: Mapping[str, Any], fds: Mapping[str, int]) -> None:
    os.setsid()
    if "net" in fds:
        libc.setns(fds["net"], libc.CLONE_NEWNET)  # before the mounts: a sysfs shows the namespace it was mounted in
    if "uts" in fds:
        libc.setns(fds["uts"], libc.CLONE_NEWUTS)
    if "mnt" in fds:
        libc.setns(fds["mnt"], libc.CLONE_NEWNS)
    if request["view"] is not None:
        container.apply_view(container.ContainerView.from_wire(request["view"]), new_proc=request["new_pid"])
    elif request["new_pid"]:
        container.apply_proc()
    for target, name in enumerate(STDIO):
        if name in fds:
            os.dup2(fds[name], target)
    if request["tty"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if request["cwd"] is not None:
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            raise KernelError(
                f'chdir to cwd ("{request["cwd"]}"): {os.strerror(error.errno or 0).lower()}', errno=error.errno or 0
            ) from error
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _send_mount_namespace(reply: int) -> None:
    with socket.socket(fileno=os.dup(reply)) as sender:
        fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        socket.send_fds(sender, [b"mnt"], [fd])


def find_program(program: str, env: Mapping[str, str] | None) -> str:
    """The file to execute: ``program`` itself if it has a slash, else the first one in the PATH of ``env``.

    Refuses with KernelError in the words container runtimes use (Go's os/exec).
    """
    if "/" in program:
        return program
    refused = errno.ENOENT
    path = (os.environ if env is None else env).get("PATH", _DEFAULT_PATH)
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", program)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            refused = errno.EACCES
    raise exec_error(program, refused)


def _execute(argv: list[str], env: Mapping[str, str] | None) -> NoReturn:
    path = find_program(argv[0], env)
    try:
        os.execve(path, argv, os.environ if env is None else env)
    except OSError as error:
        raise exec_error(path, error.errno or 0) from error


def exec_error(program: str, number: int) -> KernelError:
    """Why a program could not be executed, in the words of container runtimes."""
    if number == errno.ENOENT and "/" not in program:
        words = "executable file not found in $PATH"
    elif number == errno.ENOEXEC:
        words = "exec format error"
    else:
        words = os.strerror(number).lower()
    return KernelError(f'exec: "{program}": {words}', errno=number)
