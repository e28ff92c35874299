"""Namespaces: made, entered and left, and nothing of them stays."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from netsim.kernel.netns import Netns, make_uts, run_in, switch_ipv6
from netsim.model.errors import KernelError

pytestmark = pytest.mark.needs("root", "netns")


def current_inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def addresses_of_lo() -> str:
    return subprocess.run(["ip", "-br", "address", "show", "lo"], capture_output=True, text=True, check=True).stdout


def test_a_new_namespace_has_only_a_loopback_that_is_up(ns: Netns) -> None:
    with ns.entered():
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        assert addresses_of_lo().split() == ["lo", "UNKNOWN", "127.0.0.1/8"]


def test_ipv6_is_off_for_every_interface_to_come(ns: Netns) -> None:
    with ns.entered():
        for name in ("all", "default", "lo"):
            assert Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text() == "1\n"


@pytest.mark.needs("ipv6")
def test_ipv6_on() -> None:
    with Netns.create("six", ipv6=True) as ns, ns.entered():
        assert "::1/128" in addresses_of_lo()
        # Addresses of interfaces to come are usable at once, and routes are not learned.
        for name, value in (("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")):
            assert Path(f"/proc/sys/net/ipv6/conf/default/{name}").read_text() == f"{value}\n"


@pytest.mark.needs("ipv6")
def test_ipv6_of_a_namespace_that_is_there_already_is_switched(ns: Netns) -> None:
    for on, value in ((True, "0\n"), (False, "1\n")):
        switch_ipv6(ns, on)
        with ns.entered():
            assert Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text() == value


def test_making_one_leaves_the_calling_thread_where_it_is(ns: Netns) -> None:
    before = current_inode()
    with Netns.create("other") as other:
        assert current_inode() == before
        assert len({before, ns.inode, other.inode}) == 3


def test_entering_nests_and_comes_back_after_an_error(ns: Netns) -> None:
    home = current_inode()
    with Netns.create("inner") as inner:

        def fail_inside() -> None:
            with ns.entered():
                assert current_inode() == ns.inode
                with inner.entered():
                    assert current_inode() == inner.inode
                assert current_inode() == ns.inode
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_inside()
    assert current_inode() == home


def test_a_socket_lives_in_its_namespace(ns: Netns) -> None:
    with (
        Netns.create("other") as other,
        ns.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        other.socket(socket.AF_INET, socket.SOCK_STREAM) as same_port,
        ns.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind(("127.0.0.1", 8080))
        server.listen()
        same_port.bind(("127.0.0.1", 8080))  # would be in use in the same namespace
        client.connect(("127.0.0.1", 8080))
        accepted, _ = server.accept()
        accepted.close()


def test_jobs_run_in_their_namespaces_and_workers_go_home() -> None:
    home = current_inode()
    namespaces = [Netns.create(f"n{i}") for i in range(12)]

    async def visit_all() -> list[int]:
        return list(await asyncio.gather(*(run_in(ns, current_inode) for ns in namespaces)))

    assert asyncio.run(visit_all()) == [ns.inode for ns in namespaces]
    for ns in namespaces:
        ns.close()
    with Netns.current() as here:
        assert asyncio.run(run_in(here, current_inode)) == home


def test_what_a_job_raises_comes_out(ns: Netns) -> None:
    with pytest.raises(KernelError, match="cannot open"):
        asyncio.run(run_in(ns, Netns.open, "/proc/nothing/ns/net"))


def test_opening_by_path(ns: Netns) -> None:
    with Netns.open(f"/proc/self/fd/{ns.fd}", "again") as again:
        assert (again.inode, again.name) == (ns.inode, "again")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere", "No such file"),
        ("/etc/passwd", "not a network namespace"),
        ("/proc/self/ns/uts", "not a network namespace"),
    ],
)
def test_opening_something_else_is_refused(path: str, words: str) -> None:
    with pytest.raises(KernelError, match=words) as caught:
        Netns.open(path)
    assert caught.value.where == path


def test_entering_after_close_is_refused_outside(ns: Netns) -> None:
    home = current_inode()
    ns.close()
    ns.close()
    with pytest.raises(KernelError, match="cannot enter"):
        ns.entered().__enter__()
    assert current_inode() == home


def test_a_hundred_leave_nothing() -> None:
    def count() -> tuple[int, str]:
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/mounts").read_text()

    Netns.create("warm").close()
    before = count()
    namespaces = [Netns.create(f"n{i}") for i in range(100)]
    assert len({ns.inode for ns in namespaces}) == 100
    for ns in namespaces:
        ns.close()
    assert count() == before


def test_host_names_are_apart() -> None:
    fd = make_uts("pod-a")
    try:
        assert socket.gethostname() != "pod-a"
    finally:
        os.close(fd)


@pytest.mark.needs("userns", "command:unshare")
def test_where_coming_back_is_not_permitted_entering_is_refused() -> None:
    # A user namespace that does not own its network namespace: making one works, going back would not.
    program = (
        "import os\n"
        "from netsim.kernel.netns import Netns\n"
        "home = os.stat('/proc/thread-self/ns/net').st_ino\n"
        "ns = Netns.create('x')\n"
        "try:\n"
        "    ns.entered().__enter__()\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "print(home == os.stat('/proc/thread-self/ns/net').st_ino)\n"
    )
    done = subprocess.run(["unshare", "-Ur", sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("x: cannot enter the network namespace: Operation not permitted (EPERM)\n  next: ")
    assert done.stdout.endswith("\nTrue\n")
