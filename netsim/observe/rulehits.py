"""Rule events of a hook as the rules that a packet met. Pure."""

import re
from collections.abc import Mapping, Sequence

from netsim.observe.evidence import RuleEvent, RuleKey
from netsim.observe.journey import Stage
from netsim.observe.path import RuleHit

# What a rule does to a packet, where the trace's verdict does not say it: nft's and iptables' words.
_ACTIONS = (
    (re.compile(r"(?:^|\s)(?:-j\s+)?(?:REJECT|reject)\b"), "reject"),
    (re.compile(r"(?:^|\s)(?:-j\s+)?(?:DNAT|dnat)\b"), "dnat"),
    (re.compile(r"(?:^|\s)(?:-j\s+)?(?:SNAT|snat)\b"), "snat"),
    (re.compile(r"(?:^|\s)(?:-j\s+)?(?:MASQUERADE|masquerade)\b"), "masquerade"),
    (re.compile(r"(?:^|\s)(?:-j\s+)?(?:REDIRECT|redirect)\b"), "redirect"),
)
_ELEMENT_END = re.compile(r"^([0-9a-f.:]+) \. (\d+)$")
_RULE_END = re.compile(r"(?:--to-destination|dnat (?:ip6? )?to) (\[[0-9a-f:]+\]|[0-9.]+):(\d+)")
_QUOTED = re.compile(r'"[^"]*"')
_LEGACY_TARGET = re.compile(r"(?:^|\s)-([jg])\s+(\S+)")
_LEGACY_WORDS = {"ACCEPT": "accept", "DROP": "drop", "RETURN": "return"}


def read_hits(stage: Stage, rules: Mapping[RuleKey, str], elements: Mapping[int, str]) -> tuple[RuleHit, ...]:
    """The rules and policies of one hook, in the order the packet met them. Ends of chains are left out."""
    met = [one for one in stage.traced if one.event.kind != "return"]
    return tuple(_read_hit(one.event, rules, elements.get(one.position, "")) for one in met)


def find_new_destination(hits: Sequence[RuleHit]) -> tuple[str, int] | None:
    """Where the last of these rules that translates destinations sends the packet, if its text or element says so."""
    last = next((hit for hit in reversed(hits) if hit.verdict == "dnat"), None)
    if last is None:
        return None
    value = last.element.rpartition(" : ")[2]
    for pattern, text in ((_ELEMENT_END, value), (_RULE_END, last.text)):
        found = pattern.search(text)
        if found is not None:
            return found[1].strip("[]"), int(found[2])
    return None


def _read_hit(event: RuleEvent, rules: Mapping[RuleKey, str], element: str) -> RuleHit:
    if event.kind == "policy":
        verdict = event.verdict or "accept"
        text, handle = f"policy {verdict}", None
    else:
        key = (event.place, event.family, event.table, event.chain, event.handle)
        text, handle = rules.get(key, f"rule {event.handle}"), event.handle
        verdict = find_verdict(text, event.verdict)
    return RuleHit(
        event.family, event.table, event.chain, text, verdict, backend=event.backend, handle=handle, element=element
    )


def find_verdict(text: str, traced: str) -> str:
    """What a rule did: by its text where that says more than the verdict the kernel traced."""
    bare = _QUOTED.sub("", text)  # comments say anything
    for pattern, name in _ACTIONS:
        if pattern.search(bare):
            return name
    if traced:
        return traced
    target = _LEGACY_TARGET.search(bare)
    if target is None:
        return "continue"
    words = {"j": "jump", "g": "goto"}
    return _LEGACY_WORDS.get(target[2]) or (
        "continue" if target[2] in ("MARK", "LOG", "TRACE", "CT", "NFLOG") else f"{words[target[1]]} {target[2]}"
    )
