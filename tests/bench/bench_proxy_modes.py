"""The proxy's modes at growing numbers of services, and what upstream's rules cost, side by side in one run.

    python -m tests.bench.bench_proxy_modes [--services 100 1000] [--limit 300] [--save docs/figures/proxy.json]

first sync:    from the objects (in the informers' hands) until the rules are in the kernel; a tool: its whole run
one change:    one endpoint comes or goes: from the API write until it is in the kernel; a tool: its run on the text of
               what upstream's partial sync writes
first packet:  connect(2) through the last service, and beside it one past all services
kernel memory: charged to the bench's control group while loading
process:       ours: what the process grew by; a tool: the most it had

The ways are in `WAYS`. Endpoints: two for each service, TCP. Needs root; each measurement is a process in namespaces of
its own, which is ended after --limit seconds: what it had found by then is kept, the rest is missing.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.informerset import InformerSet
from netsim.kernel.features import probe_features
from netsim.kernel.process import Spawner
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.kinds import ENDPOINT_SLICE, NAMESPACE, NODE, SERVICE
from netsim.model.objects import revision_of
from netsim.store.store import Store
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import ProxyConfig
from tests.bench import services as made
from tests.bench import upstream_rules
from tests.bench.memory import charged_kernel_mb, rss_mb
from tests.bench.proxy_world import DIRECT, NODE_IP, World, world

ALL_SIZES = (100, 1000, 5000, 10000, 20000)
CHANGES = 15
CHANGES_FOR_S = 20.0  # no further change is begun after so long
CHANGED = "10.245.127.1"  # the endpoint that comes and goes
ROOT = Path(__file__).parents[2]
_LEGACY_RESTORE = ("iptables-legacy-restore", "--noflush", "-w")
SANDBOX = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

Figures = Iterator[dict[str, float]]  # as they are found, so that a measurement cut short shows what it had


async def _put_all(api: Api, services: int) -> None:
    meta = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.NAMESPACE}}
    await api.create(NAMESPACE, meta)
    for number in range(services):
        await api.create(SERVICE, made.make_service(number))
        await api.create(ENDPOINT_SLICE, made.make_slice(number))


# A node whose kubelet has its chains there is one that uses this iptables.
_USES_LEGACY = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"


async def _measure_ours(mode: str, place: World, spawner: Spawner, services: int, tell: Callable[..., None]) -> None:
    api = Api(ApiServer(Store(":memory:"), ClusterConfig(), SystemClock()).transport())
    await _put_all(api, services)
    informers = InformerSet(api)
    for kind in (SERVICE, ENDPOINT_SLICE, NODE):
        informers.of(kind)
    tasks = [asyncio.create_task(informers.run())]
    await informers.synced()
    config = ProxyConfig(mode=mode, cluster_cidrs=("10.244.0.0/16",), service_cidrs=("10.96.0.0/12",))
    gc.collect()
    process_mb, kernel_mb = rss_mb(), charged_kernel_mb()
    started = time.perf_counter()
    nodes = [NodeProxy("node-1", place.node, (NODE_IP,))]
    component = ProxyComponent(informers=informers, spawner=spawner, config=config, nodes=nodes)
    tasks.append(asyncio.create_task(component.run()))
    await component.node_ready("node-1")
    tell(first_ms=(time.perf_counter() - started) * 1000)
    tell(process_mb=rss_mb() - process_mb, **_kernel_since(kernel_mb))
    await asyncio.to_thread(_connect, place, services, tell)

    async def change(turn: int) -> float:
        item = made.make_slice(turn // 2, (CHANGED,) if turn % 2 == 0 else ())
        began = time.perf_counter()
        written = await api.update(ENDPOINT_SLICE, item)
        await component.settle(revision_of(written))
        return (time.perf_counter() - began) * 1000

    await _repeat(change, tell)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def measure_ours(mode: str, services: int, tell: Callable[..., None], *, legacy: bool = False) -> None:
    with Spawner.start() as spawner, world(spawner) as place:
        if legacy:
            place.run(_LEGACY_RESTORE, _USES_LEGACY)
        asyncio.run(_measure_ours(mode, place, spawner, services, tell))


def measure_tool(
    argv: tuple[str, ...],
    make: Callable[[int, int, str], upstream_rules.Texts],
    services: int,
    tell: Callable[..., None],
) -> None:
    """A tool on the text of everything, and then on the text of one change after the other."""
    everything, changes = make(services, CHANGES, CHANGED)
    with Spawner.start() as spawner, world(spawner) as place:
        kernel_mb = charged_kernel_mb()
        ran = place.run(argv, everything)
        tell(first_ms=ran.took_ms, process_mb=ran.peak_mb, **_kernel_since(kernel_mb))
        _connect(place, services, tell)

        async def change(turn: int) -> float:
            return place.run(argv, changes[turn]).took_ms

        asyncio.run(_repeat(change, tell))


async def _repeat(change: Callable[[int], Awaitable[float]], tell: Callable[..., None]) -> None:
    until = time.perf_counter() + CHANGES_FOR_S
    taken: list[float] = []
    while len(taken) < CHANGES and (not taken or time.perf_counter() < until):
        taken.append(await change(len(taken)))
        tell(change_ms=statistics.median(taken), changes=len(taken))


def _connect(place: World, services: int, tell: Callable[..., None]) -> None:
    last = made.make_service(services - 1)["spec"]["clusterIP"]
    tell(packet_us=place.connect_us(last, made.PORT), direct_us=place.connect_us(DIRECT, made.PORT))


def _kernel_since(before: float | None) -> dict[str, float]:
    now = charged_kernel_mb()
    return {} if now is None or before is None else {"kernel_mb": now - before}


def _make_iptables(services: int, changes: int, changed: str) -> upstream_rules.Texts:
    config = ProxyConfig(mode="iptables", cluster_cidrs=("10.244.0.0/16",))
    return upstream_rules.make_iptables(services, changes, changed, config)


# name: (the feature it needs, what measures it)
WAYS: dict[str, tuple[str, Callable[[int, Callable[..., None]], None]]] = {
    "nftables": ("nft", lambda n, tell: measure_ours("nftables", n, tell)),
    "kube-proxy's nftables by nft -f": (
        "nft",
        lambda n, tell: measure_tool(("nft", "-f", "-"), upstream_rules.make_nft, n, tell),
    ),
    "iptables": ("iptables-nft", lambda n, tell: measure_ours("iptables", n, tell)),
    "iptables, legacy": (
        "iptables-legacy",
        lambda n, tell: measure_ours("iptables", n, tell, legacy=True),
    ),
    "iptables-nft-restore": (
        "iptables-nft",
        lambda n, tell: measure_tool(("iptables-nft-restore", "--noflush"), _make_iptables, n, tell),
    ),
    "iptables-legacy-restore": (
        "iptables-legacy",
        lambda n, tell: measure_tool(_LEGACY_RESTORE, _make_iptables, n, tell),
    ),
    "ipvs": ("ipvs", lambda n, tell: measure_ours("ipvs", n, tell)),
}


def run_way(way: str, services: int, limit_s: float) -> dict[str, Any]:
    """One measurement in a process of its own; its row, with ``stopped_s`` when it was not done by then."""
    row: dict[str, Any] = {"services": services, "way": way}
    argv = [*SANDBOX, sys.executable, "-m", "tests.bench.bench_proxy_modes", "--one", way, "--services", str(services)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        try:
            subprocess.run(
                argv, cwd=folder, stdout=out, timeout=limit_s, check=True, env={**os.environ, "PYTHONPATH": path}
            )
        except subprocess.TimeoutExpired:
            row["stopped_s"] = round(time.perf_counter() - started)
        except subprocess.CalledProcessError as error:
            row["failed"] = f"exit status {error.returncode}"
        out.seek(0)
        for line in out:
            row |= json.loads(line)
    return row


def describe_machine() -> dict[str, Any]:
    versions = {}
    for name in ("nft", "iptables"):
        done = subprocess.run((name, "--version"), capture_output=True, text=True, check=True)
        versions[name] = done.stdout.strip()
    cores = len(os.sched_getaffinity(0))
    return {
        "kernel": platform.release().partition("-")[0],
        "cores": cores,
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--all-sizes", action="store_true", help=f"{ALL_SIZES}; a quarter of an hour")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--limit", type=float, default=300, metavar="S", help="for each measurement")
    parser.add_argument("--save", type=Path, metavar="FILE", help="JSON, for tests.bench.proxy_figures")
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        WAYS[args.one][1](args.services[0], lambda **found: print(json.dumps(found), flush=True))
        return
    features = probe_features()
    rows: list[dict[str, Any]] = []
    load = [os.getloadavg()[0]]
    print("services  way                               first sync    change  first packet  direct  kernel  process")
    for services in ALL_SIZES if args.all_sizes else args.services:
        for way in args.ways:
            state = features[WAYS[way][0]]
            if state.present:
                rows.append(run_way(way, services, args.limit))
            else:
                rows.append({"services": services, "way": way, "missing": f"{state.feature.name}: {state.detail}"})
            show(rows[-1])
            load.append(os.getloadavg()[0])
            if args.save:  # each time: a run that is broken off has not been for nothing
                save(args.save, rows, load)


def save(path: Path, rows: list[dict[str, Any]], load: list[float]) -> None:
    """``load``: the load averages seen while it ran; the bench itself is one, a tool or our process at a time."""
    machine = describe_machine() | {"load": [round(min(load), 1), round(max(load), 1)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "rows": [_rounded(row) for row in rows]}, indent=1) + "\n")


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def show(row: dict[str, Any]) -> None:
    def cell(name: str, width: int, digits: int, unit: str) -> str:
        value = row.get(name)
        return f"{'-' if value is None else f'{value:.{digits}f} {unit}':>{width}}"

    figures = [
        cell("first_ms", 10, 0, "ms"),
        cell("change_ms", 10, 2, "ms"),
        cell("packet_us", 12, 0, "µs"),
        cell("direct_us", 8, 0, "µs"),
        cell("kernel_mb", 8, 1, "MB"),
        cell("process_mb", 8, 0, "MB"),
    ]
    stopped = f"  stopped after {row['stopped_s']} s" if "stopped_s" in row else ""
    stopped += f"  failed: {row['failed']}" if "failed" in row else ""
    stopped += f"  not run: {row['missing']}" if "missing" in row else ""
    print(f"{row['services']:8d}  {row['way']:32s}{''.join(figures)}{stopped}", flush=True)


if __name__ == "__main__":
    main()
