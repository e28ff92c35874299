"""What a proxy counts and times, under upstream's names.

Recording is plain arithmetic: a hundred nodes of one cluster record in one process, and a sync must not pay for it.
`prometheus_client` renders, and is imported when somebody asks (it costs 60 ms and 7 MB). What can be seen in the
proxy's state (pending changes, rules it owns) is worked out then too.

Source: kubernetes pkg/proxy/metrics/metrics.go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

SYNC_BUCKETS_S = tuple(0.001 * 2**n for n in range(15))
PROGRAMMING_BUCKETS_S = (0.0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
PREFIX = "kubeproxy_"
FAMILY_NAMES = {4: "IPv4", 6: "IPv6"}
Labels = tuple[str, ...]
_COUNTERS = {  # of the kernel: the metric and its text
    "ct_state_invalid_dropped_pkts": (
        "iptables_ct_state_invalid_dropped_packets",
        "Number of packets dropped by iptables to work around conntrack problems",
    ),
    "localhost_nps_accepted_pkts": (
        "iptables_localhost_nodeports_accepted_packets",
        "Number of packets accepted on nodeports of loopback interface",
    ),
}


class Histogram:
    """Counts by bucket, and their sum, in seconds."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = SYNC_BUCKETS_S) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many at most that), as the exposition format wants them."""
        names = (*(f"{bound:g}" for bound in self._bounds), "+Inf")
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]


@dataclass(slots=True)
class FamilyMetrics:
    """What is kept for each address family."""

    sync: Histogram = field(default_factory=Histogram)
    full_sync: Histogram = field(default_factory=Histogram)
    partial_sync: Histogram = field(default_factory=Histogram)
    programming: Histogram = field(default_factory=lambda: Histogram(PROGRAMMING_BUCKETS_S))
    reconcile: Histogram = field(default_factory=Histogram)
    last_sync_wall_s: float = 0.0
    last_queued_wall_s: float = 0.0
    sync_failures: int = 0
    partial_failures: int = 0  # of sync_failures, those of partial syncs
    cleanup_failures: int = 0
    deleted_flows: int = 0
    last_rules: dict[str, int] = field(default_factory=dict)  # by table, written by the last sync; iptables only

    def observe_sync(self, full: bool, took_s: float) -> None:
        """One that succeeded or failed: upstream's count both."""
        self.sync.observe(took_s)
        (self.full_sync if full else self.partial_sync).observe(took_s)


@dataclass(frozen=True, slots=True)
class Now:
    """What is looked up when somebody asks, not recorded. Rules and services without endpoints by family."""

    service_changes: int = 0
    endpoint_changes: int = 0
    service_pending: int = 0
    endpoint_pending: int = 0
    rules: Mapping[int, Mapping[str, int]] = field(default_factory=dict)  # by table
    no_local: Mapping[int, Mapping[str, int]] = field(default_factory=dict)  # by traffic policy: internal, external


