"""Network namespaces held by file descriptor, and work done inside them without forking.

A namespace lives as long as somebody holds it: a process, a socket in it, or our descriptor. So nothing has
to be cleaned up after a crash, and `/run/netns` is not needed.
"""

import _thread
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from netsim.kernel import libc
from netsim.kernel.libc import CLONE_NEWNET, CLONE_NEWUTS
from netsim.model.errors import FeatureMissing, KernelError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

_CURRENT = "/proc/thread-self/ns/net"
_UTS = "/proc/thread-self/ns/uts"
_IPV6_CONF = "/proc/sys/net/ipv6/conf"
# `all` sets `default` too (net/ipv6/addrconf.c, addrconf_disable_ipv6), which is what new interfaces start from.
_IPV6_OFF = {"all/disable_ipv6": b"1"}
_IPV6_ON = {
    "all/disable_ipv6": b"0",
    # Addresses are usable at once: for a second or two after it came up a link would send nothing from addresses that
    # the kernel still tries for duplicates, of which there are none, since all of them are netsim's.
    "default/accept_dad": b"0",
    "default/accept_ra": b"0",  # routes are netsim's, too; nor does a link then ask for routers
}
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2): which kind of namespace a descriptor stands for
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_WORKERS = 4
_NO_PERMISSION = (
    "run as root, or in a user namespace that owns the network namespace (netsim check says what is possible)"
)


class Entered:
    """Context manager of `Netns.entered`: the calling thread is inside, and afterwards back where it was."""

    __slots__ = ("_home", "_ns")

    def __init__(self, ns: "Netns") -> None:
        self._ns = ns
        self._home = -1

    def __enter__(self) -> None:
        home = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        # Going to where we already are changes nothing, but asks for the same permission as the way back
        # will: better refuse now than be stuck in a foreign namespace.
        number = libc.try_setns(home, CLONE_NEWNET) or libc.try_setns(self._ns.fd, CLONE_NEWNET)
        if number:
            os.close(home)
            raise libc.make_error(
                "cannot enter the network namespace", number, where=self._ns.name, hint=_NO_PERMISSION
            )
        self._home = home

    def __exit__(self, *_exc: object) -> None:
        _go_home(self._home, CLONE_NEWNET, self._ns.name)


class Netns:
    """A handle to a network namespace: an open descriptor, the inode that identifies it, and a name for
    messages.

    The handle keeps the namespace alive until `close`; sockets and processes inside keep it alive longer.
    """

    __slots__ = ("fd", "inode", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def create(cls, name: str, *, ipv6: bool = False) -> "Netns":
        """Make a new namespace with ``lo`` up. ``ipv6`` False switches IPv6 off for every interface it will
        ever have; True switches it on, without waiting for duplicate addresses and router advertisements.

        Raises KernelError, also where the kernel has no IPv6. Afterwards the calling thread is where it was.
        """
        return cls(name, _make_aside(lambda: _make_netns(ipv6), CLONE_NEWNET, f"cannot make network namespace {name}"))

    @classmethod
    def open(cls, path: str, name: str = "") -> "Netns":
        """The namespace a path like ``/run/netns/NAME`` or ``/proc/PID/ns/net`` stands for. Raises
        KernelError.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise libc.make_error("cannot open the network namespace", error.errno or 0, where=path) from error
        try:
            # Not by readlink: a namespace bound to a path, as `ip netns add` does, has that path for its name.
            if fcntl.ioctl(fd, _NS_GET_NSTYPE) != CLONE_NEWNET:
                raise KernelError(f"not a network namespace ({os.readlink(f'/proc/self/fd/{fd}')})", where=path)
        except OSError:
            os.close(fd)
            raise KernelError("not a network namespace", where=path) from None
        except BaseException:
            os.close(fd)
            raise
        return cls(name or path, fd)

    @classmethod
    def current(cls, name: str = "") -> "Netns":
        """The namespace the calling thread is in."""
        return cls.open(_CURRENT, name or "current")

    def entered(self) -> Entered:
        """``with ns.entered():`` moves the calling thread in, and back at the end; never await inside.

        Raises KernelError, still outside, when entering or coming back is not permitted. A thread that
        could not go back would act on the wrong namespace, so that aborts the process.
        """
        return Entered(self)

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """A socket that lives in this namespace for ever, whoever uses it. Raises KernelError, OSError."""
        with Entered(self):
            return socket.socket(family, type, proto)

    def close(self) -> None:
        """Let go of the namespace; may be repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Netns {self.name} net:[{self.inode}] fd={self.fd}>"


def make_uts(hostname: str) -> int:
    """A new UTS namespace with this host name, as a descriptor the caller closes. Raises KernelError."""

    def make() -> int:
        libc.unshare(CLONE_NEWUTS)
        libc.set_hostname(hostname)
        return os.open(_UTS, os.O_RDONLY | os.O_CLOEXEC)

    return _make_aside(make, CLONE_NEWUTS, f"cannot make UTS namespace {hostname}")


def _make_netns(ipv6: bool) -> int:
    """Leave the calling thread's namespace for a new one, prepare that, return a descriptor of it."""
    libc.unshare(CLONE_NEWNET)
    _switch_ipv6(ipv6)  # before lo comes up, or ::1 is there
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    return os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)


