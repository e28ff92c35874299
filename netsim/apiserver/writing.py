"""The verbs create, update and patch.

Source: kubernetes ``staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go`` and
``.../registry/rest/update.go``.
"""

from collections.abc import Mapping
from typing import Any

from netsim.apiserver.causes import Causes
from netsim.apiserver.decoding import check_decoded, decode, report_unknown
from netsim.apiserver.names import check_labels, check_metadata
from netsim.apiserver.patching.json_patch import json_patch
from netsim.apiserver.patching.merge import merge_patch
from netsim.apiserver.patching.strategic import strategic_merge
from netsim.apiserver.refusals import already_exists, conflict, forbidden
from netsim.apiserver.request import JSON, bad_request
from netsim.apiserver.routing import Route
from netsim.apiserver.schema.tables import TYPES
from netsim.apiserver.state import State
from netsim.apiserver.strategies.base import Strategy, Undo
from netsim.client.transport import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH
from netsim.model.errors import ApiError, not_found
from netsim.model.kinds import NAMESPACE, Kind
from netsim.store.store import Record

Object = dict[str, Any]
_APPLY_PATCH = "application/apply-patch"
_NAME_TRIES = 8
# Metadata that belongs to the server: an update that differs in them is put right, not refused.
_SERVER_METADATA = (
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)
_STATUS_METADATA = ("labels", "annotations", "finalizers")  # what a /status update may change beside status


def is_dry_run(query: Mapping[str, str]) -> bool:
    """``dryRun=All``: do everything but write. Raises ApiError 422 for another value."""
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise ApiError(422, "Invalid", f'dryRun: Unsupported value: "{value}": supported values: "All"')
    return value == "All"


def create(state: State, route: Route, body: Any, query: Mapping[str, str], warnings: list[str]) -> Object:
    """A new object, as stored."""
    kind, strategy = route.kind, state.strategy(route.kind)
    obj = decode(route, body, query, warnings)
    metadata = obj["metadata"]
    if metadata.pop("resourceVersion", ""):
        raise bad_request("resourceVersion should not be set on objects to be created")
    namespace = _place(state, route, metadata)
    _check_namespace(state, route, namespace, metadata.get("name", "") or metadata.get("generateName", ""))
    _name(state, route, namespace, metadata)
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"):
        metadata.pop(field, None)
    metadata["uid"] = state.new_uid()
    metadata["creationTimestamp"] = state.now()
    if strategy.generation_fields:
        metadata["generation"] = 1
    strategy.prepare_create(obj)
    strategy.default(obj)
    causes = Causes()
    check_metadata(metadata, strategy.check_name, causes)
    strategy.validate(obj, causes)
    if causes:
        raise causes.error(kind, metadata.get("name", ""))
    undo = strategy.allocate(obj, None, causes)
    if causes:
        undo()
        raise causes.error(kind, metadata["name"])
    if is_dry_run(query):
        undo()
        return obj
    _put(state, kind, namespace, obj, undo)
    strategy.written(obj, None)
    return obj


def _put(state: State, kind: Kind, namespace: str, obj: Object, undo: Undo) -> None:
    try:
        state.store.put(kind.resource, namespace, obj["metadata"]["name"], obj)
    except ApiError:  # the disk is full
        undo()
        raise


def _place(state: State, route: Route, metadata: Object) -> str:
    """The namespace of the new object, "" for cluster-wide kinds."""
    if not route.kind.namespaced:
        metadata.pop("namespace", None)
        return ""
    namespace = route.namespace
    if namespace is None:
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    given = metadata.setdefault("namespace", namespace)
    if given != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request: "
            f"{given} and {namespace}"
        )
    return namespace


def _check_namespace(state: State, route: Route, namespace: str, name: str) -> None:
    if not route.kind.namespaced:
        return
    found = state.store.get(NAMESPACE.resource, "", namespace)
    if found is None:
        raise not_found(NAMESPACE.plural, "", namespace)
    if found.value["metadata"].get("deletionTimestamp"):
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        }
        raise forbidden(route.kind, name, why, [cause])


