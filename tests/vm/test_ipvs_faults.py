"""Faults in the ipvs mode: what somebody takes away comes back, random changes end where a fresh proxy starts, and a
proxy may be killed at any moment.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from netsim.kernel.process import Spawner
from netsim.testing.waiting import wait_until
from tests.kernel.proxy import test_faults as faults
from tests.kernel.proxy.faults import IPVS_LOSSES, MODES, ProgramNode, assert_like_fresh
from tests.kernel.proxy.node import PODS, ask, real_node
from tests.kernel.proxy.test_switch import CLUSTER_IP

pytestmark = pytest.mark.needs("root", "ipvs", "dummy", "ipset", "nft", "command:ipvsadm")
MODE = MODES["ipvs"]
LOSSES = (*IPVS_LOSSES, "iptables -t nat -F", f"ipvsadm -d -t {CLUSTER_IP}:80 -r {PODS['pod-1']}:8080")


def test_what_somebody_took_away_comes_back(spawner: Spawner) -> None:
    with real_node(spawner, MODE.config) as node:
        for obj in (faults.STEADY, faults.STEADY_SLICE):
            node.put(obj)
        before = MODE.read(node.node, spawner)
        for loss in LOSSES:
            node.run(node.node, *loss.split())
            wait_until(f"all is there again after {loss}", lambda: MODE.read(node.node, spawner) == before, 30.0)
            assert ask(node.pods["pod-2"], CLUSTER_IP, 80).startswith("pod-1 "), loss
        assert_like_fresh(node, MODE)


def test_random_changes_and_losses_end_where_a_fresh_proxy_starts(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "EXAMPLES", 2)  # each costs half a minute
    faults.test_random_changes_and_flushes_end_where_a_fresh_proxy_starts(spawner, MODE)


class Forker:
    """Starts the program by a fork of a process that has its modules: under emulation they take 20 s to import."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.vm.forker"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **order: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture
def forker() -> Iterator[Forker]:
    made = Forker()
    yield made
    made.close()


def test_killed_in_the_middle_of_syncs_and_without_the_api(
    spawner: Spawner, forker: Forker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(self: ProgramNode) -> None:
        flags = ["--kubeconfig", str(tmp_path / "kubeconfig"), "--node-name", "node-1", "--proxy-mode", "ipvs"]
        flags += ["--cluster-cidr", "10.244.0.0/16", "--healthz-bind-address", "", "-v"]
        netns = f"/proc/{os.getpid()}/fd/{self.node.fd}"
        self.process = forker.ask(netns=netns, argv=flags, log=str(tmp_path / "log"))  # type: ignore[assignment]

    async def kill(self: ProgramNode, number: int) -> int:
        pid, self.process = cast(int, self.process), None
        os.kill(pid, number)
        return forker.ask(wait=pid)

    monkeypatch.setattr(faults, "KILLS", 1)  # each costs half a minute
    monkeypatch.setattr(ProgramNode, "launch", launch)
    monkeypatch.setattr(ProgramNode, "_kill", kill)
    faults.test_killed_in_the_middle_of_syncs_and_without_the_api(spawner, MODE, tmp_path)
