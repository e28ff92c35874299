"""A cluster's life from outside: side by side, killed at any moment, named twice, without root."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import netsim
from netsim.cluster.handle import Cluster
from netsim.cluster.state import StateDir
from netsim.model.errors import NetsimError
from netsim.testing.lookup import pod_ip
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.machine import differences, processes_with, read_machine
from tests.packets.world import HTTP_PORT, make_pod

pytestmark = pytest.mark.needs("root")

# Kill moments: the whole start, and a while after it. The seed is printed, so that a failure can be had again.
KILLS = 12
KILL_AFTER_MAX_S = 1.2

START = """
import sys, netsim
cluster = netsim.up(sys.argv[1], nodes=2, state_dir=sys.argv[2], owned=sys.argv[3] == "owned")
print(cluster.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def state_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NETSIM_STATE_DIR", str(tmp_path))
    return tmp_path


def start_in_background(name: str, state_root: Path, mode: str = "owned") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", START, name, str(state_root), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes() -> list[str]:
    """The cluster processes of this test: its state directory is in their environment."""
    return [line for line in processes_with("NETSIM_STATE_DIR", os.environ["NETSIM_STATE_DIR"]) if "netsim" in line]


def network_namespaces() -> set[str]:
    """The network namespaces that some process of this machine is in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.readlink(entry / "ns/net"))
            except OSError:
                continue
    return found


@pytest.fixture
def nothing_is_left(state_root: Path) -> Iterator[None]:
    """The machine is byte for byte what it was, and none of our processes lives."""
    before = read_machine()
    yield
    wait_until("no cluster process lives", lambda: not processes())
    assert differences(before, read_machine()) == []


@pytest.mark.usefixtures("nothing_is_left")
def test_clusters_with_equal_addresses_run_side_by_side(state_root: Path) -> None:
    with netsim.up("one", nodes=1) as one, netsim.up("two", nodes=1) as two:
        addresses = []
        for cluster in (one, two):
            cluster.apply(make_pod("web"))
            addresses.append(pod_ip(cluster, "web"))
            reply = Traffic(cluster).http_get("node/node-1", f"http://{addresses[-1]}:{HTTP_PORT}/hostname")
            assert reply.body == "web"
        assert addresses[0] == addresses[1]
        one.delete("Pod", "web")
        with pytest.raises(OSError):  # noqa: PT011  gone in one ...
            Traffic(one).connect("node/node-1", addresses[0], HTTP_PORT, timeout_s=0.5)
        reply = Traffic(two).http_get("node/node-1", f"http://{addresses[1]}:{HTTP_PORT}/hostname")
        assert reply.body == "web"  # ... and alive in the other


@pytest.mark.usefixtures("nothing_is_left")
def test_a_cluster_that_runs_leaves_the_machine_alone(state_root: Path) -> None:
    before = read_machine()
    with netsim.up("quiet", nodes=3) as cluster:
        cluster.apply([make_pod("a"), make_pod("b")])
        assert differences(before, read_machine()) == []
    assert list(state_root.iterdir()) == []


@pytest.mark.usefixtures("nothing_is_left")
def test_kill_at_random_instants_leaves_nothing_that_hinders_the_next_up(state_root: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    instants = random.Random(seed)
    for attempt in range(KILLS):
        starter = start_in_background("victim", state_root, mode="free")
        wait_s = instants.uniform(0.0, KILL_AFTER_MAX_S)
        time.sleep(wait_s)  # the instant is the input here, not a synchronisation
        pid = StateDir(state_root / "victim").read_status().get("pid")
        if pid is None:
            os.killpg(starter.pid, signal.SIGKILL)  # no cluster process yet: end the one that starts it
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        starter.kill()
        starter.communicate()
        wait_until(f"attempt {attempt}, killed after {wait_s:.3f} s: all gone", lambda: not processes())
    with netsim.up("victim", nodes=2) as cluster:
        cluster.apply(make_pod("web"))
        assert pod_ip(cluster, "web")


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("helper", [0, 1], ids=["spawner", "responder"])
def test_a_cluster_does_not_outlive_its_helper_processes(state_root: Path, helper: int) -> None:
    cluster = netsim.up("victim", nodes=1, owned=False)
    helpers = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split()
    os.kill(int(helpers[helper]), signal.SIGKILL)
    wait_until("the cluster process gone", lambda: not StateDir(state_root / "victim").is_running())
    cluster.down()


@pytest.mark.usefixtures("nothing_is_left")
def test_killing_the_cluster_process_takes_its_namespaces_with_it(state_root: Path) -> None:
    before = network_namespaces()
    cluster = netsim.up("victim", nodes=3, owned=False)
    cluster.apply([make_pod(f"web-{n}") for n in range(5)])
    assert network_namespaces() - before
    os.kill(cluster.pid, signal.SIGKILL)
    wait_until("its processes gone", lambda: not processes())
    wait_until("its namespaces gone", lambda: network_namespaces() <= before)
    cluster.close()
    # What is left is the state directory, and commands say that plainly.
    with pytest.raises(NetsimError, match="ended"):
        netsim.attach("victim")
    netsim.up("victim", nodes=1).down()
    assert list(state_root.iterdir()) == []


@pytest.mark.usefixtures("nothing_is_left")
def test_an_owned_cluster_ends_with_the_process_that_started_it(state_root: Path) -> None:
    starter = start_in_background("owned", state_root)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert StateDir(state_root / "owned").is_running()
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    wait_until(f"cluster process {pid} ends", lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.usefixtures("nothing_is_left")
def test_a_second_up_of_the_same_name_is_refused_and_harms_nothing(state_root: Path) -> None:
    with netsim.up("name", nodes=1) as cluster:
        cluster.apply(make_pod("web"))
        with pytest.raises(NetsimError, match=r'cluster "name" is already running \(pid \d+\)') as caught:
            netsim.up("name", nodes=1)
        assert "netsim down name" in caught.value.hint
        assert cluster.exec("pod/web", ["true"]).returncode == 0


@pytest.mark.usefixtures("nothing_is_left")
def test_two_ups_of_one_name_at_once_make_one_cluster(state_root: Path) -> None:
    starters = [start_in_background("race", state_root) for _ in range(3)]
    lines = [starter.stdout.readline() for starter in starters if starter.stdout]
    winners = [line for line in lines if line.strip()]
    errors = [starter.communicate()[1] for starter in starters]
    assert len(winners) == 1
    assert sum("already running" in text for text in errors) == 2


def test_no_cluster_and_a_dead_one_are_told_apart(state_root: Path) -> None:
    with pytest.raises(NetsimError, match=r"no cluster|not running|none") as caught:
        netsim.attach()
    assert "netsim up" in str(caught.value)
    with pytest.raises(NetsimError) as caught:
        netsim.attach("nowhere")
    assert "nowhere" in str(caught.value)


@pytest.mark.usefixtures("nothing_is_left")
def test_the_handle_of_a_dead_cluster_says_so(state_root: Path) -> None:
    cluster = netsim.up("victim", nodes=1, owned=False)
    cluster.apply(make_pod("web"))
    os.kill(cluster.pid, signal.SIGKILL)
    wait_until("its processes gone", lambda: not processes())
    for action in (
        lambda: cluster.list("Pod"),
        lambda: cluster.exec("pod/web", ["true"]),
        cluster.barrier,
        cluster.status,
    ):
        with pytest.raises(NetsimError) as caught:
            action()
        assert "Traceback" not in str(caught.value)
    cluster.down()
    assert list(state_root.iterdir()) == []


UNPRIVILEGED = """
import sys, netsim
from netsim.testing.traffic import Traffic
from netsim.testing.lookup import pod_ip
sys.path.insert(0, sys.argv[2])
from tests.packets.world import make_pod, make_service, HTTP_PORT
with netsim.up("mine", nodes=2, state_dir=sys.argv[1]) as cluster:
    cluster.apply([make_pod("a", node="node-1"), make_pod("b", node="node-2"), make_service("b", app="b")])
    done = cluster.exec("pod/a", ["curl", "-sS", "--max-time", "5", "http://b/clientip"], check=True)
    assert done.stdout.startswith(pod_ip(cluster, "a")), done.stdout
    with cluster.capture(["pod/a", "node/node-1"], filter="tcp port 80") as capture:
        path = cluster.trace("pod/a", "svc/b:http")
    assert (path.verdict.outcome, path.answered_by) == ("delivered", "pod/default/b"), path
    assert [hop.place for hop in path.hops if hop.rewrite == "dnat"] == ["node/node-1"], path
    assert any(hop.rules for hop in path.hops), path
    assert {frame.place for frame in capture.frames} == {"pod/default/a", "node/node-1"}
    [way] = cluster.explain("pod/a", "svc/b:http").ways
    assert way.path.answered_by == "pod/default/b", way
    with cluster.fault("link-down", "pod/a"):
        lost = cluster.trace("pod/a", "svc/b:http").verdict
    assert lost.cause == "eth0 has no carrier: what it leads to is down", lost
    print("ok", done.stdout)
"""
NOBODY = 65534


# Two ordinary users: nobody, who needs to be able to read this tree and its Python; and, where that is not so, a user
# namespace in which root has a number like anybody's and no capability: files it may read, kernel work it may not do.
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
AS_SOMEBODY = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


@pytest.mark.needs("userns")
@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("user", [AS_NOBODY, AS_SOMEBODY], ids=["nobody", "user-namespace"])
def test_it_works_without_root_where_the_kernel_lets_it(user: tuple[str, ...]) -> None:
    root = Path(__file__).parents[3]
    readable = [*user, "sh", "-c", f"{sys.executable} -c 'import netsim' && test -r {root}/tests/packets/world.py"]
    if subprocess.run(readable, capture_output=True, check=False, cwd="/").returncode != 0:
        pytest.skip("userns: an ordinary user may not read this tree or its Python")
    # Not pytest's own folder: that belongs to root, and nobody may not pass through it.
    with tempfile.TemporaryDirectory() as state:
        if user is AS_NOBODY:
            os.chown(state, NOBODY, NOBODY)
        done = subprocess.run(
            [*user, sys.executable, "-P", "-c", UNPRIVILEGED, state, str(root)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok ")


def test_the_state_directory_is_for_its_owner_only(state_root: Path) -> None:
    with netsim.up("private", nodes=1) as cluster:
        assert cluster.state_dir.stat().st_mode & 0o077 == 0
        assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600
        assert (cluster.state_dir / "api.sock").stat().st_mode & 0o077 == 0
        # A client without the certificate gets nowhere.
        host, port = cluster.api_server.removeprefix("https://").split(":")
        done = subprocess.run(
            ["curl", "-sk", "--max-time", "5", f"https://{host}:{port}/api/v1/pods"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "PodList" not in done.stdout
        with socket.create_connection((host, int(port)), timeout=5):
            pass
        status = json.loads((cluster.state_dir / "status.json").read_text())
        assert status["pid"] == cluster.pid
        assert isinstance(cluster, Cluster)
