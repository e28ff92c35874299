"""ReplicaSets: as many pods as asked for."""

import asyncio

from netsim.client.api import Api
from netsim.client.controller import Controller, enqueue_key
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.controllers.indexes import BY_CONTROLLER, BY_NAMESPACE, ORPHANS, index_by_controller, index_by_namespace
from netsim.controllers.ownership import apply_claims, plan_claims
from netsim.controllers.plan_replicas import ReplicaPlan, plan_pod, plan_replicas, plan_status
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import POD, REPLICA_SET
from netsim.model.objects import (
    Key,
    Object,
    controller_of,
    copy_object,
    format_time,
    is_pod_active,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    revision_of,
    uid_of,
)
from netsim.model.selectors import label_selector_from_object

YIELD_EVERY = 8  # writes in process never suspend; let the others have the loop now and then

# A pod's change alters the status alone, so it may wait for the next ones: 1,000 pods are not 1,000 status writes.
STATUS_DELAY_S = 0.01
STATUS_DELAY_PER_POD_S = 0.0001  # counting takes time in proportion to the pods
STATUS_DELAY_MAX_S = 0.1


class ReplicaSetController(Controller):
    """Creates, deletes, adopts and counts pods.

    What stands in for upstream's expectations: after its writes a ReplicaSet is not looked at again before the pod
    cache has reached the revision of the last one, so a cache that lags never leads to a pod too many. Deletions,
    whose revision the API does not tell, are remembered by uid.
    """

    def __init__(self, api: Api, informers: InformerSet, events: EventRecorder, clock: Clock) -> None:
        self._api = api
        self._events = events
        self._sets = informers.of(REPLICA_SET)
        self._pods = informers.of(POD)
        super().__init__("replicaset-controller", [self._sets, self._pods], clock=clock)
        self._wrote: dict[Key, int] = {}
        self._deleting: dict[Key, set[str]] = {}
        index_by_controller(self._pods)
        index_by_namespace(self._sets)
        self._sets.add_handler(enqueue_key(self.queue))
        self._pods.add_handler(self._on_pod)

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        pod = new if new is not None else old
        if pod is None:
            return
        references = [controller_of(pod)]
        if old is not None and new is not None and _owners_differ(old, new):
            references.append(controller_of(old))
        for reference in references:
            if reference is None:
                self._enqueue_selecting(pod)
            elif reference["kind"] == "ReplicaSet":
                key = (namespace_of(pod), reference["name"])
                if old is not None and new is not None and is_pod_active(new) and labels_of(old) == labels_of(new):
                    self.queue.add_after(key, self._status_delay_s(reference["uid"]))
                elif old is None:
                    self.queue.add_after(key, STATUS_DELAY_S)  # usually the one it just made itself
                else:
                    self.queue.add(key)

    def _enqueue_selecting(self, orphan: Object) -> None:
        for replica_set in self._sets.by_index(BY_NAMESPACE, namespace_of(orphan)):
            if label_selector_from_object(replica_set["spec"].get("selector")).matches(labels_of(orphan)):
                self.queue.add(key_of(replica_set))

    def _status_delay_s(self, uid: str) -> float:
        pods = self._pods.count_index(BY_CONTROLLER, uid)
        return min(STATUS_DELAY_S + pods * STATUS_DELAY_PER_POD_S, STATUS_DELAY_MAX_S)

    async def reconcile(self, key: Key) -> None:
        await self._pods.reached(self._wrote.get(key, 0))
        replica_set = self._sets.get(*key)
        if replica_set is None:
            self._wrote.pop(key, None)
            self._deleting.pop(key, None)
            return
        selector = label_selector_from_object(replica_set["spec"].get("selector"))
        claims = plan_claims(
            replica_set,
            selector,
            self._pods.by_index(BY_CONTROLLER, uid_of(replica_set)),
            [pod for pod in self._pods.by_index(ORPHANS, key[0]) if is_pod_active(pod)],
        )
        pods = claims.kept
        if claims.adopt or claims.release:
            pods = await apply_claims(self._api, replica_set, REPLICA_SET, POD, claims)
        pods = self._without_deleted(key, pods)
        failure = await self._apply(key, replica_set, plan_replicas(replica_set, pods))
        await self._write_status(key, replica_set, pods, failure)
        if failure is not None:
            raise failure

    def _without_deleted(self, key: Key, pods: list[Object]) -> list[Object]:
        deleting = self._deleting.get(key)
        if not deleting:
            return pods
        still_seen = {uid_of(pod) for pod in pods if is_pod_active(pod)} & deleting
        if still_seen:
            self._deleting[key] = still_seen
        else:
            del self._deleting[key]
        return [pod for pod in pods if uid_of(pod) not in still_seen]

    async def _apply(self, key: Key, replica_set: Object, plan: ReplicaPlan) -> ApiError | None:
        """Act on the plan; returns the error that stopped it."""
        try:
            if plan.create:
                await self._create_pods(key, replica_set, plan.create)
            for number, pod in enumerate(plan.delete):
                await self._delete_pod(key, replica_set, pod)
                if number % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
        except ApiError as error:
            return error
        return None

    async def _create_pods(self, key: Key, replica_set: Object, count: int) -> None:
        template = plan_pod(replica_set)
        for number in range(count):
            try:
                pod = await self._api.create(POD, copy_object(template))
            except ApiError as error:
                self._events.event(replica_set, "Warning", "FailedCreate", f"Error creating: {error.message}")
                raise
            self._wrote[key] = revision_of(pod)
            self._events.event(replica_set, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}")
            if number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
                latest = self._sets.get(*key)
                if latest is None or latest["metadata"].get("generation") != replica_set["metadata"].get("generation"):
                    return  # scaled or deleted meanwhile: its event has enqueued the key again

    async def _delete_pod(self, key: Key, replica_set: Object, pod: Object) -> None:
        self._deleting.setdefault(key, set()).add(uid_of(pod))
        try:
            await self._api.delete(POD, name_of(pod), namespace_of(pod), uid=uid_of(pod))
        except ApiError as error:
            self._deleting[key].discard(uid_of(pod))
            if error.code in (404, 409):
                return  # gone already, or another pod of the same name
            text = f"Error deleting: {error.message}"
            self._events.event(replica_set, "Warning", "FailedDelete", text)
            raise
        self._events.event(replica_set, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    async def _write_status(self, key: Key, replica_set: Object, pods: list[Object], failure: ApiError | None) -> None:
        now_s = self.clock.wall_s()
        reason = ("FailedCreate", failure.message) if failure is not None else None
        status, next_s = plan_status(replica_set, pods, now_s, reason, format_time(now_s))
        if next_s is not None:
            self.queue.add_later(key, next_s)
        if status == (replica_set.get("status") or {}):
            return
        try:
            await self._api.update(REPLICA_SET, {**replica_set, "status": status}, subresource="status")
        except ApiError as error:
            if error.code != 404:
                raise


def _owners_differ(old: Object, new: Object) -> bool:
    before, after = old["metadata"].get("ownerReferences"), new["metadata"].get("ownerReferences")
    return before is not after and before != after
