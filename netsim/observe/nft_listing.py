"""nf_tables as the kernel has it, as libnftables lists it: JSON for its meaning, text for the words people know. Pure.

Source: libnftables-json(5), nft(8).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from netsim.model.errors import InputError

Expression = Mapping[str, Any]
TableKey = tuple[str, str]  # family, name

_COUNTS = re.compile(r"(?<=\bcounter) packets \d+ bytes \d+")
_DEVICES = re.compile(r'\bdevices? (?:= \{ ([^}]*) \}|("[^"]*"|\S+)) priority ')


@dataclass(frozen=True, slots=True)
class NftRule:
    """A rule: its statements as JSON, and its text as ``nft list`` prints it."""

    handle: int
    statements: tuple[Expression, ...]
    text: str = ""

    @property
    def words(self) -> str:
        """The text without what its counters say."""
        return _COUNTS.sub("", self.text)


@dataclass(slots=True)
class NftChain:
    """A chain; ``hook`` is "" for one that is only jumped to. ``devices``: of hooks ingress and egress; "eth*" is all
    whose names begin so.
    """

    name: str
    kind: str = ""  # filter, nat, route
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    rules: list[NftRule] = field(default_factory=list)


@dataclass(frozen=True)
class NftSet:
    """A set, or a map where ``data`` names its values' type ("verdict" for a verdict map).

    elements: key and value as JSON (value None in a set).
    """

    name: str
    types: tuple[str, ...]
    data: str = ""
    elements: tuple[tuple[Any, Any], ...] = ()

    @cached_property
    def index(self) -> tuple[dict[Any, tuple[Any, Any]], list[tuple[Any, Any]]]:
        """Elements with an exact key, by that key (a concatenation as a tuple); and those of prefixes, ranges, ..."""
        exact: dict[Any, tuple[Any, Any]] = {}
        others: list[tuple[Any, Any]] = []
        for key, value in self.elements:
            parts = key["concat"] if isinstance(key, Mapping) and "concat" in key else [key]
            if any(isinstance(part, Mapping) or (isinstance(part, str) and part.endswith("*")) for part in parts):
                others.append((key, value))
            else:
                exact[tuple(parts) if len(self.types) > 1 else parts[0]] = key, value
        return exact, others


@dataclass(slots=True)
class NftTable:
    """One table. ``flags``: owner, dormant, ..."""

    family: str
    name: str
    flags: tuple[str, ...] = ()
    chains: dict[str, NftChain] = field(default_factory=dict)
    sets: dict[str, NftSet] = field(default_factory=dict)


NftTables = dict[TableKey, NftTable]


def parse_listing(text: str, words: str = "") -> NftTables:
    """The tables of ``nft -j -a list ruleset``; ``words`` is the output of ``nft -a [-t] list ruleset`` of the same
    moment, for the rules' text. Raises InputError for what is no such listing.
    """
    try:
        items = json.loads(text or '{"nftables": []}')["nftables"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"no listing of nf_tables: {error}") from None
    texts = parse_rule_texts(words)
    tables: NftTables = {}
    for item in items:
        for kind, value in item.items():
            _take(tables, kind, value, texts)
    for key, devices in parse_devices(words).items():  # nft 1.0.6 writes them as text only
        chain = tables[key[:2]].chains.get(key[2]) if key[:2] in tables else None
        if chain is not None and not chain.devices:
            chain.devices = devices
    return tables


def _take(
    tables: NftTables, kind: str, value: Mapping[str, Any], texts: Mapping[tuple[str, str, str, int], str]
) -> None:
    if kind == "table":
        key = value["family"], value["name"]
        tables[key] = NftTable(*key, flags=_as_tuple(value.get("flags", ())))
        return
    if kind not in ("chain", "set", "map", "rule"):
        return  # metainfo, counters, flowtables, ...
    table = tables[value["family"], value["table"]]
    if kind == "chain":
        table.chains[value["name"]] = NftChain(
            value["name"],
            value.get("type", ""),
            value.get("hook", ""),
            int(value.get("prio", 0)),
            value.get("policy", "accept"),
            _as_tuple(value.get("dev", ())),
        )
    elif kind == "rule":
        handle = int(value["handle"])
        words = texts.get((table.family, table.name, value["chain"], handle), "")
        table.chains[value["chain"]].rules.append(NftRule(handle, tuple(value["expr"]), words))
    else:
        elements = tuple(_parse_element(element, kind) for element in value.get("elem", ()))
        table.sets[value["name"]] = NftSet(value["name"], _as_tuple(value["type"]), str(value.get("map", "")), elements)


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def _parse_element(element: Any, kind: str) -> tuple[Any, Any]:
    key, value = element if kind == "map" else (element, None)
    if isinstance(key, Mapping) and "elem" in key:  # with a time-out, a counter or a comment
        key = key["elem"]["val"]
    return key, value


def parse_rule_texts(words: str) -> dict[tuple[str, str, str, int], str]:
    """(family, table, chain, handle) -> the rule's text, from ``nft -a list ruleset``."""
    found: dict[tuple[str, str, str, int], str] = {}
    for key, line in _chain_lines(words):
        body, mark, handle = line.rpartition(" # handle ")
        if mark and handle.isdigit():
            found[*key, int(handle)] = body
    return found


