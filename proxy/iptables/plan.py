"""Planning in the iptables dialect: a full sync, and what differs afterwards.

Upstream's partial sync writes the top-level chains whole and every chain of a changed service. Here each chain is
compared with what the node has, and only chains that differ are written: nothing top-level when an endpoint comes
or goes, and of a service with a thousand endpoints only its list and the one new chain. The state after any row of
changes equals that of a full sync.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from netsim.model.errors import InputError
from netsim.ruleset.iptables import Chains, TableEdit, Tables, render_edits
from netsim.ruleset.iptables_rule import Match, parse_rule
from proxy.config import FamilyView
from proxy.dialect import Plan
from proxy.iptables import names
from proxy.iptables.blocks import HEADS, N_SERVICES, Block, make_block
from proxy.servicemap import ServicePortName, Snapshot
from proxy.topology import choose_endpoints

Heads = tuple[tuple[str, ...], ...]
_Diff = tuple[dict[str, tuple[str, ...]], tuple[str, ...], tuple[bool, ...]]
_MEMO_MAX = 256
_NOTHING = Block(tuple(() for _ in HEADS), {})


class NodeTables(dict[str, Chains]):
    """A node's tables, and what else decides its rules. ``counted``: it has `names.COUNTERS`, which rules may name.
    ``liberal``: its nf_conntrack_tcp_be_liberal is set, whoever set it.
    """

    counted = False
    liberal = False


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What a node has of one family once a plan was applied."""

    blocks: Mapping[ServicePortName, Block]
    tail: tuple[str, ...]  # the NodePort jumps at the end of nat KUBE-SERVICES
    counted: bool = False  # the node has `names.COUNTERS`
    liberal: bool = False  # invalid packets are not dropped
    gone: bool = False  # after a cleanup


