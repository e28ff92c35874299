"""The rules and map elements that serve one Service, picked out of all that a namespace has. Pure.

Nothing is known here of how kube-proxy names its chains: what belongs to a Service is found from its addresses and
ports, by the rules and elements that name them, and by following where those lead.
"""

import re
from collections.abc import Sequence

from netsim.observe.rules.iptables import IptablesChoice
from netsim.observe.rules.ipvs import choose_ipsets, choose_servers
from netsim.observe.rules.model import Entry, Group, Line, Rules
from netsim.observe.rules.nft import NftChoice


def choose_service_rules(rules: Rules, entries: Sequence[Entry]) -> list[Group]:
    """What serves these entries, in the order in which a packet meets it where there is one."""
    groups: list[Group] = []
    sets, set_groups = choose_ipsets(rules, entries)
    for (backend, family), tables in rules.iptables.items():
        mine = [e for e in entries if not e.address or (":" in e.address) == (family == "ip6")]
        for table, chains in tables.items():
            groups += IptablesChoice(backend, family, table, chains, mine, sets).choose()
    groups += set_groups
    groups += choose_servers(rules, entries)
    for nft_table in rules.nft.values():
        groups += NftChoice(nft_table, entries).choose()
    return groups


_COUNTER = re.compile(r" ?counter packets \d+ bytes \d+")


def without_counters(group: Group) -> Group:
    """For comparing nodes."""
    lines = tuple(Line(_COUNTER.sub("", line.text)) for line in group.lines)
    return Group(group.backend, group.family, group.table, group.kind, group.name, lines, group.way, group.shared)
