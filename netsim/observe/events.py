"""The kernel's messages about rules, as events: with the hook they belong to, and by which tool the rule was made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from netsim.kernel.nf_log import LogMessage
from netsim.kernel.nft_trace import ChainInfo, RuleTrace, TraceMessage
from netsim.observe.evidence import RuleEvent, RuleKey
from netsim.observe.own import Own
from netsim.observe.posts import Post

# iptables over nf_tables makes these tables and base chains (iptables/nft.c, xtables_ipv4); nobody writes them in
# capitals by hand.
_IPTABLES_TABLES = frozenset(("raw", "mangle", "nat", "filter", "security"))
_IPTABLES_CHAINS = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))
_LEGACY_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}


def read_events(post: Post, own: Own) -> list[RuleEvent]:
    """The probe's events at one place, in the kernel's order; those of legacy iptables after those of nf_tables.

    Raises KernelError.
    """
    events = list(_nft_events(post, post.trace, own)) if post.trace else []
    return events + [_legacy_event(post, message) for message in post.logged if own.has(message.packet)]


def _nft_events(post: Post, trace: RuleTrace, own: Own) -> Iterator[RuleEvent]:
    chains: dict[tuple[str, str, str], ChainInfo] = {}
    bases: dict[int, tuple[ChainInfo, str]] = {}  # packet -> the base chain it is in, and its name
    ours: dict[int, bool] = {}  # packet -> whether it is the probe's; the first message in a base chain shows it
    for message in post.messages:
        if message.packet:
            ours[message.packet_id] = own.has(message.packet)
        if not ours.get(message.packet_id):
            continue
        key = (message.family, message.table, message.chain)
        if key not in chains:
            chains[key] = trace.chain(*key) or ChainInfo("", None)
        if chains[key].hook:
            bases[message.packet_id] = chains[key], message.chain
        base, name = bases.get(message.packet_id, (ChainInfo("", None), ""))
        kind, verdict = message.kind, message.verdict
        if kind == "rule" and not message.handle:
            # The end of a chain without a verdict: the kernel's last "rule". Of a base chain the policy follows.
            if chains[key].hook:
                continue
            kind = verdict = "return"
        yield RuleEvent(
            place=post.place,
            packet_id=message.packet_id,
            backend=_backend(message, name),
            family=message.family,
            table=message.table,
            chain=message.chain,
            kind=_kind(kind),
            handle=message.handle,
            verdict=verdict,
            hook=base.hook,
            priority=base.priority,
            packet=message.packet,
            interface_in=post.interface(message.index_in),
            interface_out=post.interface(message.index_out),
            mark=message.mark,
        )


def _backend(message: TraceMessage, base: str) -> Literal["nft", "iptables-nft"]:
    made = message.family in ("ip", "ip6") and message.table in _IPTABLES_TABLES and base in _IPTABLES_CHAINS
    return "iptables-nft" if made else "nft"


def _legacy_event(post: Post, message: LogMessage) -> RuleEvent:
    priority = _LEGACY_PRIORITIES.get(message.table)
    if message.table == "nat" and message.hook:
        priority = -100 if message.hook in ("prerouting", "output") else 100
    return RuleEvent(
        place=post.place,
        packet_id=0,
        backend="iptables-legacy",
        family=message.family,
        table=message.table,
        chain=message.chain,
        kind=_kind(message.kind),
        handle=message.number,  # of a return or policy: the one after the last rule's, or see `correct_legacy`
        verdict="",
        hook=message.hook,
        priority=priority,
        packet=message.packet,
        interface_in=post.interface(message.index_in),
        interface_out=post.interface(message.index_out),
        mark=message.mark,
    )


def correct_legacy(events: Sequence[RuleEvent], rules: Mapping[RuleKey, str]) -> tuple[RuleEvent, ...]:
    """The kernel takes a rule without any condition that accepts or drops for the end of its chain, and says "return"
    or "policy" (get_chainname_rulenum); but there is a rule of that number, by the chain's listing in ``rules``.
    """
    corrected = []
    for event in events:
        if event.backend == "iptables-legacy" and event.kind != "rule":
            known = (event.place, event.family, event.table, event.chain, event.handle) in rules
            event = replace(event, kind="rule") if known else replace(event, handle=0)
        corrected.append(event)
    return tuple(corrected)


def _kind(word: str) -> Literal["rule", "return", "policy"]:
    return "policy" if word == "policy" else "return" if word == "return" else "rule"