def _name(state: State, route: Route, namespace: str, metadata: Object) -> None:
    """Settle the name: the given one, or a generated one that is free."""
    kind, name, prefix = route.kind, metadata.get("name", ""), metadata.get("generateName", "")
    tries = 1 if name else _NAME_TRIES
    for _ in range(tries):
        candidate = name or (state.generate_name(prefix) if prefix else "")
        if state.store.get(kind.resource, namespace, candidate) is None:
            if candidate:
                metadata["name"] = candidate
            return
    raise already_exists(kind, candidate)


def update(state: State, route: Route, body: Any, query: Mapping[str, str], warnings: list[str]) -> Object:
    """PUT of an object or of its status."""
    obj = decode(route, body, query, warnings)
    name = obj["metadata"].get("name", "")
    if name != route.name:
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({route.name})"
            if name
            else f"the name of the object must be {route.name}, the name on the URL"
        )
    given = obj["metadata"].get("namespace")
    if given and route.namespace and given != route.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    record = state.record(route.kind, route.namespace, name)
    if route.subresource == "status":
        return _replace_status(state, route, record, obj, query)
    return replace(state, route, record, obj, query)


def patch(
    state: State, route: Route, body: Any, content_type: str, query: Mapping[str, str], warnings: list[str]
) -> Object:
    """PATCH of an object or of its status."""
    patch_type(content_type)  # first, so that a client that creates by PATCH hears why it can't
    record = state.record(route.kind, route.namespace, route.name or "")
    patched = apply_patch(record.value, body, content_type, route.kind.kind)
    if route.subresource == "status":
        return _patch_status(state, route, record, body, patched, query, warnings)
    obj = decode(route, patched, query, warnings, patched=True)
    if obj["metadata"].get("name") != route.name:
        raise bad_request(f"the name of the object ({obj['metadata'].get('name')}) does not match the name on the URL")
    return replace(state, route, record, obj, query)


