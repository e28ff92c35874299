"""Entering a sandbox: the namespaces in which a whole cluster lives and dies.

The caller becomes the parent of a process that is the init of a new PID namespace, with network, mount, UTS and IPC
namespaces of its own. When that init ends, the kernel kills everything in its PID namespace (pid_namespaces(7)), and
with the last file descriptor go the network namespaces, their links and rules, and the mounts: nothing has to be
cleaned up.

Without root, a user namespace is made too, in which the caller's own id is mapped to root (user_namespaces(7)).
"""

import ctypes
import errno
import os
import resource
from pathlib import Path

from netsim.model.errors import FeatureMissing, KernelError

# include/uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# include/uapi/linux/mount.h
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

_SANDBOX_FLAGS = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)

_NO_USERNS_HINT = (
    "run netsim as root (sudo), or let ordinary users make user namespaces: "
    "sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 (Debian), "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
)


def unshare_sandbox() -> None:
    """Move the calling process into new namespaces; its next child is the init of the new PID namespace.

    Raises FeatureMissing where the kernel lacks a namespace or forbids it to this user.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags = _SANDBOX_FLAGS if uid == 0 else _SANDBOX_FLAGS | CLONE_NEWUSER
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        if uid != 0:
            raise FeatureMissing(
                "userns",
                f"cannot make a user namespace as uid {uid}: {os.strerror(number)}",
                hint=_NO_USERNS_HINT,
            )
        raise FeatureMissing(
            "netns",
            f"cannot make namespaces: {os.strerror(number)}",
            hint="in a container, give it CAP_SYS_ADMIN (docker run --privileged); see `netsim check`",
        )
    if uid != 0:
        _map_to_root(uid, gid)


def _map_to_root(uid: int, gid: int) -> None:
    """Map root in the new user namespace to the caller. setgroups must be denied first (user_namespaces(7))."""
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise FeatureMissing(
            "userns",
            f"cannot map uid {uid} to root in a user namespace: {error.strerror}",
            hint=_NO_USERNS_HINT,
        ) from error


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises KernelError with the kernel's words."""
    result = _libc.mount(source.encode(), target.encode(), fstype.encode() or None, flags, data.encode() or None)
    if result != 0:
        number = ctypes.get_errno()
        raise KernelError(f"mount {fstype or source} on {target}: {os.strerror(number)}", errno=number)


def enter_init(hostname: str, state_dir: Path) -> None:
    """What the init of a sandbox does first: a private view of mounts, its own /proc and /run, and its host name.

    ``state_dir`` stays reachable at the same path although /run is hidden. /run is private since it holds the names of
    network namespaces (/run/netns) and xtables' lock, both of which must not be the machine's.
    """
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    state_fd = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        _mount_run(state_dir, state_fd)
    finally:
        os.close(state_fd)
    _mount_proc()
    _set_hostname(hostname)
    # Every namespace is held by a file descriptor, and built-in containers hold a socket for each port.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _mount_run(state_dir: Path, state_fd: int) -> None:
    os_run = Path("/run")
    mount("netsim", str(os_run), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for name in ("netns", "lock"):
        (os_run / name).mkdir()
    if state_dir.is_relative_to(os_run):
        state_dir.mkdir(parents=True)
        mount(f"/proc/self/fd/{state_fd}", str(state_dir), flags=MS_BIND)


def _mount_proc() -> None:
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except KernelError as error:
        if error.errno == errno.EPERM:
            error.hint = "this container hides parts of /proc: run it with an unmasked /proc, or as root of the machine"
        raise


def _set_hostname(hostname: str) -> None:
    name = hostname.encode()
    if _libc.sethostname(name, len(name)) != 0:
        number = ctypes.get_errno()
        raise KernelError(f"sethostname {hostname}: {os.strerror(number)}", errno=number)
