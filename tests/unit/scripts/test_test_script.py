"""scripts/test: what it runs where, with everything it calls replaced by a script that writes down its arguments."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from netsim.testing.waiting import wait_until

SCRIPTS = Path(__file__).parents[3] / "scripts"
# The features are asked for on standard input, everything else of it is pytest.
PYTHON = """
case "$*" in
    "- "*) echo "$LACKING" ;;
    "-m compileall"*) ;;
    *)
        echo "here: $*" >> calls
        if [ "$VM_STATUS" = never ]; then until [ -s vm-pid ]; do sleep 0.05; done; fi
        exit "$PYTEST_STATUS"
        ;;
esac
"""
VM = """
case $1 in
    --install) echo "install the VM" >> calls; exit "$INSTALL_STATUS" ;;
    *)
        echo "VM, requires $NETSIM_REQUIRE: $*" >> calls
        if [ "$VM_STATUS" = never ]; then echo $$ > vm-pid; exec sleep 600; fi
        echo "what the VM says"
        exit "$VM_STATUS"
        ;;
esac
"""
IN_VM = "VM, requires ipvs,dummy,netem,sctp: --timeout 1500 -- .venv/bin/python -m pytest -p no:cacheprovider"


@dataclass
class Tree:
    """A copy of the script among stand-ins; ``run`` gives its status, its words, and whom it called."""

    path: Path

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """Calls are sorted, as two of them are made at the same time: here, install the VM, VM."""
        calls = self.path / "calls"
        calls.write_text("")
        defaults = {
            "LACKING": "ipvs sctp",
            "PYTEST_STATUS": "0",
            "INSTALL_STATUS": "0",
            "VM_STATUS": "0",
            "USER_ID": "0",
        }
        done = subprocess.run(
            [self.path / "scripts" / "test", *arguments],
            env={"PATH": f"{self.path / 'bin'}:/usr/bin:/bin"} | defaults | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout, sorted(calls.read_text().splitlines(), key=str.lower)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def write(name: str, script: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    write("bin/id", 'echo "$USER_ID"')
    write(".venv/bin/python", PYTHON)
    write("scripts/vm", VM)
    for name in ("scripts/install", "scripts/install-kubectl"):
        write(name, "")
    shutil.copy(SCRIPTS / "test", tmp_path / "scripts" / "test")
    return Tree(tmp_path)


def test_what_this_kernel_lacks_is_tested_in_one_boot_of_the_vm(tree: Tree) -> None:
    status, words, calls = tree.run()
    assert status == 0
    assert len(calls) == 3
    assert calls[0].endswith("--ignore=tests/vm")
    assert calls[1] == "install the VM"
    assert calls[2].startswith(IN_VM)
    assert calls[2].endswith("tests/vm")
    assert "this kernel lacks ipvs sctp" in words
    assert words.endswith("what the VM says\n")


def test_the_vm_ends_when_the_tests_here_are_interrupted(tree: Tree) -> None:
    status, _, _ = tree.run(VM_STATUS="never", PYTEST_STATUS="2")
    assert status == 2
    pid = int((tree.path / "vm-pid").read_text())
    wait_until("the end of what stands for the VM", lambda: not Path(f"/proc/{pid}").exists(), timeout_s=10)


def test_a_kernel_that_lacks_nothing_needs_no_vm(tree: Tree) -> None:
    status, words, calls = tree.run(LACKING="")
    assert (status, len(calls)) == (0, 1)
    assert "--ignore" not in calls[0]
    assert "NOT TESTED" not in words


@pytest.mark.parametrize(("arguments", "environment"), [(("--no-vm",), {}), ((), {"NETSIM_VM": "no"})])
def test_without_the_vm_it_says_what_is_not_tested(
    tree: Tree, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    status, words, calls = tree.run(*arguments, **environment)
    assert (status, len(calls)) == (0, 1)
    assert "NOT TESTED: what needs ipvs sctp" in words


def test_where_there_can_be_no_vm_it_says_so_loudly_and_does_not_fail(tree: Tree) -> None:
    status, words, calls = tree.run(INSTALL_STATUS="1")
    assert (status, calls[1:]) == (0, ["install the VM"])
    assert "--ignore" not in calls[0], "its tests are skipped by name"
    assert "!!! NOT TESTED: what needs ipvs sctp" in words.splitlines()[-3]


@pytest.mark.parametrize(("arguments", "environment"), [(("--vm",), {}), ((), {"NETSIM_VM": "yes"})])
def test_a_vm_that_was_asked_for_and_can_not_be_had_is_a_failure(
    tree: Tree, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    status, words, _ = tree.run(*arguments, **environment, INSTALL_STATUS="1")
    assert status == 1
    assert "NOT TESTED" in words


def test_chosen_tests_run_here_alone_unless_the_vm_is_asked_for(tree: Tree) -> None:
    assert len(tree.run("tests/unit", "-k", "store")[2]) == 1
    calls = tree.run("--vm", "tests/unit", "-k", "store")[2]
    assert calls[0].endswith("--ignore=tests/vm tests/unit -k store")
    assert calls[2].startswith(IN_VM)


def test_without_root_there_is_no_vm(tree: Tree) -> None:
    _, words, calls = tree.run(USER_ID="1000")
    assert len(calls) == 1
    assert "not root" in words


@pytest.mark.parametrize(("here", "there", "expected"), [("0", "3", 3), ("1", "0", 1), ("1", "3", 1)])
def test_a_failure_on_either_side_is_the_status(tree: Tree, here: str, there: str, expected: int) -> None:
    status, _, calls = tree.run(PYTEST_STATUS=here, VM_STATUS=there)
    assert status == expected
    assert len(calls) == 3  # what failed here keeps nothing from being tested there
