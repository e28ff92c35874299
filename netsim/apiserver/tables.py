"""Tables: what ``kubectl get`` and ``netsim get`` print, made on the server as upstream does.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables and
kubernetes ``pkg/printers/internalversion/printers.go``.
"""

from collections.abc import Sequence
from typing import Any

from netsim.apiserver.strategies.base import Column, Strategy

Object = dict[str, Any]


def table_wanted(accept: str) -> bool:
    """Whether an Accept header asks for a Table before anything this server can give instead."""
    for part in accept.split(","):
        parameters = [item.strip() for item in part.split(";")]
        if parameters[0] not in ("application/json", "*/*"):
            continue  # protobuf: clients that ask for it take JSON too
        kind = next((item[3:] for item in parameters if item.startswith("as=")), "")
        if kind == "Table":
            return True
        if not kind:
            return False
    return False


def render_columns(columns: Sequence[Column]) -> list[Object]:
    """The ``columnDefinitions`` of a Table."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in columns
    ]


def _row_object(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def make_table(
    strategy: Strategy, objects: Sequence[Object], revision: str, now_s: float, include: str = "Metadata"
) -> Object:
    """A ``meta.k8s.io/v1`` Table of objects of one kind. ``include`` is the query's includeObject."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision},
        "columnDefinitions": render_columns(strategy.columns),
        "rows": [{"cells": strategy.row(obj, now_s), "object": _row_object(obj, include)} for obj in objects],
    }


def make_event_table(strategy: Strategy, obj: Object, now_s: float, include: str, *, first: bool) -> Object:
    """The Table of one watch event; only the first of a stream defines its columns."""
    table = make_table(strategy, [obj], obj["metadata"]["resourceVersion"], now_s, include)
    if not first:
        table["columnDefinitions"] = []
    return table
