"""Garbage collection by ownerReferences: background, foreground, orphan.

Source: kubernetes ``pkg/controller/garbagecollector/garbagecollector.go``. There the caches and the graph are
apart; here the graph is an index on the shared caches: owner's uid -> dependents.
"""

from collections import OrderedDict
from collections.abc import Iterable

from netsim.client.api import Api
from netsim.client.controller import Controller
from netsim.client.informer import Handler, Informer
from netsim.client.informerset import InformerSet
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import EVENT, KINDS, Kind, kind_of
from netsim.model.objects import Object, is_deleting, key_of, name_of, namespace_of, owner_refs_of, uid_of

BY_OWNER = "owner"
FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
ABSENT_MAX = 10_000

GarbageKey = tuple[str, str, str]  # (resource, namespace, name)


def _owners(obj: Object) -> Iterable[str]:
    return [reference.get("uid", "") for reference in obj["metadata"].get("ownerReferences") or ()]


class GarbageCollector(Controller):
    """Deletes what no owner holds any more."""

    def __init__(self, api: Api, informers: InformerSet, clock: Clock, kinds: tuple[Kind, ...] = KINDS) -> None:
        self._api = api
        # Events have no owners and own nothing: watching them would only cost.
        self._kinds = {kind.resource: kind for kind in kinds if kind is not EVENT}
        self._informers: dict[str, Informer] = {r: informers.of(k) for r, k in self._kinds.items()}
        super().__init__("garbage-collector", list(self._informers.values()), clock=clock)
        self._absent: OrderedDict[str, None] = OrderedDict()  # uids of owners known to be gone
        for resource, informer in self._informers.items():
            informer.add_index(BY_OWNER, _owners)
            informer.add_handler(self._make_handler(resource))

    def _make_handler(self, resource: str) -> Handler:
        def handle(old: Object | None, new: Object | None) -> None:
            if new is None:
                if old is not None:
                    self._on_gone(old)
                return
            metadata = new["metadata"]
            references = metadata.get("ownerReferences")
            changed = references and (old is None or references != old["metadata"].get("ownerReferences"))
            if changed and not all(self._in_cache(namespace_of(new), reference) for reference in references):
                self.queue.add((resource, *key_of(new)))
            if metadata.get("deletionTimestamp") and metadata.get("finalizers"):
                self.queue.add((resource, *key_of(new)))
                if FOREGROUND in metadata["finalizers"]:
                    self._enqueue_dependents(new)

        return handle

    def _on_gone(self, obj: Object) -> None:
        self._absent[uid_of(obj)] = None
        if len(self._absent) > ABSENT_MAX:
            self._absent.popitem(last=False)
        self._enqueue_dependents(obj)
        # An owner that waits in the foreground for this one.
        for reference in obj["metadata"].get("ownerReferences") or ():
            kind = kind_of(reference.get("apiVersion", ""), reference.get("kind", ""))
            if kind is None or kind.resource not in self._informers:
                continue
            namespace = namespace_of(obj) if kind.namespaced else ""
            owner = self._informers[kind.resource].get(namespace, reference["name"])
            if owner is not None and is_deleting(owner):
                self.queue.add((kind.resource, *key_of(owner)))

    def _enqueue_dependents(self, owner: Object) -> None:
        for resource, dependent in self._dependents(owner):
            self.queue.add((resource, *key_of(dependent)))

    def _dependents(self, owner: Object) -> Iterable[tuple[str, Object]]:
        uid = uid_of(owner)
        for resource, informer in self._informers.items():
            for dependent in informer.by_index(BY_OWNER, uid):
                yield resource, dependent

    # --- acting ---

    async def reconcile(self, key: GarbageKey) -> None:
        resource, namespace, name = key
        obj = self._informers[resource].get(namespace, name)
        if obj is None:
            return
        if is_deleting(obj):
            finalizers = obj["metadata"].get("finalizers") or ()
            if FOREGROUND in finalizers:
                await self._delete_foreground(self._kinds[resource], obj)
            elif ORPHAN in finalizers:
                await self._orphan(self._kinds[resource], obj)
            return
        await self._collect(self._kinds[resource], obj)

    async def _collect(self, kind: Kind, obj: Object) -> None:
        """Delete ``obj`` if none of its owners is left; else drop the references to those that are gone."""
        references = owner_refs_of(obj)
        if not references:
            return
        solid, dangling, waiting = [], [], []
        for reference in references:
            owner = await self._find_owner(namespace_of(obj), reference)
            if owner is None:
                dangling.append(reference)
            elif is_deleting(owner) and FOREGROUND in (owner["metadata"].get("finalizers") or ()):
                waiting.append(reference)
            else:
                solid.append(reference)
        if solid:
            if dangling or waiting:
                await self._set_owners(kind, obj, solid)
            return
        # An owner that waits in the foreground wants the dependents of this one gone first, too.
        policy = "Foreground" if waiting and self._has_dependents(obj) else "Background"
        await self._delete(kind, obj, policy)

    def _has_dependents(self, obj: Object) -> bool:
        return next(iter(self._dependents(obj)), None) is not None

    async def _delete(self, kind: Kind, obj: Object, policy: str) -> None:
        try:
            await self._api.delete(
                kind,
                name_of(obj),
                namespace_of(obj),
                propagation="Foreground" if policy == "Foreground" else "Background",
                uid=uid_of(obj),
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def _delete_foreground(self, kind: Kind, owner: Object) -> None:
        uid = uid_of(owner)
        blocking = False
        for resource, dependent in list(self._dependents(owner)):
            blocking = blocking or any(
                reference.get("uid") == uid and reference.get("blockOwnerDeletion")
                for reference in owner_refs_of(dependent)
            )
            if not is_deleting(dependent):
                self.queue.add((resource, *key_of(dependent)))
        if not blocking:
            await self._drop_finalizer(kind, owner, FOREGROUND)

    async def _orphan(self, kind: Kind, owner: Object) -> None:
        for resource, dependent in list(self._dependents(owner)):
            kept = [r for r in owner_refs_of(dependent) if r.get("uid") != uid_of(owner)]
            await self._set_owners(self._kinds[resource], dependent, kept)
        await self._drop_finalizer(kind, owner, ORPHAN)

    async def _set_owners(self, kind: Kind, obj: Object, references: list[Object]) -> None:
        metadata = {
            "ownerReferences": references or None,
            "uid": uid_of(obj),
            "resourceVersion": obj["metadata"].get("resourceVersion"),
        }
        try:
            await self._api.patch(kind, name_of(obj), {"metadata": metadata}, namespace_of(obj))
        except ApiError as error:
            if error.code != 404:
                raise

    async def _drop_finalizer(self, kind: Kind, obj: Object, finalizer: str) -> None:
        kept = [item for item in obj["metadata"].get("finalizers") or () if item != finalizer]
        metadata = {"finalizers": kept or None, "resourceVersion": obj["metadata"].get("resourceVersion")}
        try:
            await self._api.patch(kind, name_of(obj), {"metadata": metadata}, namespace_of(obj))
        except ApiError as error:
            if error.code != 404:
                raise

    # --- owners ---

    def _in_cache(self, namespace: str, reference: Object) -> bool:
        kind = kind_of(reference.get("apiVersion", ""), reference.get("kind", ""))
        if kind is None or kind.resource not in self._informers:
            return True  # a kind we do not know may well exist elsewhere: hands off
        owner = self._informers[kind.resource].get(namespace if kind.namespaced else "", reference["name"])
        return owner is not None and uid_of(owner) == reference.get("uid")

    async def _find_owner(self, namespace: str, reference: Object) -> Object | None:
        """The owner; None when it is certain that it is gone. Asks the API where the cache lacks it."""
        kind = kind_of(reference.get("apiVersion", ""), reference.get("kind", ""))
        if kind is None or kind.resource not in self._informers:
            return {"metadata": {"name": reference.get("name", ""), "uid": reference.get("uid", "")}}
        uid = reference.get("uid", "")
        if uid in self._absent:
            return None
        scope = namespace if kind.namespaced else ""
        cached = self._informers[kind.resource].get(scope, reference["name"])
        if cached is not None and uid_of(cached) == uid:
            return cached
        try:
            live = await self._api.get(kind, reference["name"], scope or None)
        except ApiError as error:
            if error.code != 404:
                raise
            live = None
        if live is not None and uid_of(live) == uid:
            return live
        self._absent[uid] = None
        return None
