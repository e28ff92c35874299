"""What a container sees: the machine's programs, its own files, and nothing it writes reaches the machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netsim.kernel.container import Bind, ContainerView
from netsim.kernel.netns import Netns
from netsim.kernel.process import Completed, ProcessSpec, Spawner
from netsim.model.errors import KernelError

pytestmark = pytest.mark.needs("root", "netns", "pidns", "mount", "overlay")

PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def run(
    spawner: Spawner, view: ContainerView | int, script: str, ns: Netns | None = None, pid: bool = True
) -> Completed:
    return spawner.run_blocking(ProcessSpec(("sh", "-c", script), env=PATH, view=view, netns=ns, new_pid=pid))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "hosts").write_text("10.0.0.1 here\n")
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "old").write_text("kept\n")
    return tmp_path


def test_files_and_volumes_are_where_they_were_asked_for(spawner: Spawner, files: Path) -> None:
    view = ContainerView(
        binds=(
            Bind(f"{files}/hosts", "/etc/hosts"),
            Bind(f"{files}/hosts", "/etc/not-there-before"),
            Bind(f"{files}/volume", "/data/deep/volume"),  # no such path on the machine
            Bind(f"{files}/volume", "/var/run/secrets/x"),  # through a symbolic link
            Bind(f"{files}/volume", "/tmp/volume", read_only=True),
            Bind(f"{files}/hosts", "/data/deep/volume/nested"),
        ),
        tmpfs=("/cache",),
    )
    (files / "volume" / "nested").touch()
    done = run(
        spawner,
        view,
        "cat /etc/hosts /etc/not-there-before /data/deep/volume/old /run/secrets/x/old /data/deep/volume/nested; "
        "echo new > /data/deep/volume/new; echo x > /cache/x; echo changed > /etc/hosts; touch /tmp/volume/no",
    )
    assert done.stdout == b"10.0.0.1 here\n10.0.0.1 here\nkept\nkept\n10.0.0.1 here\n"
    assert done.stderr.count(b"Read-only file system") == 1
    assert (files / "volume" / "new").read_text() == "new\n"
    assert (files / "hosts").read_text() == "changed\n"  # an emptyDir or a hosts file may be written to


def test_what_it_writes_stays_in_its_layer(spawner: Spawner) -> None:
    name = f"netsim-test-{os.getpid()}"
    paths = [f"/{top}/{name}" for top in ("etc", "home", "root", "run", "tmp", "usr", "var")]
    done = run(spawner, ContainerView(), f"touch {' '.join(paths)}; ls -d {' '.join(paths)}; ls /tmp")
    seen = done.stdout.decode().split()
    assert [path for path in paths if path not in seen] in ([], [f"/usr/{name}"])  # read-only without root
    assert seen[-1] == name  # an empty /tmp of its own
    assert [path for path in paths if os.path.exists(path)] == []


def test_its_processes_and_interfaces(spawner: Spawner, ns: Netns) -> None:
    done = run(spawner, ContainerView(), "cat /proc/1/comm; pwd; ls /sys/class/net | grep -v bonding_masters", ns)
    assert done.stdout.split() == [b"sh", b"/", b"lo"]
    assert run(spawner, ContainerView(), "cat /proc/$$/comm", pid=False).stdout == b"sh\n"


def test_the_mounts_end_with_it(spawner: Spawner, files: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    mark = f"{files}/volume"
    run(spawner, ContainerView((Bind(mark, "/data"),)), "true")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert Path(f"/proc/{spawner.pid}/mountinfo").read_text() == before


@pytest.fixture
def held(spawner: Spawner, ns: Netns, files: Path) -> Iterator[int]:
    fd = spawner.make_view(ContainerView((Bind(f"{files}/hosts", "/etc/hosts"),)), netns=ns)
    yield fd
    os.close(fd)


def test_a_held_view_is_one_for_several_processes(spawner: Spawner, ns: Netns, held: int) -> None:
    assert run(spawner, held, "echo x > /etc/made; echo y > /tmp/made", ns).returncode == 0
    assert run(spawner, held, "cat /etc/made /tmp/made /etc/hosts", ns).stdout == b"x\ny\n10.0.0.1 here\n"
    assert run(spawner, held, "cat /proc/1/comm", ns).stdout == b"sh\n"
    assert run(spawner, held, "cat /etc/made", ns, pid=False).stdout == b"x\n"
    assert not os.path.exists("/etc/made")


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        (Bind("/no/where", "/data"), "mount source /no/where for /data: No such file or directory"),
        (Bind("/etc", "data"), "mount point data is not an absolute path"),
        (Bind("/etc", "/"), "a mount over the root of a container is not possible"),
        (Bind("/etc", "/proc/nothing"), "cannot make mount point /proc/nothing: No such file or directory"),
    ],
)
def test_a_mount_that_cannot_be(spawner: Spawner, ns: Netns, bind: Bind, words: str) -> None:
    with pytest.raises(KernelError) as caught:
        run(spawner, ContainerView((bind,)), "true", ns)
    assert (caught.value.message, caught.value.where) == (words, "test")
    with pytest.raises(KernelError, match="mount"):
        spawner.make_view(ContainerView((bind,)))
