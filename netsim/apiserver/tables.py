"""Tables: what ``kubectl get`` and ``netsim get`` print, made on the server as upstream does.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables and
kubernetes ``pkg/printers/internalversion/printers.go``.
"""

from collections.abc import Sequence
from typing import Any

from netsim.apiserver.strategies.base import Column, Strategy
from netsim.model.objects import parse_time

Object = dict[str, Any]
UNKNOWN = "<unknown>"
NONE = "<none>"

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


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


def human_duration(seconds: float) -> str:
    """``75s``, ``5m30s``, ``3h20m``, ``2d3h``, ``1y40d``.

    Source: kubernetes staging/src/k8s.io/apimachinery/pkg/util/duration/duration.go.
    """
    if seconds < -1:
        return "<invalid>"
    s = max(0, int(seconds))
    if s < 2 * _MINUTE:
        return f"{s}s"
    if s < 10 * _MINUTE:
        return _two(s // _MINUTE, "m", s % _MINUTE, "s")
    if s < 3 * _HOUR:
        return f"{s // _MINUTE}m"
    if s < 8 * _HOUR:
        return _two(s // _HOUR, "h", s % _HOUR // _MINUTE, "m")
    if s < 2 * _DAY:
        return f"{s // _HOUR}h"
    if s < 8 * _DAY:
        return _two(s // _DAY, "d", s % _DAY // _HOUR, "h")
    if s < 2 * _YEAR:
        return f"{s // _DAY}d"
    if s < 8 * _YEAR:
        return _two(s // _YEAR, "y", s % _YEAR // _DAY, "d")
    return f"{s // _YEAR}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def age(timestamp: str | None, now_s: float) -> str:
    """The time since a timestamp, as the AGE column has it."""
    return human_duration(now_s - parse_time(timestamp)) if timestamp else UNKNOWN


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


def labels_text(labels: dict[str, Any] | None) -> str:
    """``a=b,c=d``, or ``<none>``: how columns show a selector's map."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE
