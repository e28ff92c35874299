"""A Service's rules as text for people and as JSON, and back. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netsim.observe.folding import HANGING, fold
from netsim.observe.rules.choose import without_counters
from netsim.observe.rules.model import Entry, Group, Line, NodeRules, ServiceRules

_HEADINGS = {"chain": "chain", "map": "map", "set": "set", "ipset": "ipset", "server": "virtual server"}


def render_rules(found: ServiceRules, *, width: int | None = None) -> str:
    """Each node's rules. What a node has just as the first one shown is not repeated: only said.

    width: columns to fold at, None not to.
    """
    lines = [piece for line in _render(found) for piece in fold(line, width, _indent(line) + " " * HANGING)]
    return "\n".join(lines) + "\n"


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))]


def _render(found: ServiceRules) -> list[str]:
    lines = [f"{found.service}  " + ", ".join(str(entry) for entry in found.entries)]
    first: NodeRules | None = None
    for node in found.nodes:
        lines.append("")
        if first is None or not node.groups:
            lines += _render_node(node, node.groups)
            first = node if node.groups else first
            continue
        known = {without_counters(group): group for group in first.groups}
        other = [group for group in node.groups if without_counters(group) not in known]
        same = len(node.groups) - len(other)
        lines += _render_node(node, other)
        lines.append(
            f"  {'all' if not other else 'the other'} {same} as on node/{first.node} (--node {node.node} shows them)"
        )
    return lines


def _render_node(node: NodeRules, groups: Sequence[Group]) -> Iterator[str]:
    yield f"node/{node.node}"
    yield from (f"  note: {note}" for note in node.notes)
    if not node.groups:
        yield "  no rule or map element names an address and port of this Service"
    table = ""
    for group in groups:
        where = " ".join(word for word in (group.backend, group.family, group.table) if word)
        if where != table:
            yield f"  {where}"
            table = where
        yield f"    {_HEADINGS[group.kind]} {group.name}" + (" (shared)" if group.shared and not group.way else "")
        if group.way:
            yield "      ..."
        if not group.lines:
            yield "      (empty)"
        for line in group.lines:
            counters = "" if line.packets is None else f"[{line.packets}:{line.bytes}] "
            yield f"      {counters}{line.text}"


def dump_rules(found: ServiceRules) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "service": found.service,
        "entries": [
            {"kind": e.kind, "address": e.address, "port": e.port, "protocol": e.protocol} for e in found.entries
        ],
        "nodes": [
            {"node": node.node, "notes": list(node.notes), "groups": [_dump_group(group) for group in node.groups]}
            for node in found.nodes
        ],
    }


def _dump_group(group: Group) -> dict[str, Any]:
    return {
        "backend": group.backend,
        "family": group.family,
        "table": group.table,
        "kind": group.kind,
        "name": group.name,
        "shared": group.shared,
        "way": group.way,
        "lines": [
            {"text": line.text}
            if line.packets is None
            else {"text": line.text, "packets": line.packets, "bytes": line.bytes}
            for line in group.lines
        ],
    }


def load_rules(document: Mapping[str, Any]) -> ServiceRules:
    """The inverse of `dump_rules`."""
    nodes = [
        NodeRules(
            node["node"],
            tuple(
                Group(**{**group, "lines": tuple(Line(**line) for line in group["lines"])}) for group in node["groups"]
            ),
            tuple(node["notes"]),
        )
        for node in document["nodes"]
    ]
    return ServiceRules(document["service"], tuple(Entry(**entry) for entry in document["entries"]), tuple(nodes))
