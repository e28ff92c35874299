"""How many rules a node has, for metrics. Pure."""

from proxy.iptables.blocks import HEADS
from proxy.iptables.plan import NodeRules


def count_owned_rules(rules: NodeRules) -> dict[str, int]:
    """The iptables rules of services on a node, by table; the handful that is always there is not counted."""
    counts = {"filter": 0, "nat": len(rules.tail)}
    for block in rules.blocks.values():
        for (table, _), specs in zip(HEADS, block.heads, strict=True):
            counts[table] += len(specs)
        counts["nat"] += sum(map(len, block.chains.values()))
    return counts
