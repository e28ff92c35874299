"""What ``iptables-save -c`` says, with counters and policies. Pure.

`netsim.ruleset.iptables.parse_save` drops those, and its rules are only those that netsim's planners write; here any
rule must be readable, whoever made it. Source: iptables-save(8), iptables-extensions(8).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from netsim.model.errors import InputError

_WORDS = re.compile(r'(!)|"((?:[^"\\]|\\.)*)"|(\S+)')
_ONE_WORD = frozenset({"--comment", "--log-prefix", "--nflog-prefix", "-m", "-p", "-s", "-d", "-i", "-o"})


class Condition(NamedTuple):
    """An option with its values: of a match, or of the target. ``! -s 10.0.0.0/8``: ("-s", ("10.0.0.0/8",), True)."""

    option: str
    values: tuple[str, ...] = ()
    negated: bool = False

    @property
    def value(self) -> str:
        """The first value, or ""."""
        return self.values[0] if self.values else ""


class Parts(NamedTuple):
    """A rule taken apart. ``target`` is "" for one that only counts; ``goto``: by -g."""

    conditions: tuple[Condition, ...]
    target: str
    goto: bool
    options: tuple[Condition, ...]


@dataclass(frozen=True)
class SavedRule:
    """A rule: its number in the chain (from 1), its text without ``-A CHAIN``, and its counters."""

    number: int
    text: str
    packets: int = 0
    bytes: int = 0

    @cached_property
    def parts(self) -> Parts:
        """Taken apart when asked for: most rules of a large table never are."""
        return parse_spec(self.text)

    def values(self, option: str) -> Iterable[Condition]:
        return (condition for condition in self.parts.conditions if condition.option == option)


@dataclass(slots=True)
class SavedChain:
    """``policy`` is "" for a chain that is only jumped to."""

    name: str
    policy: str = ""
    packets: int = 0
    bytes: int = 0
    rules: list[SavedRule] = field(default_factory=list)


SavedTables = dict[str, dict[str, SavedChain]]  # table -> chain


def parse_counted_save(text: str) -> SavedTables:
    """The tables of ``iptables-save`` with or without -c. Raises InputError with the line number."""
    tables: SavedTables = {}
    chains: dict[str, SavedChain] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#") or line == "COMMIT":
            continue
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif line.startswith(":"):
            name, policy, *counters = line[1:].split(" ")
            packets, octets = _parse_counters(counters[0] if counters else "")
            chains[name] = SavedChain(name, "" if policy == "-" else policy, packets, octets)
        else:
            counters_text = ""
            if line.startswith("["):
                counters_text, _, line = line.partition(" ")
            verb, _, rest = line.partition(" ")
            name, _, spec = rest.partition(" ")
            if verb != "-A" or name not in chains:
                raise InputError(f"{line!r} is no rule of a declared chain", where=f"line {number}")
            rules = chains[name].rules
            rules.append(SavedRule(len(rules) + 1, spec, *_parse_counters(counters_text)))
    return tables


def _parse_counters(text: str) -> tuple[int, int]:
    packets, _, octets = text.strip("[]").partition(":")
    return int(packets or 0), int(octets or 0)


def parse_spec(spec: str) -> Parts:
    """A rule's options in order. What an option means is for the reader of it to know or to refuse."""
    conditions: list[Condition] = []
    options: list[Condition] = []
    into, target, goto, negated = conditions, "", False, False
    words = [
        ("!", False)
        if match[1]
        else ((re.sub(r"\\(.)", r"\1", match[2]), True) if match[2] is not None else (match[3], False))
        for match in _WORDS.finditer(spec)
    ]
    at = 0
    while at < len(words):
        word, quoted = words[at]
        at += 1
        if word == "!" and not quoted:
            negated = True
            continue
        if word in ("-j", "-g") and not quoted:
            target, goto, into = words[at][0] if at < len(words) else "", word == "-g", options
            at += 1
            continue
        values: list[str] = []
        while at < len(words) and (not _is_option(*words[at]) or (not values and word in _ONE_WORD)):
            values.append(words[at][0])
            at += 1
            if word in _ONE_WORD:
                break
        into.append(Condition(word, tuple(values), negated))
        negated = False
    return Parts(tuple(conditions), target, goto, tuple(options))


def _is_option(word: str, quoted: bool) -> bool:
    return not quoted and (word == "!" or (word.startswith("-") and not word[1:2].isdigit() and word != "-"))
