"""Planning in the nftables dialect: the whole table, and the elements that differ afterwards.

A change is the difference of two blocks: elements to delete, elements to add, and a shared chain where a number of
endpoints is new or no longer used. Nothing of it depends on how many services there are.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from netsim.ruleset import nft
from netsim.ruleset.nft import AddElements, DeleteElements, Edit
from proxy.config import FamilyView
from proxy.dialect import Plan
from proxy.nftables.blocks import NOTHING, Block, Element, claims_of, make_block
from proxy.nftables.chains import ChainKey, OwnChains, plan_chain
from proxy.nftables.skeleton import TABLE, plan_hooks, plan_skeleton, service_sets
from proxy.servicemap import ServicePortName, Snapshot
from proxy.topology import choose_endpoints

_MEMO_MAX = 256
# Shared chains for so few endpoints stay when nobody needs them: making one again takes the kernel 3 ms where there are
# 40,000 endpoints, as it looks at every element of a map that a new rule uses.
KEPT_SIZE = 8
_TABLE_WORDS = {4: f"ip {TABLE}", 6: f"ip6 {TABLE}"}
Holder = tuple[int, ServicePortName]  # (rank, who)


@dataclass(frozen=True, slots=True)
class Existing:
    """What `Target.read` saw: chains and sets by name. ``replace``: the table must go as a whole."""

    chains: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    replace: bool = False


@dataclass(slots=True)
class NodeTable:
    """What a node has once a plan was applied. `plan_changes` goes on with it: it is the newest plan's alone."""

    blocks: dict[ServicePortName, Block] = field(default_factory=dict)
    chains: Counter[ChainKey] = field(default_factory=Counter)  # how many blocks need each
    made: set[ChainKey] = field(default_factory=set)  # those there are, needed or not
    shared: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    claims: dict[bytes, tuple[Holder, ...]] = field(default_factory=dict)  # the first one has it
    rules: int = 0
    sizes: Counter[str] = field(default_factory=Counter)  # elements by set, but for those of clients


@dataclass(frozen=True, slots=True)
class NftPlan(Plan[NodeTable]):
    """Edits instead of text; ``str`` renders them."""

    edits: tuple[Edit, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.edits)

    def __str__(self) -> str:
        return nft.render_edits(self.edits, _TABLE_WORDS[self.family])


_Diff = tuple[tuple[tuple[int, bytes], ...], tuple[Element, ...]]


