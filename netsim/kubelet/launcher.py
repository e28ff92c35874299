"""Starting containers of one pod, each in its way: by the responder, as a process, or by another component."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from netsim.kernel.container import Bind, ContainerView
from netsim.kernel.netns import make_uts
from netsim.kernel.process import ProcessSpec
from netsim.kubelet.builtin.agnhost import BuiltinPlan, FlagError, plan_agnhost, plan_pause, plan_responder
from netsim.kubelet.containers import (
    BuiltinContainer,
    BuiltinContext,
    Exited,
    Inside,
    ProcessContainer,
    ProvidedContainer,
    Running,
)
from netsim.kubelet.environment import expand, plan_environment
from netsim.kubelet.files import Resolver, choose_hostname, plan_resolver, render_hosts
from netsim.kubelet.images import AGNHOST_BUILTIN, Choice, choose_way, image_base
from netsim.kubelet.sandboxes import Sandbox
from netsim.kubelet.state import PodState
from netsim.kubelet.tools import KubeletNode, Tools
from netsim.kubelet.volumes import apply_volumes, plan_mounts, plan_volumes, remove_folder
from netsim.model.errors import KernelError, NetsimError
from netsim.model.networks import Families
from netsim.model.objects import Object

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOLDER = ("sleep", "infinity")
Logged = Callable[[Sequence[str]], None]
Shell = Callable[[str], Awaitable[tuple[str, str]]]


class StartError(NetsimError):
    """A container could not be started; ``reason`` is the waiting reason of its status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Launcher:
    """Makes what a pod's containers need, when it is first needed, and removes it at the end."""

    def __init__(self, tools: Tools, node: KubeletNode, pod: Object, state: PodState) -> None:
        self._tools = tools
        self._node = node
        self._pod = pod
        self._state = state
        self._hostname = choose_hostname(pod, node.runtime.name)
        self._uts_fd = -1
        self._files_made = False
        self._inside: dict[str, Inside] = {}
        self._environments: dict[str, dict[str, str]] = {}

    def choose(self, container: Mapping[str, Any]) -> tuple[Choice, dict[str, str]]:
        """The way of a container and its variables, Services' not among them. Raises ConfigError."""
        variables: dict[str, str] = {}
        if container.get("env") or container.get("envFrom"):
            variables = plan_environment(self._pod, container, self._tools.facts(self._pod, self._state))
        command = tuple(expand(str(part), variables) for part in container.get("command") or ())
        args = tuple(expand(str(part), variables) for part in container.get("args") or ())
        if not command and any(provider.matches(container) for provider in self._tools.providers):
            return Choice("builtin", "provided", image_base(str(container["image"]))), variables
        return choose_way(container, command, args), variables

    async def start(
        self,
        container: Object,
        choice: Choice,
        variables: Mapping[str, str],
        sandbox: Sandbox,
        container_id: str,
        exited: Exited,
        logged: Logged,
        log_fd: Callable[[], int],
    ) -> Running:
        """Start ``container``. Raises StartError, ConfigError."""
        try:
            if choice.kind == "provided":
                return await self._start_provided(container, sandbox, exited, logged)
            if choice.way == "process":
                return await self._start_process(container, choice, sandbox, exited, log_fd)
            return self._start_builtin(container, choice, variables, sandbox, container_id, exited, logged)
        except (KernelError, OSError) as error:
            text = error.message if isinstance(error, KernelError) else str(error)
            raise StartError("RunContainerError", text) from error
        except FlagError as error:
            raise StartError("RunContainerError", f"agnhost {choice.kind}: {error}") from error

    def _start_builtin(
        self,
        container: Object,
        choice: Choice,
        variables: Mapping[str, str],
        sandbox: Sandbox,
        container_id: str,
        exited: Exited,
        logged: Logged,
    ) -> Running:
        plan = _plan_builtin(container, choice, variables)
        families = self._tools.config.families
        running = BuiltinContainer(container_id, plan, self._tools.responder, self._tools.clock, exited, families)
        metadata = self._pod["metadata"]
        who = {
            "pod": metadata["name"],
            "namespace": metadata["namespace"],
            "node": self._node.runtime.name,
            "container": container["name"],
            "podIP": sandbox.ips[0] if sandbox.ips else "",
            "hostname": self._hostname,
        }
        options = dict(plan.options)
        if plan.kind == "netexec":
            resolver = self._plan_resolver()
            options["resolver"] = _resolver_options(resolver, families)
            options["uploads"] = os.fspath(self._tools.pod_folder(self._pod) / f"uploads-{container['name']}")
        elif plan.kind == "test-webserver":
            options["mounts"] = [(bind.target, bind.source) for bind in self._make_files(container)]

        async def shell(command: str) -> tuple[str, str]:
            return await self.shell(container, sandbox, command)

        running.start(sandbox.netns, who, options, logged, shell)
        try:
            if plan.lines:
                logged(plan.lines)
        except OSError:  # a full disk: the next attempt finds its ports free
            running.abandon()
            raise
        return running

    async def _start_process(
        self, container: Object, choice: Choice, sandbox: Sandbox, exited: Exited, log_fd: Callable[[], int]
    ) -> Running:
        environment = self.environment(container)
        spec = ProcessSpec(
            choice.argv,
            env=environment,
            cwd=container.get("workingDir") or None,
            netns=sandbox.netns,
            uts_fd=self._make_uts(),
            view=self._plan_view(container),
            new_pid=True,
        )
        fd = log_fd()
        try:
            return await ProcessContainer.start(self._tools.spawner, spec, fd, exited)
        finally:
            os.close(fd)

    async def _start_provided(self, container: Object, sandbox: Sandbox, exited: Exited, logged: Logged) -> Running:
        provider = next(p for p in self._tools.providers if p.matches(container))
        context = BuiltinContext(sandbox.netns, self._pod, container, lambda line: logged([line]))
        return ProvidedContainer(await provider.start(context), exited)

    # --- exec ---

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The whole environment of a process of ``container``. Raises ConfigError."""
        facts = self._tools.facts(self._pod, self._state, services=True)
        base = {"PATH": PATH, "HOSTNAME": self._hostname, "HOME": "/root"}
        return base | plan_environment(self._pod, container, facts)

    async def exec_spec(
        self,
        container: Object,
        running: Running | None,
        sandbox: Sandbox,
        argv: Sequence[str],
        env: Mapping[str, str],
        tty: bool,
    ) -> ProcessSpec:
        """A process beside those of ``container``. Raises ConfigError, KernelError."""
        inside = await self._enter(container, running, sandbox)
        environment = self.environment(container) | ({"TERM": "xterm"} if tty else {}) | dict(env)
        return ProcessSpec(
            tuple(argv),
            env=environment,
            cwd=container.get("workingDir") or "/",
            netns=sandbox.netns,
            uts_fd=self._make_uts(),
            view=inside.mnt_fd,
            pid_fd=inside.pid_fd,
            controlling_tty=tty,
        )

    async def shell(self, container: Object, sandbox: Sandbox, command: str) -> tuple[str, str]:
        """netexec's /shell: (output, error in Go's words)."""
        try:
            spec = await self.exec_spec(container, None, sandbox, ("/bin/sh", "-c", command), {}, False)
            done = await self._tools.spawner.run(spec)
        except NetsimError as error:
            return "", error.message
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        return output, "" if done.returncode == 0 else f"exit status {done.returncode}"

    async def _enter(self, container: Object, running: Running | None, sandbox: Sandbox) -> Inside:
        name = container["name"]
        found = self._inside.get(name)
        if found is not None:
            return found
        if isinstance(running, ProcessContainer):
            made = Inside(running.pid)
        else:
            view = self._plan_view(container)
            spec = ProcessSpec(
                HOLDER,
                env={"PATH": PATH},
                netns=sandbox.netns,
                uts_fd=self._make_uts(),
                view=view,
                new_pid=True,
            )
            made = await Inside.make(self._tools.spawner, spec)
        other = self._inside.setdefault(name, made)
        if other is not made:  # a second exec came while we waited
            made.close()
        return other

    # --- files ---

    def _plan_resolver(self) -> Resolver:
        return plan_resolver(self._pod, self._tools.config, self._tools.machine_resolver)

    def _make_uts(self) -> int:
        if self._uts_fd < 0:
            self._uts_fd = make_uts(self._hostname)
        return self._uts_fd

    def _make_files(self, container: Mapping[str, Any]) -> list[Bind]:
        """The pod's volumes and the container's mounts of them."""
        folder = self._tools.pod_folder(self._pod)
        plans = plan_volumes(self._pod, self._tools.facts(self._pod, self._state))
        volumes = folder / "volumes"
        if not self._files_made:
            folder.mkdir(parents=True, exist_ok=True)
            apply_volumes(plans, volumes)
            hosts = render_hosts(self._pod, self._state.pod_ips, self._hostname, self._tools.config.dns_domain)
            (folder / "hosts").write_text(hosts, encoding="utf-8")
            (folder / "resolv.conf").write_text(self._plan_resolver().render(), encoding="utf-8")
            (folder / "hostname").write_text(f"{self._hostname}\n", encoding="utf-8")
            self._files_made = True
        return plan_mounts(plans, container, volumes)

    def _plan_view(self, container: Mapping[str, Any]) -> ContainerView:
        mounts = self._make_files(container)
        folder = self._tools.pod_folder(self._pod)
        own = [Bind(os.fspath(folder / name), f"/etc/{name}") for name in ("hosts", "resolv.conf", "hostname")]
        agnhost = Bind(os.fspath(self._tools.agnhost_program()), "/agnhost", read_only=True)
        uploads = folder / f"uploads-{container['name']}"
        uploads.mkdir(exist_ok=True)
        binds = (*own, agnhost, Bind(os.fspath(uploads), "/uploads"), *mounts)
        return ContainerView(binds)

    def forget(self, name: str) -> None:
        """A container ended: nothing can be executed in it until it runs again."""
        inside = self._inside.pop(name, None)
        if inside is not None:
            inside.close()

    async def close(self) -> None:
        """Remove everything that was made for the pod."""
        for name in list(self._inside):
            self.forget(name)
        if self._uts_fd >= 0:
            os.close(self._uts_fd)
            self._uts_fd = -1
        folder = self._tools.pod_folder(self._pod)
        if self._files_made or folder.exists():
            await asyncio.to_thread(remove_folder, folder)


def _plan_builtin(container: Mapping[str, Any], choice: Choice, variables: Mapping[str, str]) -> BuiltinPlan:
    if choice.kind in AGNHOST_BUILTIN and choice.name.startswith("agnhost"):
        return plan_agnhost(choice.kind, choice.argv, variables)
    if choice.kind == "pause":
        return plan_pause()
    return plan_responder(choice.kind, container, choice.name)


def _resolver_options(resolver: Resolver, families: Families) -> dict[str, Any]:
    ndots = next((o.partition(":")[2] for o in resolver.options if o.startswith("ndots:")), "1")
    return {
        "nameservers": resolver.nameservers,
        "searches": resolver.searches,
        "ndots": int(ndots or 1),
        "families": families,
    }
