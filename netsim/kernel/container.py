"""What a container sees of the file system: the machine's root under a layer of its own, and its own files
on top.

There are no images, so the programs are the machine's. Writes go to a layer in memory that ends with the
container. The view is plain data (`ContainerView`); the spawned child builds it, after the fork, in a mount
namespace of its own.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netsim.kernel import libc
from netsim.model.errors import KernelError

_SCRATCH = "/tmp"  # where the layer is put together; the machine's own /tmp is hidden from containers anyway
_PRIVATE_TMPFS = ("/tmp", "/run", "/var/tmp", "/dev/shm")
_WRITABLE = ("/etc", "/var", "/root", "/home", "/srv", "/opt")
_API_FILESYSTEMS = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the sandbox shown at another path of the container; missing mount points are
    made.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container's mounts.

    binds:  volumes, and files such as /etc/hosts, /etc/resolv.conf, /etc/hostname; later ones may lie in
    earlier ones. tmpfs:  paths where an empty memory file system goes (emptyDir, medium Memory), beside
    /tmp, /run, /var/tmp, /dev/shm. sysfs:  show the network namespace's own interfaces under /sys,
    read-only.

    Everything else is the machine's root: writable in a layer of memory where the kernel has overlayfs,
    else read-only, and then a mount point that does not exist is refused.
    """

    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[str, ...] = ()
    sysfs: bool = True

    def to_wire(self) -> dict[str, Any]:
        """Plain JSON data; `from_wire` is the inverse."""
        return {
            "binds": [[b.source, b.target, b.read_only] for b in self.binds],
            "tmpfs": list(self.tmpfs),
            "sysfs": self.sysfs,
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> "ContainerView":
        return cls(tuple(Bind(*b) for b in data["binds"]), tuple(data["tmpfs"]), data["sysfs"])


def apply_proc() -> None:
    """Give the calling process, first in a new PID namespace, mounts of its own with that namespace's
    /proc.
    """
    _own_mounts()
    libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)


def apply_view(view: ContainerView, *, new_proc: bool) -> None:
    """Move the calling process into a new mount namespace that looks like ``view``.

    ``new_proc``: it is the first of a new PID namespace and gets a fresh /proc. Raises KernelError.
    """
    _own_mounts()
    sources = [_open_source(bind) for bind in view.binds]  # before anything is hidden
    others = _other_mounts()
    libc.mount("tmpfs", _SCRATCH, "tmpfs", libc.MS_NODEV, "mode=0700")
    builder = _Builder(f"{_SCRATCH}/upper", f"{_SCRATCH}/root", others)
    builder.mount_root(view, sources)
    builder.mount_system(sysfs=view.sysfs, new_proc=new_proc)
    for target in view.tmpfs:
        builder.mount_tmpfs(target)
    for bind, fd in zip(view.binds, sources, strict=True):
        builder.bind(bind, fd)
        os.close(fd)
    _enter(builder.root)


def _own_mounts() -> None:
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)  # nothing done from here on reaches the sandbox


