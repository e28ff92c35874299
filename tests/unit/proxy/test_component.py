"""When the proxies write, and what they do when they can't."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from netsim.model.errors import KernelError
from netsim.model.kinds import SERVICE
from netsim.ruleset.iptables_model import make_tables
from proxy.config import ProxyConfig
from proxy.dialect import Plan
from tests.unit.proxy.cluster import ProxyCluster, let_run, running
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

CONFIG = ProxyConfig(cluster_cidrs=("10.244.0.0/16",))
Scenario = Callable[[ProxyCluster], Awaitable[None]]


def play(scenario: Scenario, nodes: int = 1, config: ProxyConfig = CONFIG) -> None:
    async def run() -> None:
        async with running(nodes, config) as cluster:
            await scenario(cluster)

    asyncio.run(run())


async def put_web(cluster: ProxyCluster, *ips: str) -> None:
    await cluster.put(make_slice([make_endpoint(ip) for ip in ips]))


def endpoint_chains(cluster: ProxyCluster, node: str = "node-1") -> int:
    return sum(chain.startswith("KUBE-SEP-") for chain in cluster.targets[node].tables["nat"])


def test_nothing_is_written_before_services_and_slices_are_known() -> None:
    async def run() -> None:
        cluster = ProxyCluster(1, CONFIG)
        proxy = asyncio.create_task(cluster.proxy.run())
        await let_run()
        assert cluster.targets["node-1"].written == []
        informers = asyncio.create_task(cluster.informers.run())
        await cluster.proxy.node_ready("node-1")
        assert len(cluster.targets["node-1"].written) == 1
        for task in (proxy, informers):
            task.cancel()
        await asyncio.gather(proxy, informers, return_exceptions=True)

    asyncio.run(run())


def test_settled_means_in_the_kernel_of_every_node() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        await cluster.put(make_service(ip="10.96.0.77"))
        await put_web(cluster, "10.244.1.2", "10.244.1.3")
        await cluster.settle()
        assert [endpoint_chains(cluster, node) for node in cluster.targets] == [2, 2, 2]
        assert cluster.proxy.summary()["synced"] == 3

    play(scenario, nodes=3)


def test_an_endpoint_writes_its_own_chains_alone() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        await cluster.put(make_service(ip="10.96.0.77"))
        await put_web(cluster, "10.244.1.2")
        await cluster.settle()
        await put_web(cluster, "10.244.1.2", "10.244.1.3")
        await cluster.settle()
        last = cluster.targets["node-1"].written[-1]
        assert [line.split()[0][:9] for line in last.splitlines() if line[0] in "*:"] == [
            "*nat",
            ":KUBE-SVC",
            ":KUBE-SEP",
        ]

    play(scenario)


def test_changes_during_a_sync_are_written_together() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        before = len(target.written)
        target.hold.clear()
        await cluster.put(make_service(ip="10.96.0.77"))
        await let_run()
        for number in range(2, 12):
            await put_web(cluster, *(f"10.244.1.{n}" for n in range(2, number + 1)))
            await let_run()
        target.hold.set()
        await cluster.settle()
        assert len(target.written) - before == 2
        assert endpoint_chains(cluster) == 10

    play(scenario)


def test_a_failed_sync_leaves_the_old_rules_and_is_repeated_whole() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        before = target.tables
        target.refuse = 1
        target.hold.clear()
        await cluster.put(make_service(ip="10.96.0.77"))
        await let_run()
        assert target.tables is before
        target.hold.set()
        await cluster.settle()
        summary = cluster.proxy.summary()
        assert (summary["failures"], summary["fullSyncs"], summary["errors"]) == (1, 2, {})
        assert any("10.96.0.77" in spec for spec in target.tables["filter"]["KUBE-SERVICES"])

    play(scenario)


def test_a_node_that_refuses_again_is_an_error_and_heals_after_the_sync_period() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        good, bad = cluster.targets["node-1"], cluster.targets["node-2"]
        bad.refuse = 4
        await cluster.put(make_service(ip="10.96.0.77"))
        with pytest.raises(KernelError, match="refused"):
            await cluster.settle()
        assert any("10.96.0.77" in spec for spec in good.tables["filter"]["KUBE-SERVICES"])
        assert list(cluster.proxy.summary()["errors"]) == ["node-2"]
        with pytest.raises(KernelError, match="refused"):
            await cluster.proxy.node_ready("node-2")
        await cluster.clock.advance(CONFIG.sync_period_s)
        assert cluster.proxy.summary()["errors"] == {}
        assert bad.tables == good.tables

    play(scenario, nodes=2)


def test_a_full_sync_that_fails_is_tried_again_at_once() -> None:
    """As iptables-restore fails when somebody flushes tables while it writes them."""

    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        target.refuse = 2  # the change, and all of it again
        await cluster.put(make_service(ip="10.96.0.77"))
        await cluster.settle()
        assert any("10.96.0.77" in spec for spec in target.tables["filter"]["KUBE-SERVICES"])

    play(scenario)


def test_a_family_that_fails_does_not_hold_up_the_other() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        plain = target.apply

        async def refuse_ipv6(plan: Plan[Any]) -> None:
            if plan.family == 6:
                raise KernelError("ip6tables-restore: refused", where="test")
            await plain(plan)

        target.apply = refuse_ipv6  # type: ignore[method-assign]
        await cluster.put(make_service(ip="10.96.0.77"))
        await cluster.put_node("node-1", "a")  # both families are written anew
        with pytest.raises(KernelError, match="ip6tables"):
            await cluster.settle()
        assert any("10.96.0.77" in spec for spec in target.tables["filter"]["KUBE-SERVICES"])
        target.apply = plain  # type: ignore[method-assign]
        await cluster.clock.advance(CONFIG.sync_period_s)
        assert cluster.proxy.summary()["errors"] == {}

    play(scenario, config=replace(CONFIG, families=(4, 6)))


def test_flushed_rules_come_back() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        await cluster.put(make_service(ip="10.96.0.77"))
        await cluster.settle()
        target = cluster.targets["node-1"]
        before, target.tables = target.tables, make_tables()
        await cluster.clock.advance(CONFIG.sync_period_s - 1)
        assert target.tables == make_tables()
        await cluster.clock.advance(1)
        assert target.tables == before

    play(scenario)


def test_rules_that_are_there_are_not_written_again_until_the_hour_is_over() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        written = len(target.written)
        await cluster.clock.advance(CONFIG.sync_period_s)
        await cluster.clock.advance(CONFIG.sync_period_s)
        assert len(target.written) == written
        await cluster.clock.advance(CONFIG.full_sync_period_s)
        assert len(target.written) == written + 1

    play(scenario)


def test_the_least_time_between_syncs_counts_from_the_end_and_settle_does_not_wait_for_it() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        written = len(target.written)
        await cluster.put(make_service(ip="10.96.0.77"))
        await let_run()
        assert len(target.written) == written
        await cluster.clock.advance(5)
        assert len(target.written) == written + 1
        await put_web(cluster, "10.244.1.2")
        await let_run()
        assert len(target.written) == written + 1
        await cluster.settle()
        assert len(target.written) == written + 2
        await cluster.clock.advance(60)
        await put_web(cluster, "10.244.1.3")
        await let_run()
        assert len(target.written) == written + 3  # idle for long enough: at once

    play(scenario, config=replace(CONFIG, min_sync_period_s=5))


def test_a_sync_that_takes_long_is_followed_by_the_whole_pause() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        await cluster.clock.advance(60)
        written = len(target.written)
        target.hold.clear()
        await cluster.put(make_service(ip="10.96.0.77"))
        await let_run()
        await cluster.clock.advance(4)
        target.hold.set()
        await let_run()
        await put_web(cluster, "10.244.1.2")
        await cluster.clock.advance(4)  # eight seconds after its start
        assert len(target.written) == written + 1
        await cluster.clock.advance(1)
        assert len(target.written) == written + 2

    play(scenario, config=replace(CONFIG, min_sync_period_s=5))


def test_a_node_added_later_gets_everything() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        await cluster.put(make_service(ip="10.96.0.77"))
        await put_web(cluster, "10.244.1.2")
        await cluster.settle()
        cluster.add_node("node-2")
        await cluster.proxy.node_ready("node-2")
        assert cluster.targets["node-2"].tables == cluster.targets["node-1"].tables
        with pytest.raises(KeyError):
            cluster.add_node("node-2")

    play(scenario)


def test_a_removed_node_is_left_alone() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        cluster.targets["node-2"].hold.clear()
        await cluster.put(make_service(ip="10.96.0.77"))
        waiting = asyncio.create_task(cluster.settle())
        await let_run()
        assert not waiting.done()
        cluster.proxy.remove_node("node-2")
        await waiting
        assert len(cluster.targets["node-2"].written) == 1

    play(scenario, nodes=2)


def test_a_node_that_learns_its_zone_is_written_anew() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        await cluster.put(make_service(ip="10.96.0.77"))
        hints = [{"forZones": [{"name": zone}]} for zone in "ab"]
        endpoints = [make_endpoint(f"10.244.1.{n}", hints=hint) for n, hint in enumerate(hints, 2)]
        await cluster.put(make_slice(endpoints))
        await cluster.settle()
        assert endpoint_chains(cluster) == 2
        await cluster.put_node("node-1", "a")
        await cluster.settle()
        assert endpoint_chains(cluster) == 1

    play(scenario)


def test_a_node_with_another_address_is_written_anew() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        ports = [{"name": "http", "port": 80, "nodePort": 30080}]
        await cluster.put(make_service(ip="10.96.0.77", type="NodePort", ports=ports))
        await put_web(cluster, "10.244.1.2")
        await cluster.settle()
        before = cluster.targets["node-1"].tables
        cluster.proxy.set_addresses("node-1", ("172.18.0.99",))
        await cluster.settle()
        assert "172.18.0.99" in str(cluster.targets["node-1"].tables)
        assert cluster.proxy.summary()["fullSyncs"] == 2
        assert cluster.targets["node-1"].tables != before

    play(scenario, config=replace(CONFIG, node_port_addresses=("primary",)))


def test_deleted_services_leave_nothing() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        before = cluster.targets["node-1"].tables
        await cluster.put(make_service(ip="10.96.0.77"))
        await put_web(cluster, "10.244.1.2")
        await cluster.settle()
        assert cluster.targets["node-1"].tables != before
        await cluster.api.delete(SERVICE, "web", "ns")
        await cluster.settle()
        assert cluster.targets["node-1"].tables == before

    play(scenario)


def test_flows_are_cleaned_for_changed_udp_services_alone() -> None:
    async def scenario(cluster: ProxyCluster) -> None:
        target = cluster.targets["node-1"]
        await cluster.put(make_service(ip="10.96.0.77"))
        await cluster.settle()
        assert target.cleaned == []
        ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
        await cluster.put(make_service("dns", "10.96.0.78", ports=ports))
        await cluster.put(make_slice([make_endpoint("10.244.1.9")], "dns", ports=ports))
        await cluster.settle()
        assert target.cleaned[-1].addresses == {("10.96.0.78", 53): frozenset({"10.244.1.9"})}
        await cluster.api.delete(SERVICE, "dns", "ns")
        await cluster.settle()
        assert target.cleaned[-1].addresses == {("10.96.0.78", 53): frozenset()}

    play(scenario)
