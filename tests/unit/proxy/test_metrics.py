"""Metrics: upstream's names, and that they move when the proxy does."""

import asyncio
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from netsim.model.errors import KernelError
from netsim.model.kinds import NODE
from netsim.ruleset.iptables_model import make_tables
from proxy.health.node import NodeHealth
from proxy.health.proxyhealth import Moment
from proxy.metrics import Histogram, Now, ProxyMetrics
from proxy.nodesync import count_rules
from tests.unit.proxy.cluster import ProxyCluster, let_run, running
from tests.unit.proxy.make import CONFIG, make_endpoint, make_service, make_slice


def now(cluster: ProxyCluster) -> Moment:
    return Moment(cluster.clock.wall_s(), cluster.clock.monotonic_s())


# kubernetes.io, reference of metrics, what kube-proxy of each mode registers (pkg/proxy/metrics/metrics.go).
COMMON = {
    "sync_proxy_rules_duration_seconds",
    "network_programming_duration_seconds",
    "conntrack_reconciler_sync_duration_seconds",
    "conntrack_reconciler_deleted_entries_total",
    "sync_proxy_rules_last_timestamp_seconds",
    "sync_proxy_rules_last_queued_timestamp_seconds",
    "sync_proxy_rules_service_changes_total",
    "sync_proxy_rules_service_changes_pending",
    "sync_proxy_rules_endpoint_changes_total",
    "sync_proxy_rules_endpoint_changes_pending",
    "sync_proxy_rules_no_local_endpoints_total",
    "proxy_healthz_total",
    "proxy_livez_total",
}
PARTS = {"sync_full_proxy_rules_duration_seconds", "sync_partial_proxy_rules_duration_seconds"}
OF_MODE = {
    "iptables": PARTS
    | {
        "sync_proxy_rules_iptables_total",
        "sync_proxy_rules_iptables_last",
        "sync_proxy_rules_iptables_restore_failures_total",
        "sync_proxy_rules_iptables_partial_restore_failures_total",
    },
    "nftables": PARTS
    | {"sync_proxy_rules_nftables_sync_failures_total", "sync_proxy_rules_nftables_cleanup_failures_total"},
    "ipvs": {"sync_proxy_rules_iptables_restore_failures_total"},
}
COUNTERS = {"ct_state_invalid_dropped_pkts": 3, "localhost_nps_accepted_pkts": 4, "somebody elses": 5}
OF_THE_KERNEL = {
    "iptables_ct_state_invalid_dropped_packets_total",
    "iptables_localhost_nodeports_accepted_packets_total",
}
TAINT = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: ProxyMetrics) -> Samples:
    text = metrics.render()[0].decode()
    return {
        (sample.name.removeprefix("kubeproxy_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, tuple(sorted(labels.items())))]


def of(cluster: ProxyCluster, node: str = "node-1") -> NodeHealth:
    return cluster.proxy._health[node]


@pytest.mark.parametrize("mode", OF_MODE)
def test_each_mode_has_upstreams_names(mode: str) -> None:
    now = Now(rules={4: {"nat": 1}}, no_local={4: {"internal": 0}})
    metrics = ProxyMetrics(mode, (4,), lambda: now)
    metrics.families[4].last_rules = {"nat": 1}
    text = metrics.render()[0].decode()
    lines = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert {line.removeprefix("kubeproxy_") for line in lines} == COMMON | OF_MODE[mode]
    assert len(lines) == len(set(lines))


def test_the_kernels_counters_show_where_there_are_such() -> None:
    metrics = ProxyMetrics("iptables", (4,))
    without = {name for name, _ in scrape(metrics)}
    metrics.counters = COUNTERS
    samples = scrape(metrics)
    assert {name for name, _ in samples} - without == OF_THE_KERNEL
    assert value(samples, "iptables_localhost_nodeports_accepted_packets_total") == 4


def test_slis_are_of_the_servers_own_health() -> None:
    metrics = ProxyMetrics("nftables", (4,))
    assert metrics.render_slis()[0] == b""
    metrics.pings = 2
    lines = metrics.render_slis()[0].decode().splitlines()
    assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1.0' in lines
    assert 'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2.0' in lines


def test_openmetrics_for_those_who_ask() -> None:
    body, content_type = ProxyMetrics("ipvs", (4, 6)).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_histograms_are_cumulative_and_bounds_belong_below() -> None:
    histogram = Histogram((1, 2.5))
    for seconds in (0.5, 1, 2, 99):
        histogram.observe(seconds)
    assert histogram.buckets() == [("1", 2), ("2.5", 3), ("+Inf", 4)]
    assert histogram.sum_s == 102.5


def test_rules_are_counted_by_table() -> None:
    assert count_rules("") == {"filter": 0, "nat": 0}
    text = "*nat\n:A - [0:0]\n-A A -j B\n-A A -j C\nCOMMIT\n*filter\n-X D\nCOMMIT\n"
    assert count_rules(text) == {"filter": 0, "nat": 2}


PARTIAL_COUNT = "sync_partial_proxy_rules_duration_seconds_count"


def test_a_node_counts_what_it_does() -> None:
    async def run() -> None:
        async with running(2, CONFIG) as cluster:
            first = scrape(of(cluster).metrics)
            assert value(first, "sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1
            await cluster.put(make_service(ip="10.96.0.77"))
            await cluster.put(make_slice([make_endpoint("10.244.1.2")]))
            await cluster.settle()
            cluster.targets["node-1"].refuse = 1
            await cluster.clock.advance(5)
            await cluster.put(make_slice([make_endpoint("10.244.1.3")]))
            await cluster.settle()
            samples = scrape(of(cluster).metrics)
            name = "sync_proxy_rules_iptables"
            assert value(samples, f"{name}_restore_failures_total", ip_family="IPv4") == 1
            assert value(samples, f"{name}_partial_restore_failures_total", ip_family="IPv4") == 1
            assert value(samples, "sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") == 2
            partial = [value(scraped, PARTIAL_COUNT, ip_family="IPv4") for scraped in (first, samples)]
            assert partial == [0, 2]  # the one that failed too
            for what, changes in (("service", 1), ("endpoint", 2)):
                total = f"sync_proxy_rules_{what}_changes_total"
                assert value(samples, total) - value(first, total) == changes
            assert value(samples, "sync_proxy_rules_last_timestamp_seconds", ip_family="IPv4") == 1005
            tables = cluster.targets["node-1"].tables
            for table in ("filter", "nat"):
                owned = sum(len(rules) for chain, rules in tables[table].items() if chain.startswith("KUBE-"))
                assert value(samples, f"{name}_total", ip_family="IPv4", table=table) == owned
            other = scrape(of(cluster, "node-2").metrics)
            assert value(other, f"{name}_restore_failures_total", ip_family="IPv4") == 0

    asyncio.run(run())


def test_programming_latency_is_from_the_slices_own_time() -> None:
    async def run() -> None:
        async with running(1, CONFIG) as cluster:
            await cluster.put(make_service(ip="10.96.0.77"))
            await cluster.clock.advance(10)
            item = make_slice([make_endpoint("10.244.1.2")])
            # Three seconds ago, on a clock that started in 1970; and a change from before this proxy.
            item["metadata"]["annotations"] = {
                "endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:16:47Z"
            }
            await cluster.put(item)
            await cluster.settle()
            samples = scrape(of(cluster).metrics)
            assert value(samples, "network_programming_duration_seconds_count", ip_family="IPv4") == 1
            assert math.isclose(value(samples, "network_programming_duration_seconds_sum", ip_family="IPv4"), 3)

    asyncio.run(run())


def test_a_proxy_that_cannot_write_is_ill_until_it_can() -> None:
    async def run() -> None:
        async with running(1, CONFIG) as cluster:
            node = of(cluster)
            await cluster.clock.advance(1)
            cluster.targets["node-1"].refuse = 5
            await cluster.put(make_service(ip="10.96.0.77"))
            with pytest.raises(KernelError):
                await cluster.settle()
            assert node.health.is_healthy(now(cluster))
            assert value(scrape(node.metrics), "sync_proxy_rules_service_changes_pending") == 1
            for _ in range(2):
                await cluster.clock.advance(CONFIG.sync_period_s)
            assert not node.health.is_healthy(now(cluster))
            assert node.health.healthz(now(cluster)).status == 503
            await cluster.clock.advance(CONFIG.sync_period_s)
            assert node.health.is_healthy(now(cluster))
            assert value(scrape(node.metrics), "sync_proxy_rules_service_changes_pending") == 0

    asyncio.run(run())


def test_a_proxy_whose_first_rules_cannot_be_written_is_ill_after_two_periods() -> None:
    async def run() -> None:
        cluster = ProxyCluster(1, CONFIG)
        cluster.targets["node-1"].refuse = 5
        tasks = [asyncio.create_task(cluster.informers.run()), asyncio.create_task(cluster.proxy.run())]
        await let_run()
        well = []
        for _ in range(4):
            await cluster.clock.advance(CONFIG.sync_period_s)
            well.append(of(cluster).health.is_healthy(now(cluster)))
        assert well == [True, False, False, True]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_a_proxy_that_cannot_write_flushed_rules_again_is_ill() -> None:
    async def run() -> None:
        async with running(1, CONFIG) as cluster:
            cluster.targets["node-1"].tables = make_tables()
            cluster.targets["node-1"].refuse = 4
            for _ in range(3):
                await cluster.clock.advance(CONFIG.sync_period_s)
            assert not of(cluster).health.is_healthy(now(cluster))
            await cluster.clock.advance(CONFIG.sync_period_s)
            assert of(cluster).health.is_healthy(now(cluster))

    asyncio.run(run())


def test_a_node_that_goes_is_not_eligible() -> None:
    async def run() -> None:
        async with running(1, CONFIG) as cluster:
            await cluster.put_node("node-1", "a")
            await cluster.settle()
            assert of(cluster).health.node_eligible
            node = (await cluster.api.list(NODE)).items[0]
            await cluster.api.patch(NODE, "node-1", {"spec": {"taints": [TAINT]}})
            await let_run()
            assert not of(cluster).health.node_eligible
            await cluster.api.delete(NODE, node["metadata"]["name"])
            await let_run()
            assert not of(cluster).health.node_eligible

    asyncio.run(run())
