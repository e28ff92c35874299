"""One table of nf_tables: elements that name an entry, chains they lead to, and the way there. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from netsim.observe import nft_listing as listing
from netsim.observe.rules.model import Entry, Group, Line


class NftChoice:
    """One table of nf_tables: elements that name an entry, chains they lead to, and the way there."""

    def __init__(self, table: listing.NftTable, entries: Sequence[Entry]) -> None:
        self._table = table
        self._entries = [
            e
            for e in entries
            if not e.address or table.family == "inet" or (":" in e.address) == (table.family == "ip6")
        ]
        self._elements: dict[str, list[tuple[Any, Any]]] = {}
        self._whole: dict[str, None] = {}
        self._lines: dict[str, dict[int, listing.NftRule]] = {}
        self._open = self._jumped_to()  # chains that any packet may come to, whatever the maps say

    def choose(self) -> list[Group]:
        self._take_elements()
        for chain in self._table.chains.values():
            for rule in chain.rules:
                if self._names_an_entry(rule):
                    self._take(chain, rule)
                    for target in listing.chains_of(rule):
                        self._reach(target)
        if not self._elements and not self._lines:
            return []
        for name in list(self._elements):
            for _, value in self._elements[name]:
                for key, inner in listing.walk_values(value):
                    if key in ("goto", "jump"):
                        self._reach(inner["target"])
        self._take_endpoints()
        self._take_lookups()
        self._take_readers_of_marks()
        self._take_the_way()
        return self._groups()

    def _jumped_to(self) -> frozenset[str]:
        """Base chains, and what rules lead to from there."""
        found = [chain.name for chain in self._table.chains.values() if chain.hook]
        for name in found:
            for rule in self._table.chains[name].rules:
                found += [target for target in listing.chains_of(rule) if target not in found]
        return frozenset(found)

    def _take_elements(self) -> None:
        for one in self._table.sets.values():
            mine = [(key, value) for key, value in one.elements if self._element_names(key, one.types)]
            if mine:
                self._elements[one.name] = mine

    def _element_names(self, key: Any, types: Sequence[str]) -> bool:
        parts = key["concat"] if isinstance(key, Mapping) and "concat" in key else [key]
        if len(parts) != len(types):
            return False
        addresses = [p for p, t in zip(parts, types, strict=True) if t in ("ipv4_addr", "ipv6_addr")]
        ports = [p for p, t in zip(parts, types, strict=True) if t == "inet_service"]
        protocols = [p for p, t in zip(parts, types, strict=True) if t == "inet_proto"]
        for entry in self._entries:
            if (ports and ports[0] != entry.port) or (protocols and protocols[0] != entry.protocol):
                continue
            if addresses and entry.address and addresses[0] == entry.address:
                return True
            if not addresses and not entry.address and ports:
                return True
        return False

    def _take_endpoints(self) -> None:
        """Elements about the endpoints alone, as those by which a pod that meets itself is masqueraded."""
        ends = {
            part
            for elements in self._elements.values()
            for _, value in elements
            for key, inner in listing.walk_values(value)
            if key == "concat"
            for part in inner[:1]
            if isinstance(part, str)
        }
        for chain in self._whole:
            for rule in self._table.chains[chain].rules:
                for key, value in listing.walk_values(rule.statements):
                    if key == "dnat" and isinstance(value, Mapping) and isinstance(value.get("addr"), str):
                        ends.add(value["addr"])
        for one in self._table.sets.values():
            if set(one.types) <= {"ipv4_addr", "ipv6_addr"} and len(one.types) > 1:
                mine = [(k, v) for k, v in one.elements if isinstance(k, Mapping) and set(k.get("concat", ())) <= ends]
                if mine:
                    self._elements.setdefault(one.name, mine)

    def _names_an_entry(self, rule: listing.NftRule) -> bool:
        """A rule with the port (and address) written in it, as programs other than ours may have it."""
        values: dict[str, Any] = {}
        for statement in rule.statements:
            match = statement.get("match")
            if match is not None and match.get("op") == "==":
                payload = match["left"].get("payload", {}) if isinstance(match["left"], Mapping) else {}
                if "field" in payload:
                    values[payload["field"]] = match["right"], payload.get("protocol", "")
        port = values.get("dport")
        if port is None:
            return False
        return any(
            port[0] == e.port and port[1] in (e.protocol, "th") and values.get("daddr", ("",))[0] == e.address
            for e in self._entries
        )

    def _take(self, chain: listing.NftChain, rule: listing.NftRule) -> None:
        self._lines.setdefault(chain.name, {})[rule.handle] = rule

    def _reach(self, name: str) -> None:
        """A chain and what its rules jump to. What they look up is narrowed to this Service's elements already."""
        chain = self._table.chains.get(name)
        if chain is None or name in self._whole:
            return
        self._whole[name] = None
        for rule in chain.rules:
            for target in listing.chains_of(rule):
                self._reach(target)

    def _take_lookups(self) -> None:
        """Rules that ask the sets and maps whose elements were taken."""
        for chain in self._table.chains.values():
            for rule in chain.rules:
                if chain.name in self._open - self._whole.keys() and listing.sets_of(rule) & self._elements.keys():
                    self._take(chain, rule)
                    for target in listing.chains_of(rule):
                        self._reach(target)
        for name in list(self._whole):  # sets that only this Service's chains use: its clients, for affinity
            for rule in self._table.chains[name].rules:
                for found in listing.sets_of(rule):
                    one = self._table.sets.get(found)
                    if one is not None and found not in self._elements and self._is_own(found):
                        self._elements[found] = list(one.elements)

    def _is_own(self, name: str) -> bool:
        users = [c.name for c in self._table.chains.values() for r in c.rules if name in listing.sets_of(r)]
        return all(user in self._whole for user in users) and not self._table.sets[name].data

    def _take_readers_of_marks(self) -> None:
        marks = 0
        for name in self._whole:
            for rule in self._table.chains[name].rules:
                marks |= _nft_mark_bits(rule)
        if not marks:
            return
        for chain in self._table.chains.values():
            for rule in chain.rules:
                if chain.name not in self._whole and _nft_asks_mark(rule) & marks:
                    self._take(chain, rule)

    def _take_the_way(self) -> None:
        wanted = [*self._lines]
        for name in wanted:
            for chain in self._table.chains.values():
                for rule in chain.rules:
                    if chain.name not in self._whole and name in listing.chains_of(rule):
                        if chain.name not in self._lines:
                            wanted.append(chain.name)
                        self._take(chain, rule)

    def _groups(self) -> list[Group]:
        table = self._table
        groups = [
            Group(
                "nft",
                table.family,
                table.name,
                "map" if table.sets[name].data else "set",
                name,
                tuple(Line(listing.render_element(k, v, table.sets[name].types)) for k, v in elements),
                shared=len(elements) < len(table.sets[name].elements),
            )
            for name, elements in self._elements.items()
        ]
        order = sorted(self._lines, key=lambda name: (not table.chains[name].hook, table.chains[name].priority))
        for name in (*order, *self._whole):
            if name in self._lines and name in self._whole:
                continue
            chain = table.chains[name]
            rules = chain.rules if name in self._whole else [r for r in chain.rules if r.handle in self._lines[name]]
            lines = tuple(Line(rule.text, *_nft_counter(rule)) for rule in rules)
            way = name not in self._whole
            groups.append(Group("nft", table.family, table.name, "chain", name, lines, way, way or self._is_used(name)))
        return groups

    def _is_used(self, name: str) -> bool:
        """Whether an element or a rule of others leads to this chain too."""
        for one in self._table.sets.values():
            taken = len(self._elements.get(one.name, ()))
            if one.data == "verdict" and taken < len(one.elements):
                mine = [k for k, _ in self._elements.get(one.name, ())]
                for key, value in one.elements:
                    if key not in mine and any(
                        v.get("target") == name for k, v in listing.walk_values(value) if k == "goto"
                    ):
                        return True
        return any(
            name in listing.chains_of(rule)
            for chain in self._table.chains.values()
            for rule in chain.rules
            if chain.name in self._open - self._whole.keys()
        )


def _nft_mark_bits(rule: listing.NftRule) -> int:
    """The bits that ``meta mark set`` adds."""
    bits = 0
    for statement in rule.statements:
        mangle = statement.get("mangle")
        if mangle is not None and mangle["key"] == {"meta": {"key": "mark"}}:
            value = mangle["value"]
            operands = value.get("|", ()) if isinstance(value, Mapping) else (value,)
            bits |= sum(operand for operand in operands if isinstance(operand, int))
    return bits


def _nft_asks_mark(rule: listing.NftRule) -> int:
    bits = 0
    for statement in rule.statements:
        left = statement.get("match", {}).get("left")
        if isinstance(left, Mapping) and isinstance(left.get("&"), list | tuple):
            first, second = left["&"]
            if first == {"meta": {"key": "mark"}} and isinstance(second, int):
                bits |= second
        elif left == {"meta": {"key": "mark"}}:
            bits |= 0xFFFFFFFF
    return bits


def _nft_counter(rule: listing.NftRule) -> tuple[int | None, int | None]:
    for statement in rule.statements:
        counter = statement.get("counter")
        if isinstance(counter, Mapping):
            return int(counter["packets"]), int(counter["bytes"])
    return None, None
