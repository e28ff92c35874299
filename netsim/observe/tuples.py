"""Entries of the connection tracking table, as conntrack -L prints them, read back. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from netsim.observe.path import Packet

_FIELD = re.compile(r"\b(src|dst|sport|dport|id)=(\S+)")

End = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One flow: the ends of its first direction and of the other one, as packets of that direction arrive."""

    text: str
    original: tuple[str, int, str, int]
    reply: tuple[str, int, str, int]


def parse_entry(text: str) -> Entry | None:
    """None if that is no line of conntrack -L."""
    directions: list[dict[str, str]] = []
    for name, value in _FIELD.findall(text):
        if name == "src":
            directions.append({})
        if directions:
            directions[-1][name] = value
    ends = []
    for fields in directions[:2]:
        ports = (fields.get("sport") or fields.get("id") or "0", fields.get("dport") or fields.get("id") or "0")
        if "dst" not in fields or not all(port.isdigit() for port in ports):
            return None
        ends.append((fields["src"], int(ports[0]), fields["dst"], int(ports[1])))
    return Entry(text, ends[0], ends[1]) if len(ends) == 2 else None


def find_entry(texts: Iterable[str], packet: Packet) -> Entry | None:
    """The entry whose first packet looks like this one."""
    wanted = (packet.source, packet.source_port, packet.destination, packet.destination_port)
    for text in texts:
        entry = parse_entry(text)
        if entry is not None and entry.original == wanted:
            return entry
    return None
