"""A cluster made by the ``netsim`` program, and the program itself."""

import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 120.0
PROGRAM = (sys.executable, "-m", "netsim.cli.main")


@dataclass(frozen=True, slots=True)
class Netsim:
    """The ``netsim`` program with a state directory of its own."""

    state_dir: Path

    @property
    def environment(self) -> dict[str, str]:
        personal = ("COLUMNS", "LINES", "NO_COLOR")  # the tester's own terminal
        kept = {k: value for k, value in os.environ.items() if not k.startswith("NETSIM_") and k not in personal}
        marks = {key: value for key, value in os.environ.items() if key == "NETSIM_TEST_SESSION"}
        return {**kept, **marks, "TERM": "xterm", "NETSIM_STATE_DIR": str(self.state_dir)}

    def start(self, *argv: str, **options: Any) -> "subprocess.Popen[str]":
        """It heeds interrupts, which a job of a script, as tests may be, has inherited ignored."""
        usual = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        usual["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen([*PROGRAM, *argv], env=self.environment, **{**usual, **options})

    def __call__(self, *argv: str, status: int = 0, input: str = "") -> "subprocess.CompletedProcess[str]":
        """Run one command line, which must end with ``status``."""
        done = subprocess.run(
            [*PROGRAM, *argv],
            input=input,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=self.environment,
            check=False,
        )
        assert done.returncode == status, (
            f"netsim {' '.join(argv)}: status {done.returncode}, not {status}\n{done.stdout}{done.stderr}"
        )
        return done

    def on_terminal(self, *argv: str, columns: int) -> str:
        """What one command line writes to a terminal of that many columns; its status is 0."""
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with self.start(*argv, stdin=slave, stdout=slave) as process:
            os.close(slave)
            screen = b"".join(iter(partial(_read_terminal, master), b""))
            assert process.wait(TIMEOUT_S) == 0, screen
        os.close(master)
        return screen.decode().replace("\r\n", "\n")

    def json(self, *argv: str) -> Any:
        return json.loads(self(*argv, "-o", "json").stdout)


def _read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError as error:
        if error.errno != errno.EIO:  # EIO: no process has the terminal open any more
            raise
        return b""


@pytest.fixture(scope="session")
def netsim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Netsim]:
    """The program, and a cluster "cli" of two nodes that runs all the while."""
    program = Netsim(tmp_path_factory.mktemp("cli"))
    program("up", "cli", "--nodes", "2")
    yield program
    program("down", "--all")


@pytest.fixture(scope="session")
def deployed(netsim: Netsim, tmp_path_factory: pytest.TempPathFactory) -> Netsim:
    """The cluster with a web Deployment behind a Service, and a client pod."""
    path = tmp_path_factory.mktemp("manifests") / "web.yaml"
    path.write_text(WEB)
    netsim("apply", "-f", str(path))
    return netsim


WEB = """\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - name: http
    port: 80
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: nginx
        ports:
        - containerPort: 80
---
apiVersion: v1
kind: Pod
metadata:
  name: client
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "echo hello from the client; exec sleep 1000000"]
"""
