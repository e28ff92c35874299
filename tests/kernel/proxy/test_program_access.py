"""``netsim-proxy`` over HTTPS with a client certificate, by a configuration file, with its own health servers."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web

from netsim.apiserver.certificates import make_certificates, write_kubeconfig
from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import serve
from netsim.client.api import Api
from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.sysctl import read_sysctl
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.kinds import NODE
from netsim.store.store import Store
from proxy.health.servers import open_listener
from proxy.kernelsettings import ROUTE_LOCALNET
from tests.kernel.proxy.test_health import fetch, status_of
from tests.kernel.proxy.test_program import PROGRAM, create, listening, set_up, until
from tests.kernel.proxy.test_switch import has_nft_table
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore")

CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16
hostnameOverride: node-1
clientConnection: {{kubeconfig: {kubeconfig}}}
healthzBindAddress: 127.0.0.1:1256
metricsBindAddress: 127.0.0.1
conntrack: {{tcpEstablishedTimeout: 2h, udpTimeout: 7s}}
"""
ROOT = str(Path(__file__).parents[3])


@pytest.fixture
def ns() -> Iterator[Netns]:
    made = Netns.create("node-1")
    yield made
    made.close()


def test_https_with_a_client_certificate_and_everything_from_a_file(
    ns: Netns, spawner: Spawner, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(CONFIG.format(kubeconfig=tmp_path / "kubeconfig"))

    async def run() -> None:
        server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        await set_up(Api(server.transport()))
        listener = ns.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        tls = make_certificates(tmp_path / "pki")
        write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{listener.getsockname()[1]}", "c", tls)
        runner = await serve(server, unix_socket=None, tcp_socket=listener, tls=tls)
        null = os.open(os.devnull, os.O_RDWR)
        with (tmp_path / "log").open("wb") as log:
            spec = ProcessSpec((*PROGRAM, "--config", str(config), "-v=2"), netns=ns, cwd=ROOT)
            process = await spawner.spawn(spec, stdin=null, stdout=null, stderr=log.fileno())
        os.close(null)
        try:
            tool = Iptables(ns, spawner)
            await until("the rules", lambda: "--to-destination 10.244.1.2:8080" in tool.save())
            await until("the health server", lambda: status_of(ns, "127.0.0.1", 1256, "/healthz") == 200)
            await until("the metrics server", lambda: fetch(ns, "127.0.0.1", 10249, "/proxyMode") is not None)
            answer = await asyncio.to_thread(fetch, ns, "127.0.0.1", 10249, "/metrics")
            assert answer is not None
            assert b"kubeproxy_sync_full_proxy_rules_duration_seconds_count" in answer[2]
            assert read_sysctl(ns, "net.netfilter.nf_conntrack_tcp_timeout_established") == "7200"
            assert read_sysctl(ns, "net.netfilter.nf_conntrack_udp_timeout") == "7"
        finally:
            process.kill(signal.SIGTERM)
            assert await process.wait() == 0, (tmp_path / "log").read_text()
            await runner.close()

    asyncio.run(run())


def test_init_only_sets_what_needs_privileges_and_writes_no_rule(ns: Netns, spawner: Spawner) -> None:
    flags = ("--init-only", "--node-name", "node-1", "--conntrack-tcp-be-liberal")
    done = spawner.run_blocking(ProcessSpec((*PROGRAM, *flags), netns=ns, cwd=ROOT))
    assert (done.returncode, done.stderr) == (0, b"")
    assert read_sysctl(ns, "net.ipv4.conf.all.route_localnet") == "1"
    assert read_sysctl(ns, "net.netfilter.nf_conntrack_tcp_be_liberal") == "1"
    assert "KUBE" not in Iptables(ns, spawner).save()


@pytest.mark.needs("ipv6")
@pytest.mark.parametrize("flags", [(), ("--cluster-cidr", "10.244.0.0/16")])
def test_both_families_of_a_node_are_served_without_a_cidr_of_each(
    spawner: Spawner, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """As upstream's."""
    ns = Netns.create("node-1", ipv6=True)
    networks = (IPv4Network("10.96.0.0/12"), IPv6Network("fd00:10:96::/112"))
    cluster = ClusterConfig(
        service_cidrs=networks, pod_cidrs=(IPv4Network("10.244.0.0/16"), IPv6Network("fd00:10:244::/56"))
    )

    tool = Iptables(ns, spawner)

    def served() -> bool:
        return has_rules(tool) and "--to-destination [fd00:10:244::2]:8080" in tool.save(family=6)

    async def run() -> None:
        server = ApiServer(Store(":memory:"), cluster, SystemClock())
        api = Api(server.transport())
        await set_up(api)
        addresses = [{"type": "InternalIP", "address": ip} for ip in ("172.18.0.2", "fd00::2")]
        await api.patch(NODE, "node-1", {"status": {"addresses": addresses}}, subresource="status")
        six = make_service("six", "fd00:10:96::77", ipFamilies=["IPv6"], ipFamilyPolicy="SingleStack")
        await create(api, six, make_slice([make_endpoint("fd00:10:244::2")], "six", addressType="IPv6"))
        async with listening(server, tmp_path):
            await run_in_mode(ns, spawner, tmp_path, "iptables", served, *flags)

    try:
        asyncio.run(run())
    finally:
        ns.close()


def test_it_asks_for_its_own_node_and_for_what_is_for_a_proxy_alone(
    ns: Netns, spawner: Spawner, tmp_path: Path
) -> None:
    """Else each of a thousand proxies would hear what each of a thousand Nodes says, and of every headless Service."""
    asked: list[str] = []
    node = {"metadata": {"name": "node-1"}, "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]}}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path_qs)
        if request.path.endswith("/nodes/node-1"):
            return web.json_response(node)
        if "watch" not in request.query:
            return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})
        return web.Response(text="")  # a watch that ends at once

    async def run() -> None:
        fake = web.Server(answer)
        async with listening(ApiServer(Store(":memory:"), ClusterConfig(), SystemClock()), tmp_path):
            pass  # the kubeconfig stays
        (tmp_path / "api.sock").unlink()
        listener = await asyncio.get_running_loop().create_unix_server(fake, str(tmp_path / "api.sock"))

        def lists(resource: str) -> list[str]:
            return [unquote(url) for url in asked if url.partition("?")[0].endswith(f"/{resource}")]

        of = {
            "nodes": "fieldSelector=metadata.name=node-1",
            "services": "labelSelector=!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless",
        }
        of["endpointslices"] = of["services"]
        await run_in_mode(ns, spawner, tmp_path, "iptables", lambda: all(len(lists(what)) >= 2 for what in of))
        listener.close()
        await fake.shutdown(1)
        for what, selector in of.items():
            assert all(selector in url for url in lists(what)), lists(what)
            assert any("watch=true" in url for url in lists(what))

    asyncio.run(run())


READ_ONLY = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'


@pytest.mark.needs("command:unshare", "command:mount")
def test_after_that_the_proxy_needs_no_writable_sysctls(ns: Netns, spawner: Spawner, tmp_path: Path) -> None:
    """As in a container without privileges, where /proc/sys is read-only."""
    confined = ("unshare", "-m", "sh", "-c", READ_ONLY, "sh")

    async def run() -> None:
        server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        await set_up(Api(server.transport()))
        flags = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--node-name", "node-1", "-v")
        tool = Iptables(ns, spawner)
        null = os.open(os.devnull, os.O_RDWR)
        async with listening(server, tmp_path):
            done = await spawner.run(ProcessSpec((*confined, *PROGRAM, "--init-only", *flags), netns=ns, cwd=ROOT))
            assert done.returncode == 1
            assert b"route_localnet=1: Read-only file system" in done.stderr
            done = await spawner.run(ProcessSpec((*PROGRAM, "--init-only", *flags), netns=ns, cwd=ROOT))
            assert done.returncode == 0, done.stderr
            with (tmp_path / "log").open("wb") as log:
                spec = ProcessSpec((*confined, *PROGRAM, *flags), netns=ns, cwd=ROOT)
                process = await spawner.spawn(spec, stdin=null, stdout=null, stderr=log.fileno())
            try:
                await until("the rules", lambda: "--to-destination 10.244.1.2:8080" in tool.save())
            finally:
                process.kill(signal.SIGTERM)
                assert await process.wait() == 0, (tmp_path / "log").read_text()
        os.close(null)

    asyncio.run(run())


def test_a_taken_port_ends_the_program_where_asked(ns: Netns, spawner: Spawner, tmp_path: Path) -> None:
    async def run() -> None:
        server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        await set_up(Api(server.transport()))
        flags = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--node-name", "node-1", "--bind-address-hard-fail")
        with open_listener(ns, "127.0.0.1", 10249):
            async with listening(server, tmp_path):
                done = await spawner.run(ProcessSpec((*PROGRAM, *flags), netns=ns, cwd=ROOT), timeout_s=20)
        words = done.stderr.decode()
        assert done.returncode == 1, words
        assert "netsim-proxy: node-1: cannot listen on 127.0.0.1:10249: Address already in use" in words
        assert "Traceback" not in words

    asyncio.run(run())


async def run_in_mode(
    ns: Netns, spawner: Spawner, folder: Path, mode: str, done: Callable[[], bool], *more: str
) -> None:
    """The program in a mode, until its work is done."""
    null = os.open(os.devnull, os.O_RDWR)
    flags = ("--kubeconfig", str(folder / "kubeconfig"), "--node-name", "node-1", "--proxy-mode", mode, "-v", *more)
    with (folder / "log").open("wb") as log:
        spec = ProcessSpec((*PROGRAM, *flags), netns=ns, cwd=ROOT)
        process = await spawner.spawn(spec, stdin=null, stdout=null, stderr=log.fileno())
    os.close(null)
    try:
        await until(f"{mode} alone", done)
    finally:
        process.kill(signal.SIGTERM)
        assert await process.wait() == 0, (folder / "log").read_text()


def has_rules(tool: Iptables) -> bool:
    return "--to-destination 10.244.1.2:8080" in tool.save()


@pytest.mark.needs("nft")
def test_the_rules_of_another_mode_go_once_its_own_are_there(ns: Netns, spawner: Spawner, tmp_path: Path) -> None:
    """A node whose proxy is started in another mode, as after a change of the DaemonSet."""
    tool = Iptables(ns, spawner)

    async def run() -> None:
        server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        await set_up(Api(server.transport()))
        async with listening(server, tmp_path):
            place = (ns, spawner, tmp_path)
            await run_in_mode(*place, "iptables", lambda: has_rules(tool))
            assert read_sysctl(ns, ROUTE_LOCALNET) == "1"
            await run_in_mode(*place, "nftables", lambda: "KUBE" not in tool.save() and has_nft_table(ns))
            assert read_sysctl(ns, ROUTE_LOCALNET) == "0"  # the rule that guarded it went too (CVE-2020-8558)
            await run_in_mode(*place, "iptables", lambda: has_rules(tool) and not has_nft_table(ns))

    asyncio.run(run())


@pytest.mark.needs("nft")
def test_they_go_also_where_the_first_attempt_fails(ns: Netns, spawner: Spawner, tmp_path: Path) -> None:
    tool = Iptables(ns, spawner)

    def alone() -> bool:
        if "writing the proxy's rules failed" in (tmp_path / "log").read_text():
            tool.restore(b"*nat\n:MINE - [0:0]\n-X MINE\nCOMMIT\n")  # now it may succeed
        return has_rules(tool) and not has_nft_table(ns)

    async def run() -> None:
        server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        await set_up(Api(server.transport()))
        async with listening(server, tmp_path):
            await run_in_mode(ns, spawner, tmp_path, "nftables", lambda: has_nft_table(ns))
            # Somebody's rule leads to a stale chain, which so can't be deleted.
            stale = b"*nat\n:MINE - [0:0]\n:KUBE-SEP-STALE - [0:0]\n-A MINE -j KUBE-SEP-STALE\nCOMMIT\n"
            tool.restore(stale)
            await run_in_mode(ns, spawner, tmp_path, "iptables", alone, "--iptables-sync-period", "1s")
        assert "writing the proxy's rules failed" in (tmp_path / "log").read_text()

    asyncio.run(run())
