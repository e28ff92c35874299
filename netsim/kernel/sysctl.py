"""Sysctls of a network namespace, read and written without a fork.

/proc/sys/net shows the namespace of the thread that opens a file in it, so the calling thread enters for that moment.
Names are dotted (``net.ipv4.ip_forward``), or with slashes where an interface name holds a dot
(``net/ipv4/conf/eth0.5/forwarding``), as in sysctl(8).
"""

import errno
import os
from collections.abc import Mapping

from netsim.kernel.modules import load_module
from netsim.kernel.netns import Netns
from netsim.model.errors import FeatureMissing, KernelError

_ROOT = "/proc/sys/"
_FEATURES = {  # who owns a sysctl that is not there
    "net.bridge.": (
        "br_netfilter",
        "the kernel has no br_netfilter (CONFIG_BRIDGE_NETFILTER)",
        "modprobe br_netfilter",
    ),
    "net.netfilter.nf_conntrack": ("conntrack", "the kernel has no connection tracking", "modprobe nf_conntrack"),
}


def read_sysctl(ns: Netns, name: str) -> str:
    """The value, without the newline. Raises KernelError; FeatureMissing where a kernel feature would bring it."""
    with ns.entered():
        try:
            return _read(name)
        except OSError as error:
            raise _error(ns, name, error) from error


def write_sysctl(ns: Netns, name: str, value: str | int) -> None:
    """Set one. Raises as `write_sysctls`."""
    write_sysctls(ns, {name: value})


def write_sysctls(ns: Netns, values: Mapping[str, str | int]) -> None:
    """Set them in order, in one visit. Raises KernelError at the first refusal; FeatureMissing as `read_sysctl`.

    Where a sysctl may not be written, as in a container, one that has its value already is no refusal.
    """
    with ns.entered():
        for name, value in values.items():
            try:
                _write(name, value)
            except OSError as error:
                if not _has(name, value):
                    raise _error(ns, f"{name}={value}", error) from error


def _read(name: str) -> str:
    fd = os.open(_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode().rstrip("\n")
    finally:
        os.close(fd)


def _has(name: str, value: str | int) -> bool:
    try:
        return _read(name) == str(value)
    except OSError:
        return False


def _write(name: str, value: str | int) -> None:
    path = _path(name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Nothing else that a cluster does would load it. The sysctls of all namespaces appear with the module.
        if not name.replace("/", ".").startswith("net.bridge.") or not load_module("br_netfilter"):
            raise
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _path(name: str) -> str:
    path = name if "/" in name else name.replace(".", "/")
    return _ROOT + path.strip("/")


def _error(ns: Netns, what: str, error: OSError) -> KernelError | FeatureMissing:
    number = error.errno or 0
    if number == errno.ENOENT:
        for prefix, (feature, message, hint) in _FEATURES.items():
            if what.replace("/", ".").startswith(prefix):
                return FeatureMissing(feature, f"sysctl {what}: {message}", where=ns.name, hint=hint)
    hint = "/proc/sys is read-only here; a container needs a writable one" if number == errno.EROFS else ""
    return KernelError(f"sysctl {what}: {os.strerror(number)}", errno=number, where=ns.name, hint=hint)
