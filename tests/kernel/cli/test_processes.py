"""exec and shell: standard streams, exit statuses, signals and terminals, into pods, nodes and the sandbox."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.cli.conftest import PROGRAM, TIMEOUT_S, Netsim

pytestmark = pytest.mark.needs("root")


def test_streams_and_status_go_through(deployed: Netsim) -> None:
    done = deployed("exec", "pod/client", "--", "sh", "-c", "cat; echo trouble >&2; exit 5", input="hello\n", status=5)
    assert (done.stdout, done.stderr) == ("hello\n", "trouble\n")


def test_a_lot_of_output_goes_through_whole(deployed: Netsim) -> None:
    assert len(deployed("exec", "node/node-1", "--", "seq", "1", "100000").stdout.splitlines()) == 100000


def test_every_kind_of_place(deployed: Netsim) -> None:
    assert deployed("exec", "pod/client", "--", "hostname").stdout == "client\n"
    assert "cni0" in deployed("exec", "node/node-1", "--", "ip", "-br", "link").stdout
    assert "203.0.113.2" in deployed("exec", "host/external", "--", "ip", "-br", "address").stdout
    coredns = deployed.json("get", "pods", "-n", "kube-system")["items"][0]["metadata"]["name"]
    assert "eth0" in deployed("exec", f"pod/kube-system/{coredns}", "--", "ip", "-br", "link").stdout
    assert "eth0" in deployed("exec", "-n", "kube-system", f"pod/{coredns}", "ip", "-br", "link").stdout


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("exec", "pod/nope", "--", "ls"), 1, 'pods "nope" not found\nnext: netsim get pods -A'),
        (("exec", "node/nope", "--", "ls"), 1, 'there is no node "nope"'),
        (("exec", "host/nope", "--", "ls"), 1, 'there is no host "nope"'),
        (("exec", "pod/client", "-c", "nope", "--", "ls"), 1, "nope"),
        (("exec", "-c", "nope", "pod/client", "ls"), 1, "nope"),
        (("exec", "pod/client", "-c", "main", "ls"), 127, "options go before WHERE or before --"),
        (("exec", "pod/client", "--", "no-such-command"), 127, "no-such-command"),
        (("exec", "node/node-1", "--", "no-such-command"), 127, "no-such-command"),
        (("exec", "-t", "pod/client", "--", "ls"), 2, "--tty needs a terminal"),
    ],
)
def test_what_can_not_run_is_told(deployed: Netsim, argv: tuple[str, ...], status: int, words: str) -> None:
    done = deployed(*argv, status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_a_signal_goes_to_the_command_and_shows_in_the_status(deployed: Netsim) -> None:
    argv = ("exec", "node/node-1", "--", "sh", "-c", "echo started; exec sleep 1000")
    with deployed.start(*argv) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM


def test_a_reader_that_has_enough_ends_it_quietly(deployed: Netsim) -> None:
    program = " ".join(PROGRAM)
    done = subprocess.run(
        ["sh", "-c", f"{program} get events -A -o json | head -n 1"],
        env=deployed.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_shell_takes_commands_from_a_pipe(deployed: Netsim) -> None:
    assert deployed("shell", "node/node-2", input="ip -br link show cni0; exit 4\n", status=4).stdout.startswith("cni0")
    names = deployed("shell", input="ip netns list\n").stdout
    for name in ("node-1", "node-2", "external", "default_client"):
        assert name in names
    inside = deployed("shell", input="ip netns exec node-1 ip -br link show cni0\n").stdout
    assert inside.startswith("cni0")


class Person:
    """Someone at a terminal in which ``netsim`` runs."""

    def __init__(self, program: Netsim, *argv: str) -> None:
        self.seen = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            environment = {**program.environment, "SHELL": "/bin/bash", "TERM": "xterm"}
            os.execve(sys.executable, [*PROGRAM, *argv], environment)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def see(self, pattern: str) -> str:
        deadline = time.monotonic() + 30.0
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; the screen has {self.seen!r}"
            self.seen += os.read(self._fd, 65536).decode()
        self.seen = self.seen[found.end() :]
        return found[0]

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def leave(self) -> None:
        os.close(self._fd)


@pytest.mark.parametrize(("where", "label"), [("node/node-1", "node/node-1"), ("pod/client", "pod/default/client")])
def test_a_shell_on_a_terminal_has_job_control_and_says_where_it_is(deployed: Netsim, where: str, label: str) -> None:
    person = Person(deployed, "shell", where)
    try:
        person.see(re.escape(label) + r".*\S*[#$] ")
        person.type("tty -s && sh -c 'echo terminal $((40+2)); exec sleep 1000'\n")
        person.see("terminal 42")
        person.type("\x03")
        person.see(r"[#$] ")
        person.type("exit 6\n")
        assert person.status() == 6
    finally:
        person.leave()


AS_SOMEBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")  # a user without capabilities
TCPDUMP = """
set -e
trap '"$0" -m netsim.cli.main down tcpdump' EXIT
"$0" -m netsim.cli.main up tcpdump --nodes 1
"$0" -m netsim.cli.main exec node/node-1 -- tcpdump -Z root -c 1 -i lo
"""


@pytest.mark.needs("userns", "command:unshare", "command:tcpdump")
def test_tcpdump_in_an_ordinary_users_cluster_is_pointed_to_capture(tmp_path: Path) -> None:
    environment = {**os.environ, "NETSIM_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(
        [*AS_SOMEBODY, "sh", "-c", TCPDUMP, sys.executable],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert "Couldn't change to 'root'" in done.stderr
    assert lines[-1].startswith("next: tcpdump can't change its user")
    assert lines[-1].endswith("netsim capture node/node-1")
