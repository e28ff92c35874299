"""An nf_tables table in memory: takes edits as the kernel does, all or none, and refuses what the kernel refuses.

What it does not model: hooks of other tables, time (elements that packets add), and the order of elements.
Source: net/netfilter/nf_tables_api.c.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from netsim.model.errors import InputError
from netsim.ruleset import nft


@dataclass(slots=True)
class Table:
    """Sets and their elements (value b"" in a set), chains and their rules, and the hooks of base chains."""

    sets: dict[str, nft.SetSpec] = field(default_factory=dict)
    elements: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    chains: dict[str, list[nft.Rule]] = field(default_factory=dict)
    hooks: dict[str, nft.Hook] = field(default_factory=dict)


def apply_edits(table: Table | None, edits: Iterable[nft.Edit]) -> Table | None:
    """The table after these edits; None where there is none. Raises InputError in the kernel's words."""
    after = deepcopy(table)
    for edit in edits:
        try:
            after = _apply(after, edit)
        except _Refused as refused:
            raise InputError(f"{str(edit).splitlines()[0]}: {refused}") from None
    if after is not None:
        _check_references(after)
    return after


class _Refused(Exception):
    """The kernel's words."""


def _apply(table: Table | None, edit: nft.Edit) -> Table | None:  # noqa: PLR0912 - a case for each kind of edit
    if isinstance(edit, nft.AddTable):
        return table or Table()
    if table is None:
        raise _Refused("No such file or directory")
    if isinstance(edit, nft.DeleteTable):
        return None
    match edit:
        case nft.AddSet(spec):
            if table.sets.setdefault(spec.name, spec) != spec:
                raise _Refused("File exists")
            table.elements.setdefault(spec.name, {})
        case nft.DeleteSet(name):
            _find(table.sets, name)
            del table.sets[name], table.elements[name]
        case nft.AddChain(name, hook):
            table.chains.setdefault(name, [])
            if hook is not None:
                table.hooks[name] = hook
        case nft.DeleteChain(name):
            _find(table.chains, name)
            del table.chains[name]
            table.hooks.pop(name, None)
        case nft.FlushRules(name):
            for chain in [name] if name else list(table.chains):
                _find(table.chains, chain)
                table.chains[chain] = []
        case nft.AddRule(name, rule):
            _find(table.chains, name)
            table.chains[name] = [*table.chains[name], rule]
        case nft.AddElements(spec, elements):
            _add(table, spec, elements)
        case nft.DeleteElements(spec, keys):
            _find(table.sets, spec.name)
            for key in keys:
                if table.elements[spec.name].pop(key, None) is None:
                    raise _Refused(f"No such file or directory ({nft.render_key(spec, key)})")
    return table


def _find(names: Iterable[str], name: str) -> None:
    if name not in names:
        raise _Refused("No such file or directory")


def _add(table: Table, spec: nft.SetSpec, elements: Iterable[tuple[bytes, bytes]]) -> None:
    _find(table.sets, spec.name)
    if table.sets[spec.name] != spec:
        raise _Refused("Invalid argument")
    known = table.elements[spec.name]
    for key, value in elements:
        if len(key) != nft.width(spec.key) * (2 if spec.interval else 1):
            raise _Refused("Invalid argument")
        if not spec.verdicts and len(value) != nft.width(spec.data):
            raise _Refused("Invalid argument")
        if known.setdefault(key, value) != value:
            raise _Refused(f"File exists ({nft.render_key(spec, key)})")


def _check_references(table: Table) -> None:
    """Nothing may lead to a chain or look into a set that is not there, nor round in a circle."""
    for chain, rules in table.chains.items():
        for rule in rules:
            for expression in rule.expressions:
                if isinstance(expression, nft.Lookup | nft.Remember) and expression.set not in table.sets:
                    raise InputError(f"{chain}: {rule.text}: set {expression.set}: Device or resource busy")
    targets = {chain: _targets(table, rules) for chain, rules in table.chains.items()}
    for name, spec in table.sets.items():
        if spec.verdicts:
            targets[f"@{name}"] = {value.decode() for value in table.elements[name].values()}
    for where, names in targets.items():
        if missing := names - table.chains.keys():
            raise InputError(f"{where} leads to chain {min(missing)}: Device or resource busy")
    for chain in table.hooks:
        _check_depth(table, chain, ())


def _targets(table: Table, rules: Iterable[nft.Rule]) -> set[str]:
    return {e.chain for rule in rules for e in rule.expressions if isinstance(e, nft.Verdict) and e.chain}


def _check_depth(table: Table, chain: str, above: tuple[str, ...]) -> None:
    if chain in above:
        raise InputError(f"{' -> '.join((*above, chain))}: Too many links")
    lookups = {e.set for r in table.chains[chain] for e in r.expressions if isinstance(e, nft.Lookup)}
    maps = [name for name in lookups if table.sets[name].verdicts]
    further = _targets(table, table.chains[chain]).union(
        *({value.decode() for value in table.elements[name].values()} for name in maps)
    )
    for name in further:
        _check_depth(table, name, (*above, chain))
