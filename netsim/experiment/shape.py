"""A path as lines that are the same in two clusters where the packet goes the same way; and lines side by side. Pure.

Left out is what chance or counting decides: ports of clients, times, sequence numbers, names of pods' veths.
"""

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import groupby

from netsim.observe.path import Hop, Packet, Path, join_end
from netsim.observe.pathtext import choose_telling

Rename = Callable[[str], str]  # text -> text with names for what differs by allocation only
Row = tuple[str | None, ...]  # one line of each column, None where a column has none
_RULE = re.compile(r"\b(?:ip6?|inet|bridge|netdev|arp) [\w-]+ [\w-]+: .*")  # family, table, chain and the rule's text
_LABELS = {"dnat": "destination", "un-snat": "destination", "snat": "source", "un-dnat": "source"}


def list_way(path: Path, *, rules: bool = True, rename: Rename = lambda text: text) -> list[str]:
    """The way there and back: places at the margin, below each what happened there; last the verdict."""
    lines = []
    for leg in ("there", "back"):
        hops = [hop for hop in path.hops if hop.leg == leg]
        if leg == "back" and hops:
            lines.append("(back)")
        for place, group in groupby(hops, key=lambda hop: hop.place):
            lines.append(rename(place))
            lines += [f"  {rename(line)}" for hop in group for line in _list_hop(hop, path, rules)]
    verdict = path.verdict
    place = path.answered_by if verdict.outcome == "delivered" else verdict.place
    words = f"{verdict.outcome} {'by' if verdict.outcome in ('delivered', 'refused', 'rejected') else 'at'} {place}"
    if path.seen_source:
        words += f", which saw the client as {path.names.get(seen_address(path), seen_address(path))}"
    elif verdict.cause:
        words += f": {_cause(verdict.cause, rules)}"
    return [*lines, f"({rename(words if place else verdict.outcome)})"]


def _list_hop(hop: Hop, path: Path, rules: bool) -> list[str]:
    match hop.kind:
        case "interface":
            inside = f", in VXLAN {hop.packet.vni}" if hop.packet.outer else ""
            return [f"{hop.direction} {hop.interface}{inside}"]
        case "route":
            return [f"route {hop.route}"]
        case "rewrite":
            return [_describe_rewrite(hop, path)]
        case "loss":
            return [f"lost: {_cause(hop.reason.splitlines()[0], rules) if hop.reason else ''}"]
        case "hook" if rules:
            found = []
            for rule in choose_telling(hop.rules):
                element = f" {{ {rule.element} }}" if rule.element else ""
                text = rule.text.removeprefix(f"-A {rule.chain} ")
                found.append(f"{hop.hook}: {rule.family} {rule.table} {rule.chain}: {text}{element}")
            return found
        case _:
            return []


def _cause(text: str, rules: bool) -> str:
    return text if rules else _RULE.sub("by a rule", text)


def _describe_rewrite(hop: Hop, path: Path) -> str:
    side = _LABELS.get(hop.rewrite, "")
    if not side or hop.before is None:
        return hop.rewrite
    return f"{hop.rewrite}: {side} {_end(hop.before, side, path)} is now {_end(hop.packet, side, path)}"


def _end(packet: Packet, side: str, path: Path) -> str:
    if side == "source":
        address, port = packet.source, packet.source_port
    else:
        address, port = packet.destination, packet.destination_port
    name = path.names.get(join_end(address, port)) or path.names.get(address)
    return join_end(address, 0 if port in _ports_by_chance(path) else port) + (f" ({name})" if name else "")


def _ports_by_chance(path: Path) -> set[int]:
    """The client's, and those that masquerading chose."""
    chosen = {hop.packet.source_port for hop in path.hops if hop.kind == "rewrite" and hop.rewrite == "snat"}
    return chosen | {path.hops[0].packet.source_port}


def seen_address(path: Path) -> str:
    """The client's address as the far end saw it: of ``10.0.0.1:80``, ``[fd00::1]:80``, or without a port as it is."""
    text = path.seen_source
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def align(columns: Sequence[Sequence[str]]) -> list[Row]:
    """Lines side by side: equal ones in one row, and between them what is there instead."""
    rows: list[Row] = [(line,) for line in columns[0]] if columns else []
    for number, column in enumerate(columns[1:], 1):
        keys = [next(cell for cell in row if cell is not None) for row in rows]
        merged: list[Row] = []
        empty: Row = (None,) * number
        for _tag, a, b, c, d in SequenceMatcher(None, keys, column, autojunk=False).get_opcodes():
            for at in range(max(b - a, d - c)):
                old = rows[a + at] if a + at < b else empty
                merged.append((*old, column[c + at] if c + at < d else None))
        rows = merged
    return rows
