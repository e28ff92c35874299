"""A node of real namespaces for the proxy: a bridge with three pods, an external host, and a proxy that runs.

    external 203.0.113.5 --- eth0 172.18.0.2 node cni0 10.244.1.1/24 --- pod-1..3 10.244.1.2..4

The external host is its own router. Each pod answers on TCP and UDP 8080 with its name and whom it saw.
"""

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.informerset import InformerSet
from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.sysctl import write_sysctls
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.kinds import ENDPOINT_SLICE, NAMESPACE, NODE, SERVICE
from netsim.model.objects import Object
from netsim.store.store import Store
from netsim.testing.waiting import wait_until
from proxy.component import NodeProxy, ProxyComponent
from proxy.config import ProxyConfig

NODE_IP, GATEWAY, EXTERNAL_IP = "172.18.0.2", "10.244.1.1", "203.0.113.5"
PODS = {"pod-1": "10.244.1.2", "pod-2": "10.244.1.3", "pod-3": "10.244.1.4"}
FAILURES = ("refused", "silence")
SLOWNESS = 5.0 if os.environ.get("NETSIM_IN_VM") else 1.0  # of this machine: software emulation
SILENCE_S = 0.8 * SLOWNESS  # less than the second after which a SYN is sent again, more than a busy machine needs
PATIENCE_S = 10.0 * SLOWNESS  # for that of a program, which a busy machine lets wait


