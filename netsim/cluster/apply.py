"""``apply`` and ``delete`` as kubectl does them, and waiting until what was applied is ready.

An apply is a three-way strategic merge: what the last apply said (kept in kubectl's own annotation, so both tools may
be used on one object), what this one says, and what is there. Fields that the last one set and this one leaves out are
removed; fields that others set (allocated ports, defaults) stay. Source:
kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from netsim.apiserver.schema.tables import TYPES, Field
from netsim.client.api import Api, check_response
from netsim.client.transport import STRATEGIC_PATCH
from netsim.cluster.readiness import NotReady, explain_unready, find_unready
from netsim.model.errors import ApiError, NetsimError, TimeoutExpired
from netsim.model.kinds import Kind, kind_of
from netsim.model.manifests import SourceObject, locate
from netsim.model.objects import Object, copy_object, name_of, namespace_of

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
POLL_S = 0.02
STRICT = {"fieldManager": "netsim", "fieldValidation": "Strict"}  # an unknown field is most often a typing error


@dataclass(frozen=True, slots=True)
class Applied:
    """What apply did to one object; ``str`` is kubectl's line, such as ``deployment.apps/web created``."""

    kind: Kind
    object: Object
    change: Literal["created", "configured", "unchanged"]

    def __str__(self) -> str:
        suffix = f".{self.kind.group}" if self.kind.group else ""
        return f"{self.kind.singular}{suffix}/{name_of(self.object)} {self.change}"


async def apply_objects(api: Api, sources: Sequence[SourceObject], namespace: str) -> list[Applied]:
    """Apply objects in the order given. Raises ApiError with the file and line of the object at fault."""
    applied = []
    for source in sources:
        try:
            applied.append(await _apply_one(api, source.kind, _placed(source.kind, source.object, namespace)))
        except ApiError as error:
            raise locate(error, source) from error
    return applied


def _placed(kind: Kind, obj: Object, namespace: str) -> Object:
    """A copy of the manifest, in the namespace it goes to."""
    placed = copy_object(obj)
    if kind.namespaced:
        placed["metadata"].setdefault("namespace", namespace)
    return placed


async def _apply_one(api: Api, kind: Kind, wanted: Object) -> Applied:
    annotated = _annotated(wanted)
    name, namespace = name_of(wanted), namespace_of(wanted) or None
    try:
        live = await api.get(kind, name, namespace)
    except ApiError as error:
        if error.code != 404:
            raise
        return Applied(kind, await _create(api, kind, annotated), "created")
    patch = plan_patch(_last_applied(live), annotated, kind.kind)
    response = await api.transport.request(
        "PATCH", kind.path(namespace, name), query=STRICT, body=patch, content_type=STRATEGIC_PATCH
    )
    changed = check_response(response)
    same = changed["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
    return Applied(kind, changed, "unchanged" if same else "configured")


async def _create(api: Api, kind: Kind, obj: Object) -> Object:
    created: Object = await api.request("POST", kind.path(namespace_of(obj) or None), query=STRICT, body=obj)
    return created


def _annotated(wanted: Object) -> Object:
    annotated = copy_object(wanted)
    annotations = annotated["metadata"].setdefault("annotations", {})
    annotations[LAST_APPLIED] = json.dumps(wanted, separators=(",", ":"), sort_keys=True) + "\n"
    return annotated


def _last_applied(live: Object) -> Object:
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED, "")
    try:
        previous = json.loads(text)
    except ValueError:
        return {}
    return previous if isinstance(previous, dict) else {}


def plan_patch(previous: Mapping[str, Any], wanted: Mapping[str, Any], type_: str) -> dict[str, Any]:
    """The strategic merge patch that says ``wanted``, an object of this type, and takes back what only ``previous``
    said.
    """
    patch: dict[str, Any] = {key: None for key in previous if key not in wanted and key != "status"}
    fields = TYPES.get(type_, {})
    for key, value in wanted.items():
        field = fields.get(key, _UNKNOWN)
        before = previous.get(key)
        if isinstance(value, Mapping):
            inner = field.type if field.shape == "" else "object"
            patch[key] = plan_patch(before if isinstance(before, Mapping) else {}, value, inner)
        elif isinstance(value, list) and field.merge_key:
            patch |= _plan_list(key, before if isinstance(before, list) else [], value, field)
        else:
            patch[key] = value
    return patch


