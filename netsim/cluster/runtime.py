"""The cluster, running: every component in one event loop, wired to one API server.

Start-up, in the order data flows: store and API, fabric, control loops, then nodes join one by one (as a kubelet joins
a real cluster: the Node object first, its pod CIDR comes from a control loop, its network follows, then it is Ready),
cluster DNS, and at last the barrier.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import serve
from netsim.client.api import Api
from netsim.client.controller import Component
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.cluster.barrier import Barrier
from netsim.cluster.control import ControlServer
from netsim.cluster.faulting import Faulting
from netsim.cluster.launch import Launch
from netsim.cluster.namespaces import NamespaceRegistry
from netsim.cluster.network import choose_node_addresses, plan_fabric
from netsim.cluster.node_network import NodeNetwork
from netsim.cluster.places import Places
from netsim.cluster.readiness import check_ready, explain_unready
from netsim.cluster.report import Report
from netsim.cluster.site import Site
from netsim.cluster.state import StateDir, explain_os_error
from netsim.cluster.status import Status, is_ready
from netsim.controllers.manager import make_controllers
from netsim.controllers.nodelifecycle import NodeLifecycleController
from netsim.dns.component import DnsComponent
from netsim.dns.manifests import make_manifests
from netsim.kernel.netns import Netns, switch_ipv6
from netsim.kernel.process import Spawner
from netsim.kubelet.component import KubeletComponent, NodeRuntime
from netsim.kubelet.responder import Responder
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig, parse_config
from netsim.model.errors import ApiError, NetsimError
from netsim.model.kinds import NODE, POD, kind_of
from netsim.model.names import EXTERNAL, FABRIC
from netsim.model.objects import Object, name_of, namespace_of
from netsim.scheduler.component import Scheduler
from netsim.store.store import Store
from proxy.component import NodeProxy, ProxyComponent

log = logging.getLogger(__name__)
READY_TIMEOUT_S = 60.0


def run_cluster(orders: Launch, state: StateDir, report: Report, spawner: Spawner, responder: Responder) -> None:
    """The rest of the cluster process' life."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(Runtime(orders, state, report, spawner, responder).run())


