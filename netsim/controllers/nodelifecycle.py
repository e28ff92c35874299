"""Nodes whose kubelets are silent: NotReady after the grace period, tainted, their pods unready and later evicted.

Upstream learns of silence from Leases, which every kubelet renews every ten seconds. Here all kubelets live in one
process with this controller, so it is told who is silent since when (``silent_since_s``), and a cluster whose kubelets
all speak costs nothing. What follows is upstream's: kubernetes pkg/controller/nodelifecycle.
"""

from collections.abc import Callable

from netsim.client.api import Api
from netsim.client.controller import Controller, enqueue_key
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.controllers.plan_node_health import (
    choose_evictions,
    plan_taints,
    plan_unknown_conditions,
    plan_unready,
)
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import NODE, POD
from netsim.model.objects import Key, Object, is_condition_true, is_deleting, name_of, namespace_of, pod_node, uid_of


class NodeLifecycleController(Controller):
    """``silent_since_s(node)``: when its kubelet was last heard of, on the clock's monotonic time; None: it speaks."""

    def __init__(
        self,
        api: Api,
        informers: InformerSet,
        events: EventRecorder,
        clock: Clock,
        *,
        silent_since_s: Callable[[str], float | None],
        grace_s: float,
    ) -> None:
        self._api = api
        self._events = events
        self._nodes = informers.of(NODE)
        self._pods = informers.of(POD)
        self._silent_since_s = silent_since_s
        self._grace_s = grace_s
        self._unreachable: set[str] = set()
        super().__init__("node-lifecycle-controller", [self._nodes, self._pods], clock=clock)
        self._nodes.add_handler(enqueue_key(self.queue))
        self._pods.add_handler(self._pod_changed)

    def check(self, node: str) -> None:
        """Its kubelet has become silent, or speaks again."""
        self.queue.add(("", node))

    def _pod_changed(self, _old: Object | None, new: Object | None) -> None:
        """A pod that comes to an unreachable node is to leave it in its turn."""
        if self._unreachable and new is not None and pod_node(new) in self._unreachable:
            self.check(pod_node(new))

    async def reconcile(self, key: Key) -> None:
        node = self._nodes.get(*key)
        if node is None:
            return
        name = name_of(node)
        since_s = self._silent_since_s(name)
        if since_s is None:
            await self._make_reachable(node)
            return
        silent_s = self.clock.monotonic_s() - since_s
        if silent_s < self._grace_s:
            self.queue.add_later(key, self._grace_s - silent_s)
            return
        self._unreachable.add(name)
        await self._make_unreachable(node)
        next_s = await self._see_to_pods(name, silent_s - self._grace_s)
        if next_s is not None:
            self.queue.add_later(key, next_s)

    async def _make_reachable(self, node: Object) -> None:
        self._unreachable.discard(name_of(node))
        taints = plan_taints(node, False, 0.0)
        if taints is not None and is_condition_true(node, "Ready"):
            await self._api.patch(NODE, name_of(node), {"spec": {"taints": taints or None}})
            self._events.event(node, "Normal", "NodeReady", f"Node {name_of(node)} status is now: NodeReady")

    async def _make_unreachable(self, node: Object) -> None:
        name, wall_s = name_of(node), self.clock.wall_s()
        conditions = plan_unknown_conditions(node, wall_s)
        if conditions is not None:
            await self._api.patch(NODE, name, {"status": {"conditions": conditions}}, subresource="status")
            self._events.event(node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        taints = plan_taints(node, True, wall_s)
        if taints is not None:
            await self._api.patch(NODE, name, {"spec": {"taints": taints}})

    async def _see_to_pods(self, node: str, unreachable_s: float) -> float | None:
        """Mark the node's pods unready, delete those whose time is over; when to look again."""
        pods = [pod for pod in self._pods.items() if pod_node(pod) == node]
        for pod in pods:
            conditions = plan_unready(pod, self.clock.wall_s())
            if conditions is not None:
                await self._write_conditions(pod, conditions)
                self._events.event(pod, "Warning", "NodeNotReady", "Node is not ready")
        staying = [pod for pod in pods if not is_deleting(pod)]
        over, next_s = choose_evictions(staying, unreachable_s)
        for pod in over:
            words = f"Marking for deletion Pod {namespace_of(pod)}/{name_of(pod)}"
            self._events.event(pod, "Normal", "TaintManagerEviction", words)
            try:
                await self._api.delete(POD, name_of(pod), namespace_of(pod), uid=uid_of(pod))
            except ApiError as error:
                if error.code not in (404, 409):  # gone, or another pod of that name by now
                    raise
        return next_s

    async def _write_conditions(self, pod: Object, conditions: list[Object]) -> None:
        patch = {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": conditions}}
        try:
            await self._api.patch(POD, name_of(pod), patch, namespace_of(pod), subresource="status")
        except ApiError as error:
            if error.code not in (404, 409):
                raise