def switch_ipv6(ns: Netns, on: bool) -> None:
    """IPv6 of a namespace that is there already, as `Netns.create` has it; for links it does not have yet.

    Raises FeatureMissing where it is wanted and the kernel has none.
    """
    with Entered(ns):
        try:
            _switch_ipv6(on)
        except FileNotFoundError as error:
            raise FeatureMissing(
                "ipv6", "the kernel has no IPv6", where=ns.name, hint="boot without ipv6.disable=1, or stay with IPv4"
            ) from error


def _switch_ipv6(on: bool) -> None:
    """In the calling thread's namespace. Raises OSError."""
    for name, value in (_IPV6_ON if on else _IPV6_OFF).items():
        try:
            fd = os.open(f"{_IPV6_CONF}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if on:
                raise
            return  # a kernel without IPv6
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def _go_home(home: int, kind: int, name: str) -> None:
    """Bring the calling thread back and close ``home``, or end the process.

    Whatever a stranded thread did next would happen in the wrong namespace, perhaps the machine's.
    """
    number = libc.try_setns(home, kind)
    if number:
        os.write(2, f"netsim: cannot leave namespace {name}: {os.strerror(number)}\n".encode())
        os.abort()
    os.close(home)


def _make_aside(make: Callable[[], int], kind: int, what: str) -> int:
    """Let ``make`` move a thread into a new namespace of ``kind`` and return its answer. Raises KernelError.

    The thread is the calling one where it may come back, which is a quarter cheaper, and else one that ends there: in a
    user namespace one may not come back to a namespace that this does not own.
    """
    home = os.open(_CURRENT if kind == CLONE_NEWNET else _UTS, os.O_RDONLY | os.O_CLOEXEC)
    if libc.try_setns(home, kind):
        os.close(home)
        return _in_throwaway_thread(make, what)
    try:
        return make()
    except (KernelError, OSError) as error:
        raise _cannot(what, error) from error
    finally:
        _go_home(home, kind, what)


def _cannot(what: str, cause: KernelError | OSError) -> KernelError:
    if isinstance(cause, KernelError):
        return KernelError(f"{what}: {cause.message}", errno=cause.errno, hint=_NO_PERMISSION)
    return libc.make_error(what, cause.errno or 0, where=str(cause.filename or ""))


def _in_throwaway_thread(function: Callable[[], int], what: str) -> int:
    """Run ``function`` in a thread that ends with it, and return its answer. Raises KernelError starting
    with ``what``.
    """
    answer: list[int] = []
    failure: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def body() -> None:
        try:
            answer.append(function())
        except BaseException as error:  # handed to the caller, whose thread it belongs to
            failure.append(error)
        finally:
            done.release()

    _thread.start_new_thread(body, ())
    done.acquire()
    if answer:
        return answer[0]
    cause = failure[0]
    if isinstance(cause, KernelError | OSError):
        raise _cannot(what, cause) from cause
    raise cause


_pool: "ThreadPoolExecutor | None" = None


def _job(ns: Netns, function: Callable[..., T], args: tuple[Any, ...]) -> T:
    with Entered(ns):
        return function(*args)


async def run_in(ns: Netns, function: Callable[..., T], *args: Any) -> T:
    """Run ``function(*args)`` in a pool thread that enters ``ns`` for this job; raises what it raises.

    For work that blocks longer than about a millisecond. Four workers: kernel work on network configuration
    is serialised by the rtnl lock anyway, and two cores have no use for more.
    """
    global _pool  # noqa: PLW0603
    import asyncio  # late: the CNI program imports this module and has no loop
    from concurrent.futures import ThreadPoolExecutor

    if _pool is None:
        _pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="netns")
    return await asyncio.get_running_loop().run_in_executor(_pool, _job, ns, function, args)


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool  # noqa: PLW0603
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)
