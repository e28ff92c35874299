"""Faults at random, overlapping, undone in any order: the kernel is as it was before them, in every namespace."""

import random
from typing import Any

import pytest

from netsim.cluster.handle import Cluster
from netsim.model.errors import FeatureMissing, NetsimError, TimeoutExpired
from netsim.testing.waiting import wait_until
from tests.kernel.faults.snapshot import differences, read_kernel
from tests.packets.world import make_pod

pytestmark = [pytest.mark.needs("root", "tbf", "command:ip", "command:nft")]

ROUNDS, CHANGES = 3, 10


@pytest.fixture(params=["ipv4", "dual"])
def netsim_options(request: pytest.FixtureRequest, netsim_options: dict[str, Any]) -> dict[str, Any]:
    return {**netsim_options, "nodes": 3, "ip_family": request.param}


def make_request(chance: random.Random, pods: list[str]) -> tuple[str, list[Any], dict[str, Any]]:
    nodes = ["node/node-1", "node/node-2", "node/node-3"]
    places = chance.sample([*nodes, *pods, "host/external"], chance.randint(1, 3))
    direction = chance.choice(["in", "out", "both"])
    kind = chance.choice(["link-down", "rate", "loss", "delay", "duplicate", "corrupt", "reorder", "mtu", "partition"])
    values: dict[str, dict[str, Any]] = {
        "rate": {"rate": chance.choice(["64kbit", "10mbit", "1gbit"]), "direction": direction},
        "loss": {"percent": chance.uniform(0.1, 100), "direction": direction},
        "delay": {"delay": "5ms", "direction": direction},
        "duplicate": {"percent": 10, "direction": direction},
        "corrupt": {"percent": 10, "direction": direction},
        "reorder": {"percent": 10, "direction": direction},
        "mtu": {"mtu": chance.randint(1280, 9000)},
    }
    if kind == "partition":
        chance.shuffle(nodes)
        return kind, [nodes[:1], [*nodes[1:], "host/external"]], {}
    return kind, places, values.get(kind, {})


def read_settled(cluster: Cluster) -> dict[str, list[str]]:
    """The kernel's state, or nothing until the operational state of every link is there: that comes up to a second
    after the link (net/core/link_watch.c), and later on a busy machine.
    """
    state = read_kernel(cluster)
    links = [
        line for lines in state.values() for line in lines if '"operstate"' in line and '"ifname": "lo"' not in line
    ]
    return state if all('"operstate": "UP"' in line for line in links) else {}


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_faults_undone_leave_nothing(cluster: Cluster, namespace: str, round_: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pods = {"a": "node-1", "b": "node-2", "c": "node-3"}
    cluster.apply([make_pod(name, node=node) for name, node in pods.items()], namespace=namespace)
    before = wait_until("all links are told up", lambda: read_settled(cluster), timeout_s=20.0)
    active = []
    for _ in range(CHANGES):
        kind, places, values = make_request(chance, [f"pod/{namespace}/a", f"pod/{namespace}/b"])
        listed = [fault["id"] for fault in cluster.faults()]
        try:
            active.append(cluster.fault(kind, *places, **values))
        except NetsimError as error:  # no netem here, or one is there already: nothing has changed
            if not isinstance(error, FeatureMissing) and "is there already" not in error.message:
                raise
            assert [fault["id"] for fault in cluster.faults()] == listed
        if active and chance.random() < 0.4:
            active.pop(chance.randrange(len(active))).undo()
    chance.shuffle(active)
    for fault in active:
        assert read_kernel(cluster) != before
        fault.undo()
    assert cluster.faults() == []
    # Carriers and what follows from them come back by themselves, a moment after the link is up.
    try:
        wait_until("all links run again", lambda: read_kernel(cluster) == before, timeout_s=20.0)
    except TimeoutExpired:
        assert differences(before, read_kernel(cluster)) == []
        raise
