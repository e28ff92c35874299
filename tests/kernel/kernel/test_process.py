"""The spawner: what runs, where, and that nothing is left of it."""

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from netsim.kernel.container import ContainerView
from netsim.kernel.netns import Netns, make_uts
from netsim.kernel.process import Completed, ProcessSpec, Spawner
from netsim.model.errors import KernelError, TimeoutExpired
from netsim.testing.waiting import wait_until

pytestmark = pytest.mark.needs("root", "netns", "pidns")

PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def spec(*argv: str, **more: object) -> ProcessSpec:
    return ProcessSpec(argv, **{"env": PATH, **more})  # type: ignore[arg-type]


def shell(script: str, **more: object) -> ProcessSpec:
    return spec("sh", "-c", script, **more)


# The three ways a child is made: posix_spawn, fork into a PID namespace, fork with mounts.
WAYS: list[dict[str, object]] = [{}, {"new_pid": True}, {"new_pid": True, "view": ContainerView()}]
each_way = pytest.mark.parametrize("way", WAYS, ids=["plain", "new_pid", "view"])


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@each_way
def test_output_and_status(spawner: Spawner, ns: Netns, way: dict[str, object]) -> None:
    done = spawner.run_blocking(shell("cat; echo err >&2; exit 3", netns=ns, **way), input=b"in")
    assert done == Completed(3, b"in", b"err\n")


@each_way
@pytest.mark.parametrize("argv", [(), ("/bin/echo", "a\0b"), ("/bin/echo", 1)], ids=["empty", "nul", "number"])
def test_what_can_not_be_executed_does_not_end_the_spawner(
    spawner: Spawner, way: dict[str, object], argv: tuple[str, ...]
) -> None:
    with pytest.raises(KernelError):
        spawner.run_blocking(spec(*argv, **way))
    assert spawner.run_blocking(spec("echo", "alive", **way)).stdout == b"alive\n"


@each_way
def test_awaited(spawner: Spawner, way: dict[str, object]) -> None:
    assert asyncio.run(spawner.run(shell("kill -9 $$", **way))).returncode == (0 if way else -9)


@each_way
def test_it_is_in_the_namespaces_it_was_given(spawner: Spawner, ns: Netns, way: dict[str, object]) -> None:
    uts = make_uts("pod-a")
    try:
        done = spawner.run_blocking(shell("readlink /proc/self/ns/net; uname -n", netns=ns, uts_fd=uts, **way))
    finally:
        os.close(uts)
    assert done.stdout.decode().split() == [f"net:[{ns.inode}]", "pod-a"]
    # ... and the spawner is not.
    with Netns.current() as here:
        assert spawner.run_blocking(spec("readlink", "/proc/self/ns/net")).stdout.decode() == f"net:[{here.inode}]\n"


