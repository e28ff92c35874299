"""Events.

Source: kubernetes ``pkg/registry/core/event/strategy.go``, ``pkg/apis/core/validation/events.go`` and
``pkg/printers/internalversion/printers.go``.
"""

from typing import Any

from netsim.apiserver.ages import UNKNOWN, age
from netsim.apiserver.causes import Causes
from netsim.apiserver.strategies.base import Column, Object, Strategy

_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


class EventStrategy(Strategy):
    """What happened to an object; kept until its namespace goes."""

    selectable = frozenset(
        {f"involvedObject.{field}" for field in _REFERENCE}
        | {"reason", "type", "source", "reportingComponent", "source.component"}
    )
    columns = (
        Column("Last Seen"),
        Column("Type"),
        Column("Reason"),
        Column("Object"),
        Column("Subobject", priority=1),
        Column("Source", priority=1),
        Column("Message"),
        Column("First Seen", priority=1),
        Column("Count", priority=1),
        Column("Name", priority=1, format="name"),
    )

    def validate(self, obj: Object, causes: Causes) -> None:
        involved, namespace = obj.get("involvedObject") or {}, obj["metadata"].get("namespace", "")
        wanted = involved.get("namespace") or "default"  # events about cluster-wide objects live in default
        if namespace != wanted:
            causes.invalid("involvedObject.namespace", involved.get("namespace", ""), "does not match event.namespace")

    def row(self, obj: Object, now_s: float) -> list[Any]:
        involved = obj.get("involvedObject") or {}
        series, source = obj.get("series") or {}, obj.get("source") or {}
        first = obj.get("firstTimestamp") or obj.get("eventTime")
        last = series.get("lastObservedTime") or obj.get("lastTimestamp") or first
        count = series.get("count") or obj.get("count") or 1
        component = source.get("component") or obj.get("reportingComponent", "")
        host = source.get("host") or obj.get("reportingInstance", "")
        since_last = age(last, now_s) if last else UNKNOWN
        since_first = age(first, now_s) if first else UNKNOWN
        return [
            f"{since_last} (x{count} over {since_first})" if count > 1 and "count" in series else since_last,
            obj.get("type", ""),
            obj.get("reason", ""),
            f"{involved.get('kind', '').lower()}/{involved.get('name', '')}",
            involved.get("fieldPath", ""),
            f"{component}, {host}" if host else component,
            obj.get("message", "").strip(),
            since_first,
            count,
            obj["metadata"]["name"],
        ]
