"""One pod's worker: asks the planner, does what it says, writes the status. The thin half of pod life.

Nothing happens to a pod but here, one action after the other. A worker has a task only while there is something to do.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cni.types import CniError
from netsim.kernel.process import Process
from netsim.kubelet.environment import ConfigError
from netsim.kubelet.images import Choice
from netsim.kubelet.launcher import Launcher, StartError
from netsim.kubelet.lifecycle import Hooks
from netsim.kubelet.planner import (
    Action,
    CreateSandbox,
    DeletePod,
    KillContainer,
    RemoveSandbox,
    StartContainer,
    StopContainer,
    is_dying,
    plan_pod,
    record_exit,
    record_sandbox_failure,
    record_start,
    record_start_failure,
)
from netsim.kubelet.prober import ContainerProbes, ProbeSubject
from netsim.kubelet.probes import Answer, Probe, ProbeError, parse_probes
from netsim.kubelet.sandboxes import Sandbox, make_sandbox, remove_sandbox
from netsim.kubelet.state import ContainerRecord, PodState
from netsim.kubelet.status import render_status, render_terminated, restart_policy
from netsim.kubelet.tools import KubeletNode, Tools
from netsim.kubelet.volumes import plan_volumes
from netsim.model.errors import ApiError, KernelError, NetsimError
from netsim.model.kinds import POD
from netsim.model.names import pod_namespace
from netsim.model.objects import Object

log = logging.getLogger(__name__)

WRITE_RETRY_S = 1.0


class PodWorker:
    """One pod from bound to gone. ``after`` is the worker of an earlier pod of the same name, which must end first."""

    def __init__(
        self,
        tools: Tools,
        node: KubeletNode,
        pod: Object,
        after: "PodWorker | None",
        report: Callable[["PodWorker", bool], None],
    ) -> None:
        """``report(worker, busy)`` is called when the worker becomes busy or idle."""
        self.pod = pod
        self.node = node
        self.state = PodState(host_ip=node.runtime.address)
        self.sandbox: Sandbox | None = None
        self.finished = asyncio.Event()
        self._tools = tools
        self._after = after
        self._report = report
        self._launcher = Launcher(tools, node, pod, self.state)
        self._containers: dict[str, Object] = {
            c["name"]: c for key in ("initContainers", "containers") for c in pod["spec"].get(key) or ()
        }
        self._running: dict[str, Any] = {}
        self._probes: dict[str, ContainerProbes] = {}
        self._hooks = Hooks(tools.clock)
        self._written: Object | None = None
        self._attempts = 0
        self._logged = False
        self._dirty = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._timer_at_s: float | None = None
        for name in self._containers:
            self.state.record(name).reason = "ContainerCreating"
        if pod["spec"].get("initContainers"):
            for container in pod["spec"]["containers"]:
                self.state.record(container["name"]).reason = "PodInitializing"

    @property
    def key(self) -> tuple[str, str]:
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    # --- what happens to it ---

    def wake(self) -> None:
        """Ask the planner (again)."""
        self._dirty = True
        if self._task is None and not self.finished.is_set():
            self._report(self, True)
            self._task = asyncio.get_running_loop().create_task(self._work())

    def update(self, pod: Object) -> None:
        """The API has a newer version. Only what a kubelet acts on wakes the worker; our own status does not."""
        old, self.pod = self.pod, pod
        a, b = old["metadata"], pod["metadata"]
        keys = ("deletionTimestamp", "deletionGracePeriodSeconds", "generation")
        if any(a.get(key) != b.get(key) for key in keys) or pod["spec"].get("readinessGates"):
            self.wake()

    def remove(self) -> None:
        """The API has it no more: tear down without waiting for anything."""
        self.state.removed = True
        self.wake()

    # --- the loop ---

    async def _work(self) -> None:
        try:
            if self._after is not None:
                await self._after.finished.wait()
                self._after = None
            while self._dirty and not self.finished.is_set():
                self._dirty = False
                await self._pass()
        except Exception:  # a fault of ours in one pod must not stop the others
            log.exception("pod %s/%s", *self.key)
        finally:
            self._task = None
            self._report(self, False)

    async def _pass(self) -> None:
        """Do what is to be done now; the status is written once nothing more is."""
        now_s = self._tools.clock.monotonic_s()
        plan = plan_pod(self.pod, self.state, now_s)
        for action in plan.actions:
            await self._apply(action)
        if plan.actions:
            self._dirty = True
            return
        if plan.finished:
            await self._finish()
            return
        self._arm(plan.wake_at_s, now_s)
        await self._write_status()

    def _arm(self, at_s: float | None, now_s: float) -> None:
        """Wake at a time. One timer at most; the planner names the next."""
        if at_s == self._timer_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at_s = at_s
        if at_s is not None:
            self._timer = asyncio.get_running_loop().create_task(self._sleep(at_s - now_s))

    async def _sleep(self, seconds: float) -> None:
        await self._tools.clock.sleep(max(0.0, seconds))
        self._timer = None
        self._timer_at_s = None
        self.wake()

    async def _apply(self, action: Action) -> None:
        match action:
            case CreateSandbox():
                await self._create_sandbox()
            case StartContainer(name):
                await self._start_container(name)
            case StopContainer(name, grace_s, reason):
                self._stop_container(name, grace_s, reason)
            case KillContainer(name):
                self._kill_container(name)
            case RemoveSandbox():
                await self._remove_sandbox()
            case DeletePod():
                await self._delete_pod()

    # --- the sandbox ---

    async def _create_sandbox(self) -> None:
        state, tools = self.state, self._tools
        if not state.start_wall_s:
            state.start_wall_s = tools.clock.wall_s()
        now_s = tools.clock.monotonic_s()
        if self.node.network is None and not self.pod["spec"].get("hostNetwork"):
            self._wait_for_network(now_s)
            return
        try:
            if self.pod["spec"].get("volumes"):
                plan_volumes(self.pod, tools.facts(self.pod, state))
            await self._make_sandbox()
        except ConfigError as error:
            self._sandbox_failed("FailedMount", error.message, now_s)
        except (CniError, KernelError) as error:
            self._sandbox_failed("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error.message}", now_s)
        else:
            state.sandbox, state.sandbox_error, state.sandbox_backoff_s = "ready", "", 0.0

    async def _make_sandbox(self) -> None:
        node = self.node
        if self.pod["spec"].get("hostNetwork"):
            sandbox = Sandbox(node.runtime.netns, (node.runtime.address,))
        else:
            if node.network is None:
                raise KernelError("the pod network of the node is gone", where=node.runtime.name)
            self._attempts += 1
            sandbox = await make_sandbox(self._tools.cni, node.runtime.netns, node.network, self.pod, self._attempts)
        self.sandbox = sandbox
        self.state.pod_ips = sandbox.ips
        self._tools.publish(pod_namespace(*self.key), sandbox.netns)

    def _sandbox_failed(self, reason: str, message: str, now_s: float) -> None:
        record_sandbox_failure(self.state, message, now_s)
        self._event("Warning", reason, message)

    def _wait_for_network(self, now_s: float) -> None:
        state = self.state
        state.sandbox_error = "network is not ready: the pod network of the node is not built yet"
        state.sandbox_retry_at_s = float("inf")
        self.node.waiting.append(self._network_ready)

    def _network_ready(self) -> None:
        self.state.sandbox_error, self.state.sandbox_retry_at_s = "", 0.0
        self.wake()

    async def _remove_sandbox(self) -> None:
        sandbox, self.sandbox = self.sandbox, None
        if not self.state.removed and is_dying(self.pod, self.state):
            await self._write_status()  # what became of its containers, before the end
        self.state.sandbox = "gone"
        self._tools.publish(pod_namespace(*self.key), None)
        if sandbox is None:
            return
        try:
            await remove_sandbox(self._tools.cni, self.node.runtime.netns, sandbox)
        except (CniError, KernelError) as error:
            # The namespace goes all the same, and takes the veth pair along; GC frees what CNI still holds.
            self._event("Warning", "FailedKillPod", f"error killing pod: {error.message}")

    async def _delete_pod(self) -> None:
        namespace, name = self.key
        try:
            await self._tools.api.delete(POD, name, namespace, grace_period_s=0, uid=self.pod["metadata"].get("uid"))
        except ApiError as error:
            if error.code not in (404, 409):  # gone, or another pod of that name by now
                log.warning("pod %s/%s: %s; again in %g s", namespace, name, error, WRITE_RETRY_S)
                await self._tools.clock.sleep(WRITE_RETRY_S)
                return
        self.state.deleted = True

    async def _finish(self) -> None:
        self._arm(None, 0.0)
        self._hooks.cancel()
        await self._launcher.close()
        if self._logged:
            self._tools.logs.remove(*self.key)
        self.finished.set()

    # --- containers ---

    async def _start_container(self, name: str) -> None:
        container = self._containers[name]
        state, tools = self.state, self._tools
        record = state.record(name)
        sandbox = self.sandbox
        if sandbox is None:
            return
        if record.state == "terminated":
            record.last = {"terminated": render_terminated(record)}
            record.restarts += 1
        record.container_id = self._make_id(name, record.restarts)
        now_s, wall_s = tools.clock.monotonic_s(), tools.clock.wall_s()
        try:
            choice, variables = self._launcher.choose(container)
            record.image_id = choice.image_id
            probes = parse_probes(container)
            await self._launch(container, record, choice, variables, sandbox, probes)
        except (StartError, ConfigError, ProbeError) as error:
            self._start_failed(record, error, now_s, wall_s)
            return
        self._event("Normal", "Started", f"Started container {name} ({choice.words})")

    async def _launch(
        self,
        container: Object,
        record: ContainerRecord,
        choice: Choice,
        variables: Mapping[str, str],
        sandbox: Sandbox,
        probes: tuple[Probe, ...],
    ) -> None:
        name, tools = record.name, self._tools
        kinds = {probe.kind for probe in probes}
        started = "startup" not in kinds
        ready = started and "readiness" not in kinds
        # Recorded before it runs: a container may end before its start returns.
        previous = record.state, record.reason
        record_start(record, tools.clock.monotonic_s(), tools.clock.wall_s(), ready=ready, started=started)
        token = record.container_id
        try:
            running = await self._launcher.start(
                container,
                choice,
                variables,
                sandbox,
                token.removeprefix("netsim://"),
                lambda code: self._exited(name, token, code),
                lambda lines: self._log(name, record.restarts, lines),
                lambda: self._open_log(name, record.restarts),
            )
        except NetsimError:
            record.state, record.reason = previous
            raise
        if record.state != "running" or record.container_id != token:
            return
        self._running[name] = running
        if probes:
            self._start_probes(name, probes, sandbox)
        self._hooks.start(name, self._post_start(container))

    def _start_failed(self, record: ContainerRecord, error: Exception, now_s: float, wall_s: float) -> None:
        reason = error.reason if isinstance(error, StartError) else "CreateContainerConfigError"
        message = error.message if isinstance(error, NetsimError) else str(error)
        record_start_failure(record, reason, message, restart_policy(self.pod), now_s, wall_s)
        self._event("Warning", "Failed", f"Error: {message}")

    def _make_id(self, name: str, restarts: int) -> str:
        text = f"{self.pod['metadata'].get('uid', '')}/{name}/{restarts}"
        return f"netsim://{hashlib.sha256(text.encode()).hexdigest()}"

    def _exited(self, name: str, container_id: str, code: int) -> None:
        """A container ended, by itself or because we ended it."""
        record = self.state.record(name)
        if record.container_id != container_id or record.state != "running":
            return
        self._running.pop(name, None)
        self._stop_probes(name)
        self._hooks.stop(name)
        self._launcher.forget(name)
        now_s = self._tools.clock.monotonic_s()
        record_exit(record, code, now_s, self._tools.clock.wall_s())
        if record.restart_at_s > now_s and not is_dying(self.pod, self.state):
            namespace, pod = self.key
            uid = self.pod["metadata"].get("uid", "")
            if restart_policy(self.pod) != "Never":
                self._event(
                    "Warning", "BackOff", f"Back-off restarting failed container {name} in pod {pod}_{namespace}({uid})"
                )
        self.wake()

    def _stop_container(self, name: str, grace_s: float, reason: str) -> None:
        record = self.state.record(name)
        record.stopping = True
        record.kill_at_s = self._tools.clock.monotonic_s() + grace_s
        words = f"Container {name} {reason}" if reason else f"Stopping container {name}"
        self._event("Normal", "Killing", words)
        self._stop_probes(name, keep_readiness=not reason)
        running = self._running.get(name)
        if running is None:
            return
        hook = (self._containers[name].get("lifecycle") or {}).get("preStop")
        if hook and grace_s > 0:
            self._hooks.start(name, self._pre_stop(name, hook, running))
        else:
            running.terminate()

    async def _pre_stop(self, name: str, hook: Mapping[str, Any], running: Any) -> None:
        await self._run_hook(name, hook, "PreStop")
        running.terminate()

    async def _post_start(self, container: Object) -> None:
        hook = (container.get("lifecycle") or {}).get("postStart")
        if hook:
            await self._run_hook(container["name"], hook, "PostStart")

    async def _run_hook(self, name: str, hook: Mapping[str, Any], kind: str) -> None:
        try:
            failure = await self._hooks.run(hook, self._containers[name], self._subject(name), self.node.runtime.netns)
        except NetsimError as error:
            failure = error.message
        if failure:
            self._event("Warning", f"Failed{kind}Hook", f"{kind}Hook failed: {failure}")

    def _kill_container(self, name: str) -> None:
        record = self.state.record(name)
        record.stopping, record.kill_at_s = True, None
        running = self._running.get(name)
        if running is None:
            self._exited(name, record.container_id, -9)
        else:
            running.kill()

    # --- probes ---

    def _subject(self, name: str) -> ProbeSubject:
        async def run(argv: tuple[str, ...], timeout_s: float) -> tuple[int, bytes]:
            if self.sandbox is None:
                raise KernelError("the container is not running")
            spec = await self._launcher.exec_spec(
                self._containers[name], self._running.get(name), self.sandbox, argv, {}, False
            )
            done = await self._tools.spawner.run(spec, timeout_s=timeout_s)
            return done.returncode, done.stdout + done.stderr

        return ProbeSubject(self.node.runtime.netns, self.state.pod_ips[0], run)

    def _start_probes(self, name: str, probes: tuple[Probe, ...], sandbox: Sandbox) -> None:
        def changed(probe: Probe, holds: bool) -> None:
            self._probe_changed(name, probe, holds)

        def failed(probe: Probe, answer: Answer) -> None:
            self._event("Warning", "Unhealthy", f"{probe.kind.capitalize()} probe failed: {answer.message}")

        self._probes[name] = ContainerProbes(probes, self._subject(name), self._tools.clock, changed, failed)

    def _stop_probes(self, name: str, *, keep_readiness: bool = False) -> None:
        probes = self._probes.get(name)
        if probes is None:
            return
        probes.stop(keep_readiness=keep_readiness)
        if not keep_readiness:
            del self._probes[name]

    def _probe_changed(self, name: str, probe: Probe, holds: bool) -> None:
        record = self.state.record(name)
        if record.state != "running":
            return
        if probe.kind == "readiness":
            record.ready = holds
        elif not holds:
            record.stop_reason = f"failed {probe.kind} probe, will be restarted"
        elif probe.kind == "startup":
            record.started = True
            record.ready = not self._containers[name].get("readinessProbe")
        self.wake()

    # --- output ---

    def _log(self, name: str, restarts: int, lines: Sequence[str]) -> None:
        self._logged = True
        self._tools.logs.append(*self.key, name, restarts, lines)

    def _open_log(self, name: str, restarts: int) -> int:
        self._logged = True
        return self._tools.logs.open(*self.key, name, restarts)

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._tools.events.event(self.pod, kind, reason, message)

    async def _write_status(self) -> None:
        if self.state.removed or self.state.deleted:
            return
        current: Mapping[str, Any] = self.pod.get("status") or {}
        base = self.pod if self._written is None else {**self.pod, "status": _merge(current, self._written)}
        status = render_status(base, self.state, self._tools.clock.wall_s())
        if status == self._written:
            return
        namespace, name = self.key
        patch = {"metadata": {"uid": self.pod["metadata"].get("uid")}, "status": status}
        try:
            await self._tools.api.patch(POD, name, patch, namespace, subresource="status")
        except ApiError as error:
            if error.code not in (404, 409):  # deleted, or another pod of that name: the watch will tell
                log.warning("status of pod %s/%s: %s; again in %g s", namespace, name, error, WRITE_RETRY_S)
                self._arm(self._tools.clock.monotonic_s() + WRITE_RETRY_S, self._tools.clock.monotonic_s())
            return
        self._written = status

    # --- exec and logs ---

    def choose_container(self, name: str | None) -> Object:
        """The container of that name; without one the annotated default, else the first. Raises ApiError 400."""
        metadata = self.pod["metadata"]
        wanted = name or (metadata.get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if wanted is None:
            return next(iter(self.pod["spec"]["containers"]))
        found = self._containers.get(wanted)
        if found is None:
            message = f"container {wanted} is not valid for pod {metadata['name']}"
            raise ApiError(400, "BadRequest", message, hint=f"containers: {', '.join(self._containers)}")
        return found

    async def exec(
        self,
        container_name: str | None,
        argv: Sequence[str],
        fds: tuple[int, int, int],
        env: Mapping[str, str],
        tty: bool,
    ) -> Process:
        """Run a command in a container. Raises ApiError, ConfigError, KernelError."""
        container = self.choose_container(container_name)
        name = container["name"]
        record = self.state.record(name)
        if record.state != "running" or self.sandbox is None:
            state = record.reason or record.state
            message = f"unable to upgrade connection: container {name} is not running ({state})"
            raise ApiError(400, "BadRequest", message, hint=record.message)
        spec = await self._launcher.exec_spec(container, self._running.get(name), self.sandbox, argv, env, tty)
        return await self._tools.spawner.spawn(spec, stdin=fds[0], stdout=fds[1], stderr=fds[2])


def _merge(current: Mapping[str, Any], written: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status as it will be: what we wrote last, with the conditions of others as they are now.

    The informer may be behind our last write, so transition times come from that.
    """
    own = {condition["type"]: condition for condition in written.get("conditions") or ()}
    others = [c for c in current.get("conditions") or () if c["type"] not in own]
    gates = [c for c in current.get("conditions") or () if c["type"] in own and c["type"] not in OWN]
    kept = [c for c in own.values() if c["type"] in OWN]
    return {**written, "conditions": kept + gates + others}


OWN = frozenset(("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"))
