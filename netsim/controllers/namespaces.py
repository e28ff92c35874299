"""Namespaces on their way out: delete what is in them, then let them go.

Source: kubernetes ``pkg/controller/namespace/deletion/namespaced_resources_deleter.go``.
"""

import asyncio

from netsim.client.api import Api
from netsim.client.controller import Controller, enqueue_key
from netsim.client.informerset import InformerSet
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import KINDS, NAMESPACE, Kind
from netsim.model.objects import Key, Object, is_deleting, name_of, uid_of

FINALIZER = "kubernetes"
CHECK_AGAIN_S = 0.05  # pods take their grace period; how often to look whether they are gone
YIELD_EVERY = 16


class NamespaceController(Controller):
    """Lists the content only of namespaces that are going, so it needs no caches of all kinds."""

    def __init__(self, api: Api, informers: InformerSet, clock: Clock, kinds: tuple[Kind, ...] = KINDS) -> None:
        self._api = api
        self._namespaces = informers.of(NAMESPACE)
        self._kinds = [kind for kind in kinds if kind.namespaced]
        super().__init__("namespace-controller", [self._namespaces], clock=clock)
        self._namespaces.add_handler(enqueue_key(self.queue))

    async def reconcile(self, key: Key) -> None:
        namespace = self._namespaces.get(*key)
        if namespace is None or not is_deleting(namespace):
            return
        if FINALIZER not in ((namespace.get("spec") or {}).get("finalizers") or ()):
            return
        if await self._delete_content(name_of(namespace)):
            self.queue.add_later(key, CHECK_AGAIN_S)
            return
        await self._finalize(namespace)

    async def _delete_content(self, name: str) -> int:
        """Ask for the deletion of all that is there; returns how much still is."""
        remaining = 0
        for kind in self._kinds:
            for obj in (await self._api.list(kind, name)).items:
                if not is_deleting(obj) and await self._delete(kind, obj, name):
                    continue
                remaining += 1
                if remaining % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        return remaining

    async def _delete(self, kind: Kind, obj: Object, namespace: str) -> bool:
        """Whether the object is gone at once."""
        try:
            # Background: the garbage collector need not wait for dependents, they are deleted here too.
            answer = await self._api.delete(kind, name_of(obj), namespace, propagation="Background", uid=uid_of(obj))
        except ApiError as error:
            if error.code in (404, 409):
                return error.code == 404
            raise
        return answer.get("kind") == "Status" or not is_deleting(answer)

    async def _finalize(self, namespace: Object) -> None:
        kept = [f for f in namespace["spec"]["finalizers"] if f != FINALIZER]
        body = {**namespace, "spec": {**namespace["spec"], "finalizers": kept}}
        try:
            await self._api.update(NAMESPACE, body, subresource="finalize")
        except ApiError as error:
            if error.code != 404:
                raise
