"""Planning in the ipvs dialect: what a node should have, and the operations that lead there from what it has.

The kernel takes virtual servers, sets, addresses and rules by four different ways and not in one step. The order keeps
services answering meanwhile, also beside another mode's rules: entries of sets, virtual and real servers, addresses,
rules; then what goes out of the sets.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netsim.ruleset.iptables import Tables, render_edits
from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, VirtualServer
from proxy.addresses import choose_cidrs, contains, is_loopback, is_zero_prefix
from proxy.config import FamilyView
from proxy.dialect import Plan
from proxy.ipvs import sets
from proxy.ipvs.blocks import NOTHING, Block, Server, make_block
from proxy.ipvs.rules import plan_no_rules, plan_rules
from proxy.ipvs.sets import Entry, render_changes
from proxy.servicemap import ServicePortName, Snapshot

DUMMY = "kube-ipvs0"


@dataclass(frozen=True, slots=True)
class Existing:
    """What `Target.read` saw on the node, of one family."""

    tables: Tables = field(default_factory=dict)
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    servers: Mapping[ServerKey, tuple[VirtualServer, Mapping[RealServer, RealState]]] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()  # on kube-ipvs0
    local_ips: tuple[str, ...] = ()  # on all other links


class Operation(NamedTuple):
    """One change of a virtual server. ``verb``: new, set, del (the server); ensure, retire (a real server)."""

    verb: str
    key: ServerKey
    virtual: VirtualServer | None = None
    real: RealServer | None = None

    def __str__(self) -> str:
        words = {"new": "-A", "set": "-E", "del": "-D", "ensure": "-a", "retire": "-d"}[self.verb]
        rest = self.virtual if self.virtual is not None else self.real
        return f"ipvsadm {words} {self.key}" + (f" {rest}" if rest is not None else "")


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node has of one family once a plan was applied. ``local_ips``: where NodePorts answer."""

    blocks: Mapping[ServicePortName, Block]
    servers: Mapping[ServerKey, Server]
    local_ips: tuple[str, ...]
    uses: Mapping[object, int]  # how many blocks want an address, an entry, a virtual server


@dataclass(frozen=True, slots=True)
class IpvsPlan(Plan[NodeState]):
    """The operations; ``text`` is what they would be as commands."""

    sets_before: str = ""  # for ipset restore, before the rules: sets are made, entries come
    rules: str = ""  # for iptables-restore
    operations: tuple[Operation, ...] = ()
    new_addresses: tuple[str, ...] = ()
    old_addresses: tuple[str, ...] = ()
    sets_after: str = ""  # entries go; in a cleanup the sets themselves
    remove_dummy: bool = False


def choose_local_ips(view: FamilyView, found: Iterable[str]) -> tuple[str, ...]:
    """Of the node's addresses those that NodePorts answer on: all but loopback, or those nodePortAddresses names."""
    cidrs = choose_cidrs(view.config.node_port_addresses, view.family)
    everywhere = not view.config.node_port_addresses or any(map(is_zero_prefix, cidrs))
    chosen = (ip for ip in found if everywhere or any(contains(cidr, ip) for cidr in cidrs))
    return tuple(sorted({ip for ip in chosen if not is_loopback(ip) and not ip.startswith("fe80:")}))