class IptablesDialect:
    """`proxy.dialect.Dialect` for iptables. Holds caches only."""

    name = "iptables"

    def __init__(self) -> None:
        # Two nodes that had the same and get the same need the same edit; the blocks are kept so that ids stay theirs.
        self._diffs: dict[tuple[int, int], tuple[Block, Block, _Diff]] = {}

    def plan_full(self, snapshot: Snapshot, view: FamilyView, existing: Tables) -> Plan[NodeRules]:
        """Every chain, the jumps that are missing, and the end of stale chains. ``existing``: parsed iptables-save."""
        comments = snapshot.total_endpoints <= view.config.large_cluster_endpoints
        counted = isinstance(existing, NodeTables) and existing.counted
        liberal = view.config.tcp_be_liberal or (isinstance(existing, NodeTables) and existing.liberal)
        blocks = {name: _block(snapshot, name, view, comments, counted) for name in snapshot.entries}
        tail = _tail(view)
        heads = {key: _head(blocks, index, tail) for index, key in enumerate(HEADS)}
        filter_edit = TableEdit("filter", {chain: heads.get(("filter", chain), ()) for chain in names.FILTER_CHAINS})
        filter_edit.chains[names.FORWARD] = _forward_rules(view, counted, liberal)
        if view.localhost_node_ports:
            filter_edit.chains[names.FIREWALL] = _FIREWALL_RULES
        elif names.FIREWALL not in existing.get("filter", {}):
            filter_edit.chains[names.FIREWALL] = ()
        nat_edit = TableEdit("nat", {chain: heads.get(("nat", chain), ()) for chain in names.NAT_CHAINS})
        nat_edit.chains[names.POSTROUTING] = _postrouting_rules(view)
        nat_edit.chains[names.MARK_MASQ] = (f"-j MARK --or-mark {view.config.masquerade_mark}",)
        for block in blocks.values():
            nat_edit.chains.update(block.chains)
        edits = [TableEdit("mangle"), filter_edit, nat_edit]
        for edit in edits:
            edit.chains[names.CANARY] = ()
            edit.prepend = _missing_jumps(edit.table, existing)
        stale = existing.get("nat", {}).keys() - nat_edit.chains.keys()
        nat_edit.delete = tuple(sorted(filter(names.is_service_chain, stale)))
        return Plan(snapshot.family, NodeRules(blocks, tail, counted, liberal), render_edits(edits), full=True)

    def plan_changes(
        self, snapshot: Snapshot, changed: Collection[ServicePortName], previous: NodeRules, view: FamilyView
    ) -> Plan[NodeRules]:
        """The chains of ``changed`` service ports, and the top-level chains, that are not as ``previous`` has them.

        ``view`` must be the one ``previous`` was planned with; another node address or zone needs a full plan.
        """
        comments = snapshot.total_endpoints <= view.config.large_cluster_endpoints
        blocks = dict(previous.blocks)
        nat = TableEdit("nat")
        touched = [False] * len(HEADS)
        grown = False
        for name in sorted(changed):
            old = blocks.get(name, _NOTHING)
            if name in snapshot.entries:
                grown = grown or name not in blocks
                new = blocks[name] = _block(snapshot, name, view, comments, previous.counted)
            else:
                new = _NOTHING
                blocks.pop(name, None)
            chains, gone, heads = self._diff(old, new)
            nat.chains.update(chains)
            nat.delete += gone
            touched = [a or b for a, b in zip(touched, heads, strict=True)]
        if grown:
            blocks = {name: blocks[name] for name in snapshot.entries if name in blocks}
        edits = {"filter": TableEdit("filter"), "nat": nat}
        for index, (table, chain) in enumerate(HEADS):
            if touched[index]:
                edits[table].chains = {chain: _head(blocks, index, previous.tail)} | edits[table].chains
        return Plan(snapshot.family, replace(previous, blocks=blocks), render_edits(edits.values()), full=False)

    def plan_cleanup(self, family: int, existing: Tables) -> Plan[NodeRules]:
        """Everything of ours goes: jumps, chains, canaries. KUBE-FIREWALL stays where a kubelet owns it too."""
        kubelet = _has_kubelet(existing)
        edits = []
        for table, chains in existing.items():
            ours = _our_chains(table) - ({names.FIREWALL} if kubelet else set())
            present = [c for c in chains if c in ours or (table == "nat" and names.is_service_chain(c))]
            going = set(present)
            jumps = tuple(
                (chain, spec)
                for chain, specs in chains.items()
                if chain not in going
                for spec in specs
                if _target_of(spec) in going
            )
            edits.append(TableEdit(table, remove=jumps, delete=tuple(present)))
        return Plan(family, NodeRules({}, (), gone=True), render_edits(edits), full=True)

    def _diff(self, old: Block, new: Block) -> _Diff:
        """What to write and what to delete to get from ``old`` to ``new``, and which heads differ."""
        key = (id(old), id(new))
        known = self._diffs.get(key)
        if known is not None and known[0] is old and known[1] is new:
            return known[2]
        chains = {c: rules for c, rules in new.chains.items() if old.chains.get(c) != rules}
        gone = tuple(c for c in old.chains if c not in new.chains)
        heads = tuple(a != b for a, b in zip(old.heads, new.heads, strict=True))
        if len(self._diffs) >= _MEMO_MAX:
            self._diffs.clear()
        self._diffs[key] = (old, new, (chains, gone, heads))
        return chains, gone, heads


def is_guarded_by_us(existing: Tables) -> bool:
    """Whether the rule that keeps neighbours out of 127.0.0.0/8 is there, and goes with a cleanup."""
    return bool(existing.get("filter", {}).get(names.FIREWALL)) and not _has_kubelet(existing)


def count_fixed_rules(view: FamilyView, liberal: bool) -> dict[str, int]:
    """The rules in our chains that are there whatever services there are, by table."""
    firewall = len(_FIREWALL_RULES) if view.localhost_node_ports else 0
    return {"filter": len(_forward_rules(view, liberal=liberal)) + firewall, "nat": len(_postrouting_rules(view)) + 1}


