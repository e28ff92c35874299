"""What tests of faults need: the modes, what each holds in the kernel, and what a fresh proxy would hold there."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.informerset import InformerSet
from netsim.kernel.netns import Netns
from netsim.kernel.process import Process, Spawner
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError, TimeoutExpired
from netsim.model.kinds import ENDPOINT_SLICE, NAMESPACE, NODE, SERVICE
from netsim.model.objects import Object, copy_object
from netsim.store.store import Store
from netsim.testing.waiting import wait_until
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import ProxyConfig
from proxy.ipvs.target import IpvsTarget
from tests.kernel.proxy.node import GATEWAY, NODE_IP, SLOWNESS, RealNode
from tests.kernel.proxy.test_nft_rules import normal, read_table
from tests.kernel.proxy.test_program import listening, start
from tests.kernel.proxy.test_rules import read_tables


def _read_ipvs(ns: Netns, spawner: Spawner) -> Any:
    found = asyncio.run(IpvsTarget(ns, spawner, ProxyConfig(mode="ipvs"), backend="nft").look(4))
    servers = {key: (virtual, set(reals)) for key, (virtual, reals) in found.servers.items()}
    return {"tables": found.tables, "sets": found.sets, "servers": servers, "addresses": found.addresses}


@dataclass(frozen=True, slots=True)
class Mode:
    """``read``: what the mode wrote, without counters and what depends on the way there. ``flush``: what takes it away,
    nft commands or a program.
    """

    name: str
    read: Callable[[Netns, Spawner], Any]
    flush: tuple[str, ...]

    @property
    def config(self) -> ProxyConfig:
        """The check for flushed rules runs often. A change must not need it: other tests see to that."""
        return ProxyConfig(
            mode=self.name,
            cluster_cidrs=("10.244.0.0/16",),
            service_cidrs=("10.96.0.0/12",),
            sync_period_s=0.2,
            healthz_bind_address="",
            metrics_bind_address="",
        )


# Each thing that the ipvs mode keeps outside of netfilter, taken away with the tool that people have.
IPVS_LOSSES = ("ipvsadm -C", "ip link delete kube-ipvs0", "ip address flush dev kube-ipvs0", "ipset flush")

MODES = {
    mode.name: mode
    for mode in (
        Mode("iptables", read_tables, ("flush ruleset", "flush table ip nat", "flush table ip filter")),
        Mode(
            "nftables",
            lambda ns, _spawner: normal(read_table(ns)),
            ("flush ruleset", "delete table ip kube-proxy", "flush table ip kube-proxy"),
        ),
        Mode("ipvs", _read_ipvs, ("flush ruleset", *IPVS_LOSSES)),
    )
}
NEEDS = {"iptables": ("command:iptables-nft-restore",), "nftables": (), "ipvs": ("ipvs", "dummy", "ipset")}
each_mode = pytest.mark.parametrize(
    "mode", [pytest.param(mode, id=name, marks=pytest.mark.needs(*NEEDS[name])) for name, mode in MODES.items()]
)


async def put(api: Api, obj: Object) -> None:
    """Create or replace a Service with its status, an EndpointSlice, or the Node."""
    obj = copy_object(obj)
    kind = NODE if obj.get("kind") == "Node" else ENDPOINT_SLICE if "endpoints" in obj else SERVICE
    meta, status = obj["metadata"], obj.pop("status", None)
    obj |= {"apiVersion": kind.api_version, "kind": kind.kind}
    try:
        known = await api.get(kind, meta["name"], meta.get("namespace"))
    except ApiError as error:
        if error.code != 404:
            raise
        await api.create(kind, obj)
    else:
        await api.update(kind, obj | {"metadata": meta | {"resourceVersion": known["metadata"]["resourceVersion"]}})
    if status is not None:
        await api.patch(kind, meta["name"], {"status": status}, meta.get("namespace"), subresource="status")


async def remove(api: Api, kind: Any, name: str) -> None:
    try:
        await api.delete(kind, name, "ns")
    except ApiError as error:
        if error.code != 404:
            raise


def make_node_object(zone: str, address: str) -> Object:
    meta = {"name": "node-1", "labels": {"topology.kubernetes.io/zone": zone}}
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": status}


def read_fresh(node: RealNode, mode: Mode, address: str = NODE_IP) -> Any:
    """What a proxy writes that was never there before, into a namespace that has the node's addresses."""
    ns = Netns.create("fresh")
    config = replace(node.config, sync_period_s=30.0)

    async def run() -> None:
        informers = InformerSet(node.api)
        proxy = ProxyComponent(
            informers=informers,
            spawner=node.spawner,
            config=config,
            nodes=[NodeProxy("node-1", ns, (address,))],
        )
        tasks = [asyncio.create_task(informers.run()), asyncio.create_task(proxy.run())]
        try:
            await proxy.settle(node.server.revision())
            assert proxy.summary()["fullSyncs"] == 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    try:
        links = "".join(
            f"link add {name} type bridge\naddr add {ip} dev {name}\nlink set {name} up\n"
            for name, ip in (("cni0", f"{GATEWAY}/24"), ("eth0", f"{NODE_IP}/16"))
        )
        node.run(ns, "ip", "-batch", "-", input=links)
        node.call(run())
        return mode.read(ns, node.spawner)
    finally:
        ns.close()


