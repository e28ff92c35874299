"""What ``iptables-restore --noflush`` would make of an edit, in memory, refusing what the kernel refuses.

For laws over many edits that no kernel should be asked for, and for showing a plan without carrying it out.
"""

from collections.abc import Iterable

from netsim.model.errors import InputError
from netsim.ruleset.iptables import BUILTIN_CHAINS, CHAIN_NAME_MAX_BYTES, TableEdit, Tables
from netsim.ruleset.iptables_rule import parse_rule

VERDICTS = frozenset({"", "ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "DNAT", "SNAT", "MASQUERADE"})


def make_tables() -> Tables:
    """The tables of a fresh network namespace."""
    return {table: dict.fromkeys(chains, ()) for table, chains in BUILTIN_CHAINS.items()}


def apply_edits(tables: Tables, edits: Iterable[TableEdit]) -> Tables:
    """``tables`` after the edits. Raises InputError for what the kernel would refuse; ``tables`` is not changed.

    As in the kernel each table is taken whole or not at all. Here the first refusal ends it for all of them.
    """
    result = {table: dict(chains) for table, chains in tables.items()}
    for edit in edits:
        if edit.table not in result:
            raise InputError(f"there is no table {edit.table}")
        _apply(result[edit.table], edit)
        _check(edit.table, result[edit.table])
    return result


def _apply(chains: dict[str, tuple[str, ...]], edit: TableEdit) -> None:
    for chain in (*edit.chains, *edit.delete):
        if len(chain) > CHAIN_NAME_MAX_BYTES:
            raise InputError(f"chain name {chain!r} is longer than {CHAIN_NAME_MAX_BYTES} bytes")
        chains[chain] = ()
    for chain, spec in edit.remove:
        if spec not in chains.get(chain, ()):
            raise InputError(f"-D {chain} {spec}: there is no such rule")
        at = chains[chain].index(spec)
        chains[chain] = chains[chain][:at] + chains[chain][at + 1 :]
    for chain, spec in edit.prepend:
        if chain not in chains:
            raise InputError(f"-I {chain}: there is no such chain")
        chains[chain] = (spec, *chains[chain])
    chains.update(edit.chains)
    for chain in edit.delete:
        del chains[chain]


def _check(table: str, chains: dict[str, tuple[str, ...]]) -> None:
    for chain, specs in chains.items():
        for spec in specs:
            target = parse_rule(spec).target
            if target in BUILTIN_CHAINS[table] or not (target in VERDICTS or target in chains):
                raise InputError(f"-A {chain} {spec}: there is no chain {target}")
            if target == "REJECT" and table != "filter":
                raise InputError(f"-A {chain} {spec}: REJECT is for table filter only")