_UNKNOWN = Field("", "object")


def _plan_list(name: str, previous: list[Any], wanted: list[Any], field: Field) -> dict[str, Any]:
    """A list whose elements merge by key: each, their order, and deletions. Malformed ones the server refuses."""
    key = field.merge_key
    if not all(isinstance(item, Mapping) and key in item for item in [*previous, *wanted]):
        return {name: wanted}
    before = {item[key]: item for item in previous}
    order = [item[key] for item in wanted]
    changes = [plan_patch(before.get(item[key], {}), item, field.type) for item in wanted]
    gone: list[dict[str, Any]] = [{str(key): value, "$patch": "delete"} for value in before if value not in order]
    return {name: changes + gone, f"$setElementOrder/{name}": [{key: value} for value in order]}


async def wait_ready(api: Api, objects: Sequence[Object], timeout_s: float) -> None:
    """Return when all of them are ready. Raises TimeoutExpired naming what is not, and why; NetsimError at once for
    what can't become ready any more.
    """
    deadline = time.monotonic() + timeout_s
    waiting = [obj for obj in objects if kind_of(obj["apiVersion"], obj["kind"]) is not None]
    unready: list[NotReady] = []
    while waiting:
        unready = []
        for obj in waiting:
            found = await find_unready(api, obj)
            if found is not None:
                unready.append(found)
        if any(item.final for item in unready) or (unready and time.monotonic() > deadline):
            break
        waiting = [item.object for item in unready]
        if waiting:
            await asyncio.sleep(POLL_S)
    if not waiting:
        return
    lines = [await explain_unready(api, item) for item in unready]
    text = "\n".join(lines)
    hint = "netsim describe and netsim get events say more; --timeout waits longer, --no-wait not at all"
    if any(item.final for item in unready):
        raise NetsimError(f"failed:\n{text}", hint=hint)
    raise TimeoutExpired(f"not ready after {timeout_s:g} s:\n{text}", hint=hint)


async def delete_objects(api: Api, objects: Sequence[Object], namespace: str) -> list[Object]:
    """Delete objects, the last named first. Raises ApiError; what is not there is an error only if nothing was."""
    deleted: list[Object] = []
    missing: ApiError | None = None
    for obj in reversed(objects):
        kind = kind_of(obj["apiVersion"], obj["kind"])
        if kind is None:
            continue
        placed = _placed(kind, obj, namespace)
        try:
            live = await api.get(kind, name_of(placed), namespace_of(placed) or None)
            await api.delete(kind, name_of(placed), namespace_of(placed) or None, propagation="Background")
            deleted.append(live)
        except ApiError as error:
            if error.code != 404:
                raise
            missing = error
    if missing is not None and not deleted:
        raise missing
    return deleted


async def wait_gone(api: Api, objects: Sequence[Object], timeout_s: float) -> None:
    """Return when these very objects (by uid) are gone. Raises TimeoutExpired."""
    deadline = time.monotonic() + timeout_s
    for obj in objects:
        kind = kind_of(obj["apiVersion"], obj["kind"])
        if kind is None:
            continue
        while await _is_there(api, kind, obj):
            if time.monotonic() > deadline:
                raise TimeoutExpired(
                    f"{kind.singular}/{name_of(obj)} is still being deleted after {timeout_s:g} s",
                    hint="finalizers, its pods' grace periods or a node that is gone hold it: netsim describe",
                )
            await asyncio.sleep(POLL_S)


async def _is_there(api: Api, kind: Kind, obj: Object) -> bool:
    try:
        live = await api.get(kind, name_of(obj), namespace_of(obj) or None)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return bool(live["metadata"]["uid"] == obj["metadata"]["uid"])