def assert_like_fresh(node: RealNode, mode: Mode, address: str = NODE_IP) -> None:
    """What the node's kernel holds is, or within seconds becomes, what a fresh proxy would write."""
    fresh = read_fresh(node, mode, address)
    try:
        wait_until("the rules of a fresh proxy", lambda: mode.read(node.node, node.spawner) == fresh, 10 * SLOWNESS)
    except TimeoutExpired:  # pytest shows the difference
        assert mode.read(node.node, node.spawner) == fresh
        raise


class ProgramNode(RealNode):
    """A node whose proxy is the program, which may be killed and started again; the API may be away."""

    def __init__(self, spawner: Spawner, mode: Mode, folder: Path) -> None:
        super().__init__(spawner, mode.config)  # its service network is that of the API's ServiceCIDR
        self.mode, self.folder = mode, folder
        self.process: Process | None = None
        self._log: BinaryIO = (folder / "log").open("wb")
        self._listening = AsyncExitStack()

    async def _start(self) -> None:
        self.server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        self.api = Api(self.server.transport())
        await self.api.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
        await put(self.api, make_node_object("z1", NODE_IP))
        await self._open()

    async def _stop(self) -> None:
        if self.process is not None:
            await self._kill(9)
        await self._listening.aclose()
        self._log.close()

    async def _open(self) -> None:
        await self._listening.enter_async_context(listening(self.server, self.folder))

    async def _kill(self, signal: int) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.kill(signal)
        return await process.wait()

    def launch(self) -> None:
        flags = ("--proxy-mode", self.mode.name, "--bind-address", "0.0.0.0", "--healthz-bind-address", "")
        self.process = self.call(start(self.spawner, self.node, self.folder, self._log.fileno(), *flags))

    def kill(self, signal: int) -> int:
        return int(self.call(self._kill(signal)))

    def api_away(self) -> None:
        self.call(self._listening.aclose())

    def api_back(self) -> None:
        self.call(self._open())

    def words(self) -> str:
        """What the program said so far."""
        return (self.folder / "log").read_text()


class Burst:
    """Changes of many Services and slices, batch after batch, for as long as it lasts."""

    def __init__(self, node: ProgramNode, make: Callable[[random.Random], list[Object]], chance: random.Random) -> None:
        self._node, self._make, self._chance = node, make, chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    def _run(self) -> None:
        async def work(objects: list[Object]) -> None:
            for obj in objects:
                await put(self._node.api, obj)

        try:
            while not self._stop.is_set():
                self._node.call(work(self._make(self._chance)))
                time.sleep(0.01)  # the pace of the changes; nothing waits for it
        except BaseException as error:  # told by __exit__
            self.error = error

    def __enter__(self) -> "Burst":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None, self.error
