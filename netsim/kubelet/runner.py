"""The containers of one pod: started, probed, stopped, and what becomes of them written into the pod's state."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netsim.kernel.process import Process
from netsim.kubelet.containers import Running
from netsim.kubelet.environment import ConfigError
from netsim.kubelet.images import Choice
from netsim.kubelet.launcher import Launcher, StartError
from netsim.kubelet.lifecycle import Hooks
from netsim.kubelet.planner import is_dying, record_exit, record_start, record_start_failure
from netsim.kubelet.prober import ContainerProbes, ProbeSubject
from netsim.kubelet.probes import Answer, Probe, ProbeError, parse_probes
from netsim.kubelet.sandboxes import Sandbox
from netsim.kubelet.state import ContainerRecord, PodState
from netsim.kubelet.status import render_terminated, restart_policy
from netsim.kubelet.tools import KubeletNode, Tools
from netsim.model.errors import ApiError, KernelError, NetsimError
from netsim.model.objects import Object


class PodContainers:
    """Owned by the pod's worker, which keeps ``pod`` and ``sandbox`` current and is woken by ``wake``."""

    def __init__(self, tools: Tools, node: KubeletNode, pod: Object, state: PodState, wake: Callable[[], None]) -> None:
        self.pod = pod
        self.state = state
        self.sandbox: Sandbox | None = None
        self._tools = tools
        self._node = node
        self._wake = wake
        self._launcher = Launcher(tools, node, pod, state)
        self._containers: dict[str, Object] = {
            c["name"]: c for key in ("initContainers", "containers") for c in pod["spec"].get(key) or ()
        }
        self._running: dict[str, Running] = {}
        self._probes: dict[str, ContainerProbes] = {}
        self._hooks = Hooks(tools.clock)
        self._logged = False
        for name in self._containers:
            state.record(name)
        if pod["spec"].get("initContainers"):
            for container in pod["spec"]["containers"]:
                state.record(container["name"]).reason = "PodInitializing"

    @property
    def key(self) -> tuple[str, str]:
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    async def start(self, name: str) -> None:
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
        self.event("Normal", "Started", f"Started container {name} ({choice.words})")

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
        except BaseException:  # whatever it was: it does not run
            record.state, record.reason = previous
            record.ready = record.started = False
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
        self.event("Warning", "Failed", f"Error: {message}")

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
                self.event(
                    "Warning", "BackOff", f"Back-off restarting failed container {name} in pod {pod}_{namespace}({uid})"
                )
        self._wake()

    def stop(self, name: str, grace_s: float, reason: str) -> None:
        record = self.state.record(name)
        record.stopping = True
        record.stopping_since_s = self._tools.clock.monotonic_s()
        record.kill_at_s = record.stopping_since_s + grace_s
        words = f"Container {name} {reason}" if reason else f"Stopping container {name}"
        self.event("Normal", "Killing", words)
        self._stop_probes(name, keep_readiness=not reason)
        running = self._running.get(name)
        if running is None:
            return
        hook = (self._containers[name].get("lifecycle") or {}).get("preStop")
        if hook and grace_s > 0:
            self._hooks.start(name, self._pre_stop(name, hook, running))
        else:
            running.terminate()

    async def _pre_stop(self, name: str, hook: Mapping[str, Any], running: Running) -> None:
        await self._run_hook(name, hook, "PreStop")
        running.terminate()

    async def _post_start(self, container: Object) -> None:
        hook = (container.get("lifecycle") or {}).get("postStart")
        if hook:
            await self._run_hook(container["name"], hook, "PostStart")

    async def _run_hook(self, name: str, hook: Mapping[str, Any], kind: str) -> None:
        try:
            failure = await self._hooks.run(hook, self._containers[name], self._subject(name), self._node.runtime.netns)
        except NetsimError as error:
            failure = error.message
        if failure:
            self.event("Warning", f"Failed{kind}Hook", f"{kind}Hook failed: {failure}")

    def kill(self, name: str) -> None:
        record = self.state.record(name)
        record.stopping, record.kill_at_s = True, None
        running = self._running.get(name)
        if running is None:
            self._exited(name, record.container_id, -9)
        else:
            running.kill()

    def signal(self, name: str | None, number: int) -> list[str]:
        """Send a signal to one running container or to all, as somebody on the node would: what follows is up to the
        restart policy. Returns their names. Raises ApiError for a container there is not, UsageError for a signal that
        a built-in container does not know.
        """
        chosen = list(self._running) if name is None else [self.choose_container(name)["name"]]
        running = {one: self._running[one] for one in chosen if one in self._running}
        for one in running.values():
            one.signal(number)
        return list(running)

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

        return ProbeSubject(self._node.runtime.netns, self.state.pod_ips[0], run)

    def _start_probes(self, name: str, probes: tuple[Probe, ...], sandbox: Sandbox) -> None:
        def changed(probe: Probe, holds: bool) -> None:
            self._probe_changed(name, probe, holds)

        def failed(probe: Probe, answer: Answer) -> None:
            self.event("Warning", "Unhealthy", f"{probe.kind.capitalize()} probe failed: {answer.message}")

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
        self._wake()

    # --- output ---

    def _log(self, name: str, restarts: int, lines: Sequence[str]) -> None:
        self._logged = True
        self._tools.logs.append(*self.key, name, restarts, lines)

    def _open_log(self, name: str, restarts: int) -> int:
        self._logged = True
        return self._tools.logs.open(*self.key, name, restarts)

    def event(self, kind: str, reason: str, message: str) -> None:
        if self._node.stopped_at_s is not None:
            return  # a stopped kubelet says nothing
        self._tools.events.event(self.pod, kind, reason, message)

    # --- exec ---

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

    async def close(self) -> None:
        """The pod is gone: remove what was made for it."""
        self._hooks.cancel()
        for name in list(self._probes):
            self._stop_probes(name)
        await self._launcher.close()
        if self._logged:
            self._tools.logs.remove(*self.key)
