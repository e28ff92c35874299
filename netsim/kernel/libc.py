"""System calls Python 3.11 has no names for: setns, unshare, mount, mount_setattr, prctl, sethostname.

Plain ctypes, because `os.setns` and `os.unshare` came with Python 3.12 and mounting never came; one code
path serves all versions. ctypes releases the interpreter lock during each call, so namespaces are made in
parallel by threads.
"""

import ctypes
import errno as errno_names
import os

from netsim.model.errors import KernelError

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on every architecture (include/uapi/asm-generic/unistd.h)

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.syscall.restype = ctypes.c_long
_setns = _libc.setns


class _MountAttr(ctypes.Structure):
    """struct mount_attr (include/uapi/linux/mount.h)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def make_error(what: str, number: int, *, where: str = "", hint: str = "") -> KernelError:
    """A KernelError that carries the kernel's own words: ``what: Operation not permitted (EPERM)``."""
    name = errno_names.errorcode.get(number, str(number))
    return KernelError(f"{what}: {os.strerror(number)} ({name})", errno=number, where=where, hint=hint)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise make_error(what, ctypes.get_errno())


def try_setns(fd: int, kind: int) -> int:
    """setns(2) of the calling thread; 0 or the errno. For callers that may not raise."""
    return ctypes.get_errno() if _setns(fd, kind) < 0 else 0


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace ``fd``. Raises KernelError."""
    _check(_setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    """Give the calling thread (process, for PID: its children) namespaces of its own. Raises KernelError."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises KernelError naming what was to be mounted where."""
    result = _libc.mount(
        os.fsencode(source) if source else None,
        os.fsencode(target),
        fstype.encode() if fstype else None,
        flags,
        os.fsencode(data) if data else None,
    )
    _check(result, f"mount {fstype or source or 'flags'} on {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2). Raises KernelError."""
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2). Raises KernelError."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), f"pivot_root {new_root}")


def set_read_only(target: str, *, recursive: bool) -> None:
    """Make the mount at ``target`` (and all below it) read-only; mount_setattr(2), Linux 5.12. Raises
    KernelError.

    A plain remount changes one mount only, and in a user namespace refuses to drop locked flags; this call
    sets one bit.
    """
    attr = _MountAttr(attr_set=MOUNT_ATTR_RDONLY)
    result = _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(AT_RECURSIVE if recursive else 0),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    _check(result, f"mount_setattr {target}")


def set_hostname(name: str) -> None:
    """sethostname(2) in the calling thread's UTS namespace. Raises KernelError."""
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), f"sethostname {name}")


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one number. Raises KernelError."""
    _check(_libc.prctl(option, argument, 0, 0, 0), f"prctl {option}")
