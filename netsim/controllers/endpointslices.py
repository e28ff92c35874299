"""EndpointSlices: for each Service with a selector, its pods as the proxies need them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from netsim.client.api import Api
from netsim.client.controller import Controller
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.controllers.indexes import BY_NAMESPACE, index_by_namespace
from netsim.controllers.plan_endpoints import plan_groups
from netsim.controllers.plan_slices import CONTROLLER, MANAGED_BY, SERVICE_NAME, SlicePlan, plan_slices
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import ENDPOINT_SLICE, NODE, POD, SERVICE
from netsim.model.objects import (
    Key,
    Object,
    format_micro_time,
    is_deleting,
    is_pod_finished,
    is_pod_ready,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    pod_node,
    revision_of,
    uid_of,
)
from netsim.model.selectors import LabelSelector, label_selector_from_map

ZONE = "topology.kubernetes.io/zone"
BY_SERVICE = "service"  # slices of ours by "namespace/service"

# One change is acted upon at once. Changes that keep coming are gathered: computing a Service's slices costs time in
# proportion to its endpoints, so doing it for each of 1,000 pods that start would be quadratic.
BATCH_FIRST_S = 0.01
BATCH_MAX_S = 0.1
QUIET_S = 0.25  # after so long without a change the next one is again acted upon at once


@dataclass(slots=True)
class _ServiceState:
    """What is remembered of a Service between two rounds."""

    selector: LabelSelector
    last_s: float = -1e9  # when it was last worked on
    batch_s: float = 0.0
    wrote: int = 0  # revision of the last write
    trigger_s: float | None = None  # wall time of the first change since
    written: dict[str, list[Object] | None] = field(default_factory=dict)  # slice -> endpoints; None: deleted


def _service_of_slice(obj: Object) -> Iterable[str]:
    labels = labels_of(obj)
    name = labels.get(SERVICE_NAME)
    return (f"{namespace_of(obj)}/{name}",) if name and labels.get(MANAGED_BY) == CONTROLLER else ()


class EndpointSliceController(Controller):
    """Pods' changes find their Services through a map from namespace to Services and their compiled selectors."""

    def __init__(self, api: Api, informers: InformerSet, events: EventRecorder, clock: Clock) -> None:
        self._api = api
        self._events = events
        self._services = informers.of(SERVICE)
        self._pods = informers.of(POD)
        self._slices = informers.of(ENDPOINT_SLICE)
        self._nodes = informers.of(NODE)
        super().__init__(
            "endpointslice-controller", [self._services, self._pods, self._slices, self._nodes], clock=clock
        )
        self._states: dict[str, dict[str, _ServiceState]] = {}  # namespace -> service -> state
        index_by_namespace(self._pods)
        self._slices.add_index(BY_SERVICE, _service_of_slice)
        self._services.add_handler(self._on_service)
        self._pods.add_handler(self._on_pod)
        self._slices.add_handler(self._on_slice)
        self._nodes.add_handler(self._on_node)

    # --- what happened ---

    def _on_service(self, old: Object | None, new: Object | None) -> None:
        obj = new if new is not None else old
        if obj is None:
            return
        namespace, name = key_of(obj)
        if new is None:
            self._states.get(namespace, {}).pop(name, None)
            return  # its slices go with it: garbage collection
        if old is not None and old["spec"] == new["spec"] and labels_of(old) == labels_of(new):
            return
        states = self._states.setdefault(namespace, {})
        selector = label_selector_from_map(new["spec"].get("selector"))
        state = states.get(name)
        if state is None:
            state = states[name] = _ServiceState(selector)
        state.selector = selector
        self._trigger(namespace, name, state)

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        pod = new if new is not None else old
        if pod is None:
            return
        states = self._states.get(namespace_of(pod))
        if not states:
            return
        if old is not None and new is not None:
            relabelled = labels_of(old) != labels_of(new)
            if not relabelled and not _endpoint_differs(old, new):
                return
            before = labels_of(old) if relabelled else None
        else:
            if not (pod.get("status") or {}).get("podIP"):
                return  # no endpoint yet, or never one
            before = None
        labels = labels_of(pod)
        namespace = namespace_of(pod)
        for name, state in states.items():
            if state.selector.matches(labels) or (before is not None and state.selector.matches(before)):
                self._trigger(namespace, name, state)

    def _on_slice(self, old: Object | None, new: Object | None) -> None:
        """Slices changed or deleted by others are put right again; our own writes are known by their content."""
        obj = new if new is not None else old
        if obj is None:
            return
        namespace = namespace_of(obj)
        names = {labels_of(o).get(SERVICE_NAME, "") for o in (old, new) if o is not None}
        for name in names:
            state = self._states.get(namespace, {}).get(name)
            if state is None:
                continue
            intended = state.written.get(name_of(obj), ())
            actual = (new.get("endpoints") or []) if new is not None else None
            if intended == actual and len(names) == 1:
                if actual is None:
                    del state.written[name_of(obj)]
                continue
            self.queue.add((namespace, name))

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        """A node's zone is part of the endpoints on it."""
        before = labels_of(old).get(ZONE) if old is not None else None
        after = labels_of(new).get(ZONE) if new is not None else None
        node = new if new is not None else old
        if before == after or node is None:
            return
        for pod in self._pods.items():
            if pod_node(pod) == name_of(node):
                self._on_pod(None, pod)

    def _trigger(self, namespace: str, name: str, state: _ServiceState) -> None:
        if state.trigger_s is None:
            state.trigger_s = self.clock.wall_s()
        now_s = self.clock.monotonic_s()
        if now_s - state.last_s > QUIET_S:
            state.batch_s = 0.0
            self.queue.add((namespace, name))
        else:
            self.queue.add_after((namespace, name), max(state.batch_s, BATCH_FIRST_S))

    # --- what to do ---

    async def reconcile(self, key: Key) -> None:
        namespace, name = key
        if (written_to := self._states.get(namespace, {}).get(name)) is not None:
            await self._slices.reached(written_to.wrote)
        service = self._services.get(namespace, name)
        state = self._states.get(namespace, {}).get(name)
        if service is None or state is None or is_deleting(service):
            return
        existing = self._slices.by_index(BY_SERVICE, f"{namespace}/{name}")
        if service["spec"].get("type") == "ExternalName":
            await self._apply(state, SlicePlan(delete=existing))
            return
        if not service["spec"].get("selector"):
            return  # whoever made it looks after its slices
        now_s = self.clock.monotonic_s()
        recent = now_s - state.last_s <= QUIET_S
        state.batch_s = min(max(state.batch_s * 2, BATCH_FIRST_S), BATCH_MAX_S) if recent else 0.0
        state.last_s = now_s
        trigger_s, state.trigger_s = state.trigger_s, None
        selector = state.selector
        pods = [pod for pod in self._pods.by_index(BY_NAMESPACE, namespace) if selector.matches(labels_of(pod))]
        groups = plan_groups(service, pods, self._zone_of)
        trigger = format_micro_time(trigger_s) if trigger_s is not None else ""
        await self._apply(state, plan_slices(service, groups, existing, trigger), service)

    def _zone_of(self, node: str) -> str:
        found = self._nodes.get(None, node)
        return labels_of(found).get(ZONE, "") if found is not None else ""

    async def _apply(self, state: _ServiceState, plan: SlicePlan, service: Object | None = None) -> None:
        try:
            for wanted in plan.create:
                made = await self._api.create(ENDPOINT_SLICE, wanted)
                state.written[name_of(made)] = made.get("endpoints") or []
                state.wrote = revision_of(made)
            for wanted in plan.update:
                state.written[name_of(wanted)] = wanted["endpoints"]
                state.wrote = revision_of(await self._api.update(ENDPOINT_SLICE, wanted))
            for present in plan.delete:
                await self._delete(state, present)
        except ApiError as error:
            if error.code not in (404, 409) and service is not None:
                text = f"Failed to update endpoint slices for Service {'/'.join(key_of(service))}: {error.message}"
                self._events.event(service, "Warning", "FailedToUpdateEndpointSlices", text)
            raise

    async def _delete(self, state: _ServiceState, present: Object) -> None:
        state.written[name_of(present)] = None
        try:
            await self._api.delete(ENDPOINT_SLICE, name_of(present), namespace_of(present), uid=uid_of(present))
        except ApiError as error:
            if error.code != 404:
                raise


def _endpoint_differs(old: Object, new: Object) -> bool:
    """Whether a pod's change can be seen in an endpoint (endpointSliceChanged)."""
    before, after = old.get("status") or {}, new.get("status") or {}
    return (
        before.get("podIPs") != after.get("podIPs")
        or before.get("podIP") != after.get("podIP")
        or is_deleting(old) != is_deleting(new)
        or (bool(after.get("podIP")) and is_pod_ready(old) != is_pod_ready(new))
        or is_pod_finished(old) != is_pod_finished(new)
        or pod_node(old) != pod_node(new)
    )