class Runtime:
    """Owns the components and the tasks they run in."""

    def __init__(self, orders: Launch, state: StateDir, report: Report, spawner: Spawner, responder: Responder) -> None:
        self._orders = orders
        self._state = state
        self._report = report
        self._responder = responder
        self.config: ClusterConfig = parse_config(orders.config)
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._orphaned = False
        self._store: Store | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.namespaces = NamespaceRegistry()
        self.spawner = spawner

    async def run(self) -> None:
        """Start, tell the launcher, and stay until told to stop. Ends the process when a component fails."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if self._orders.owner_fd >= 0:
            loop.add_reader(self._orders.owner_fd, self._owner_gone)  # readable: its other end has been closed
        # Without one of these two the cluster would look alive, and start or answer nothing any more.
        for name, pid in (("spawner", self.spawner.pid), ("responder", self._responder.pid)):
            loop.add_reader(os.pidfd_open(pid), self._helper_ended, name)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            self._failure = self._failure or starting.exception()
            if self._failure is None:
                await stopping
        # Nothing is taken apart: when this process, the init of its PID namespace, ends, the kernel does that, and it
        # does so for every way of ending. What failed is the one thing left to say.
        if self._failure is not None:
            # First to the launcher: the log may be on a disk that is full.
            if isinstance(self._failure, NetsimError):
                if not self._failure.hint and (refused := self._store_refused()) is not None:
                    self._failure.hint = refused.hint  # an answer of the API carries none
                self._report.error(self._failure)
            elif isinstance(self._failure, OSError):
                self._report.error(explain_os_error(self._failure, self._state.path))
            log.error("the cluster failed", exc_info=self._failure)
            os._exit(1)
        if self._orphaned:
            self._state.remove_own()
        os._exit(0)

    def _owner_gone(self) -> None:
        """The program whose cluster this is has ended, and does not clear up: killed, most likely."""
        self._orphaned = True
        self._stop.set()

    def _store_refused(self) -> NetsimError | None:
        return self._store.refused if self._store is not None else None

    async def _start(self) -> None:
        config = self.config
        store = self._store = Store(self._state.path / "store.db")
        server = ApiServer(store, config, self._clock)
        self.api = Api(server.transport())
        self.informers = InformerSet(self.api, self._clock)
        self._events = EventRecorder(self.api, "kubelet", clock=self._clock)
        self._make_components()
        server.set_pods(self.kubelet)
        self.barrier = Barrier(server.revision, self._stages())
        self._report.progress("building the fabric")
        await self._build_fabric()
        front = asyncio.create_task(self._serve(server))
        for component in self._components:
            self._run(component.run(), component.name)
        self._report.progress(f"starting {len(config.nodes)} nodes")
        await self._start_nodes()
        if config.dns:
            self._report.progress("starting cluster DNS")
            await self._start_dns()
        api_url = await front
        await self.barrier.wait(READY_TIMEOUT_S)
        status = Status(self.site, self.proxy, self._state, api_url)
        places = Places(self.site, self.proxy, self.barrier, self.faulting, status)
        control = ControlServer(socket.socket(fileno=self._orders.control_fd), places)
        self._run(control.run(), "control")
        self._report.ready(status.save())
        log.info("ready: %d nodes", len(config.nodes))

    def _make_components(self) -> None:
        config = self.config
        self.dns = DnsComponent(self.informers, config)
        self.network = NodeNetwork(self.informers.of(NODE), config, self.namespaces, self._network_ready)
        self.kubelet = KubeletComponent(
            api=self.api,
            informers=self.informers,
            spawner=self.spawner,
            responder=self._responder,
            events=self._events,
            config=config,
            state_dir=self._state.path,
            clock=self._clock,
            publish=self._publish_pod,
            providers=(self.dns,),
        )
        self.site = Site(config, self.namespaces, self.informers, self.kubelet, self.spawner)
        self.proxy = ProxyComponent(
            informers=self.informers, spawner=self.spawner, config=config, clock=self._clock, api=self.api
        )
        scheduler_events = EventRecorder(self.api, "default-scheduler", clock=self._clock)
        self.controllers = make_controllers(self.api, self.informers, config, self._clock, self.kubelet.silent_since_s)
        self.node_lifecycle = next(c for c in self.controllers if isinstance(c, NodeLifecycleController))
        self.scheduler = Scheduler(self.api, self.informers, scheduler_events, self._clock)
        self._components: list[Component] = [
            self.informers,
            self._events,
            scheduler_events,
            *self.controllers,
            self.scheduler,
            self.network,
            self.kubelet,
            self.dns,
            self.proxy,
        ]

    def _stages(self) -> list[Component]:
        """The barrier's order: the way a change goes, once through."""
        return [
            self.informers,
            *self.controllers,
            self.scheduler,
            self.network,
            self.kubelet,
            *self.controllers,
            self.dns,
            self.proxy,
        ]

    def _run(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        """A component runs for ever; one that ends has failed, and a cluster without it would lie."""
        if task.cancelled() or self._stop.is_set():
            return
        self._failure = task.exception() or RuntimeError(f"{task.get_name()} ended")
        self._stop.set()

    def _helper_ended(self, name: str) -> None:
        if self._failure is None and not self._stop.is_set():
            self._failure = RuntimeError(f"the {name} process ended")
        self._stop.set()

    async def _build_fabric(self) -> None:
        ipv6 = 6 in self.config.families
        fabric = Netns.current(FABRIC)
        switch_ipv6(fabric, ipv6)
        self.namespaces.publish(FABRIC, fabric)
        self.faulting = Faulting(self.site, self.node_lifecycle, fabric, self._clock)
        self.namespaces.publish(EXTERNAL, Netns.create(EXTERNAL, ipv6=ipv6))
        await asyncio.to_thread(self.namespaces.apply, plan_fabric(self.config))

    async def _start_nodes(self) -> None:
        addresses = choose_node_addresses(self.config)
        made = await self.network.make_nodes(addresses)
        for node in self.config.nodes:
            own, netns = addresses[node.name], made[node.name]
            self.proxy.add_node(NodeProxy(name=node.name, netns=netns, addresses=own))
            await self.kubelet.add_node(NodeRuntime(node.name, netns, own, node.labels, node.taints, node.max_pods))
        nodes = self.informers.of(NODE)
        await self._until(
            lambda: all(is_ready(nodes.get(None, node.name)) for node in self.config.nodes),
            "nodes Ready",
            lambda: ", ".join(n.name for n in self.config.nodes if not is_ready(nodes.get(None, n.name))),
        )

    def _publish_pod(self, name: str, netns: Netns | None) -> None:
        """A pod's namespace comes, or goes (None)."""
        self.namespaces.publish(name, netns)
        if netns is None:
            self.faulting.faults.namespace_gone(name)

    def _network_ready(self, node: str) -> None:
        self.kubelet.mark_network_ready(node)

    async def _start_dns(self) -> None:
        for manifest in make_manifests(self.config):
            kind = kind_of(manifest["apiVersion"], manifest["kind"])
            if kind is None:
                raise ApiError(500, "InternalError", f"cluster DNS needs the kind {manifest['kind']}")
            await self.api.create(kind, manifest)
        pods = self.informers.of(POD)

        def dns_pods() -> list[Object]:
            return [pod for pod in pods.items() if namespace_of(pod) == "kube-system"]

        try:
            await self._until(
                lambda: any(is_ready(pod) for pod in dns_pods()),
                "cluster DNS Ready",
                lambda: ", ".join(name_of(pod) for pod in dns_pods()),
            )
        except NetsimError as error:
            for pod in dns_pods():  # with the reason: a full disk, a CNI plugin that fails
                if (unready := check_ready(pod)) is not None:
                    error.message += f"\n{await explain_unready(self.api, unready)}"
            raise

    async def _until(self, done: Callable[[], bool], what: str, describe: Callable[[], str]) -> None:
        deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        while not done():
            if (refused := self._store_refused()) is not None:
                raise refused  # components try again, but nothing can become ready on a full disk
            if asyncio.get_running_loop().time() > deadline:
                raise NetsimError(f"{what}: not within {READY_TIMEOUT_S:g} s; still: {describe()}")
            await asyncio.sleep(0.002)

    async def _serve(self, server: ApiServer) -> str:
        """Put the API on its sockets and write the kubeconfig. Returns the URL of the loopback port."""
        from netsim.apiserver.certificates import make_certificates, write_kubeconfig

        tcp = socket.socket(fileno=self._orders.tcp_fd)
        url = f"https://127.0.0.1:{tcp.getsockname()[1]}"
        tls = await asyncio.to_thread(make_certificates, self._state.path / "pki")
        write_kubeconfig(self._state.kubeconfig, url, self._state.name, tls)
        self._front = await serve(
            server, unix_socket=socket.socket(fileno=self._orders.api_fd), tcp_socket=tcp, tls=tls
        )
        return url
