"""The first moments of the ``netsim`` program."""

import signal
import subprocess
import sys
from functools import partial

# Ctrl-C in the middle of loading: just when the program's largest part is looked for.
PROGRAM = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "netsim.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["netsim", "--version"]
from netsim.cli.entry import main
main()
"""


def start(handler: signal.Handlers) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=partial(signal.signal, signal.SIGINT, handler),
    )


def test_an_interrupt_while_it_loads_ends_it_without_a_word() -> None:
    done = start(signal.SIG_DFL)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    done = start(signal.SIG_IGN)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("netsim ")
