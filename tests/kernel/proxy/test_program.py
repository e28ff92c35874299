"""``netsim-proxy`` as a program, in a node's namespace, against an API server on a unix socket."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import serve
from netsim.client.api import Api
from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import Process, ProcessSpec, Spawner
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.kinds import ENDPOINT_SLICE, NAMESPACE, NODE, SERVICE
from netsim.model.objects import Object
from netsim.store.store import Store
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore")

BACKENDS: tuple[Backend, ...] = ("nft", "legacy")
PROGRAM = (sys.executable, "-m", "proxy.main")


@asynccontextmanager
async def listening(server: ApiServer, folder: Path) -> AsyncIterator[None]:
    """The API server on ``folder``/api.sock, with a kubeconfig beside it, for as long as this lasts."""
    path = folder / "api.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    runner = await serve(server, unix_socket=listener, tcp_socket=None, tls=None)
    config = {
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"unix://{path}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield
    finally:
        await runner.close()


async def create(api: Api, *objects: Object) -> None:
    for obj in objects:
        kind = ENDPOINT_SLICE if "endpoints" in obj else SERVICE
        await api.create(kind, {"apiVersion": kind.api_version, "kind": kind.kind} | obj)


async def set_up(api: Api) -> None:
    await api.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
    await api.create(NODE, node)
    status = {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]}
    await api.patch(NODE, "node-1", {"status": status}, subresource="status")
    await create(api, make_service(ip="10.96.0.77"), make_slice([make_endpoint("10.244.1.2")]))


async def start(spawner: Spawner, ns: Netns, folder: Path, log: int, *more: str) -> Process:
    flags = ("--kubeconfig", str(folder / "kubeconfig"), "--node-name", "node-1", "--cluster-cidr", "10.244.0.0/16")
    argv = (*PROGRAM, *flags, "--iptables-min-sync-period", "0", "-v", *more)
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3])}
    spec = ProcessSpec(argv, netns=ns, env=environment)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return await spawner.spawn(spec, stdin=null, stdout=null, stderr=log)
    finally:
        os.close(null)


def children_of(process: Process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


async def until(what: str, done: Callable[[], bool]) -> None:
    for _ in range(400):
        if await asyncio.to_thread(done):
            return
        await asyncio.sleep(0.025)
    raise AssertionError(f"{what}: not within 10 s")


def test_the_program_follows_the_api_survives_its_absence_and_leaves_its_rules(
    spawner: Spawner, tmp_path: Path
) -> None:
    ns = Netns.create("node-1")
    tool = Iptables(ns, spawner)

    def has(text: str) -> Callable[[], bool]:
        return lambda: text in tool.save()

    async def run() -> None:
        with (tmp_path / "log").open("wb") as log:
            server = ApiServer(Store(tmp_path / "store.db"), ClusterConfig(), SystemClock())
            api = Api(server.transport())
            await set_up(api)
            async with listening(server, tmp_path):
                process = await start(spawner, ns, tmp_path, log.fileno())
                await until("the first rules", has("--to-destination 10.244.1.2:8080"))
                item = make_slice([make_endpoint("10.244.1.3")])
                await api.patch(ENDPOINT_SLICE, item["metadata"]["name"], {"endpoints": item["endpoints"]}, "ns")
                await until("the change", has("--to-destination 10.244.1.3:8080"))
                for proxy, seen in (("another", False), (None, True)):  # with the label the server tells of it no more
                    labels = {"service.kubernetes.io/service-proxy-name": proxy}
                    await api.patch(SERVICE, "web", {"metadata": {"labels": labels}}, "ns")
                    await until(f"a Service of proxy {proxy}", lambda seen=seen: has("10.96.0.77")() is seen)
            await create(api, make_service("late", "10.96.0.78"))  # while nobody listens
            async with listening(server, tmp_path):
                await until("the change after the server's return", has("10.96.0.78"))
            for child in children_of(process):  # to all processes, as systemd does it
                os.kill(child, signal.SIGTERM)
            process.kill(signal.SIGTERM)
            assert await process.wait() == 0, (tmp_path / "log").read_text()
        assert has("--to-destination 10.244.1.3:8080")()

    try:
        asyncio.run(run())
        for _ in range(2):  # twice must be clean
            spec = ProcessSpec((*PROGRAM, "--cleanup"), netns=ns, cwd=str(Path(__file__).parents[3]))
            done = spawner.run_blocking(spec)
            assert (done.returncode, done.stderr) == (0, b"")
            assert "KUBE" not in tool.save()
    finally:
        ns.close()


def test_it_ends_with_the_process_that_starts_programs_for_it(spawner: Spawner, tmp_path: Path) -> None:
    """That is no likelier to be killed for want of memory than the proxy itself."""
    ns = Netns.create("node-1")

    async def run() -> None:
        with (tmp_path / "log").open("wb") as log:
            server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
            await set_up(Api(server.transport()))
            async with listening(server, tmp_path):
                process = await start(spawner, ns, tmp_path, log.fileno(), "--oom-score-adj", "7")
                await until("the first rules", lambda: "10.96.0.77" in Iptables(ns, spawner).save())
                (child,) = children_of(process)
                assert [Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in (process.pid, child)] == ["7\n"] * 2
                os.kill(child, signal.SIGKILL)
                async with asyncio.timeout(10):
                    assert await process.wait() == 1
        assert "has ended" in (tmp_path / "log").read_text().splitlines()[-2]

    try:
        asyncio.run(run())
    finally:
        ns.close()


@pytest.mark.needs("iptables-legacy")
@pytest.mark.parametrize(
    ("nft", "legacy", "used"),
    [
        ("", "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n", "legacy"),
        ("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n", "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n", "nft"),
        ("", "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n", "legacy"),
    ],
)
def test_rules_go_where_the_node_has_its_own(
    tmp_path: Path, spawner: Spawner, nft: str, legacy: str, used: Backend
) -> None:
    ns = Netns.create("node-1")
    tools: dict[Backend, Iptables] = {name: Iptables(ns, spawner, backend=name) for name in BACKENDS}
    for name, text in zip(BACKENDS, (nft, legacy), strict=True):
        if text:
            tools[name].restore(text.encode())

    async def run() -> None:
        with (tmp_path / "log").open("wb") as log:
            server = ApiServer(Store(tmp_path / "store.db"), ClusterConfig(), SystemClock())
            await set_up(Api(server.transport()))
            async with listening(server, tmp_path):
                process = await start(spawner, ns, tmp_path, log.fileno())
                await until("the rules", lambda: "10.244.1.2:8080" in tools[used].save())
            process.kill(signal.SIGTERM)
            assert await process.wait() == 0

    try:
        asyncio.run(run())
        assert "KUBE-SERVICES" not in tools[choose_other(used)].save()
        assert f"iptables-{used} is used" in (tmp_path / "log").read_text()
    finally:
        for tool in tools.values():
            tool.close()
        ns.close()


def choose_other(backend: Backend) -> Backend:
    return "legacy" if backend == "nft" else "nft"


def test_wrong_usage_is_one_line_and_status_2() -> None:
    done = subprocess.run(
        [*PROGRAM, "--proxy-mode", "userspace", "--kubeconfig", "k", "--node-name", "n"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 2
    assert done.stderr.startswith('netsim-proxy: mode: "userspace" is no proxy mode')
    assert "Traceback" not in done.stderr
