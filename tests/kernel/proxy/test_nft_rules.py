"""The nftables table in the kernel: what differences leave, what survives, what heals, what is refused."""

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from netsim.kernel import nft_wire as wire
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.nft_socket import NftSocket
from netsim.kernel.process import Spawner
from netsim.model.errors import KernelError
from netsim.ruleset import nft
from netsim.testing.waiting import wait_until
from proxy.config import FamilyView, ProxyConfig
from proxy.nftables.plan import NftablesDialect, NftPlan
from proxy.nftables.target import NftablesTarget
from proxy.servicemap import ServiceMap
from tests.kernel.proxy.node import PODS, RealNode, ask, real_node
from tests.kernel.proxy.test_rules import make_objects
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice, make_view

pytestmark = pytest.mark.needs("root", "nft")

CONFIG = ProxyConfig(mode="nftables", cluster_cidrs=("10.244.0.0/16",), service_cidrs=("10.96.0.0/12",))
CONFIG_6 = replace(CONFIG, families=(6,), cluster_cidrs=("fd00:10:244::/56",), service_cidrs=("fd00:10:96::/112",))
SEEDS = range(6)


@pytest.fixture
def ns() -> Iterator[Netns]:
    made = Netns.create("node", ipv6=True)
    yield made
    made.close()


class Proxy:
    """One node's proxy without the informers: a map, a dialect, and hands on a namespace."""

    def __init__(self, ns: Netns, view: FamilyView, service_map: ServiceMap) -> None:
        self.ns, self.view, self.map = ns, view, service_map
        self.dialect, self.target = NftablesDialect(), NftablesTarget(ns)
        self.plan: NftPlan | None = None

    def full(self) -> None:
        async def work() -> None:
            family = self.view.family
            self.plan = self.dialect.plan_full(self.map.snapshot(), self.view, await self.target.read(family))
            await self.target.apply(self.plan)

        asyncio.run(work())

    def change(self, *objects: Any, gone: bool = False) -> None:
        for obj in objects:
            update = self.map.update_slice if "endpoints" in obj else self.map.update_service
            update(obj if gone else None, None if gone else obj)
        changed = self.map.take()
        assert self.plan is not None
        self.plan = self.dialect.plan_changes(self.map.snapshot(), changed, self.plan.state, self.view)
        asyncio.run(self.target.apply(self.plan))

    def is_intact(self) -> bool:
        return asyncio.run(self.target.is_intact(self.view))


def read_table(ns: Netns, family: str = "ip") -> dict[str, Any]:
    """The table as nft has it: rules by chain, elements by set, without handles, in no order of chance."""
    with Nft(ns) as tool:
        items = json.loads(tool.run_json(f"list table {family} kube-proxy"))["nftables"]
    found: dict[str, Any] = {}
    for item in items:
        for kind, body in item.items():
            if kind == "rule":
                found.setdefault(f"chain {body['chain']}", []).append(json.dumps(body["expr"], sort_keys=True))
            elif kind in ("set", "map"):
                elements = sorted(json.dumps(e, sort_keys=True) for e in body.get("elem", ()))
                found[f"set {body['name']}"] = elements
            elif kind == "chain":
                found.setdefault(f"chain {body['name']}", [])
    return found


