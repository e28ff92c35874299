"""``netsim-proxy --cleanup`` takes away what any mode wrote, by any back end, in both families, and nothing else."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.nfacct import read_counters
from netsim.kernel.nft import Nft
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.sysctl import read_sysctl, write_sysctl
from netsim.model.errors import FeatureMissing
from proxy.config import ProxyConfig
from proxy.iptables.plan import IptablesDialect
from proxy.iptables.target import IptablesTarget
from proxy.kernelsettings import ROUTE_LOCALNET
from proxy.nftables.plan import NftablesDialect
from proxy.nftables.target import NftablesTarget
from tests.kernel.proxy.test_nft_rules import CONFIG, CONFIG_6, to_ipv6
from tests.kernel.proxy.test_program import PROGRAM
from tests.kernel.proxy.test_rules import make_objects, read_tables
from tests.unit.proxy.make import make_map, make_view

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore", "nft")

BACKENDS: tuple[Any, ...] = ("nft", "legacy")
FOREIGN = (
    "*filter\n-A INPUT -m comment --comment mine -j ACCEPT\nCOMMIT\n*nat\n:MINE - [0:0]\n-A MINE -j ACCEPT\nCOMMIT\n"
)


@pytest.fixture
def ns() -> Iterator[Netns]:
    made = Netns.create("node-1", ipv6=True)
    yield made
    made.close()


def view(family: int) -> Any:
    return make_view(config=CONFIG if family == 4 else CONFIG_6, family=family)


async def write_everything(ns: Netns, spawner: Spawner) -> None:
    chance = random.Random(11)
    objects = [obj for _ in range(9) for obj in make_objects(chance)]
    for family in (4, 6):
        snapshot = make_map(objects if family == 4 else to_ipv6(objects), family).snapshot()
        for backend in BACKENDS:
            target = IptablesTarget(ns, spawner, ProxyConfig(), backend=backend)
            found = await target.read(family)
            await target.apply(IptablesDialect().plan_full(snapshot, view(family), found))
        other = NftablesTarget(ns)
        await other.apply(NftablesDialect().plan_full(snapshot, view(family), await other.read(family)))
        other.close()


def held(ns: Netns, spawner: Spawner) -> dict[str, Any]:
    """All rules, counters, and tables of nft but iptables' own."""
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        for family in (4, 6):
            tables = read_tables(ns, spawner, backend, family)
            found[f"{backend} {family}"] = {table: chains for table, chains in tables.items() if chains}
    with Nft(ns) as tool:
        found["tables"] = sorted(line for line in tool.run("list tables").splitlines() if "kube-proxy" in line)
    try:
        found["counters"] = read_counters(ns)
    except FeatureMissing:
        found["counters"] = {}
    return found


def test_nothing_is_left_of_any_mode_and_what_others_wrote_stays(ns: Netns, spawner: Spawner) -> None:
    for backend in BACKENDS:
        for family in (4, 6):
            Iptables(ns, spawner, backend=backend).restore(FOREIGN.encode(), family=family)
    before = held(ns, spawner)
    asyncio.run(write_everything(ns, spawner))
    full = held(ns, spawner)
    write_sysctl(ns, ROUTE_LOCALNET, 1)
    assert full["tables"] == ["table ip kube-proxy", "table ip6 kube-proxy"]
    assert all(len(full[key]["nat"]) > 5 for key in full if key[-1] in "46")
    for _ in range(2):  # twice must be clean
        done = spawner.run_blocking(ProcessSpec((*PROGRAM, "--cleanup"), netns=ns, cwd=str(Path(__file__).parents[3])))
        assert (done.returncode, done.stderr) == (0, b"")
        assert held(ns, spawner) == before
        assert read_sysctl(ns, ROUTE_LOCALNET) == "0"  # as what guarded it is gone (CVE-2020-8558)


def test_what_cannot_be_removed_keeps_nothing_else(ns: Netns, spawner: Spawner) -> None:
    """Somebody's rule goes to a chain of ours, which so has to stay."""
    asyncio.run(write_everything(ns, spawner))
    blocking = "*nat\n:MINE - [0:0]\n-A MINE -g KUBE-MARK-MASQ\nCOMMIT\n"
    Iptables(ns, spawner, backend="nft").restore(blocking.encode(), family=4)
    done = spawner.run_blocking(ProcessSpec((*PROGRAM, "--cleanup"), netns=ns, cwd=str(Path(__file__).parents[3])))
    assert done.returncode == 1
    assert b"KUBE-MARK-MASQ" in done.stderr
    left = held(ns, spawner)
    assert left["tables"] == []
    ours = {key for key in left if key[-1] in "46" for chains in left[key].values() if any("KUBE" in c for c in chains)}
    assert ours == {"nft 4"}