def patch_type(content_type: str) -> str:
    """The media type of a patch. Raises ApiError 415 for one that is not supported."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in (JSON, ""):
        return MERGE_PATCH  # in process, and from clients that do not say
    accepted = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
    if media_type in accepted:
        return media_type
    listed = ", ".join(accepted)
    if media_type.startswith(_APPLY_PATCH):
        why = "server-side apply is not supported: use kubectl apply without --server-side"
        raise ApiError(415, "UnsupportedMediaType", f"{why} (accepted media types: {listed})")
    why = "the body of the request was in an unknown format - accepted media types include"
    raise ApiError(415, "UnsupportedMediaType", f"{why}: {listed}")


def apply_patch(document: Object, body: Any, content_type: str, type_: str) -> Any:
    """``document`` patched as the content type says; shares what did not change. Raises ApiError 400, 415, 422."""
    media_type = patch_type(content_type)
    if media_type == STRATEGIC_PATCH:
        return strategic_merge(document, body, type_)
    if media_type == JSON_PATCH:
        return json_patch(document, body)
    if not isinstance(body, dict):
        raise bad_request("a merge patch is an object")
    return merge_patch(document, body)


def _patch_status(
    state: State,
    route: Route,
    record: Record,
    body: Any,
    patched: Any,
    query: Mapping[str, str],
    warnings: list[str],
) -> Object:
    """The hot path of a cluster: kubelets and controllers write little else. Checks only what can have changed."""
    kind = route.kind
    if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
        raise bad_request("a patch may not take the metadata away")
    status = TYPES[kind.kind].get("status") if kind.kind in TYPES else None
    if status is not None:
        check_decoded(status.type, patched.get("status", {}), kind.api_version)
    if patched["metadata"] is not record.value["metadata"]:
        check_decoded("ObjectMeta", patched["metadata"], kind.api_version)
    report_unknown(kind.kind, patched, query, warnings)
    return _replace_status(state, route, record, patched, query)


def _check_version(route: Route, old: Object, new: Object) -> None:
    """Optimistic concurrency: what the writer has read must be what is there. Raises ApiError 409."""
    was, given = old["metadata"], new["metadata"]
    if given.get("resourceVersion", was["resourceVersion"]) not in (was["resourceVersion"], ""):
        raise conflict(route.kind, was["name"])
    if given.get("uid", was["uid"]) not in (was["uid"], ""):
        why = f"Precondition failed: UID in precondition: {given['uid']}, UID in object meta: {was['uid']}"
        raise conflict(route.kind, was["name"], why)


def _replace_status(state: State, route: Route, record: Record, new: Object, query: Mapping[str, str]) -> Object:
    """Write the status of ``new``, and the metadata a status update may change."""
    old = record.value
    _check_version(route, old, new)
    metadata = old["metadata"]
    given = new["metadata"]
    for field in _STATUS_METADATA:
        if given.get(field) != metadata.get(field):
            metadata = dict(metadata) if metadata is old["metadata"] else metadata
            if field in given:
                metadata[field] = given[field]
            else:
                metadata.pop(field, None)
    status = new.get("status", {})
    if status == old.get("status", {}) and metadata is old["metadata"]:
        return old
    obj = {**old, "metadata": dict(metadata), "status": status}
    causes = Causes()
    if metadata is not old["metadata"]:
        check_labels(metadata.get("labels"), "metadata.labels", causes)
    state.strategy(route.kind).validate_status(obj, old, causes)
    return _write(state, route, record, obj, causes, query)


def replace(state: State, route: Route, record: Record, new: Object, query: Mapping[str, str]) -> Object:
    """Write ``new``, which is ours, over what is there."""
    old, strategy = record.value, state.strategy(route.kind)
    _check_version(route, old, new)
    metadata = new["metadata"]
    for field in _SERVER_METADATA:
        if field in old["metadata"]:
            metadata[field] = old["metadata"][field]
        else:
            metadata.pop(field, None)
    metadata.pop("managedFields", None)
    metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
    strategy.prepare_update(new, old)
    strategy.default(new)
    if any(new.get(field) != old.get(field) for field in strategy.generation_fields):
        metadata["generation"] = old["metadata"].get("generation", 0) + 1
    if new == old:
        return old  # as upstream: an update that changes nothing writes nothing
    causes = Causes()
    check_metadata(metadata, strategy.check_name, causes)
    if old["metadata"].get("deletionTimestamp"):
        added = set(metadata.get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            causes.forbidden(
                "metadata.finalizers",
                f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}",
            )
    strategy.validate(new, causes)
    strategy.validate_update(new, old, causes)
    return _write(state, route, record, new, causes, query)


def _write(state: State, route: Route, record: Record, new: Object, causes: Causes, query: Mapping[str, str]) -> Object:
    """Allocate, store, and finish a deletion that only waited for this."""
    old, kind, strategy = record.value, route.kind, state.strategy(route.kind)
    name = old["metadata"]["name"]
    if causes:
        raise causes.error(kind, name)
    undo = strategy.allocate(new, old, causes)
    if causes:
        undo()
        raise causes.error(kind, name)
    if is_dry_run(query):
        undo()
        return new
    namespace = old["metadata"].get("namespace", "")
    _put(state, kind, namespace, new, undo)
    strategy.written(new, old)
    if is_finally_gone(strategy, new):
        return remove(state, route, new)
    return new


def is_finally_gone(strategy: Strategy, obj: Object) -> bool:
    """A deleted object that nothing keeps any more: no grace period, no finalizer."""
    metadata = obj["metadata"]
    return bool(
        metadata.get("deletionTimestamp")
        and not metadata.get("deletionGracePeriodSeconds")
        and not metadata.get("finalizers")
        and not strategy.deletion_blocked(obj)
    )


def remove(state: State, route: Route, obj: Object) -> Object:
    """Take an object out of the store. Returns its last state."""
    metadata = obj["metadata"]
    gone = state.store.delete(route.kind.resource, metadata.get("namespace", ""), metadata["name"])
    state.strategy(route.kind).deleted(obj)
    return gone if gone is not None else obj
