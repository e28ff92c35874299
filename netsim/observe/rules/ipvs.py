"""IPVS and its ipsets: the virtual servers of entries, and the elements that name an entry or an endpoint. Pure."""

from collections.abc import Iterable, Sequence

from netsim.observe.rules.model import Entry, Group, Line, Rules, Virtual
from netsim.ruleset.ipvs import ServerKey


def choose_ipsets(rules: Rules, entries: Sequence[Entry]) -> tuple[frozenset[str], list[Group]]:
    """Sets with an element that names an entry, or an endpoint of its virtual servers."""
    endpoints = {(real.address, key.protocol, real.port) for key, v in _virtuals(rules, entries) for real in v.reals}
    groups = []
    for name, elements in rules.ipsets.items():
        mine = [text for text in elements if _element_names(text, name, entries, endpoints)]
        if mine:
            family = "ip6" if any(text.count(":") > 1 for text in mine) else "ip"
            lines = tuple(Line(text) for text in sorted(mine))
            groups.append(Group("ipset", family, "", "ipset", name, lines, shared=len(mine) < len(elements)))
    return frozenset(group.name for group in groups), groups


def _element_names(text: str, name: str, entries: Sequence[Entry], endpoints: set[tuple[str, str, int]]) -> bool:
    """``10.96.0.1,tcp:443``, ``10.244.0.2,tcp:53,10.244.0.2``, ``30080``, ``10.96.0.1``."""
    first, *rest = text.split(",")
    if not rest:
        if first.isdigit():
            ports = [e for e in entries if not e.address and e.port == int(first)]
            return any(e.protocol.upper() in name or e.kind == "health check" for e in ports)
        return any(e.address == first for e in entries)
    protocol, _, port = rest[0].partition(":")
    if not port.isdigit():
        return False
    wanted = (first, protocol, int(port))
    if len(rest) == 2 and wanted in endpoints:
        return True
    return any((e.address or first, e.protocol, e.port) == wanted for e in entries)


def _virtuals(rules: Rules, entries: Sequence[Entry]) -> Iterable[tuple[ServerKey, Virtual]]:
    wanted = {(e.address, e.protocol, e.port) for e in entries}
    for key, virtual in rules.ipvs.items():
        if (key.address, key.protocol, key.port) in wanted or ("", key.protocol, key.port) in wanted:
            yield key, virtual


def choose_servers(rules: Rules, entries: Sequence[Entry]) -> Iterable[Group]:
    for key, virtual in _virtuals(rules, entries):
        lines = tuple(
            Line(f"{real} -w {state.weight} (active {state.active}, inactive {state.inactive})")
            for real, state in sorted(virtual.reals.items())
        )
        family = "ip6" if ":" in key.address else "ip"
        yield Group("ipvs", family, "", "server", f"{key} {virtual.server}", lines)
