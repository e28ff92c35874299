"""Pods that are bound to a node that does not exist: nobody runs them, and nobody would ever finish deleting them.

Source: kubernetes pkg/controller/podgc/gc_controller.go (gcOrphaned). Its other cases can't come up here: pods that no
node has are deleted at once by the API server, and finished ones are kept, as upstream keeps the first 12,500.
"""

from netsim.client.api import Api
from netsim.client.controller import Controller
from netsim.client.informerset import InformerSet
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import NODE, POD
from netsim.model.objects import Key, Object, name_of, namespace_of, pod_node, uid_of

QUARANTINE_S = 40.0  # a Node that was just made may not be known here yet


class PodGarbageCollector(Controller):
    """Keys are names of nodes."""

    def __init__(self, api: Api, informers: InformerSet, clock: Clock) -> None:
        self._api = api
        self._nodes = informers.of(NODE)
        self._pods = informers.of(POD)
        self._missing_since_s: dict[str, float] = {}
        super().__init__("pod-garbage-collector", [self._nodes, self._pods], clock=clock)
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        node = old if new is None else new
        if node is not None and (new is None or name_of(node) in self._missing_since_s):
            self.queue.add(("", name_of(node)))

    def _pod_changed(self, _old: Object | None, new: Object | None) -> None:
        node = pod_node(new) if new is not None else ""
        if node and self._nodes.get(None, node) is None:
            self.queue.add(("", node))

    async def reconcile(self, key: Key) -> None:
        _, name = key
        pods = [pod for pod in self._pods.items() if pod_node(pod) == name]
        if self._nodes.get(None, name) is not None or not pods:
            self._missing_since_s.pop(name, None)
            return
        now_s = self.clock.monotonic_s()
        since_s = self._missing_since_s.setdefault(name, now_s)
        if now_s - since_s < QUARANTINE_S:
            self.queue.add_later(key, QUARANTINE_S - (now_s - since_s))
            return
        for pod in pods:
            await self._delete(pod)
        self._missing_since_s.pop(name, None)  # another pod that names it waits its own time

    async def _delete(self, pod: Object) -> None:
        name, namespace = name_of(pod), namespace_of(pod)
        try:
            await self._api.delete(POD, name, namespace, uid=uid_of(pod), grace_period_s=0)
        except ApiError as error:
            if error.code not in (404, 409):  # gone, or another pod of that name by now
                raise