class NftablesDialect:
    """`proxy.dialect.Dialect` for nftables. Holds caches only."""

    name = "nftables"

    def __init__(self) -> None:
        self._diffs: dict[tuple[int, int], tuple[Block, Block, _Diff]] = {}

    def plan_full(self, snapshot: Snapshot, view: FamilyView, existing: Existing | None) -> NftPlan:
        """The whole table, in one transaction that first takes away what is there, but for the clients remembered."""
        specs = service_sets(snapshot.family)
        state = NodeTable()
        for name, entry in snapshot.entries.items():
            for rank, key in claims_of(entry):
                _claim(state.claims, key, (rank, name))
        keyed: list[list[tuple[bytes, bytes]]] = [[] for _ in specs]
        for name in snapshot.entries:
            block = state.blocks[name] = self._block(snapshot, name, view, state, NOTHING)
            for index, key, value in block.elements:
                keyed[index].append((key, value))
        state.chains.update(chain.from_iterable([block.chains for block in state.blocks.values()]))
        state.shared.update(chain.from_iterable([block.shared for block in state.blocks.values()]))
        for index, key in state.shared:
            keyed[index].append((key, b""))
        own = OwnChains({}, ())
        for block in state.blocks.values():
            if block.own.chains:
                own.chains.update(block.own.chains)
                own = own._replace(sets=own.sets + block.own.sets)
        state.made.update(state.chains)
        edits = [*_reset(existing, own.sets), nft.AddTable(), *plan_skeleton(view)]
        edits += _plan_own(OwnChains({}, ()), own)
        edits += _plan_chains(sorted(state.chains), view)
        edits += _add_elements(specs, keyed)
        edits += plan_hooks()
        state.rules = sum(isinstance(edit, nft.AddRule) for edit in edits)
        _count_elements(state.sizes, edits)
        return NftPlan(snapshot.family, state, "", True, tuple(edits))

    def plan_changes(
        self, snapshot: Snapshot, changed: Collection[ServicePortName], previous: NodeTable, view: FamilyView
    ) -> NftPlan:
        """The elements of ``changed`` service ports that differ. ``previous`` becomes the new plan's state."""
        state = previous
        before = {name: state.blocks.get(name, NOTHING) for name in sorted(changed)}
        before |= self._work_in_claims(snapshot, before, state)
        gone: list[list[bytes]] = [[] for _ in service_sets(snapshot.family)]
        come: list[list[tuple[bytes, bytes]]] = [[] for _ in gone]
        chains, shared = Counter[ChainKey](), Counter[tuple[int, bytes]]()
        old_own, new_own = OwnChains({}, ()), OwnChains({}, ())
        for name, old in before.items():
            new = NOTHING
            if name in snapshot.entries:
                new = state.blocks[name] = self._block(snapshot, name, view, state, old)
            else:
                state.blocks.pop(name, None)
            if new is old:
                continue
            deleted, added = self._diff(old, new)
            for index, key in deleted:
                gone[index].append(key)
            for index, key, value in added:
                come[index].append((key, value))
            chains.update(new.chains)
            chains.subtract(old.chains)
            shared.update(new.shared)
            shared.subtract(old.shared)
            old_own, new_own = _join(old_own, old.own), _join(new_own, new.own)
        new_shared, old_shared = _apply(state.shared, shared)
        for index, key in new_shared:
            come[index].append((key, b""))
        for index, key in old_shared:
            gone[index].append(key)
        needed, unneeded = _apply(state.chains, chains)
        new_chains = sorted(key for key in needed if key not in state.made)
        old_chains = sorted(key for key in unneeded if key.size > KEPT_SIZE)
        state.made.update(new_chains)
        state.made.difference_update(old_chains)
        specs = service_sets(snapshot.family)
        edits: list[Edit] = [*_plan_own(old_own, new_own), *_plan_chains(new_chains, view)]
        edits += [DeleteElements(spec, keys) for spec, keys in zip(specs, gone, strict=True) if keys]
        edits += _add_elements(specs, come)
        edits += [nft.DeleteChain(key.name) for key in old_chains]
        edits += _unplan_own(old_own, new_own)
        state.rules += sum(len(plan_chain(key, view)) for key in new_chains) + _count_rules(new_own)
        state.rules -= sum(len(plan_chain(key, view)) for key in old_chains) + _count_rules(old_own)
        _count_elements(state.sizes, edits)
        return NftPlan(snapshot.family, state, "", False, tuple(edits))

    def plan_cleanup(self, family: int, existing: Existing | None) -> NftPlan:
        """The table goes."""
        edits: tuple[Edit, ...] = (nft.DeleteTable(),) if existing is not None else ()
        return NftPlan(family, NodeTable(), "", True, edits)

    def _block(
        self, snapshot: Snapshot, name: ServicePortName, view: FamilyView, state: NodeTable, before: Block
    ) -> Block:
        entry = snapshot.entries[name]
        choice = choose_endpoints(entry, view.node.name, view.node.zone)
        lost = frozenset([key for _rank, key in claims_of(entry) if state.claims[key][0][1] != name])
        return make_block(entry, choice, view, before=before, lost=lost)

    def _work_in_claims(
        self, snapshot: Snapshot, before: dict[ServicePortName, Block], state: NodeTable
    ) -> dict[ServicePortName, Block]:
        """Bring the claims up to date; the blocks of further service ports that gain or lose an address by it."""
        others: dict[ServicePortName, Block] = {}
        for name, old in before.items():
            entry = snapshot.entries.get(name)
            new = claims_of(entry) if entry is not None else ()
            if new == old.claims:
                continue
            for rank, key in {*old.claims, *new}:
                holder = state.claims.get(key, (None,))[0]
                if (rank, key) in old.claims:
                    _unclaim(state.claims, key, (rank, name))
                if (rank, key) in new:
                    _claim(state.claims, key, (rank, name))
                for changed in (holder, state.claims.get(key, (None,))[0]):
                    if changed is not None and changed[1] not in before:
                        others[changed[1]] = state.blocks[changed[1]]
        return others

    def _diff(self, old: Block, new: Block) -> _Diff:
        """What to delete and what to add to get from ``old`` to ``new``; worked out once for all nodes."""
        memo = (id(old), id(new))
        known = self._diffs.get(memo)
        if known is not None and known[0] is old and known[1] is new:
            return known[2]
        had = {(index, key): value for index, key, value in old.elements}
        has = {(index, key): value for index, key, value in new.elements}
        deleted = tuple(at for at, value in had.items() if has.get(at) != value)
        added = tuple((*at, value) for at, value in has.items() if had.get(at) != value)
        if len(self._diffs) >= _MEMO_MAX:
            self._diffs.clear()
        self._diffs[memo] = (old, new, (deleted, added))
        return deleted, added