@each_way
@pytest.mark.parametrize(
    ("argv", "number", "words"),
    [
        (("nope",), 2, 'exec: "nope": executable file not found in $PATH'),
        (("/no/pe",), 2, 'exec: "/no/pe": no such file or directory'),
        (("/etc/passwd",), 13, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_why_it_was_not_executed(
    spawner: Spawner, ns: Netns, way: dict[str, object], argv: tuple[str, ...], number: int, words: str
) -> None:
    for run in (spawner.run_blocking, lambda spec: asyncio.run(spawner.run(spec))):
        with pytest.raises(KernelError) as caught:
            run(spec(*argv, netns=ns, **way))
        assert (caught.value.errno, caught.value.message, caught.value.where) == (number, words, "test")


def test_a_directory_that_is_not_there(spawner: Spawner) -> None:
    with pytest.raises(KernelError, match='chdir to cwd \\("/no/where"\\): no such file or directory'):
        spawner.run_blocking(spec("true", cwd="/no/where"))


def test_a_file_of_no_executable_format(spawner: Spawner, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no interpreter line")
    program.chmod(0o755)
    with pytest.raises(KernelError, match="exec format error"):
        spawner.run_blocking(spec(str(program)))


def test_large_input_output_arguments_and_environment(spawner: Spawner) -> None:
    data = os.urandom(20_000_000)
    assert spawner.run_blocking(spec("cat"), input=data).stdout == data
    long = "x" * 100_000
    done = spawner.run_blocking(spec("printenv", "LONG", env=PATH | {"LONG": long}))
    assert done.stdout.decode() == long + "\n"


def test_output_opened_by_name_does_not_overwrite(spawner: Spawner) -> None:
    assert spawner.run_blocking(shell("echo one; echo two > /dev/stdout; echo three")).stdout == b"one\ntwo\nthree\n"


@each_way
def test_only_three_descriptors(spawner: Spawner, ns: Netns, way: dict[str, object]) -> None:
    assert spawner.run_blocking(shell("ls /proc/$$/fd", netns=ns, **way)).stdout.split() == [b"0", b"1", b"2"]


def test_default_signals(spawner: Spawner) -> None:
    assert spawner.run_blocking(shell("kill -PIPE $$")).returncode == -signal.SIGPIPE
    assert spawner.run_blocking(shell("kill -INT $$")).returncode == -signal.SIGINT


def test_a_background_process_does_not_hold_the_answer_back(spawner: Spawner) -> None:
    done = spawner.run_blocking(shell("sleep 60 & echo $!"), timeout_s=20)
    os.kill(int(done.stdout), signal.SIGKILL)


def test_it_is_process_1_of_its_own_pid_namespace(spawner: Spawner) -> None:
    done = spawner.run_blocking(shell("echo $$; ls /proc | grep -c ^[0-9]", new_pid=True))
    assert done.stdout.split() == [b"1", b"3"]  # sh, ls and grep


def test_a_pid_namespace_can_be_joined(spawner: Spawner) -> None:
    async def scenario() -> bytes:
        null = os.open(os.devnull, os.O_RDWR)
        first = await spawner.spawn(spec("sleep", "60", new_pid=True), stdin=null, stdout=null, stderr=null)
        os.close(null)
        pid_fd = os.open(f"/proc/{first.pid}/ns/pid", os.O_RDONLY)
        mount_fd = os.open(f"/proc/{first.pid}/ns/mnt", os.O_RDONLY)
        try:
            return (await spawner.run(shell("cat /proc/1/comm", pid_fd=pid_fd, view=mount_fd))).stdout
        finally:
            first.kill(signal.SIGKILL)
            assert await first.wait() == -9
            with pytest.raises(KernelError, match="the PID namespace has ended"):
                await spawner.run(spec("true", pid_fd=pid_fd))
            os.close(pid_fd)
            os.close(mount_fd)

    assert asyncio.run(scenario()) == b"sleep\n"


@each_way
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "awaited"])
def test_in_time_or_killed_with_its_children(spawner: Spawner, way: dict[str, object], blocking: bool) -> None:
    def run() -> Completed:
        slow = shell("sleep 61 & echo started; wait", **way)
        return spawner.run_blocking(slow, timeout_s=0.3) if blocking else asyncio.run(spawner.run(slow, timeout_s=0.3))

    with pytest.raises(TimeoutExpired, match=r"did not end within 0\.3 s; it said: started"):
        run()
    wait_until("its child has ended", lambda: not _running("sleep", "61"))


def _running(*argv: str) -> bool:
    wanted = "\0".join(argv).encode() + b"\0"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes() == wanted:
                    return True
    return False


def test_a_cancelled_run_is_killed(spawner: Spawner) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(spawner.run(spec("sleep", "62")))
        await asyncio.to_thread(wait_until, "it runs", lambda: _running("sleep", "62"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    wait_until("it has ended", lambda: not _running("sleep", "62"))


def test_many_at_once(spawner: Spawner, ns: Netns) -> None:
    async def scenario() -> list[Completed]:
        return list(await asyncio.gather(*(spawner.run(spec("echo", str(i), netns=ns)) for i in range(200))))

    assert [done.stdout for done in asyncio.run(scenario())] == [f"{i}\n".encode() for i in range(200)]


def test_several_wait_for_one_process_and_it_gets_signals(spawner: Spawner) -> None:
    async def scenario() -> tuple[list[int], int | None]:
        reading, writing = os.pipe()
        script = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
        process = await spawner.spawn(shell(script), stdin=0, stdout=writing, stderr=2)
        os.close(writing)
        assert process.poll() is None
        with os.fdopen(reading) as output:
            assert output.readline() == "ready\n"
            cancelled = asyncio.create_task(process.wait())
            await asyncio.sleep(0)
            cancelled.cancel()  # must not take the answer from the others
            process.kill(signal.SIGTERM)
            statuses = await asyncio.gather(process.wait(), process.wait())
            assert output.read() == "got\n"
        process.kill(signal.SIGKILL)  # too late: nothing happens
        return statuses, process.poll()

    assert asyncio.run(scenario()) == ([7, 7], 7)


def test_a_controlling_terminal(spawner: Spawner) -> None:
    async def scenario() -> bytes:
        ours, theirs = pty.openpty()
        script = "tty < /dev/tty && test -t 0 && echo yes"
        process = await spawner.spawn(shell(script, controlling_tty=True), stdin=theirs, stdout=theirs, stderr=theirs)
        status = await process.wait()
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)
        text = os.read(ours, 4096)
        os.close(ours)
        os.close(theirs)
        assert status == 0, text
        return text

    assert b"yes" in asyncio.run(scenario())


def test_runs_leave_no_descriptors(spawner: Spawner, ns: Netns) -> None:
    def run_all() -> None:
        for way in WAYS:
            spawner.run_blocking(spec("true", netns=ns, **way))
            with pytest.raises(KernelError):
                spawner.run_blocking(spec("nope", netns=ns, **way))

    def counts() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), spawner.pid)]

    run_all()
    before = counts()
    for _ in range(10):
        run_all()
    assert counts() == before