class ProxyMetrics:
    """One node's."""

    def __init__(self, mode: str, families: Iterable[int], look: Callable[[], Now] = Now) -> None:
        self.mode = mode
        self.families = {family: FamilyMetrics() for family in families}
        self.healthz = {200: 0, 503: 0}
        self.livez = {200: 0, 503: 0}
        self.pings = 0  # of /healthz beside /metrics
        self.look = look
        self.counters: Mapping[str, int] = {}  # the kernel's packet counters by name, as last read; iptables only

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All of it as text, and its content type; ``accept`` is the request's header (OpenMetrics on request)."""
        return _render(self, accept)

    def render_slis(self, accept: str = "") -> tuple[bytes, str]:
        """The same of /metrics/slis: what this server's own /healthz said (component-base metrics/prometheus/slis)."""
        return _render(_Slis(self.pings), accept)

    def collect(self) -> Iterator[Metric]:
        """A prometheus_client collector's method."""
        now = self.look()
        yield from self._collect_syncs()
        if self.mode == "iptables":
            yield from self._collect_iptables(now)
        elif self.mode == "nftables":
            yield self._count("sync_proxy_rules_nftables_sync_failures", "nftables sync failures", "sync_failures")
            yield self._count(
                "sync_proxy_rules_nftables_cleanup_failures", "nftables cleanup failures", "cleanup_failures"
            )
        elif self.mode == "ipvs":
            yield self._count(
                "sync_proxy_rules_iptables_restore_failures", "iptables restore failures", "sync_failures"
            )
        for what, total, pending in (
            ("Service", now.service_changes, now.service_pending),
            ("Endpoint", now.endpoint_changes, now.endpoint_pending),
        ):
            name = f"sync_proxy_rules_{what.lower()}_changes"
            yield _counter(name, f"Cumulative proxy rules {what} changes", (), {(): total})
            yield _gauge(f"{name}_pending", f"Pending proxy rules {what} changes", (), {(): pending})
        yield _gauge(
            "sync_proxy_rules_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            ("ip_family", "traffic_policy"),
            _by_family(now.no_local),
        )
        for name, codes in (("healthz", self.healthz), ("livez", self.livez)):
            samples: dict[Labels, float] = {(str(code),): count for code, count in codes.items()}
            yield _counter(f"proxy_{name}", f"Cumulative proxy {name} HTTP status", ("code",), samples)

    def _collect_syncs(self) -> Iterator[Metric]:
        yield self._time("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", "sync")
        if self.mode != "ipvs":
            for part in ("full", "partial"):
                text = f"SyncProxyRules latency in seconds for {part} resyncs"
                yield self._time(f"sync_{part}_proxy_rules_duration_seconds", text, f"{part}_sync")
        text = "In Cluster Network Programming Latency in seconds"
        yield self._time("network_programming_duration_seconds", text, "programming")
        text = "ReconcileConntrackFlowsLatency latency in seconds"
        yield self._time("conntrack_reconciler_sync_duration_seconds", text, "reconcile")
        text = "Cumulative conntrack flows deleted by conntrack reconciler"
        yield self._count("conntrack_reconciler_deleted_entries", text, "deleted_flows")
        for name, text, attribute in (
            ("last", "The last time proxy rules were successfully synced", "last_sync_wall_s"),
            ("last_queued", "The last time a sync of proxy rules was queued", "last_queued_wall_s"),
        ):
            yield _gauge(f"sync_proxy_rules_{name}_timestamp_seconds", text, ("ip_family",), self._samples(attribute))

    def _collect_iptables(self, now: Now) -> Iterator[Metric]:
        labels = ("ip_family", "table")
        total, last = (
            "Total number of iptables rules owned by kube-proxy",
            "Number of iptables rules written by kube-proxy",
        )
        # A gauge in spite of its name, as upstream's.
        yield _gauge("sync_proxy_rules_iptables_total", f"{total} by kube-proxy", labels, _by_family(now.rules))
        written = {family: kept.last_rules for family, kept in self.families.items()}
        yield _gauge(
            "sync_proxy_rules_iptables_last", f"{last} by kube-proxy in last sync", labels, _by_family(written)
        )
        for counter, (metric, text) in _COUNTERS.items():
            if counter in self.counters:
                yield _counter(metric, text, (), {(): self.counters[counter]})
        name = "sync_proxy_rules_iptables"
        yield self._count(f"{name}_restore_failures", "Cumulative proxy iptables restore failures", "sync_failures")
        text = "Cumulative proxy iptables partial restore failures"
        yield self._count(f"{name}_partial_restore_failures", text, "partial_failures")

    def _samples(self, attribute: str) -> dict[Labels, float]:
        return {(FAMILY_NAMES[family],): getattr(kept, attribute) for family, kept in self.families.items()}

    def _count(self, name: str, text: str, attribute: str) -> Metric:
        text = text if text.startswith("Cumulative") else f"Cumulative proxy {text}"
        return _counter(name, text, ("ip_family",), self._samples(attribute))

    def _time(self, name: str, text: str, attribute: str) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        found = HistogramMetricFamily(PREFIX + name, text, labels=("ip_family",))
        for family, kept in self.families.items():
            histogram: Histogram = getattr(kept, attribute)
            found.add_metric([FAMILY_NAMES[family]], histogram.buckets(), histogram.sum_s)
        return found


class _Slis:
    def __init__(self, pings: int) -> None:
        self._pings = pings

    def collect(self) -> Iterator[Metric]:
        check: Labels = ("ping", "healthz")
        if self._pings:  # a check shows when it was made for the first time
            text = "This metric records the result of a single healthcheck."
            yield _gauge("kubernetes_healthcheck", text, ("name", "type"), {check: 1}, prefix="")
            text = "This metric records the results of all healthcheck."
            labels, samples = ("name", "type", "status"), {(*check, "success"): self._pings}
            yield _counter("kubernetes_healthchecks", text, labels, samples, prefix="")


def _render(collector: Collector, accept: str) -> tuple[bytes, str]:
    from prometheus_client import CollectorRegistry  # see above
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _by_family(found: Mapping[int, Mapping[str, int]]) -> dict[Labels, float]:
    return {(FAMILY_NAMES[f], label): count for f, counts in found.items() for label, count in counts.items()}


def _counter(name: str, text: str, labels: Labels, samples: Mapping[Labels, float], prefix: str = PREFIX) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    found = CounterMetricFamily(prefix + name, text, labels=labels)  # the format adds _total
    for values, count in samples.items():
        found.add_metric(values, count)
    return found


def _gauge(name: str, text: str, labels: Labels, samples: Mapping[Labels, float], prefix: str = PREFIX) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    found = GaugeMetricFamily(prefix + name, text, labels=labels)
    for values, value in samples.items():
        found.add_metric(values, value)
    return found