def _claim(claims: dict[bytes, tuple[Holder, ...]], key: bytes, holder: Holder) -> None:
    known = claims.get(key)
    claims[key] = (holder,) if known is None else tuple(sorted({*known, holder}))


def _unclaim(claims: dict[bytes, tuple[Holder, ...]], key: bytes, holder: Holder) -> None:
    left = tuple(known for known in claims.get(key, ()) if known != holder)
    if left:
        claims[key] = left
    else:
        claims.pop(key, None)


def _apply(counts: Counter[Any], change: Counter[Any]) -> tuple[list[Any], list[Any]]:
    """Work a change into counts; what is there for the first time, and what is no longer."""
    come, gone = [], []
    for key, difference in change.items():
        if difference:
            before = counts[key]
            after = counts[key] = before + difference
            if not before:
                come.append(key)
            if not after:
                gone.append(key)
                del counts[key]
    return come, gone


def _reset(existing: Existing | None, keep: Iterable[nft.SetSpec]) -> list[Edit]:
    """Take away what is there. Sets of clients that are still wanted stay with what is in them."""
    if existing is None:
        return []
    if existing.replace:
        return [nft.DeleteTable()]
    kept = {spec.name for spec in keep}
    edits: list[Edit] = [nft.FlushRules()]
    # Maps of verdicts hold on to chains, so sets go first.
    edits += [nft.DeleteSet(name) for name in existing.sets if name not in kept]
    edits += [nft.DeleteChain(name) for name in existing.chains]
    return edits


def _add_elements(specs: Iterable[nft.SetSpec], elements: Iterable[list[tuple[bytes, bytes]]]) -> list[Edit]:
    return [AddElements(spec, items) for spec, items in zip(specs, elements, strict=True) if items]


def _plan_chains(keys: Iterable[ChainKey], view: FamilyView) -> list[Edit]:
    edits: list[Edit] = []
    for key in keys:
        edits.append(nft.AddChain(key.name))
        edits += [nft.AddRule(key.name, rule) for rule in plan_chain(key, view)]
    return edits


def _join(left: OwnChains, right: OwnChains) -> OwnChains:
    if not right.chains:
        return left
    return OwnChains(left.chains | right.chains, left.sets + right.sets)


def _plan_own(old: OwnChains, new: OwnChains) -> list[Edit]:
    """Sets and chains that are new, and the rules of those that differ: all chains first, as rules lead to them."""
    known = set(old.sets)
    edits: list[Edit] = [nft.AddSet(spec) for spec in new.sets if spec not in known]
    edits += [nft.AddChain(name) for name in new.chains if name not in old.chains]
    for name, rules in new.chains.items():
        if old.chains.get(name) != rules:
            edits += [nft.FlushRules(name)] if name in old.chains else []
            edits += [nft.AddRule(name, rule) for rule in rules]
    return edits


def _unplan_own(old: OwnChains, new: OwnChains) -> list[Edit]:
    gone = [name for name in old.chains if name not in new.chains]
    wanted = set(new.sets)
    edits: list[Edit] = [nft.FlushRules(name) for name in gone]  # all first, as they lead to one another
    edits += [nft.DeleteChain(name) for name in gone]
    return [*edits, *(nft.DeleteSet(spec.name) for spec in old.sets if spec not in wanted)]


def _count_elements(sizes: Counter[str], edits: Iterable[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, AddElements):
            sizes[edit.spec.name] += len(edit.elements)
        elif isinstance(edit, DeleteElements):
            sizes[edit.spec.name] -= len(edit.keys)


def _count_rules(own: OwnChains) -> int:
    return sum(map(len, own.chains.values()))
