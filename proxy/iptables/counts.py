"""How many rules a node has, for metrics. Pure."""

from proxy.config import FamilyView
from proxy.iptables.blocks import HEADS
from proxy.iptables.plan import NodeRules, count_fixed_rules


def count_owned_rules(rules: NodeRules, view: FamilyView) -> dict[str, int]:
    """The iptables rules that a node has of ours, by table; without the jumps to them, as upstream counts."""
    counts = count_fixed_rules(view, rules.liberal)
    counts["nat"] += len(rules.tail)
    for block in rules.blocks.values():
        for (table, _), specs in zip(HEADS, block.heads, strict=True):
            counts[table] += len(specs)
        counts["nat"] += sum(map(len, block.chains.values()))
    return counts