def parse_devices(words: str) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """(family, table, chain) -> the devices that the chain is bound to, from ``nft list ruleset``."""
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for key, line in _chain_lines(words) if " device" in words else ():
        match = _DEVICES.search(line) if line.startswith("type ") else None
        if match is not None:
            found[key] = tuple(name.strip('"') for name in (match[1] or match[2]).split(", "))
    return found


def _chain_lines(words: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    """The lines within chains, each with its family, table and chain."""
    family = table = chain = ""
    for line in words.splitlines():
        stripped = line.strip()
        if line.startswith("table "):
            _, family, table, *_ = stripped.split(" ")
        elif line.startswith("\tchain "):
            chain = stripped.split(" ", 2)[1]
        elif line.startswith("\t}"):
            chain = ""
        elif chain:
            yield (family, table, chain), stripped


# --- rendering of parts, as nft writes them ---


def render_value(value: Any) -> str:
    """A key or a value of an element: "10.96.0.10 . tcp . 80", "goto cluster-2", "10.0.0.0/8", "1-5"."""
    if not isinstance(value, Mapping):
        return str(value)
    for kind, inner in value.items():
        if kind == "concat":
            return " . ".join(render_value(part) for part in inner)
        if kind == "prefix":
            return f"{inner['addr']}/{inner['len']}"
        if kind == "range":
            return "-".join(render_value(part) for part in inner)
        if kind in ("goto", "jump"):
            return f"{kind} {inner['target']}"
        if inner is None:
            return str(kind)
    return json.dumps(value)


def render_element(key: Any, value: Any, types: tuple[str, ...] = ()) -> str:
    """An element. A mark is written as nft does, in hexadecimal."""
    parts = key["concat"] if isinstance(key, Mapping) and "concat" in key else [key]
    words = [
        f"0x{part:08x}" if at < len(types) and types[at] == "mark" and isinstance(part, int) else render_value(part)
        for at, part in enumerate(parts)
    ]
    text = " . ".join(words)
    return text if value is None else f"{text} : {render_value(value)}"


def walk_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) pair in a piece of JSON, however deep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from walk_values(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from walk_values(inner)


def sets_of(rule: NftRule) -> set[str]:
    """Names of the sets and maps that a rule looks into or changes."""
    return {
        value[1:]
        for key, value in walk_values(rule.statements)
        if key in ("right", "data", "set") and isinstance(value, str) and value.startswith("@")
    }


def chains_of(rule: NftRule) -> list[str]:
    """Chains that a rule itself jumps to (not through a map)."""
    return [value["target"] for key, value in walk_values(rule.statements) if key in ("jump", "goto")]
