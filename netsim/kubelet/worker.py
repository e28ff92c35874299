"""One pod's worker: asks the planner, does what it says, writes the status. The thin half of pod life.

Nothing happens to a pod but here, one action after the other. A worker has a task only while there is something to do.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from cni.types import CniError
from netsim.kubelet.environment import ConfigError
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
    record_sandbox_failure,
)
from netsim.kubelet.runner import PodContainers
from netsim.kubelet.sandboxes import Sandbox, make_sandbox
from netsim.kubelet.state import PodState
from netsim.kubelet.status import OWN_CONDITIONS, render_status
from netsim.kubelet.tools import KubeletNode, Tools
from netsim.kubelet.volumes import plan_volumes
from netsim.model.errors import ApiError, KernelError
from netsim.model.kinds import POD
from netsim.model.names import pod_namespace
from netsim.model.objects import Object

log = logging.getLogger(__name__)

WRITE_RETRY_S = 1.0
FAULT_RETRY_S = 10.0


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
        self.state = PodState(host_ips=node.runtime.addresses)
        self.finished = asyncio.Event()
        self._tools = tools
        self._after = after
        self._report = report
        self.containers = PodContainers(tools, node, pod, self.state, self.wake)
        self._written: Object | None = None
        self._attempts = 0
        self._dirty = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._timer_at_s: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    # --- what happens to it ---

    def wake(self) -> None:
        """Ask the planner (again)."""
        self._dirty = True
        if self.node.stopped_at_s is not None:
            return  # until `resume`
        if self._task is None and not self.finished.is_set():
            self._report(self, True)
            self._task = asyncio.get_running_loop().create_task(self._work())

    def resume(self) -> None:
        """The node is back: see to everything that happened meanwhile. Others may have written the status."""
        self._written = None
        if self._after is not None:
            self._after.resume()  # nobody else knows it any more
        self.wake()

    def update(self, pod: Object) -> None:
        """The API has a newer version. Only what a kubelet acts on wakes the worker; our own status does not."""
        old, self.pod = self.pod, pod
        self.containers.pod = pod
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
        except Exception as error:  # a fault of ours in one pod must not stop the others, nor be silent or final
            log.exception("pod %s/%s", *self.key)
            self.containers.event("Warning", "FailedSync", f"error syncing pod: {error!r}")
            now_s = self._tools.clock.monotonic_s()
            self._arm(now_s + FAULT_RETRY_S, now_s)
        finally:
            self._task = None
            self._report(self, False)

    async def _pass(self) -> None:
        """Do what is to be done now; the status is written once nothing more is."""
        if self.node.stopped_at_s is not None:
            return
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
                await self.containers.start(name)
            case StopContainer(name, grace_s, reason):
                self.containers.stop(name, grace_s, reason)
            case KillContainer(name):
                self.containers.kill(name)
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
        except OSError as error:  # no descriptor left, no room for a file: the same to who waits for the pod
            self._sandbox_failed("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}", now_s)
        else:
            state.sandbox, state.sandbox_error, state.sandbox_backoff_s = "ready", "", 0.0

    async def _make_sandbox(self) -> None:
        node = self.node
        if self.pod["spec"].get("hostNetwork"):
            sandbox = Sandbox(node.runtime.netns, node.runtime.addresses)
        else:
            if node.network is None:
                raise KernelError("the pod network of the node is gone", where=node.runtime.name)
            self._attempts += 1
            sandbox = await make_sandbox(
                self._tools.cni, node.runtime.netns, node.network, self.pod, self._attempts, self._tools.config.families
            )
        self.containers.sandbox = sandbox
        self.state.pod_ips = sandbox.ips
        self._tools.publish(pod_namespace(*self.key), sandbox.netns)

    def _sandbox_failed(self, reason: str, message: str, now_s: float) -> None:
        record_sandbox_failure(self.state, message, now_s)
        self.containers.event("Warning", reason, message)

    def _wait_for_network(self, now_s: float) -> None:
        state = self.state
        state.sandbox_error = "network is not ready: the pod network of the node is not built yet"
        state.sandbox_retry_at_s = float("inf")
        self.node.waiting.append(self._network_ready)

    def _network_ready(self) -> None:
        self.state.sandbox_error, self.state.sandbox_retry_at_s = "", 0.0
        self.wake()

    async def _remove_sandbox(self) -> None:
        sandbox, self.containers.sandbox = self.containers.sandbox, None
        if not self.state.removed and is_dying(self.pod, self.state):
            await self._write_status()  # what became of its containers, before the end
        self.state.sandbox = "gone"
        self._tools.publish(pod_namespace(*self.key), None)
        if sandbox is None:
            return
        try:
            await self._tools.removals.remove(self.node.runtime.netns, sandbox)
        except (CniError, KernelError) as error:
            # The namespace goes all the same, and takes the veth pair along; GC frees what CNI still holds.
            self.containers.event("Warning", "FailedKillPod", f"error killing pod: {error.message}")

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
        await self.containers.close()
        self.finished.set()

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


def _merge(current: Mapping[str, Any], written: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status as it will be: what we wrote last, with the conditions of others as they are now.

    The informer may be behind our last write, so our transition times come from that.
    """
    own = [c for c in written["conditions"] if c["type"] in OWN_CONDITIONS]
    others = [c for c in current.get("conditions") or () if c["type"] not in OWN_CONDITIONS]
    return {**written, "conditions": own + others}
