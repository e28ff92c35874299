"""The scheduler at work: pods without a node come in, bindings go out."""

from typing import Final

from netsim.client.api import Api
from netsim.client.controller import Controller
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import NODE, POD
from netsim.model.objects import (
    Key,
    Object,
    format_time,
    get_condition,
    is_deleting,
    is_pod_finished,
    key_of,
    name_of,
    namespace_of,
    pod_node,
    uid_of,
)
from netsim.scheduler.plan import Unschedulable, plan_placement
from netsim.scheduler.state import ClusterState

DEFAULT_SCHEDULER = "default-scheduler"
RETRY: Final[Key] = ("", "")  # the key that stands for "try again what did not fit"
RETRY_DELAY_S = 0.02  # gathers changes: each would have every waiting pod tried again


def wants_node(pod: Object) -> bool:
    """Whether this scheduler has to find a node for the pod."""
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and not is_deleting(pod)
        and not is_pod_finished(pod)
        and (spec.get("schedulerName") or DEFAULT_SCHEDULER) == DEFAULT_SCHEDULER
        and not spec.get("schedulingGates")
    )


class Scheduler(Controller):
    """One pod at a time; a pod is counted on its node before its binding is written (upstream's assumed pods)."""

    def __init__(self, api: Api, informers: InformerSet, events: EventRecorder, clock: Clock) -> None:
        self._api = api
        self._events = events
        self._pods = informers.of(POD)
        self._nodes = informers.of(NODE)
        super().__init__("scheduler", [self._nodes, self._pods], clock=clock)
        self.state = ClusterState()
        self._waiting: set[Key] = set()  # pods that fitted nowhere
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self.state.remove_node(name_of(old))
                self._retry()
        elif self.state.set_node(new):
            self._retry()

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self._waiting.discard(key_of(old))
                if self.state.remove(uid_of(old)):
                    self._retry()
        elif pod_node(new):
            self._waiting.discard(key_of(new))
            if self.state.place(new):
                self._retry()  # one finished leaves room; one placed may be what an affinity waits for
        elif wants_node(new) and (old is None or not wants_node(old) or _demand_differs(old, new)):
            self.queue.add(key_of(new))

    def _retry(self) -> None:
        if self._waiting:
            self.queue.add_after(RETRY, RETRY_DELAY_S)

    async def reconcile(self, key: Key) -> None:
        if key == RETRY:
            waiting, self._waiting = self._waiting, set()
            for waiting_key in sorted(waiting):
                self.queue.add(waiting_key)
            return
        pod = self._pods.get(*key)
        if pod is None or not wants_node(pod) or self.state.is_placed(uid_of(pod)):
            return
        plan = plan_placement(pod, self.state)
        if isinstance(plan, Unschedulable):
            self._waiting.add(key)
            await self._report(pod, str(plan))
        else:
            await self._bind(pod, plan.node)

    async def _bind(self, pod: Object, node: str) -> None:
        self.state.place(pod, node)
        try:
            await self._api.bind(pod, node)
        except ApiError as error:
            self.state.remove(uid_of(pod))
            if error.code in (404, 409):
                return  # deleted, or bound by another, meanwhile; its event tells
            self._events.event(pod, "Warning", "FailedScheduling", f"binding rejected: {error.message}")
            raise
        text = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {node}"
        self._events.event(pod, "Normal", "Scheduled", text)

    async def _report(self, pod: Object, message: str) -> None:
        """Say why in an event and in the PodScheduled condition."""
        self._events.event(pod, "Warning", "FailedScheduling", message)
        old = get_condition(pod, "PodScheduled")
        if old is not None and old.get("message") == message and old.get("status") == "False":
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": format_time(self.clock.wall_s()),
        }
        patch = {"status": {"conditions": [condition]}}
        try:
            await self._api.patch(
                POD, name_of(pod), patch, namespace_of(pod), patch_type="strategic", subresource="status"
            )
        except ApiError as error:
            if error.code != 404:
                raise


def _labels_differ(old: Object, new: Object) -> bool:
    before, after = old["metadata"].get("labels"), new["metadata"].get("labels")
    return before is not after and before != after


def _demand_differs(old: Object, new: Object) -> bool:
    """Whether a waiting pod was edited; its status alone (our own condition) does not count."""
    return old["spec"] != new["spec"] or _labels_differ(old, new)


def make_scheduler(api: Api, informers: InformerSet, clock: Clock) -> list[Controller | EventRecorder]:
    """The scheduler and its event recorder, ready to run beside ``informers``."""
    events = EventRecorder(api, DEFAULT_SCHEDULER, clock=clock)
    return [Scheduler(api, informers, events, clock), events]
