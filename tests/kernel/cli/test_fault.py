"""``netsim fault``: what it says, in words and JSON, and what is wrong usage."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from netsim.testing.waiting import wait_until
from tests.kernel.cli.conftest import TIMEOUT_S, Netsim

pytestmark = pytest.mark.needs("root", "tbf")


@pytest.fixture(autouse=True)
def all_undone(netsim: Netsim) -> Iterator[None]:
    yield
    netsim("fault", "undo", "--all", "--cluster", "cli")


def fault(netsim: Netsim, *argv: str, status: int = 0) -> str:
    done = netsim("fault", *argv, "--cluster", "cli", status=status)
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


def test_made_listed_undone(netsim: Netsim) -> None:
    said = fault(netsim, "rate", "node/node-1", "--rate", "10mbit", "--for", "1h", "--direction", "in")
    number = said.split()[1].rstrip(":")
    assert said == f"fault {number}: rate 10mbit in at node/node-1, for 1h\n"
    lines = fault(netsim, "list").splitlines()
    assert lines[0].split() == ["ID", "FAULT", "PLACES", "WHAT", "BY", "LEFT"]
    assert lines[1].split()[:6] == [number, "rate", "node/node-1", "10mbit", "in", "tbf"]
    assert fault(netsim, "undo", number) == f"fault {number}: rate at node/node-1 undone\n"
    assert fault(netsim, "list").splitlines()[0] == "there are no faults"
    assert fault(netsim, "undo", "--all") == "there are no faults\n"


def test_json(netsim: Netsim) -> None:
    made: dict[str, Any] = netsim.json("fault", "mtu", "node/node-1", "--mtu", "1400", "--cluster", "cli")
    assert (made["kind"], made["mtu"], made["places"], made["by"]) == ("mtu", 1400, ["node/node-1"], "link")
    listed = netsim.json("fault", "list", "--cluster", "cli")
    assert [one["id"] for one in listed["faults"]] == [made["id"]]
    undone = netsim.json("fault", "undo", str(made["id"]), "--cluster", "cli")
    assert [one["id"] for one in undone["undone"]] == [made["id"]]
    assert netsim.json("fault", "list", "--cluster", "cli")["ended"][-1]["why"] == "undone"


def test_up_and_start_undo_what_down_and_stop_did(netsim: Netsim) -> None:
    assert "link-down at node/node-1" in fault(netsim, "link-down", "node/node-1")
    assert "undone" in fault(netsim, "link-up", "node/node-1")
    assert "node/node-1 has no fault link-down" in fault(netsim, "link-up", "node/node-1", status=2)
    assert "node/node-1 has no fault stop" in fault(netsim, "start", "node/node-1", status=2)


def test_a_partition_takes_sets(netsim: Netsim) -> None:
    said = fault(netsim, "partition", "node/node-1,host/external", "node/node-2", "--one-way")
    assert said.endswith("partition node/node-1,host/external -> node/node-2\n")


BREAKER = """
import time, netsim
with netsim.attach("cli").fault("rate", "node/node-1", rate="10mbit", for_="2s"):
    print("made", flush=True)
    time.sleep(600)
"""


def read_queues(netsim: Netsim) -> str:
    return netsim("shell", "--cluster", "cli", input="tc qdisc show; ip netns exec node-1 tc qdisc show\n").stdout


def test_a_fault_of_a_program_that_was_killed_ends_when_its_time_is_up(netsim: Netsim) -> None:
    before = read_queues(netsim)
    with subprocess.Popen(
        [sys.executable, "-c", BREAKER], stdout=subprocess.PIPE, text=True, env=netsim.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
    wait_until("it has ended", lambda: netsim.json("fault", "list", "--cluster", "cli")["faults"] == [])
    assert netsim.json("fault", "list", "--cluster", "cli")["ended"][-1]["why"] == "time is up"
    assert read_queues(netsim) == before


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["lossy", "node/node-1"], 2, "did you mean: netsim fault loss"),
        (["loss", "node/node-1"], 2, "--percent"),
        (["loss", "node/node-1", "--percent", "0"], 2, "is no percentage"),
        (["loss", "--percent", "5"], 2, "PLACE"),
        (["loss", "web", "--percent", "5"], 2, '"web" is no place'),
        (["loss", "node/node-9", "--percent", "5"], 1, 'there is no node "node-9"'),
        (["loss", "host/elsewhere", "--percent", "5"], 1, 'there is no host "elsewhere"'),
        (["rate", "node/node-1", "--rate", "10mbps"], 2, "is no rate"),
        (["mtu", "node/node-1", "--mtu", "12"], 2, "mtu: '12' is none"),
        (["link-down", "node/node-1", "--for", "soon"], 2, "is no duration"),
        (["partition", "node/node-1"], 2, "needs two sets"),
        (["partition", "node/node-1", "node/node-1"], 2, "is named twice"),
        (["partition", "pod/web", "node/node-1"], 2, "partition: not at pod/default/web"),
        (["stop", "pod/web"], 2, "stop: not at pod/default/web"),
        (["kill", "node/node-1"], 2, "which pod?"),
        (["kill", "pod/nope"], 1, 'pods "nope" not found'),
        (["undo"], 2, "which fault?"),
        (["undo", "1", "--all"], 2, "which fault?"),
        (["undo", "4711"], 2, "there is no fault 4711"),
        (["undo", "first"], 2, "'first' is not a valid integer"),
    ],
)
def test_what_is_refused(netsim: Netsim, argv: list[str], status: int, words: str) -> None:
    assert words in fault(netsim, *argv, status=status)
    assert netsim.json("fault", "list", "--cluster", "cli")["faults"] == []