@pytest.mark.parametrize("spare", range(5))
def test_a_start_without_descriptors_keeps_none(spawner: Spawner, spare: int) -> None:
    """Who tries again later, as the proxy does, must not have made it worse."""
    spawner.run_blocking(spec("true"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for fd in taken[:spare]:
            os.close(fd)
        del taken[:spare]
        for _ in range(3):
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                spawner.run_blocking(spec("true"))
        taken += [os.dup(0) for _ in range(spare)]  # all that were free still are
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def test_closing_ends_what_runs_and_refuses_more(own_spawner: Callable[[], tuple[Spawner, int]]) -> None:
    own, pid = own_spawner()
    own.close()
    own.close()
    assert not alive(pid)
    assert not alive(own.pid)
    with pytest.raises(KernelError, match="has been closed"):
        own.run_blocking(spec("true"))


def test_a_spawner_that_dies_fails_what_waits(own_spawner: Callable[[], tuple[Spawner, int]]) -> None:
    own, pid = own_spawner()
    try:
        started = time.monotonic()
        os.kill(own.pid, signal.SIGTERM)
        with pytest.raises(KernelError, match="the spawner"):
            own.run_blocking(spec("sleep", "64"))
        assert time.monotonic() - started < 30
        wait_until("its process has ended", lambda: not alive(pid))
    finally:
        own.close()


def test_what_it_started_dies_with_the_process_that_made_it() -> None:
    program = (
        "import time\n"
        "from netsim.kernel.process import ProcessSpec, Spawner\n"
        "spawner = Spawner.start()\n"
        "for new_pid in (False, True):\n"
        "    spawner.spawn_blocking(ProcessSpec(('sleep', '65'), new_pid=new_pid), stdin=0, stdout=1, stderr=2)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert _running("sleep", "65")
    process.kill()
    process.wait()
    # The pipe's last writer is gone when all have ended: no polling of anything else.
    assert select.select([process.stdout], [], [], 10.0)[0]
    assert process.stdout.read() == ""
    process.stdout.close()
    wait_until("all have ended", lambda: not _running("sleep", "65"))