def normal(table: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the way there: which endpoint has which number, and shared chains that nobody needs."""
    table = {key: value for key, value in table.items() if value or not key.startswith("chain ")}
    needed = json.dumps({key: value for key, value in table.items() if key.startswith("set ")})
    for key in ("set endpoints", "set nodeport-endpoints"):
        groups: dict[str, Any] = {}
        for element in map(json.loads, table[key]):
            *service, number = element[0]["concat"]
            which = (json.dumps(service), number >> 16)
            groups.setdefault(str(which), []).append((number & 0xFFFF, json.dumps(element[1])))
        table[key] = {
            which: ([number for number, _ in sorted(found)], sorted(endpoint for _, endpoint in found))
            for which, found in groups.items()
        }
    shared = re.compile(r"chain (?:nodeport-)?(?:cluster|cluster-local|external|pod|local)-\d+")
    return {k: v for k, v in table.items() if not shared.fullmatch(k) or f'"{k.removeprefix("chain ")}"' in needed
            or k.removeprefix("chain ") in needed}  # fmt: skip


def to_ipv6(objects: list[Any]) -> list[Any]:
    """The same objects in the other family."""
    text = json.dumps(objects).replace('"IPv4"', '"IPv6"').replace("203.0.113.0/24", "2001:db8:1::/64")
    for old, new in (("10.96.0.", "fd00:10:96::"), ("10.244.1.", "fd00:10:244::"), ("192.0.2.", "2001:db8:2::")):
        text = text.replace(old, new)
    return list(json.loads(text.replace("198.51.100.", "2001:db8:3::")))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", SEEDS)
def test_differences_leave_what_a_fresh_proxy_writes(ns: Netns, seed: int, family: int) -> None:
    chance = random.Random(seed)
    view = make_view(config=CONFIG if family == 4 else CONFIG_6, family=family)
    proxy = Proxy(ns, view, make_map([], family))
    proxy.full()
    for _ in range(30):
        objects = make_objects(chance)
        if family == 6:
            objects = to_ipv6(objects)
        if chance.random() < 0.25:
            proxy.change(objects[0], gone=True)
        else:
            proxy.change(*objects)
        assert proxy.is_intact()
    word = "ip" if family == 4 else "ip6"
    written = normal(read_table(ns, word))
    again = Netns.create("fresh", ipv6=True)
    try:
        fresh = Proxy(again, view, proxy.map)
        fresh.full()
        assert written == normal(read_table(again, word))
    finally:
        again.close()
    proxy.full()
    assert normal(read_table(ns, word)) == written


@pytest.mark.parametrize("family", [4, 6])
def test_nft_lists_the_words_that_our_plan_shows(ns: Netns, family: int) -> None:
    """The text beside each rule's program is what nft makes of the program."""
    chance = random.Random(family)
    objects = [obj for _ in range(12) for obj in make_objects(chance)]
    config = replace(CONFIG if family == 4 else CONFIG_6, node_port_addresses=("0.0.0.0/0", "::/0"))
    proxy = Proxy(
        ns, make_view(config=config, family=family), make_map(objects if family == 4 else to_ipv6(objects), family)
    )
    proxy.full()
    assert proxy.plan is not None
    with Nft(ns) as tool:
        listed = tool.run(f"list table {'ip' if family == 4 else 'ip6'} kube-proxy")
    lines = [line.strip() for line in listed.splitlines()]
    rules = [edit.rule.text for edit in proxy.plan.edits if isinstance(edit, nft.AddRule)]
    assert len(rules) > 30
    assert [rule for rule in rules if rule not in lines] == []
    assert "invalid" not in listed


def test_a_full_sync_twice_changes_nothing_and_cleanup_leaves_nothing(ns: Netns) -> None:
    with Nft(ns) as tool:
        tool.run("add table ip mine; add chain ip mine c; add rule ip mine c accept")
        before = tool.run("list ruleset")
        chance = random.Random(7)
        proxy = Proxy(ns, make_view(config=CONFIG), make_map([o for _ in range(9) for o in make_objects(chance)]))
        proxy.full()
        first = read_table(ns)
        proxy.full()
        assert read_table(ns) == first

        async def clean() -> None:
            await proxy.target.apply(proxy.dialect.plan_cleanup(4, await proxy.target.read(4)))

        for _ in range(2):
            asyncio.run(clean())
            assert tool.run("list ruleset") == before


def test_one_endpoints_change_is_a_few_elements(ns: Netns) -> None:
    pods = [make_endpoint(f"10.244.3.{n}") for n in range(1, 200)]
    others = [o for n in range(50) for o in (make_service(f"s{n}", f"10.96.1.{n}"), make_slice(pods[:3], f"s{n}"))]
    proxy = Proxy(ns, make_view(config=CONFIG), make_map([make_service(), make_slice(pods), *others]))
    proxy.full()
    for endpoints in (pods[1:], pods, pods[:50] + pods[51:]):
        proxy.change(make_slice(endpoints))
        assert proxy.plan is not None
        added = sum(len(e.elements) for e in proxy.plan.edits if isinstance(e, nft.AddElements))
        deleted = sum(len(e.keys) for e in proxy.plan.edits if isinstance(e, nft.DeleteElements))
        assert added + deleted <= 6, str(proxy.plan)


FLUSHES = {
    "flush ruleset": "flush ruleset",
    "flush table": "flush table ip kube-proxy",
    "flush chain": "flush chain ip kube-proxy services",
    "delete a rule's chain": "flush chain ip kube-proxy masquerading",
    "delete table": "delete table ip kube-proxy",
}
EMPTIED = {
    "flush map": "flush map ip kube-proxy service-ips",
    "flush set": "flush set ip kube-proxy nodeport-ips",
    "delete an element": "delete element ip kube-proxy endpoints { 10.96.0.77 . tcp . 80 . 0x0 }",
}


@pytest.mark.parametrize("how", FLUSHES)
def test_flushed_rules_come_back(spawner: Spawner, how: str) -> None:
    with real_node(spawner, replace(CONFIG, sync_period_s=0.1)) as node:
        node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
        before = normal(read_table(node.node))
        _nft(node, FLUSHES[how])
        wait_until("the rules are back", lambda: _table_or_none(node.node) == before, timeout_s=10)
        assert ask(node.pods["pod-1"], "10.96.0.77", 80).startswith("pod-2")


@pytest.mark.parametrize("how", EMPTIED)
def test_elements_that_somebody_took_away_come_back(spawner: Spawner, how: str) -> None:
    with real_node(spawner, replace(CONFIG, sync_period_s=0.1)) as node:
        node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
        with contextlib.closing(NftSocket(node.node)) as channel:
            if not all(20 in item for item in channel.dump(wire.GETSET, "kube-proxy", 4)):
                pytest.skip("this kernel does not say how many elements a set has (NFTA_SET_COUNT)")
        before = normal(read_table(node.node))
        _nft(node, EMPTIED[how])
        wait_until("the elements are back", lambda: _table_or_none(node.node) == before, timeout_s=10)
        full = node.proxy.summary()["fullSyncs"]
        time.sleep(0.5)  # five checks more, which must find nothing missing
        assert node.proxy.summary()["fullSyncs"] == full


def test_a_refused_transaction_leaves_the_old_rules_and_heals_by_a_rebuild(spawner: Spawner) -> None:
    with real_node(spawner, CONFIG) as node:
        node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
        key = "10.96.0.77 . tcp . 80 . 0x0"
        _nft(node, f"delete element ip kube-proxy endpoints {{ {key} }}")  # so that ours cannot be deleted
        node.put(make_slice([make_endpoint(PODS["pod-3"])]))
        assert ask(node.pods["pod-1"], "10.96.0.77", 80).startswith("pod-3")
        assert (node.proxy.summary()["failures"], node.proxy.summary()["fullSyncs"]) == (1, 2)


def test_what_others_put_in_the_way_of_a_rebuild_goes(spawner: Spawner) -> None:
    with real_node(spawner, replace(CONFIG, sync_period_s=0.1)) as node:
        node.put(make_service(ip="10.96.0.77"), make_slice([make_endpoint(PODS["pod-2"])]))
        _nft(node, "add map ip kube-proxy theirs { type mark : verdict; elements = { 1 : goto reject-chain } }")
        _nft(node, "flush table ip kube-proxy")
        wait_until(
            "the endpoint serves", lambda: ask(node.pods["pod-1"], "10.96.0.77", 80).startswith("pod-2"), timeout_s=10
        )


def test_what_is_too_large_for_one_transaction_goes_in_several(ns: Netns) -> None:
    """As it must where root is only of a user namespace."""
    chance = random.Random(3)
    service_map = make_map([obj for _ in range(12) for obj in make_objects(chance)])
    proxy = Proxy(ns, make_view(config=CONFIG), service_map)
    proxy.full()
    whole = read_table(ns)
    assert proxy.plan is not None
    again = Netns.create("parts")
    try:
        channel = NftSocket(again)
        assert channel.commit(proxy.plan.edits, "kube-proxy", 4, most_bytes=4000) > 3
        assert read_table(again) == whole
        channel.close()
    finally:
        again.close()


def test_a_refusal_names_the_edit_and_the_kernels_words(ns: Netns) -> None:
    proxy = Proxy(ns, make_view(config=CONFIG), make_map([make_service(), make_slice([make_endpoint("10.244.1.2")])]))
    proxy.full()
    with Nft(ns) as tool:
        tool.run("delete table ip kube-proxy")
    with pytest.raises(KernelError, match=r"node: nf_tables: .*: No such file or directory"):
        proxy.change(make_slice([make_endpoint("10.244.1.3")]))


def _table_or_none(ns: Netns) -> dict[str, Any] | None:
    try:
        return normal(read_table(ns))
    except KernelError:
        return None


def _nft(node: RealNode, command: str) -> None:
    node.run(node.node, "nft", command)
