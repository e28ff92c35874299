"""What a shell completes from a running cluster, and what bash makes of it on a terminal."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.kernel.cli.conftest import PROGRAM, TIMEOUT_S, Netsim

pytestmark = pytest.mark.needs("root")

SERVICES = {"svc/kubernetes", "svc/web", "svc/kube-system/kube-dns"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("netsim describe node ", {"node-1", "node-2"}),
        ("netsim exec pod/cl", {"pod/client"}),
        ("netsim exec host", {"host/external"}),
        ("netsim status ", {"cli"}),
        ("netsim --cluster c", {"cli"}),
        ("netsim get endp", {"endpointslices"}),
        ("netsim de", {"delete", "describe"}),
        ("netsim exec svc/", set()),
        ("netsim trace svc/", set()),
        ("netsim trace pod/client svc/", SERVICES),
        ("netsim explain pod/client svc/default/", {"svc/default/kubernetes", "svc/default/web"}),
        ("netsim trace pod/client node/", {"node/node-1", "node/node-2"}),
        ("netsim trace -n kube-system pod/client svc/kube", {"svc/kube-dns"}),
        ("netsim trace -n kube-system pod/cl", set()),
        ("netsim trace -n kube-system pod/default/cl", {"pod/default/client"}),
        ("netsim trace pod/client svc/web:", {"svc/web:http", "svc/web:80"}),
        ("netsim trace pod/client -n kube-system svc/kube-dns:d", {"svc/kube-dns:dns", "svc/kube-dns:dns-tcp"}),
        ("netsim trace pod/client service/default/web:h", {"service/default/web:http"}),
        ("netsim trace pod/client svc/nope:", set()),
        ("netsim trace pod/client node/node-1:", set()),
        ("netsim rules ", SERVICES),
        ("netsim diff --service svc/w", {"svc/web"}),
        ("netsim diff before.json cli --service svc/w", {"svc/web"}),
        ("netsim --cluster nope trace pod/client svc/", set()),
        ("netsim --cluster nope fault loss node/", set()),
        ("netsim --cluster cli fault loss node/", {"node/node-1", "node/node-2"}),
    ],
)
def test_a_shell_completes_names_places_and_services(deployed: Netsim, words: str, expected: set[str]) -> None:
    words_env = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_NETSIM_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [*PROGRAM], env=deployed.environment | words_env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines() if line} == expected
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        ("trace pod/cl\tsvc/w\t", "trace pod/client svc/web "),
        ("trace pod/client svc/web:h\t", "trace pod/client svc/web:http "),
        ("trace pod/client svc/kube-system/kube-dns:dns-\t", "trace pod/client svc/kube-system/kube-dns:dns-tcp "),
        ("--cluster=c\trules svc/w\t", "--cluster=cli rules svc/web "),
    ],
)
def test_bash_completes_the_words_it_takes_apart(deployed: Netsim, tmp_path: Path, typed: str, whole: str) -> None:
    """By its own script; what bash made of the keys is what the program is then called with."""
    program = tmp_path / "netsim"
    program.write_text(
        f'#!/bin/sh\nif [ "$_NETSIM_COMPLETE" ]; then exec {" ".join(PROGRAM)}; fi\necho "called with <$*>"\n'
    )
    program.chmod(0o755)
    (tmp_path / "rc").write_text(deployed("completion", "bash").stdout + "PS1='ready''> '\n")
    environment = deployed.environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "--rcfile", str(tmp_path / "rc"), "--noprofile", "-i"], environment)
    try:
        see(terminal, "ready> ")
        os.write(terminal, f"netsim {typed}".encode())
        see(terminal, f"netsim {whole}")
        os.write(terminal, b"\n")
        see(terminal, f"called with <{whole.strip()}>")
    finally:
        os.close(terminal)  # ends it: SIGHUP
        os.waitpid(pid, 0)


def see(terminal: int, words: str) -> None:
    """Read until ``words`` are on the screen."""
    screen = ""
    deadline = time.monotonic() + TIMEOUT_S
    while words not in screen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{words!r} did not come; the screen has {screen!r}"
        screen += os.read(terminal, 65536).decode()
