"""The kubelet of every node of a cluster, as one component.

One and not one for each node: they would share the machine, the process, the API and the caches, and differ in the
namespace they work in. What belongs to a node is in `KubeletNode`, what belongs to a pod in its `PodWorker`.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from cni.plugin import Plugin
from netsim.client.api import Api
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.kernel.netns import Netns
from netsim.kernel.process import Process, Spawner
from netsim.kubelet.cni_config import plan_network
from netsim.kubelet.cni_runtime import CniRuntime
from netsim.kubelet.containers import BuiltinContext, BuiltinProvider, BuiltinServer
from netsim.kubelet.files import Resolver, parse_resolver
from netsim.kubelet.logs import LogStore
from netsim.kubelet.nodes import NodeRuntime, plan_node, plan_node_status, read_machine
from netsim.kubelet.responder import Responder
from netsim.kubelet.sandboxes import Removals
from netsim.kubelet.tools import SERVICES_BY_NAMESPACE, KubeletNode, Tools, service_namespace
from netsim.kubelet.worker import PodWorker
from netsim.model.clock import Clock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError, not_found
from netsim.model.kinds import CONFIG_MAP, NODE, POD, SERVICE
from netsim.model.objects import Key, Object, key_of, node_cidrs, pod_node, uid_of

__all__ = ["BuiltinContext", "BuiltinProvider", "BuiltinServer", "KubeletComponent", "NodeRuntime"]

log = logging.getLogger(__name__)

MACHINE_RESOLV_CONF = Path("/etc/resolv.conf")


class KubeletComponent:
    """A Component. ``publish(name, netns)`` gives a pod's namespace its name, and takes it away with None.

    Raises CniError when the cluster's own conflist is wrong.
    """

    name = "kubelet"

    def __init__(  # noqa: PLR0913  (all by name: what the composition hands to a component)
        self,
        *,
        api: Api,
        informers: InformerSet,
        spawner: Spawner,
        responder: Responder,
        events: EventRecorder,
        config: ClusterConfig,
        state_dir: Path,
        clock: Clock,
        publish: Callable[[str, Netns | None], None],
        providers: Sequence[BuiltinProvider] = (),
    ) -> None:
        # A wrong conflist is told now, not by nodes that never get ready.
        plan_network(config, [str(network) for network in config.pod_cidrs], "")
        self._pods = informers.of(POD)
        self._nodes_informer = informers.of(NODE)
        config_maps, services = informers.of(CONFIG_MAP), informers.of(SERVICE)
        services.add_index(SERVICES_BY_NAMESPACE, service_namespace)
        self._informers = (self._pods, self._nodes_informer, config_maps, services)
        cni = CniRuntime(spawner, state_dir / "cni", Plugin)
        self._tools = Tools(
            api=api,
            spawner=spawner,
            responder=responder,
            events=events,
            config=config,
            state_dir=state_dir,
            clock=clock,
            publish=publish,
            providers=tuple(providers),
            cni=cni,
            removals=Removals(cni),
            logs=LogStore(state_dir, clock),
            config_maps=config_maps,
            services=services,
            machine_resolver=_read_machine_resolver(),
        )
        self._machine = read_machine()
        self._nodes: dict[str, KubeletNode] = {}
        self._workers: dict[Key, PodWorker] = {}
        self._busy: set[PodWorker] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    # --- nodes ---

    async def add_node(self, node: NodeRuntime) -> None:
        """Register a node, not Ready until `mark_network_ready`. Raises ApiError."""
        self._nodes[node.name] = KubeletNode(node)
        made = plan_node(node, self._machine, self._tools.clock.wall_s())
        try:
            await self._tools.api.create(NODE, made)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            patch = {"metadata": {"labels": made["metadata"]["labels"]}}
            await self._tools.api.patch(NODE, node.name, patch)
        # Also after a create: an API server may drop status there.
        await self._tools.api.patch(NODE, node.name, {"status": made["status"]}, subresource="status")
        if self._started:
            for pod in list(self._pods.items()):
                if pod_node(pod) == node.name:
                    self._pod_changed(None, pod)

    def mark_network_ready(self, node: str) -> None:
        """The node's pod network is built: it becomes Ready, and pods that waited for it start. May be repeated.

        Raises CniError when the node has no pod CIDR yet.
        """
        known = self._nodes[node]
        pod_cidrs = node_cidrs(self._nodes_informer.get(None, node) or {})
        data_dir = self._tools.state_dir / "cni" / node
        known.network = plan_network(self._tools.config, pod_cidrs, str(data_dir))
        waiting, known.waiting = known.waiting, []
        for wake in waiting:
            wake()
        task = asyncio.get_running_loop().create_task(self._write_ready(known))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop_node(self, node: str) -> None:
        """Switch a node's kubelet off, and its containers with it: it does, says and writes nothing any more.

        Containers get SIGKILL. What became of them is seen when it is started again; sandboxes stay.
        """
        known = self._nodes[node]
        known.stopped_at_s = self._tools.clock.monotonic_s()
        for worker in self._workers_on(known):
            worker.containers.signal(None, signal.SIGKILL)

    async def start_node(self, node: str) -> None:
        """Switch it on again: the node is Ready, and its containers start by their restart policy."""
        known = self._nodes[node]
        known.stopped_at_s = None
        await self._write_ready(known)
        for worker in self._workers_on(known):
            worker.resume()

    def silent_since_s(self, node: str) -> float | None:
        """When the node's kubelet was last heard of, on the clock's monotonic time; None while it speaks."""
        known = self._nodes.get(node)
        return known.stopped_at_s if known is not None else None

    def _workers_on(self, node: KubeletNode) -> list[PodWorker]:
        return [worker for worker in self._workers.values() if worker.node is node]

    async def _write_ready(self, node: KubeletNode) -> None:
        status = plan_node_status(node.runtime, self._machine, self._tools.clock.wall_s(), ready=True)
        try:
            await self._tools.api.patch(
                NODE, node.runtime.name, {"status": {"conditions": status["conditions"]}}, subresource="status"
            )
        except ApiError as error:
            log.warning("node %s does not become Ready: %s", node.runtime.name, error)

    # --- pods ---

    async def run(self) -> None:
        """Follow the API until cancelled. Pods are left as they are then: the sandbox goes as a whole."""
        for informer in self._informers:
            await informer.synced()
        self._started = True
        self._pods.add_handler(self._pod_changed)
        await asyncio.Event().wait()

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        """The pod informer's handler."""
        if new is None:
            worker = self._workers.get(key_of(old)) if old is not None else None
            if worker is not None and old is not None and uid_of(worker.pod) == uid_of(old):
                worker.remove()
            return
        node = self._nodes.get(pod_node(new))
        if node is None:
            return
        key = key_of(new)
        worker = self._workers.get(key)
        if worker is not None and uid_of(worker.pod) == uid_of(new):
            worker.update(new)
            return
        if (new.get("status") or {}).get("phase") in ("Succeeded", "Failed") and not new["metadata"].get(
            "deletionTimestamp"
        ):
            return  # ended in an earlier life of this cluster
        if worker is not None:
            worker.remove()
        made = PodWorker(self._tools, node, new, worker, self._report)
        self._workers[key] = made
        made.wake()

    def _report(self, worker: PodWorker, busy: bool) -> None:
        if busy:
            self._busy.add(worker)
            self._idle.clear()
            return
        self._busy.discard(worker)
        if worker.finished.is_set() and self._workers.get(worker.key) is worker:
            del self._workers[worker.key]
        if not self._busy:
            self._idle.set()

    async def settle(self, revision: int) -> None:
        """Return when every change up to ``revision`` has been acted on. Pods that wait for a time, an exit or a
        probe do not hold it up."""
        for informer in self._informers:
            await informer.reached(revision)
        if self._tasks:
            await asyncio.gather(*self._tasks)
        await self._idle.wait()

    # --- what others ask ---

    def netns_of(self, namespace: str, pod: str) -> Netns | None:
        """The network namespace of a pod that has one."""
        worker = self._workers.get((namespace, pod))
        sandbox = worker.containers.sandbox if worker is not None else None
        return sandbox.netns if sandbox is not None else None

    def node_of(self, namespace: str, pod: str) -> NodeRuntime:
        """The node of a pod that is on one. Raises ApiError."""
        return self._need(namespace, pod).node.runtime

    def signal_pod(self, namespace: str, pod: str, container: str | None, number: int) -> list[str]:
        """Send a signal to a pod's running containers, or to one of them; returns their names.

        Raises ApiError (no such pod or container), UsageError (a built-in container does not know the signal).
        """
        return self._need(namespace, pod).containers.signal(container, number)

    def _need(self, namespace: str, pod: str) -> PodWorker:
        worker = self._workers.get((namespace, pod))
        if worker is not None:
            return worker
        if self._pods.get(namespace, pod) is None:
            raise not_found("pods", "", pod)
        raise ApiError(400, "BadRequest", f"pod {pod} does not have a host assigned or has ended")

    async def exec(  # noqa: PLR0913  (three descriptors and how to run)
        self,
        namespace: str,
        pod: str,
        container: str | None,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
        tty: bool = False,
    ) -> Process:
        """Start a command in a container, with its mounts, PIDs, network and environment. The caller keeps its fds.

        Raises ApiError (no such pod or container, not running), KernelError (no such command).
        """
        worker = self._need(namespace, pod)
        return await worker.containers.exec(container, argv, (stdin, stdout, stderr), env or {}, tty)

    async def read_log(
        self,
        namespace: str,
        pod: str,
        container: str | None,
        *,
        tail_lines: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[bytes]:
        """The container's output in pieces; with ``follow`` until it ends. Raises ApiError 400 or 404."""
        worker = self._need(namespace, pod)
        names = [c["name"] for c in worker.pod["spec"]["containers"]]
        if container is None and len(names) > 1 and not _default_container(worker.pod):
            message = f"a container name must be specified for pod {pod}, choose one of: [{' '.join(names)}]"
            raise ApiError(400, "BadRequest", message)
        chosen = worker.containers.choose_container(container)["name"]
        record = worker.state.record(chosen)
        if record.state == "waiting" and not record.last:
            message = f'container "{chosen}" in pod "{pod}" is waiting to start: {record.reason}'
            raise ApiError(400, "BadRequest", message, hint=record.message)
        path = self._tools.logs.path(namespace, pod, chosen, record.restarts)
        restarts = record.restarts

        def ended() -> bool:
            return record.state != "running" or record.restarts != restarts or worker.finished.is_set()

        return self._tools.logs.read(path, tail_lines=tail_lines, follow=follow, ended=ended)


def _default_container(pod: Object) -> str:
    annotations: Mapping[str, str] = pod["metadata"].get("annotations") or {}
    return annotations.get("kubectl.kubernetes.io/default-container", "")


def _read_machine_resolver() -> Resolver:
    try:
        return parse_resolver(MACHINE_RESOLV_CONF.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Resolver()
