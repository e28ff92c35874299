"""The verbs delete and deletecollection: grace periods, finalizers, preconditions.

Dependents are the garbage collector's, and the content of a namespace the namespace controller's: both watch.
Source: kubernetes ``staging/src/k8s.io/apiserver/pkg/registry/rest/delete.go`` (BeforeDelete) and
``.../generic/registry/store.go``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netsim.apiserver.reading import find_records
from netsim.apiserver.refusals import conflict
from netsim.apiserver.request import Answer, bad_request, is_true, whole_number
from netsim.apiserver.routing import Route
from netsim.apiserver.state import State
from netsim.apiserver.strategies.base import Strategy
from netsim.apiserver.writing import is_dry_run, is_finally_gone, remove
from netsim.model.errors import ApiError
from netsim.model.objects import format_time, parse_time
from netsim.store.store import Record

Object = dict[str, Any]
FOREGROUND_FINALIZER = "foregroundDeletion"
ORPHAN_FINALIZER = "orphan"
_PROPAGATION = ("Background", "Foreground", "Orphan")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a DELETE asks for, from its body or its query."""

    grace_period_s: int | None = None
    propagation: str | None = None
    preconditions: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False


def parse_options(body: Any, query: Mapping[str, str]) -> DeleteOptions:
    """Raises ApiError 400 or 422."""
    if body is not None and not isinstance(body, dict):
        raise bad_request("the body of a DELETE is a DeleteOptions object")
    body = body or {}
    if body.get("kind", "DeleteOptions") != "DeleteOptions":
        raise bad_request(f"the body of a DELETE is a DeleteOptions object, not a {body['kind']}")
    grace = body.get("gracePeriodSeconds")
    grace = whole_number(query, "gracePeriodSeconds") if grace is None else grace
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy")
    orphan = body.get("orphanDependents")
    if propagation is None and (orphan is not None or "orphanDependents" in query):
        orphan = is_true(query, "orphanDependents") if orphan is None else orphan
        propagation = "Orphan" if orphan else "Background"
    if grace is not None and (type(grace) is not int or grace < 0):
        raise ApiError(422, "Invalid", f"gracePeriodSeconds: Invalid value: {grace}: must be a non-negative integer")
    if propagation is not None and propagation not in _PROPAGATION:
        listed = ", ".join(f'"{item}"' for item in _PROPAGATION)
        raise ApiError(
            422, "Invalid", f'propagationPolicy: Unsupported value: "{propagation}": supported values: {listed}'
        )
    dry_run = is_dry_run({"dryRun": (body.get("dryRun") or [query.get("dryRun", "")])[0]})
    return DeleteOptions(grace, propagation, body.get("preconditions") or {}, dry_run)


def delete(state: State, route: Route, body: Any, query: Mapping[str, str]) -> Answer:
    """DELETE of one object."""
    options = parse_options(body, query)
    record = state.record(route.kind, route.namespace, route.name or "")
    left, gone = _delete_one(state, route, record, options)
    if gone and not state.strategy(route.kind).returns_deleted_object:
        metadata = left["metadata"]
        details = {"name": metadata["name"], "kind": route.kind.plural, "uid": metadata["uid"]}
        if route.kind.group:
            details["group"] = route.kind.group
        return Answer(
            200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )
    return Answer(200, left)


def delete_collection(state: State, route: Route, body: Any, query: Mapping[str, str]) -> Answer:
    """DELETE of all objects a query selects. The answer lists them."""
    options = parse_options(body, query)
    items = [_delete_one(state, route, record, options)[0] for record in find_records(state, route, query)]
    metadata = {"resourceVersion": str(state.store.revision)}
    return Answer(
        200,
        {
            "kind": f"{route.kind.kind}List",
            "apiVersion": route.kind.api_version,
            "metadata": metadata,
            "items": items,
        },
    )


def _check_preconditions(route: Route, metadata: Object, preconditions: Mapping[str, str]) -> None:
    uid, version = preconditions.get("uid"), preconditions.get("resourceVersion")
    if uid and uid != metadata["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
        raise conflict(route.kind, metadata["name"], why)
    if version and version != metadata["resourceVersion"]:
        why = (
            f"Precondition failed: ResourceVersion in precondition: {version}, "
            f"ResourceVersion in object meta: {metadata['resourceVersion']}"
        )
        raise conflict(route.kind, metadata["name"], why)


def _finalizers(metadata: Object, propagation: str | None) -> list[str]:
    """The object's finalizers after a DELETE with this policy; without one they stay."""
    finalizers = list(metadata.get("finalizers") or ())
    if propagation is None:
        return finalizers
    finalizers = [item for item in finalizers if item not in (FOREGROUND_FINALIZER, ORPHAN_FINALIZER)]
    extra = {"Foreground": [FOREGROUND_FINALIZER], "Orphan": [ORPHAN_FINALIZER]}.get(propagation, [])
    return finalizers + extra


def _delete_one(state: State, route: Route, record: Record, options: DeleteOptions) -> tuple[Object, bool]:
    """Delete, or mark for deletion. Returns the object as it is left, and whether it is gone."""
    old, strategy = record.value, state.strategy(route.kind)
    metadata = old["metadata"]
    _check_preconditions(route, metadata, options.preconditions)
    strategy.may_delete(old)
    new_metadata = _mark(state, strategy, old, options)
    finalizers = _finalizers(metadata, options.propagation)
    if finalizers:
        new_metadata["finalizers"] = finalizers
    else:
        new_metadata.pop("finalizers", None)
    new = {**old, "metadata": new_metadata}
    strategy.prepare_delete(new)
    if is_finally_gone(strategy, new):
        return (old, True) if options.dry_run else (remove(state, route, old), True)
    if options.dry_run or new == old:
        return new, False
    state.store.put(route.kind.resource, metadata.get("namespace", ""), metadata["name"], new)
    return new, False


def _mark(state: State, strategy: Strategy, old: Object, options: DeleteOptions) -> Object:
    """The metadata with its deletion: when it was asked for, and how long the object may still take.

    A second DELETE can only shorten the time.
    """
    metadata = dict(old["metadata"])
    if "deletionTimestamp" in metadata:
        before = metadata.get("deletionGracePeriodSeconds", 0)
        asked = options.grace_period_s
        if asked is not None and asked < before:
            grace = strategy.grace_period_s(old, asked)
            metadata["deletionTimestamp"] = format_time(parse_time(metadata["deletionTimestamp"]) - before + grace)
            metadata["deletionGracePeriodSeconds"] = grace
        return metadata
    grace = strategy.grace_period_s(old, options.grace_period_s)
    metadata["deletionTimestamp"] = format_time(state.clock.wall_s() + grace)
    metadata["deletionGracePeriodSeconds"] = grace
    if metadata.get("generation"):
        metadata["generation"] += 1
    return metadata