class Responder:
    """The pods' servers: each answers ``NAME CLIENT``, over TCP at once and over UDP for each datagram."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def serve(self, ns: Netns, name: str) -> None:
        for kind, work in ((socket.SOCK_STREAM, self._serve_tcp), (socket.SOCK_DGRAM, self._serve_udp)):
            server = ns.socket(socket.AF_INET, kind)
            server.bind(("0.0.0.0", 8080))
            self._sockets.append(server)
            thread = threading.Thread(target=work, args=(server, name), daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        for server in self._sockets:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
        for thread in self._threads:
            thread.join()
        for server in self._sockets:
            server.close()

    @staticmethod
    def _serve_tcp(server: socket.socket, name: str) -> None:
        server.listen(64)
        while True:
            try:
                connection, client = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(f"{name} {client[0]}".encode())

    @staticmethod
    def _serve_udp(server: socket.socket, name: str) -> None:
        while True:
            try:
                data, client = server.recvfrom(100)
            except OSError:
                return
            if not data and client is None:  # shut down
                return
            with contextlib.suppress(OSError):
                server.sendto(f"{name} {client[0]}".encode(), client)


class RealNode:
    """Namespaces, rules, and an API server to change them by."""

    def __init__(self, spawner: Spawner, config: ProxyConfig) -> None:
        self.spawner = spawner
        self.node = Netns.create("node-1")
        self.external = Netns.create("external")
        self.pods = {name: Netns.create(name) for name in PODS}
        self.responder = Responder()
        self.config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._build()
        for name, ns in self.pods.items():
            self.responder.serve(ns, name)
        # A bridge port forwards when the kernel has noticed its link, which may be after the first packet.
        wait_until(
            "the pods answer", lambda: all(ask(self.node, ip, 8080) not in FAILURES for ip in PODS.values()), PATIENCE_S
        )
        self._thread.start()
        self.call(self._start())

    def close(self) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.responder.close()
        for ns in (self.node, self.external, *self.pods.values()):
            ns.close()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30 * SLOWNESS)

    async def _start(self) -> None:
        self.server = ApiServer(Store(":memory:"), ClusterConfig(), SystemClock())
        self.api = Api(self.server.transport())
        informers = InformerSet(self.api)
        self.proxy = ProxyComponent(
            informers=informers,
            spawner=self.spawner,
            config=self.config,
            api=self.api,
            nodes=[NodeProxy("node-1", self.node, (NODE_IP,))],
        )
        self._tasks = [asyncio.create_task(informers.run()), asyncio.create_task(self.proxy.run())]
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}
        await self.api.create(NAMESPACE, namespace)
        await self.proxy.node_ready("node-1")

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- objects ---

    def put(self, *objects: Object) -> None:
        """Create or replace objects, and return when the rules are in the kernel."""
        self.call(self._put(objects))

    async def _put(self, objects: tuple[Object, ...]) -> None:
        for obj in objects:
            kind = ENDPOINT_SLICE if "endpoints" in obj else SERVICE
            meta = obj["metadata"]
            known = {o["metadata"]["name"] for o in (await self.api.list(kind, "ns")).items}
            body = {key: value for key, value in obj.items() if key not in ("metadata", "status")}
            if meta["name"] in known:
                await self.api.patch(kind, meta["name"], body, "ns")
            else:
                await self.api.create(
                    kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta} | body
                )
        await self.proxy.settle(self.server.revision())

    def delete(self, service: str) -> None:
        async def work() -> None:
            await self.api.delete(SERVICE, service, "ns")
            await self.proxy.settle(self.server.revision())

        self.call(work())

    def status(self, service: str, status: Object) -> None:
        """What a load balancer writes into a Service."""

        async def work() -> None:
            await self.api.patch(SERVICE, service, {"status": status}, "ns", subresource="status")
            await self.proxy.settle(self.server.revision())

        self.call(work())

    def rebuild(self) -> None:
        """Have the proxy write everything again, by moving the node to another zone. Once for each node."""

        async def work() -> None:
            meta = {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "elsewhere"}}
            await self.api.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": meta})
            await self.proxy.settle(self.server.revision())

        self.call(work())

    # --- kernel ---

    def iptables(self, ns: Netns | None = None) -> Iptables:
        return Iptables(ns or self.node, self.spawner)

    def run(self, ns: Netns, *argv: str, input: str = "") -> str:
        done = self.spawner.run_blocking(ProcessSpec(argv, netns=ns), input=input.encode())
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def _build(self) -> None:
        def path(ns: Netns) -> str:
            return f"/proc/{os.getpid()}/fd/{ns.fd}"

        lines = ["link add cni0 type bridge", f"addr add {GATEWAY}/24 dev cni0", "link set cni0 up"]
        for number, (name, _ip) in enumerate(PODS.items(), 1):
            lines.append(f"link add veth{number} type veth peer name eth0 netns {path(self.pods[name])}")
            lines.append(f"link set veth{number} master cni0 up")
            lines.append(f"link set veth{number} type bridge_slave hairpin on")
        lines += [
            f"link add eth0 type veth peer name eth0 netns {path(self.external)}",
            f"addr add {NODE_IP}/16 dev eth0",
            "link set eth0 up",
            "route add default via 172.18.0.1",
        ]
        self.run(self.node, "ip", "-batch", "-", input="\n".join(lines) + "\n")
        for name, ip in PODS.items():
            lines = [f"addr add {ip}/24 dev eth0", "link set eth0 up", f"route add default via {GATEWAY}"]
            self.run(self.pods[name], "ip", "-batch", "-", input="\n".join(lines) + "\n")
        lines = ["addr add 172.18.0.1/16 dev eth0", f"addr add {EXTERNAL_IP}/32 dev lo", "link set eth0 up"]
        lines += [f"route add {net} via {NODE_IP} src {EXTERNAL_IP}" for net in ("10.96.0.0/12", "192.0.2.0/24")]
        lines += [f"route replace {NODE_IP}/32 dev eth0 src {EXTERNAL_IP}"]
        self.run(self.external, "ip", "-batch", "-", input="\n".join(lines) + "\n")
        write_sysctls(self.node, {"net.ipv4.ip_forward": 1, "net.bridge.bridge-nf-call-iptables": 1})


def ask(ns: Netns, address: str, port: int, *, kind: int = socket.SOCK_STREAM, client: Any = None) -> str:
    """``NAME CLIENT`` as a pod answered; ``refused`` or ``silence``."""
    sock = client or ns.socket(socket.AF_INET, kind)
    try:
        sock.settimeout(SILENCE_S)
        sock.connect((address, port))
        if sock.type == socket.SOCK_DGRAM:
            sock.send(b"?")
        else:
            sock.settimeout(PATIENCE_S)  # it is connected: the rest is the program's
        return str(sock.recv(100).decode())
    except (ConnectionRefusedError, PermissionError):  # EPERM: refused in the sender's own OUTPUT chain
        return "refused"
    except TimeoutError:
        return "silence"
    finally:
        if client is None:
            sock.close()


def knock(ns: Netns, address: str, port: int) -> str:
    """What the pod said, however busy the machine is; ``refused``, or ``lost N``: so many packets had to be sent again.

    The kernel answers packets without waiting for any program, so that one sent again met rules that dropped it.
    """
    with ns.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect((address, port))
            answer = sock.recv(100).decode()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"
        info = struct.unpack("8B24I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104))
        lost = info[-1]  # tcpi_total_retrans, linux/tcp.h
        return f"lost {lost}" if lost else answer


@contextlib.contextmanager
def real_node(spawner: Spawner, config: ProxyConfig | None = None) -> Iterator[RealNode]:
    node = RealNode(spawner, config or ProxyConfig(cluster_cidrs=("10.244.0.0/16",)))
    node.start()
    try:
        yield node
    finally:
        node.close()
