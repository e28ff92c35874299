"""The verbs get, list and watch."""

from collections.abc import Mapping
from typing import Any

from netsim.apiserver.request import bad_request, is_true
from netsim.apiserver.routing import Route
from netsim.apiserver.state import State
from netsim.apiserver.watching import BOOKMARK, Selection, ServerWatch, WatchEvent, as_added
from netsim.model.errors import ApiError
from netsim.model.kinds import Kind
from netsim.model.selectors import FieldSelector, parse_field_selector, parse_label_selector
from netsim.store.store import Record, expired

Object = dict[str, Any]
_ALWAYS_SELECTABLE = frozenset({"metadata.name", "metadata.namespace"})


def parse_selection(state: State, kind: Kind, query: Mapping[str, str]) -> tuple[Selection, FieldSelector]:
    """The selectors of a query. Raises ApiError 400 for a field this kind cannot be selected by."""
    fields = parse_field_selector(query.get("fieldSelector", ""))
    for term in fields.terms:
        if term.path not in _ALWAYS_SELECTABLE and term.path not in state.strategy(kind).selectable:
            raise bad_request(f"field label not supported: {term.path}")
    return Selection(parse_label_selector(query.get("labelSelector", "")), fields), fields


def _parse_revision(state: State, query: Mapping[str, str]) -> int:
    text = query.get("resourceVersion", "")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise bad_request(f"Invalid value: {text!r}: resourceVersion must be a number")
    revision = int(text)
    if revision > state.store.revision:
        raise ApiError(
            504,
            "Timeout",
            f"Too large resource version: {revision}, current: {state.store.revision}",
            details={"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]},
        )
    return revision


def find_records(state: State, route: Route, query: Mapping[str, str]) -> list[Record]:
    """The objects a list, a deletecollection or a watch's start selects."""
    selection, fields = parse_selection(state, route.kind, query)
    name = route.name or fields.equal_to("metadata.name")
    namespace = route.namespace
    if route.kind.namespaced and namespace is None:
        namespace = fields.equal_to("metadata.namespace")
    if name is not None and (namespace is not None or not route.kind.namespaced):
        found = state.store.get(route.kind.resource, namespace or "", name)
        records = [found] if found else []
    else:
        records = state.store.records(route.kind.resource, namespace)
    if selection.everything:
        return records
    return [record for record in records if selection.matches(record.value)]


def get(state: State, route: Route) -> Record:
    return state.record(route.kind, route.namespace, route.name or "")


def list_(state: State, route: Route, query: Mapping[str, str]) -> tuple[list[Record], int]:
    """The records and the revision they were read at.

    ``limit`` and ``continue`` are accepted and everything comes in one piece, as upstream does from its watch cache.
    """
    revision = _parse_revision(state, query)
    if query.get("resourceVersionMatch") == "Exact" and revision not in (0, state.store.revision):
        raise expired(revision, state.store.revision)  # only the current state can be listed
    return find_records(state, route, query), state.store.revision


def watch(state: State, route: Route, query: Mapping[str, str]) -> ServerWatch:
    """Start a watch.

    Without a resourceVersion, or from "0", it begins with an ADDED event for each object there is; from any other
    revision with what came after it. Raises ApiError 410 when that is compacted.
    """
    selection, fields = parse_selection(state, route.kind, query)
    revision = _parse_revision(state, query)
    send_initial = is_true(query, "sendInitialEvents")
    namespace = route.namespace if route.kind.namespaced else None
    if route.kind.namespaced and namespace is None:
        namespace = fields.equal_to("metadata.namespace")
    kind = route.kind

    def bookmark(at: int, initial_end: bool) -> WatchEvent:
        metadata: Object = {"resourceVersion": str(at), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        return WatchEvent(BOOKMARK, {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})

    initial: list[WatchEvent] = []
    if revision == 0 or send_initial:
        # No await between reading the state and placing the cursor: nothing can come between them.
        initial = [as_added(record) for record in find_records(state, route, query)]
        if send_initial:
            initial.append(bookmark(state.store.revision, True))
        revision = state.store.revision
    if route.name is not None and not fields.equal_to("metadata.name"):
        selection = Selection(
            parse_label_selector(query.get("labelSelector", "")), parse_field_selector(f"metadata.name={route.name}")
        )
    cursor = state.store.watch(kind.resource, namespace, revision)
    return ServerWatch(cursor, selection, initial, bookmark)
