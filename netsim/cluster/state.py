"""The state directory of a cluster: where it is, who holds it, and what it says.

The lock file is flock'ed by the cluster process for as long as it lives, so "is it running" is answered by the kernel
and never by a process id that somebody else may have by now.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netsim.model.errors import KernelError, NetsimError

# sizeof(sockaddr_un.sun_path) - 1, include/uapi/linux/un.h
SOCKET_PATH_MAX_BYTES = 107
_TRIES = 100  # to make a folder that others remove at the same time


def state_root() -> Path:
    """The folder of all clusters: $NETSIM_STATE_DIR, else /run/netsim for root, else $XDG_RUNTIME_DIR/netsim."""
    if chosen := os.environ.get("NETSIM_STATE_DIR"):
        return Path(chosen).absolute()
    return _runtime_root() or Path(f"/tmp/netsim-{os.geteuid()}")


def _runtime_root() -> Path | None:
    """The folder of all clusters where nobody else can make files."""
    if os.geteuid() == 0:
        return Path("/run/netsim")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "netsim" if runtime else None


def remove_empty_root(root: Path) -> None:
    """Remove the folder of all clusters if there are none; an ``up`` at the same time makes it again.

    Not one that the user chose, and not the one in /tmp: its name would be free for somebody else to take.
    """
    if root == _runtime_root():
        with contextlib.suppress(OSError):  # not empty, most of all
            root.rmdir()


def explain_os_error(error: OSError, state_dir: Path) -> KernelError:
    """What a failed file operation of a starting cluster means to its user: the kernel's words, where, what helps.

    write(2) that fails names no file; then it is the state directory, where nearly all files are.
    """
    words = error.strerror or str(error)
    hint = "NETSIM_STATE_DIR chooses another place for state directories"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"make room there, or: {hint}"
    return KernelError(
        f"cannot start the cluster: {words}",
        errno=error.errno or 0,
        where=str(error.filename or state_dir),
        hint=hint,
    )


@dataclass(frozen=True, slots=True)
class StateDir:
    """One cluster's state directory."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def api_socket(self) -> Path:
        return self.path / "api.sock"

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def log(self) -> Path:
        return self.path / "cluster.log"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    def lock(self) -> int:
        """Take the lock and return its file descriptor; whoever inherits it holds it. The old state is cleared.

        Raises NetsimError if a living cluster process holds it.
        """
        descriptor = self._take_lock()
        if descriptor < 0:
            status = self.read_status()
            detail = f" (pid {status['pid']})" if "pid" in status else ""
            raise NetsimError(
                f'cluster "{self.name}" is already running{detail}',
                hint=f"use another name, or stop it: netsim down {self.name}",
            )
        for entry in self.path.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return descriptor

    def _take_lock(self) -> int:
        """The lock's file descriptor, or -1 if a living process holds it."""
        tries = _TRIES
        while True:
            tries -= 1
            try:
                self._make()
                descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError as error:
                if tries:
                    continue  # a `down` has just removed the folder: make it again
                raise self._cannot_make(error) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path / "lock")):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return -1
            except FileNotFoundError:
                pass
            os.close(descriptor)  # a `down` has just removed this very file: take the lock of the new one

    def _make(self) -> None:
        """Raises NetsimError, and FileNotFoundError where it is being removed at the same time."""
        if len(os.fsencode(self.control_socket)) > SOCKET_PATH_MAX_BYTES:
            raise NetsimError(
                f"the state directory's path is too long for a unix socket: {self.path}",
                hint="set NETSIM_STATE_DIR to a shorter path",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.path.stat().st_uid != os.geteuid():
                raise NetsimError(
                    f"{self.path} belongs to another user", hint="set NETSIM_STATE_DIR to a folder of yours"
                )
            self.path.chmod(0o700)
        except FileNotFoundError:
            raise
        except FileExistsError as error:
            # mkdir was told that it exists, and looked again whether it is a folder when that was gone.
            if self.path.is_dir() or not os.path.lexists(self.path):
                raise FileNotFoundError(error.errno, error.strerror) from error
            raise self._cannot_make(error) from error
        except OSError as error:
            raise self._cannot_make(error) from error

    def _cannot_make(self, error: OSError) -> NetsimError:
        return NetsimError(
            f"cannot make the state directory {self.path}: {error.strerror}",
            hint="set NETSIM_STATE_DIR to a folder you may write to",
        )

    def is_running(self) -> bool:
        """Whether a cluster process (or one that is starting) holds the lock."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def read_status(self) -> dict[str, Any]:
        """What the cluster process last wrote about itself; empty if nothing readable is there."""
        try:
            status = json.loads(self.status_file.read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace status.json in one step."""
        draft = self.path / "status.json.new"
        draft.write_text(json.dumps(status))
        draft.rename(self.status_file)

    def remove(self) -> None:
        """Remove the directory of a cluster that has ended, unless a new one has taken it over by now."""
        if not self.path.exists():
            return
        descriptor = self._take_lock()
        if descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            remove_empty_root(self.path.parent)
            os.close(descriptor)

    def remove_own(self) -> None:
        """Remove the directory of the cluster that this process is, which ends now: it has the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        remove_empty_root(self.path.parent)


def list_states() -> list[StateDir]:
    """Every state directory, running or dead, by name."""
    try:
        entries = sorted(state_root().iterdir())
    except OSError:
        return []
    return [StateDir(entry) for entry in entries if (entry / "lock").exists()]


def find_state(name: str | None) -> StateDir:
    """The running cluster of that name; without a name ($NETSIM_CLUSTER first) the only one running.

    Raises NetsimError: none is running, several are, or this one's process has died.
    """
    name = name or os.environ.get("NETSIM_CLUSTER")
    if name:
        state = StateDir(state_root() / name)
        if state.is_running():
            return state
        if (state.path / "lock").exists():
            raise NetsimError(
                f'the process of cluster "{name}" has ended without `netsim down`; its network went with it',
                where=str(state.path),
                hint=f"start it again: netsim up {name} (its log is {state.log})",
            )
        raise NetsimError(
            f'no cluster "{name}" is running', hint=f"netsim list shows what runs; netsim up {name} starts it"
        )
    running = [state for state in list_states() if state.is_running()]
    if len(running) == 1:
        return running[0]
    if not running:
        dead = ", ".join(state.name for state in list_states())
        detail = f" (ended without `netsim down`: {dead})" if dead else ""
        raise NetsimError(f"no cluster is running{detail}", hint="start one: netsim up")
    names = ", ".join(state.name for state in running)
    raise NetsimError(f"several clusters are running: {names}", hint="say which: --cluster NAME or $NETSIM_CLUSTER")