def _open_source(bind: Bind) -> int:
    try:
        return os.open(bind.source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(
            f"mount source {bind.source} for {bind.target}: {os.strerror(error.errno or 0)}", errno=error.errno or 0
        ) from error


def _other_mounts() -> list[str]:
    """Mount points directly below the root's mount, which an overlay of the root does not show (proc(5),
    mountinfo).
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.split(" ", 5) for line in file]
    roots = {row[0] for row in rows if row[4] == "/"}
    hidden = {*_PRIVATE_TMPFS, *_API_FILESYSTEMS}
    found = {row[4] for row in rows if row[1] in roots and row[4] != "/"}
    return sorted(_unescape(point) for point in found if not any(_lies_in(point, top) for top in hidden))


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _lies_in(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


class _Builder:
    """Puts the new root together below the scratch directory; paths given to it are the container's."""

    def __init__(self, upper: str, root: str, others: list[str]) -> None:
        self.upper = upper
        self.root = root
        self.others = others
        self.read_only: list[str] = []  # where an overlay was wanted and refused
        for directory in (upper, root):
            os.mkdir(directory, 0o755)

    def mount_root(self, view: ContainerView, sources: list[int]) -> None:
        """The machine's root under a layer, whose skeleton is made first.

        Made in the layer and not through the overlay: that costs no copying, a symlink (/etc/resolv.conf is
        one on many machines) is replaced and not followed, and without root the directories belong to us
        and not to nobody.
        """
        self._skeleton(view, sources)
        try:
            self._mount_overlay("/")
            covered: set[str] = set()
        except KernelError:
            covered = self._mount_parts()
        for point in self.others:
            if point not in covered and os.path.exists(self.root + point):
                self._show_read_only(point)

    def _mount_overlay(self, path: str) -> None:
        work = f"{_SCRATCH}/work{path}".rstrip("/")
        os.makedirs(work, exist_ok=True)
        upper = (self.upper + path).rstrip("/")
        libc.mount("overlay", self.root + path, "overlay", 0, f"lowerdir={path},upperdir={upper},workdir={work}")

    def _mount_parts(self) -> set[str]:
        """The root directory by directory, where one overlay over all of it is refused; returns the mounts this shows.

        In a user namespace nothing may be laid over a directory that has a more privileged namespace's mount below it
        (clone_private_mount, fs/namespace.c). Directories that need no overlay, or get none (a kernel without
        overlayfs: `features` lists what that costs), are read-only.
        """
        libc.mount("tmpfs", self.root, "tmpfs", libc.MS_NODEV, "mode=755")
        covered: set[str] = set()
        for name in sorted({*os.listdir("/"), *os.listdir(self.upper)}):
            path = f"/{name}"
            if os.path.islink(path):
                os.symlink(os.readlink(path), self.root + path)
            elif os.path.isdir(self.upper + path) or os.path.isdir(path):
                os.mkdir(self.root + path, _mode_of(path))
                if path not in (*_PRIVATE_TMPFS, *_API_FILESYSTEMS) and os.path.isdir(path):
                    covered |= self._mount_part(path)
        return covered

    def _mount_part(self, path: str) -> set[str]:
        if os.path.isdir(self.upper + path):
            if not os.access(path, os.R_OK | os.X_OK):
                return set()  # such as /root without being root: the empty directory that is there now is of more use
            try:
                self._mount_overlay(path)
            except KernelError:
                self.read_only.append(path)
            else:
                return set()
        self._show_read_only(path)
        return {point for point in self.others if _lies_in(point, path)}

    def _show_read_only(self, path: str) -> None:
        libc.mount(path, self.root + path, flags=libc.MS_BIND | libc.MS_REC)
        libc.set_read_only(self.root + path, recursive=True)

    def _skeleton(self, view: ContainerView, sources: list[int]) -> None:
        for path in (*_WRITABLE, *_PRIVATE_TMPFS, *_API_FILESYSTEMS):
            if not any(_lies_in(path, other) for other in (*self.others, "/dev")) and not os.path.islink(path):
                self._make_in_layer(path, directory=True)
        for bind, source in zip(view.binds, sources, strict=True):
            self._make_in_layer(self.resolve(bind.target), directory=_is_directory(source))
        for target in view.tmpfs:
            self._make_in_layer(self.resolve(target), directory=True)

    def _make_in_layer(self, path: str, *, directory: bool) -> None:
        """Make a mount point and its parents, with the permissions the machine's directories of that name
        have.
        """
        if any(_lies_in(path, top) for top in (*_PRIVATE_TMPFS, *self.others, "/dev")) and path not in _PRIVATE_TMPFS:
            return
        if path.startswith("/dev"):
            return
        made = ""
        for part in path.strip("/").split("/")[: None if directory else -1]:
            made = f"{made}/{part}"
            if not os.path.isdir(self.upper + made):
                os.mkdir(self.upper + made)
                os.chmod(self.upper + made, _mode_of(made))
        if not directory:
            os.close(os.open(self.upper + path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))

    def mount_system(self, *, sysfs: bool, new_proc: bool) -> None:
        """/dev, /proc, /sys and the private memory file systems."""
        recursive = libc.MS_BIND | libc.MS_REC
        libc.mount("/dev", f"{self.root}/dev", flags=recursive)
        if new_proc:
            flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
            libc.mount("proc", f"{self.root}/proc", "proc", flags)
        else:
            libc.mount("/proc", f"{self.root}/proc", flags=recursive)
        if sysfs:
            flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC | libc.MS_RDONLY
            libc.mount("sysfs", f"{self.root}/sys", "sysfs", flags)
        else:
            libc.mount("/sys", f"{self.root}/sys", flags=recursive)
            libc.set_read_only(f"{self.root}/sys", recursive=True)
        for path in _PRIVATE_TMPFS:
            if os.path.isdir(self.root + path) and not os.path.islink(self.root + path):
                self._mount_memory(path, 0o755 if path == "/run" else 0o1777)

    def mount_tmpfs(self, target: str) -> None:
        path = self.resolve(target)
        self._ensure(path, directory=True)
        self._mount_memory(path, 0o1777)

    def _mount_memory(self, path: str, mode: int) -> None:
        libc.mount("tmpfs", self.root + path, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, f"mode={mode:o}")

    def bind(self, bind: Bind, source: int) -> None:
        path = self.resolve(bind.target)
        self._ensure(path, directory=_is_directory(source))
        libc.mount(f"/proc/self/fd/{source}", self.root + path, flags=libc.MS_BIND | libc.MS_REC)
        if bind.read_only:
            libc.set_read_only(self.root + path, recursive=True)

    def resolve(self, target: str) -> str:
        """Where a mount point really is: /var/run/x is /run/x on most machines. The last part is never
        followed.
        """
        if not target.startswith("/"):
            raise KernelError(f"mount point {target} is not an absolute path")
        parent, name = os.path.split(os.path.normpath(target))
        if not name:
            raise KernelError("a mount over the root of a container is not possible")
        return os.path.join(os.path.realpath(parent), name)

    def _ensure(self, path: str, *, directory: bool) -> None:
        """Make a mount point where the layer's skeleton could not: in a memory file system or another bind."""
        if os.path.lexists(self.root + path):
            return
        try:
            if directory:
                os.makedirs(self.root + path, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
                os.close(os.open(self.root + path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        except OSError as error:
            refused = any(_lies_in(path, top) for top in self.read_only)
            hint = "no overlay is possible there: use a path that exists, or one below /tmp" if refused else ""
            raise KernelError(
                f"cannot make mount point {path}: {os.strerror(error.errno or 0)}", errno=error.errno or 0, hint=hint
            ) from error


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _mode_of(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0o755


def _enter(root: str) -> None:
    """Make ``root`` the root: pivot_root(".", "."), as pivot_root(2) describes, where nothing of the old
    one stays.
    """
    os.chdir(root)
    libc.pivot_root(".", ".")
    libc.umount(".")
    os.chdir("/")
