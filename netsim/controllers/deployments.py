"""Deployments: ReplicaSets for each revision of the template, and the way from one to the next."""

from collections.abc import Sequence

from netsim.client.api import Api
from netsim.client.controller import Controller, enqueue_key
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.controllers.indexes import BY_CONTROLLER, BY_NAMESPACE, ORPHANS, index_by_controller, index_by_namespace
from netsim.controllers.ownership import apply_claims, plan_claims
from netsim.controllers.plan_deployment_status import is_complete, plan_deployment_status
from netsim.controllers.plan_rollout import (
    REVISION,
    Scale,
    find_new_set,
    is_scaling,
    plan_history,
    plan_new_set,
    plan_recreate,
    plan_reuse,
    plan_rolling,
    plan_scale,
    plan_scaled_set,
    replicas_of,
    same_template,
    strategy_of,
)
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import DEPLOYMENT, POD, REPLICA_SET
from netsim.model.objects import (
    Key,
    Object,
    annotations_of,
    controller_of,
    format_time,
    is_controlled_by,
    is_deleting,
    is_pod_finished,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from netsim.model.selectors import label_selector_from_object


class DeploymentController(Controller):
    """One reconcile is one step of a rollout; the ReplicaSets' status writes bring the next."""

    def __init__(self, api: Api, informers: InformerSet, events: EventRecorder, clock: Clock) -> None:
        self._api = api
        self._events = events
        self._deployments = informers.of(DEPLOYMENT)
        self._sets = informers.of(REPLICA_SET)
        self._pods = informers.of(POD)
        super().__init__("deployment-controller", [self._deployments, self._sets, self._pods], clock=clock)
        index_by_controller(self._sets)
        index_by_namespace(self._deployments)
        index_by_controller(self._pods)
        self._deployments.add_handler(enqueue_key(self.queue))
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)

    def _on_set(self, old: Object | None, new: Object | None) -> None:
        for obj in (new, old):
            if obj is None:
                continue
            reference = controller_of(obj)
            if reference is None:
                for deployment in self._deployments.by_index(BY_NAMESPACE, namespace_of(obj)):
                    selector = label_selector_from_object(deployment["spec"].get("selector"))
                    if selector.matches(labels_of(obj)):
                        self.queue.add(key_of(deployment))
            elif reference["kind"] == "Deployment":
                self.queue.add((namespace_of(obj), reference["name"]))

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        """Recreate waits for the old pods to be gone; nothing else here depends on a pod."""
        if new is not None or old is None:
            return
        reference = controller_of(old)
        if reference is None or reference["kind"] != "ReplicaSet":
            return
        replica_set = self._sets.get(namespace_of(old), reference["name"])
        owner = controller_of(replica_set) if replica_set is not None else None
        if owner is None:
            return
        deployment = self._deployments.get(namespace_of(old), owner["name"])
        if deployment is not None and strategy_of(deployment) == "Recreate":
            self.queue.add(key_of(deployment))

    async def reconcile(self, key: Key) -> None:
        deployment = self._deployments.get(*key)
        if deployment is None:
            return
        selector = label_selector_from_object(deployment["spec"].get("selector"))
        if selector.everything:
            text = "This deployment is selecting all pods. A non-empty selector is required."
            self._events.event(deployment, "Warning", "SelectingAll", text)
            return
        owned = self._sets.by_index(BY_CONTROLLER, uid_of(deployment))
        claims = plan_claims(deployment, selector, owned, self._sets.by_index(ORPHANS, key[0]))
        sets = await apply_claims(self._api, deployment, DEPLOYMENT, REPLICA_SET, claims)
        new = find_new_set(deployment, sets)
        old = [rs for rs in sets if new is None or uid_of(rs) != uid_of(new)]
        if is_deleting(deployment):
            await self._write_status(key, deployment, new, sets, created=False)
        elif deployment["spec"].get("paused") or is_scaling(deployment, sets):
            await self._resize(key, deployment, new, old)
        else:
            await self._roll(key, deployment, new, old)

    async def _resize(self, key: Key, deployment: Object, new: Object | None, old: list[Object]) -> None:
        scaled = await self._apply_scales(deployment, plan_scale(deployment, new, old))
        new, old = _replace(new, old, scaled)
        if deployment["spec"].get("paused"):
            await self._trim_history(deployment, new, old)
        await self._write_status(key, deployment, new, [*old, *([new] if new else [])], created=False)

    async def _roll(self, key: Key, deployment: Object, new: Object | None, old: list[Object]) -> None:
        created = False
        recreate = strategy_of(deployment) == "Recreate"
        if new is None and not (recreate and self._old_in_the_way(old)):
            new = await self._create_set(deployment, old)
            created = True
        elif new is not None:
            reused = plan_reuse(deployment, new, old)
            new = await self._api.update(REPLICA_SET, reused) if reused is not None else new
        if new is None:
            scales = [Scale(rs, 0) for rs in old if replicas_of(rs) > 0]
        elif recreate:
            scales = plan_recreate(deployment, new, old, self._old_pods_exist(old))
        else:
            scales = plan_rolling(deployment, new, old)
        scaled = await self._apply_scales(deployment, scales)
        if new is not None:
            # A ReplicaSet of the right size may still carry the annotations of another: write those alone.
            sized = await self._apply_scales(deployment, [Scale(new, replicas_of(new))]) if not scales else {}
            scaled.update(sized)
        new, old = _replace(new, old, scaled)
        status = await self._write_status(key, deployment, new, [*old, *([new] if new else [])], created=created)
        if is_complete(deployment, status):
            await self._trim_history(deployment, new, old)

    def _old_in_the_way(self, old: Sequence[Object]) -> bool:
        return any(replicas_of(rs) > 0 for rs in old) or self._old_pods_exist(old)

    def _old_pods_exist(self, old: Sequence[Object]) -> bool:
        """Whether a pod of an old ReplicaSet still runs, be it on its way out (oldPodsRunning)."""
        return any(not is_pod_finished(pod) for rs in old for pod in self._pods.by_index(BY_CONTROLLER, uid_of(rs)))

    async def _create_set(self, deployment: Object, old: Sequence[Object]) -> Object:
        wanted = plan_new_set(deployment, old)
        try:
            made = await self._api.create(REPLICA_SET, wanted)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                text = f'Failed to create new replica set "{name_of(wanted)}": {error.message}'
                self._events.event(deployment, "Warning", "ReplicaSetCreateError", text)
                raise
            return await self._after_collision(deployment, wanted)
        if count := replicas_of(made):
            text = f"Scaled up replica set {name_of(made)} from 0 to {count}"
            self._events.event(deployment, "Normal", "ScalingReplicaSet", text)
        return made

    async def _after_collision(self, deployment: Object, wanted: Object) -> Object:
        """The name is taken: by our own ReplicaSet that the cache lacks, or by a stranger with the same hash."""
        namespace = namespace_of(deployment)
        found = await self._api.get(REPLICA_SET, name_of(wanted), namespace)
        if is_controlled_by(found, deployment) and same_template(found["spec"]["template"], wanted["spec"]["template"]):
            return found
        count = int((deployment.get("status") or {}).get("collisionCount") or 0) + 1
        patch = {"status": {"collisionCount": count}}
        await self._api.patch(DEPLOYMENT, name_of(deployment), patch, namespace, subresource="status")
        raise ApiError(409, "Conflict", f"the hash of {name_of(wanted)} is taken; trying another")

    async def _apply_scales(self, deployment: Object, scales: Sequence[Scale]) -> dict[str, Object]:
        """Write sizes; returns the changed ReplicaSets by uid."""
        changed: dict[str, Object] = {}
        for scale in scales:
            before = replicas_of(scale.replica_set)
            wanted = plan_scaled_set(deployment, scale)
            if wanted is None:
                continue
            changed[uid_of(wanted)] = await self._api.update(REPLICA_SET, wanted)
            if scale.replicas != before:
                way = "up" if scale.replicas > before else "down"
                text = f"Scaled {way} replica set {name_of(wanted)} from {before} to {scale.replicas}"
                self._events.event(deployment, "Normal", "ScalingReplicaSet", text)
        return changed

    async def _write_status(
        self, key: Key, deployment: Object, new: Object | None, sets: Sequence[Object], *, created: bool
    ) -> Object:
        deployment = await self._write_revision(deployment, new)
        now_s = self.clock.wall_s()
        status, wait_s = plan_deployment_status(
            deployment, new, sets, created=created, now=format_time(now_s), now_s=now_s
        )
        if wait_s is not None:
            self.queue.add_later(key, wait_s)
        if status != (deployment.get("status") or {}):
            await self._api.update(DEPLOYMENT, {**deployment, "status": status}, subresource="status")
        return status

    async def _write_revision(self, deployment: Object, new: Object | None) -> Object:
        """The Deployment carries the revision of its new ReplicaSet."""
        revision = annotations_of(new).get(REVISION) if new is not None else None
        if revision is None or annotations_of(deployment).get(REVISION) == revision or is_deleting(deployment):
            return deployment
        annotations = {**annotations_of(deployment), REVISION: revision}
        metadata = {**deployment["metadata"], "annotations": annotations}
        return await self._api.update(DEPLOYMENT, {**deployment, "metadata": metadata})

    async def _trim_history(self, deployment: Object, new: Object | None, old: Sequence[Object]) -> None:
        for replica_set in plan_history(deployment, old):
            try:
                await self._api.delete(
                    REPLICA_SET, name_of(replica_set), namespace_of(replica_set), uid=uid_of(replica_set)
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    raise


def _replace(
    new: Object | None, old: Sequence[Object], changed: dict[str, Object]
) -> tuple[Object | None, list[Object]]:
    """The ReplicaSets with the changed ones in their places."""
    fresh = changed.get(uid_of(new), new) if new is not None else None
    return fresh, [changed.get(uid_of(rs), rs) for rs in old]