class IpvsDialect:
    """`proxy.dialect.Dialect` for ipvs."""

    name = "ipvs"

    def plan_full(self, snapshot: Snapshot, view: FamilyView, existing: Existing) -> Plan[NodeState]:
        """Everything that ``existing`` lacks or has otherwise; every other virtual server of the node goes, as with
        upstream, unless its address is in one of excludeCIDRs.
        """
        local_ips = choose_local_ips(view, existing.local_ips)
        blocks = {name: make_block(entry, view, local_ips) for name, entry in snapshot.entries.items()}
        wanted: dict[ServerKey, Server] = {}
        for block in blocks.values():
            for key, server in block.servers.items():
                wanted.setdefault(key, server)
        state = NodeState(blocks, wanted, local_ips, _count(blocks.values()))
        excluded = choose_cidrs(view.config.ipvs_exclude_cidrs, snapshot.family)
        have = {
            key: Server(virtual, tuple(real for real, at in reals.items() if at.weight))
            for key, (virtual, reals) in existing.servers.items()
            if key in wanted or not any(contains(cidr, key.address) for cidr in excluded)
        }
        operations = _operations(wanted, have)
        # Real servers at weight 0 that are not wanted were on their way out when a proxy before this one ended.
        for key, (_, reals) in existing.servers.items():
            if key in wanted:
                leaving = (real for real, at in reals.items() if not at.weight and real not in wanted[key].reals)
                operations += [Operation("retire", key, real=real) for real in leaving]
        entries = {item for item in state.uses if isinstance(item, Entry)}
        before = {Entry(name, element) for name, elements in existing.sets.items() for element in elements}
        addresses = {item for item in state.uses if isinstance(item, str)}
        return _plan(
            state,
            snapshot.family,
            full=True,
            rules=render_edits(plan_rules(view, existing.tables)),
            operations=operations,
            come=entries - before,
            gone=before - entries,
            new_addresses=addresses - existing.addresses,
            old_addresses=existing.addresses - addresses,
        )

    def plan_changes(
        self, snapshot: Snapshot, changed: Collection[ServicePortName], previous: NodeState, view: FamilyView
    ) -> Plan[NodeState]:
        """Only what differs; never a rule."""
        blocks = dict(previous.blocks)
        uses = Counter(previous.uses)
        touched: dict[object, None] = {}
        claimed: dict[ServerKey, Server] = {}
        for name in sorted(changed):
            old, new = blocks.pop(name, NOTHING), NOTHING
            if name in snapshot.entries:
                new = blocks[name] = make_block(snapshot.entries[name], view, previous.local_ips)
                claimed.update(new.servers)
            if new is not old:
                uses.subtract(_items(old))
                uses.update(_items(new))
                touched.update(dict.fromkeys((*_items(old), *_items(new))))
        come = [item for item in touched if uses[item] > 0 and item not in previous.uses]
        gone = [item for item in touched if uses[item] <= 0 and item in previous.uses]
        for item in touched:
            if uses[item] <= 0:
                del uses[item]
        blocks = {name: blocks[name] for name in snapshot.entries if name in blocks}
        keys = sorted(item for item in touched if isinstance(item, ServerKey))
        have = {key: previous.servers[key] for key in keys if key in previous.servers}
        wanted = {key: _owner(blocks, key, uses, claimed) for key in keys if key in uses}
        servers = {key: server for key, server in previous.servers.items() if key not in have} | wanted
        state = NodeState(blocks, servers, previous.local_ips, uses)
        return _plan(
            state,
            snapshot.family,
            full=False,
            operations=_operations(wanted, have),
            come={item for item in come if isinstance(item, Entry)},
            gone={item for item in gone if isinstance(item, Entry)},
            new_addresses={item for item in come if isinstance(item, str)},
            old_addresses={item for item in gone if isinstance(item, str)},
        )

    def plan_cleanup(self, family: int, existing: Existing) -> Plan[NodeState]:
        """Virtual servers, the dummy, rules, then the sets, which rules must not use any more."""
        names = [sets.set_name(name, family) for name in existing.sets]
        return IpvsPlan(
            family,
            NodeState({}, {}, (), {}),
            text="".join(f"ipvsadm -D {key}\n" for key in existing.servers) + f"ip link delete {DUMMY}\n",
            full=True,
            rules=render_edits(plan_no_rules(existing.tables)),
            operations=tuple(Operation("del", key) for key in existing.servers),
            sets_after="".join(f"destroy {name}\n" for name in names),
            remove_dummy=True,
        )


def _items(block: Block) -> list[object]:
    return [*block.servers, *block.addresses, *block.entries]


def _count(blocks: Iterable[Block]) -> Counter[object]:
    uses: Counter[object] = Counter()
    for block in blocks:
        uses.update(_items(block))
    return uses


def _owner(
    blocks: Mapping[ServicePortName, Block],
    key: ServerKey,
    uses: Mapping[object, int],
    claimed: Mapping[ServerKey, Server],
) -> Server:
    """What the virtual server ``key`` is: that of the first service port, should several claim it (one external IP)."""
    if uses[key] == 1 and key in claimed:
        return claimed[key]
    return next(block.servers[key] for block in blocks.values() if key in block.servers)


def _operations(wanted: Mapping[ServerKey, Server], have: Mapping[ServerKey, Server]) -> list[Operation]:
    operations: list[Operation] = []
    for key, server in wanted.items():
        before = have.get(key)
        if before is None:
            operations.append(Operation("new", key, server.virtual))
        elif before.virtual != server.virtual:
            operations.append(Operation("set", key, server.virtual))
        known = frozenset(before.reals) if before is not None else frozenset()
        operations += [Operation("ensure", key, real=real) for real in server.reals if real not in known]
        if before is not None:
            kept = frozenset(server.reals)
            operations += [Operation("retire", key, real=real) for real in before.reals if real not in kept]
    operations += [Operation("del", key) for key in have if key not in wanted]
    return operations


def _plan(  # noqa: PLR0913 - the parts of a plan, all named
    state: NodeState,
    family: int,
    *,
    full: bool,
    rules: str = "",
    operations: list[Operation],
    come: Iterable[Entry],
    gone: Iterable[Entry],
    new_addresses: Iterable[str],
    old_addresses: Iterable[str],
) -> IpvsPlan:
    before = render_changes(full, (), come, family)
    after = render_changes(False, gone, (), family)
    new, old = tuple(sorted(new_addresses)), tuple(sorted(old_addresses))
    lines = [*(f"ipset {line}" for line in before.splitlines()), *rules.splitlines(), *map(str, operations)]
    lines += [f"ip address add {ip} dev {DUMMY}" for ip in new]
    lines += [f"ip address delete {ip} dev {DUMMY}" for ip in old]
    lines += [f"ipset {line}" for line in after.splitlines()]
    text = "".join(f"{line}\n" for line in lines)
    return IpvsPlan(family, state, text, full, before, rules, tuple(operations), new, old, after)