def check_text(view: FamilyView) -> str:
    """An edit that changes nothing and fails if our chains were deleted or emptied: one process, one answer.

    Upstream looks for the canary chains alone, which are still there after ``iptables -F``.
    """
    lines = ["*mangle", f"-F {names.CANARY}", "COMMIT", "*filter", f"-F {names.CANARY}"]
    lines += [f"-C {jump.chain} {jump.spec}" for jump in names.JUMPS if jump.table == "filter"]
    lines += [f"-C {names.FORWARD} {_forward_rules(view)[-1]}", "COMMIT", "*nat", f"-F {names.CANARY}"]
    lines += [f"-C {jump.chain} {jump.spec}" for jump in names.JUMPS if jump.table == "nat"]
    lines += [f"-C {names.POSTROUTING} {_postrouting_rules(view)[-1]}"]
    lines += [f"-C {names.SERVICES} {spec}" for spec in _tail(view)]
    return "\n".join([*lines, "COMMIT", ""])


def _block(snapshot: Snapshot, name: ServicePortName, view: FamilyView, comments: bool, counted: bool) -> Block:
    entry = snapshot.entries[name]
    choice = choose_endpoints(entry, view.node.name, view.node.zone)
    return make_block(entry, choice, view, comments=comments, counted=counted)


def _head(blocks: Mapping[ServicePortName, Block], index: int, tail: tuple[str, ...]) -> tuple[str, ...]:
    rules = [spec for block in blocks.values() for spec in block.heads[index]]
    return (*rules, *tail) if index == N_SERVICES else tuple(rules)


def _tail(view: FamilyView) -> tuple[str, ...]:
    comment = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    ips = view.node_port_ips()
    if ips is not None:
        return tuple(f"{comment} -d {ip} -j {names.NODEPORTS}" for ip in ips)
    match = "-m addrtype --dst-type LOCAL"
    if view.family == 6:  # never on IPv6 loopback: there is no route_localnet
        match += " ! -d ::1/128"
    elif not view.localhost_node_ports:
        match += " ! -d 127.0.0.0/8"
    return (f"{comment} {match} -j {names.NODEPORTS}",)


# With route_localnet a neighbour could reach services on the node's 127.0.0.1: CVE-2020-8558.
_FIREWALL_RULES = (
    '-m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 '
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
)


def _forward_rules(view: FamilyView, counted: bool = False, liberal: bool = False) -> tuple[str, ...]:
    count = f"-m nfacct --nfacct-name {names.INVALID_COUNTER} " if counted else ""
    mark = view.config.masquerade_mark
    # Packets conntrack finds out of window would go un-translated to the client, which answers with a reset (#74839).
    drop = () if liberal else (f"-m conntrack --ctstate INVALID {count}-j DROP",)
    return (
        *drop,
        f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT',
        '-m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    )


def _postrouting_rules(view: FamilyView) -> tuple[str, ...]:
    mark = view.config.masquerade_mark
    return (
        f"-m mark ! --mark {mark}/{mark} -j RETURN",
        f"-j MARK --xor-mark {mark}",  # or it would be masqueraded again after encapsulation
        '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    )


def _missing_jumps(table: str, existing: Tables) -> tuple[tuple[str, str], ...]:
    chains = existing.get(table, {})
    return tuple(
        (jump.chain, jump.spec)
        for jump in names.JUMPS
        if jump.table == table and not _has_rule(chains.get(jump.chain, ()), jump)
    )


def _has_rule(specs: Iterable[str], jump: names.Jump) -> bool:
    wanted = _conditions(jump.spec)
    return any(_conditions(spec) == wanted for spec in specs if _target_of(spec) == jump.target)


def _conditions(spec: str) -> frozenset[Match]:
    """A rule's matches in any spelling: iptables-save orders words in its own way and adds none to these."""
    try:
        return frozenset(match for match in parse_rule(spec).matches if match.option != "-m")
    except InputError:
        return frozenset((Match("unknown", spec),))  # a rule of somebody else's making


def _has_kubelet(existing: Tables) -> bool:
    return any(names.KUBELET_CANARY in chains for chains in existing.values())


def _target_of(spec: str) -> str:
    return spec.rpartition("-j ")[2].split(" ", 1)[0]


def _our_chains(table: str) -> set[str]:
    chains = {names.CANARY}
    if table == "filter":
        chains |= {*names.FILTER_CHAINS, names.FIREWALL}
    elif table == "nat":
        chains |= {*names.NAT_CHAINS}
    return chains
