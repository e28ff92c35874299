"""iptables tables, chains and rules as data; edits in the language of ``iptables-restore``.

A rule is kept as its *spec*, the text of one rule without ``-A CHAIN``: planning 10,000 services makes 80,000
rules, and an object for each would cost more than loading them. `parse_rule` gives the structured form where it is
wanted.

Sources: iptables-restore(8), iptables-save(8), iptables-extensions(8), iptables/iptables-restore.c.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netsim.model.errors import InputError

BUILTIN_CHAINS: Mapping[str, tuple[str, ...]] = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
CHAIN_NAME_MAX_BYTES = 28  # XT_EXTENSION_MAXNAMELEN - 1, include/uapi/linux/netfilter/x_tables.h

# A table's chains: name -> rules in order. Policies are not kept: netsim sets none.
Chains = dict[str, tuple[str, ...]]
Tables = dict[str, Chains]


@dataclass(slots=True)
class TableEdit:
    """One table's part of an ``iptables-restore --noflush`` run; the kernel takes a table's part whole or not at all.

    chains:  made when missing, emptied when not, then filled with these specs.
    prepend: (chain, spec) pairs put in front of what the chain holds; the last of them ends up first.
    remove:  (chain, spec) pairs taken out of a chain that is not otherwise touched.
    delete:  chains emptied and removed. Nothing may refer to them after this edit.
    """

    table: str
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    prepend: tuple[tuple[str, str], ...] = ()
    remove: tuple[tuple[str, str], ...] = ()
    delete: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.prepend or self.remove or self.delete)


def render_edits(edits: Iterable[TableEdit]) -> str:
    """The input of ``iptables-restore --noflush`` for these edits; empty ones are left out."""
    lines: list[str] = []
    for edit in edits:
        if not edit:
            continue
        lines.append(f"*{edit.table}")
        # A chain line makes the chain or empties it (also with --noflush); only an empty chain can be deleted.
        lines += [f":{chain} - [0:0]" for chain in edit.chains]
        lines += [f":{chain} - [0:0]" for chain in edit.delete]
        lines += [f"-D {chain} {spec}" for chain, spec in edit.remove]
        lines += [f"-I {chain} {spec}" for chain, spec in edit.prepend]
        for chain, rules in edit.chains.items():
            lines += [f"-A {chain} {spec}" for spec in rules]
        lines += [f"-X {chain}" for chain in edit.delete]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


def parse_edits(text: str) -> list[TableEdit]:
    """The inverse of `render_edits`. Raises InputError with the line number."""
    edits: list[TableEdit] = []
    edit: TableEdit | None = None
    rules: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("*"):
            edit, rules = TableEdit(line[1:]), {}
            edits.append(edit)
        elif edit is None:
            raise InputError(f"{line!r} stands outside a table", where=f"line {number}")
        elif line == "COMMIT":
            edit.chains = {c: tuple(r) for c, r in rules.items() if c not in edit.delete}
            edit = None
        else:
            _parse_edit_line(edit, rules, line, number)
    if edit is not None:
        raise InputError(f"table {edit.table} has no COMMIT", where=f"line {number}")
    return edits


def _parse_edit_line(edit: TableEdit, rules: dict[str, list[str]], line: str, number: int) -> None:
    verb, _, rest = line.partition(" ")
    chain, _, spec = rest.partition(" ")
    if verb.startswith(":"):
        rules.setdefault(verb[1:], [])
    elif verb == "-A" and chain in rules:
        rules[chain].append(spec)
    elif verb == "-I":
        edit.prepend += ((chain, spec),)
    elif verb == "-D":
        edit.remove += ((chain, spec),)
    elif verb == "-X" and chain in rules:
        edit.delete += (chain,)
    else:
        raise InputError(f"{line!r} is no edit of a declared chain", where=f"line {number}")


def parse_save(text: str) -> Tables:
    """What ``iptables-save`` printed: table -> chain -> specs. Counters, policies and comments are dropped.

    Raises InputError with the line number.
    """
    tables: Tables = {}
    lists: dict[str, list[str]] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("*"):
            table, lists = line[1:], {}
        elif line.startswith(":") and table:
            lists[line[1:].split(" ", 1)[0]] = []
        elif line == "COMMIT" and table:
            tables[table] = {chain: tuple(rules) for chain, rules in lists.items()}
            table = ""
        else:
            if line.startswith("["):  # [packets:bytes], printed with -c
                line = line.partition("] ")[2]
            verb, _, rest = line.partition(" ")
            chain, _, spec = rest.partition(" ")
            if verb != "-A" or chain not in lists:
                raise InputError(f"{line!r} is no rule of a declared chain", where=f"line {number}")
            lists[chain].append(spec)
    return tables


def render_save(tables: Tables) -> str:
    """``tables`` in the form `parse_save` reads: built-in chains with policy ACCEPT, counters at zero."""
    lines: list[str] = []
    for table, chains in tables.items():
        builtin = BUILTIN_CHAINS.get(table, ())
        lines.append(f"*{table}")
        lines += [f":{chain} {'ACCEPT' if chain in builtin else '-'} [0:0]" for chain in chains]
        for chain, rules in chains.items():
            lines += [f"-A {chain} {spec}" for spec in rules]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""
