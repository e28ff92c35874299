"""The rules of one place, sorted by hook and priority. Pure.

Sources: include/uapi/linux/netfilter_ipv4.h (priorities), net/netfilter/core.c.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from netsim.observe.explain.context import Answer, Asking
from netsim.observe.explain.iptables_chain import Backend, IptablesWalk
from netsim.observe.explain.nft_chain import NftChainWalk
from netsim.observe.explain.state import Place
from netsim.observe.explain.virtual import ask_virtual_servers
from netsim.observe.iptables_save import SavedChain, SavedTables
from netsim.observe.nft_listing import NftChain, NftTable, walk_values

Run = Callable[[Asking], Answer]

_IPTABLES = {  # table -> hook -> priority
    "raw": {"prerouting": -300, "output": -300},
    "mangle": dict.fromkeys(("prerouting", "input", "forward", "output", "postrouting"), -150),
    "filter": dict.fromkeys(("input", "forward", "output"), 0),
    "security": dict.fromkeys(("input", "forward", "output"), 50),
    "nat": {"prerouting": -100, "output": -100, "input": 100, "postrouting": 100},
}
_IPVS = {"input": 98, "output": -98}  # NF_IP_PRI_NAT_SRC - 2, NF_IP_PRI_NAT_DST + 2
_FAMILY = {4: "ip", 6: "ip6"}
_IN_TRACKING = ("ctstate", "ctstatus", "connmark", "connlimit", "CONNMARK")


@dataclass(frozen=True, slots=True)
class Item:
    """One chain at a hook. ``order``: of what has the same priority the one that came last goes first
    (nf_hook_entries_grow).
    """

    priority: int
    order: int
    run: Run
    is_nat: bool = False


@dataclass(slots=True)
class Filters:
    """``tracks``: something here needs connection tracking."""

    items: dict[str, list[Item]] = field(default_factory=dict)
    tracks: bool = False
    _count: int = 0

    def at(self, hook: str) -> list[Item]:
        return self.items.get(hook, [])

    def add(self, hook: str, priority: int, run: Run, is_nat: bool) -> None:
        """A chain, in the order in which they were made, as far as that can be known."""
        self._count += 1
        self.items.setdefault(hook, []).append(Item(priority, self._count, run, is_nat))


def sort_filters(place: Place, family: int) -> Filters:
    """The rules that a packet of IP version ``family`` meets in a place."""
    made = Filters()
    for table in place.rules.nft.values():
        if table.family in (_FAMILY[family], "inet") and "dormant" not in table.flags:
            _take_nft(made, table)
    for (backend, words), tables in place.rules.iptables.items():
        if words == _FAMILY[family]:
            _take_iptables(made, "iptables-nft" if backend == "iptables-nft" else "iptables-legacy", words, tables)
    if place.rules.ipvs:
        made.tracks = True
        for hook, priority in _IPVS.items():
            made.add(hook, priority, ask_virtual_servers, False)
    for items in made.items.values():
        items.sort(key=lambda item: (item.priority, -item.order))
    return made


def _take_iptables(made: Filters, backend: Backend, family: str, tables: SavedTables) -> None:
    for table, chains in tables.items():
        rules = [rule for chain in chains.values() for rule in chain.rules]
        made.tracks = made.tracks or table == "nat" or any(word in r.text for r in rules for word in _IN_TRACKING)
        for hook, priority in _IPTABLES[table].items():
            chain = chains.get(hook.upper())
            if chain is not None and (chain.rules or chain.policy != "ACCEPT"):
                run = _walk_iptables(chains, hook.upper(), backend, family, table)
                made.add(hook, priority, run, table == "nat")


def _walk_iptables(chains: Mapping[str, SavedChain], name: str, backend: Backend, family: str, table: str) -> Run:
    return lambda asking: IptablesWalk(chains, asking, backend=backend, family=family, table=table).walk(name)


def _take_nft(made: Filters, table: NftTable) -> None:
    for chain in table.chains.values():
        if any(key == "ct" for rule in chain.rules for key, _ in walk_values(rule.statements)):
            made.tracks = True
        if chain.hook and chain.hook != "ingress":  # that is for frames: netsim.observe.explain.frames
            is_nat = chain.kind == "nat"
            made.tracks = made.tracks or is_nat
            made.add(chain.hook, chain.priority, _walk_nft(table, chain), is_nat)


def _walk_nft(table: NftTable, chain: NftChain) -> Run:
    return lambda asking: NftChainWalk(table, asking).walk(chain)
