"""up, down, list, status, check, kubeconfig: the life of clusters, and what scripts read about them."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from netsim.testing.waiting import wait_until
from tests.kernel.cli.conftest import TIMEOUT_S, Netsim

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def alone(tmp_path: Path) -> Netsim:
    """The program with a state directory in which nothing runs."""
    return Netsim(tmp_path)


def is_alive(pid: int) -> bool:
    """A zombie, which waits for its parent only, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_status_carries_what_the_contract_says(netsim: Netsim) -> None:
    status = netsim.json("status")
    assert set(status) >= {"name", "pid", "apiServer", "kubeconfig", "proxyMode", "podNetwork", "nodes"}
    assert status["name"] == "cli"
    assert is_alive(status["pid"])
    assert status["apiServer"].startswith("https://127.0.0.1:")
    assert Path(status["kubeconfig"]).stat().st_mode & 0o777 == 0o600
    assert (status["proxyMode"], status["podNetwork"], len(status["nodes"])) == ("iptables", "routes", 2)
    assert netsim.json("status", "cli") == netsim.json("status", "--cluster", "cli") == status
    text = netsim("status").stdout
    assert str(status["pid"]) in text
    assert "node-2" in text


def test_list_and_kubeconfig(netsim: Netsim) -> None:
    (found,) = [cluster for cluster in netsim.json("list") if cluster["name"] == "cli"]
    assert (found["state"], found["nodes"], found["pid"]) == ("running", 2, netsim.json("status", "cli")["pid"])
    path = netsim("kubeconfig", "cli").stdout.strip()
    assert path == netsim.json("status", "cli")["kubeconfig"]
    assert netsim("kubeconfig", "cli", "--raw").stdout == Path(path).read_text()


def test_check_lists_features_by_name(netsim: Netsim) -> None:
    features = {feature["name"]: feature for feature in netsim.json("check")}
    assert features["netns"]["present"]
    assert features["netns"]["required"]
    for feature in features.values():
        assert set(feature) >= {"name", "present", "required", "costs", "hint", "detail"}
        assert feature["costs"]


def test_the_life_of_a_cluster(alone: Netsim) -> None:
    started = alone.json("up", "life", "--nodes", "1", "--pod-network", "vxlan")
    assert (started["name"], started["podNetwork"], len(started["nodes"])) == ("life", "vxlan", 1)
    try:
        again = alone("up", "life", status=1)
        assert 'cluster "life" is already running' in again.stderr
        assert "next: " in again.stderr
        assert alone.json("list")[0]["state"] == "running"
    finally:
        assert alone("down", "life").stdout == 'cluster "life" is down\n'
    assert alone.json("list") == []
    wait_until("its process is gone", lambda: not is_alive(started["pid"]))
    gone = alone("down", "life", status=1).stderr
    assert gone.startswith("error: ")
    assert "next: " in gone


def test_up_from_a_file_says_what_is_next(alone: Netsim, tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    topology.write_text("name: filed\nnodes:\n- name: a\n- name: b\n")
    try:
        text = alone("up", "--config", str(topology)).stdout
        assert text.startswith('cluster "filed" is up in ')
        assert "netsim down filed" in text
        assert [line.split()[0] for line in alone("get", "nodes").stdout.splitlines()[1:]] == ["a", "b"]
    finally:
        alone("down", "--all")


def test_a_wrong_topology_leaves_nothing(alone: Netsim, tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    topology.write_text("podCIDR: 172.18.0.0/24\n")
    done = alone("up", "--config", str(topology), status=1)
    assert str(topology) in done.stderr
    assert "overlaps" in done.stderr
    assert alone.json("list") == []


def test_a_dead_cluster_is_told_and_cleared(alone: Netsim) -> None:
    pid = alone.json("up", "dead", "--nodes", "1")["pid"]
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    wait_until("the kernel has taken it down", lambda: alone.json("list")[0]["state"] == "dead")
    done = alone("status", status=1)
    assert "dead" in done.stderr
    assert "next: " in done.stderr
    assert alone("down", "dead").stdout == 'cluster "dead" is down\n'
    assert alone.json("list") == []


def test_in_the_foreground_it_ends_with_an_interrupt(alone: Netsim) -> None:
    command = ("up", "front", "--nodes", "1", "--foreground", "-o", "json")
    with alone.start(*command) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, f"it ended: {process.stderr.read() if process.stderr else ''}"
            text += line
        pid = json.loads(text)["pid"]
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    wait_until("its process is gone", lambda: not is_alive(pid))
    assert alone.json("list") == []


def test_two_clusters_need_a_name(alone: Netsim) -> None:
    try:
        for name in ("one", "two"):
            alone("up", name, "--nodes", "1")
        done = alone("get", "nodes", status=1).stderr
        assert "one" in done
        assert "two" in done
        before = alone("--cluster", "two", "get", "nodes", "-o", "name").stdout
        assert before == alone("get", "nodes", "-o", "name", "--cluster", "two").stdout == "node/node-1\n"
    finally:
        assert sorted(alone.json("down", "--all")["stopped"]) == ["one", "two"]
