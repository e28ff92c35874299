"""What a chain of nf_tables says to one packet: its rules followed in order, through jumps and verdict maps. Pure.

Source: net/netfilter/nf_tables_core.c (nft_do_chain), libnftables-json(5).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netsim.observe.explain.context import Answer, Asking, Nat
from netsim.observe.explain.nft_value import (
    NoMatch,
    Unknown,
    evaluate,
    look_up_element,
    matches,
    share_of_draw,
)
from netsim.observe.nft_listing import NftChain, NftRule, NftTable, render_element
from netsim.observe.path import RuleHit

_MAX_DEPTH = 16  # NFT_JUMP_STACK_SIZE
_PASSIVE = frozenset(
    {"counter", "log", "last", "meter", "secmark", "flow", "ct helper", "ct timeout", "ct expectation"}
)
_LIMITS = {"limit": "a limit", "quota": "a quota", "ct count": "a limit of connections"}
_VERDICTS = frozenset({"accept", "drop", "return", "continue"})


class NftChainWalk:
    """One packet in one table."""

    def __init__(self, table: NftTable, asking: Asking) -> None:
        self._table = table
        self._asking = asking
        self._accepted: tuple[str, str] = ("", "")

    def walk(self, chain: NftChain) -> Answer:
        """A base chain, with its policy at the end."""
        answer = self._chain(chain, 0)
        if answer is not None:
            return answer
        if chain.policy == "drop":
            hit = RuleHit(self._table.family, self._table.name, chain.name, "policy drop", "drop")
            self._asking.hits.append(hit)
            return Answer("drop", hit)
        return Answer()

    def _chain(self, chain: NftChain, depth: int) -> Answer | None:
        """None: came to its end, or returned."""
        if depth > _MAX_DEPTH:
            self._asking.chances.note(f"{self._table.name} {chain.name}: more than {_MAX_DEPTH} jumps in a row")
            return None
        for rule in chain.rules:
            verdict, target, answer = self._rule(chain, rule)
            if answer is not None:
                return answer
            if verdict == "return":
                return None
            if verdict in ("jump", "goto"):
                found = self._table.chains.get(target)
                answer = self._chain(found, depth + 1) if found is not None else None
                if answer is not None or verdict == "goto":
                    return answer
        return None

    def _rule(self, chain: NftChain, rule: NftRule) -> tuple[str, str, Answer | None]:
        """A verdict, the chain it names, or what ends it all. A rule whose end is not reached did not match."""
        element = ""
        for statement in rule.statements:
            kind, inner = next(iter(statement.items()))
            try:
                if kind == "match":
                    if not self._matches(inner["left"], inner["op"], inner["right"]):
                        return "", "", None
                elif kind == "vmap":
                    found = look_up_element(
                        self._table, inner["data"], evaluate(inner["key"], self._asking, self._table)
                    )
                    if found is None:
                        return "", "", None
                    element = render_element(*found)
                    return self._decide(chain, rule, found[1], element)
                else:
                    done = self._act(chain, rule, kind, inner)
                    if done is not None:
                        return done
            except NoMatch:
                return "", "", None
            except Unknown as unknown:
                if self._skip(rule, unknown):
                    return "", "", None
        self._hit(chain, rule, "continue")
        return "", "", None

    def _matches(self, left: Any, operator: str, wanted: Any) -> bool:
        """A condition. Raises NoMatch, Unknown."""
        share = share_of_draw(left, operator, wanted)
        if share is not None:
            return share == 1 or (share > 0 and self._asking.chances.choose([share, 1 - share]) == 0)
        value = evaluate(left, self._asking, self._table)
        if isinstance(wanted, Mapping) and next(iter(wanted)) in ("payload", "meta", "ct", "&", "|", "fib"):
            wanted = evaluate(wanted, self._asking, self._table)
        return matches(value, operator, wanted, self._table)

    def _skip(self, rule: NftRule, unknown: Unknown) -> bool:
        """What is not modelled is followed both ways."""
        self._asking.chances.note(f'not modelled: {unknown}, in the rule "{rule.words}"; followed both ways')
        return self._asking.chances.choose([0.5, 0.5]) == 1

    def _hit(self, chain: NftChain, rule: NftRule, verdict: str, element: str = "") -> RuleHit:
        hit = RuleHit(
            self._table.family, self._table.name, chain.name, rule.words, verdict, "nft", rule.handle, element
        )
        self._asking.hits.append(hit)
        return hit

    def _decide(
        self, chain: NftChain, rule: NftRule, verdict: Any, element: str = ""
    ) -> tuple[str, str, Answer | None]:
        """A verdict: of a statement, or of a verdict map's element."""
        kind, inner = next(iter(verdict.items())) if isinstance(verdict, Mapping) else (str(verdict), None)
        target = str(inner["target"]) if isinstance(inner, Mapping) else ""
        hit = self._hit(chain, rule, f"{kind} {target}".strip(), element)
        if kind in ("accept", "drop"):
            return "", "", Answer("accept" if kind == "accept" else "drop", hit)
        return kind, target, None

    def _act(self, chain: NftChain, rule: NftRule, kind: str, inner: Any) -> tuple[str, str, Answer | None] | None:
        """A statement that is no condition; None: go on with the rule. Raises NoMatch, Unknown."""
        if kind in _VERDICTS or kind in ("jump", "goto"):
            return self._decide(chain, rule, {kind: inner})
        if kind in _PASSIVE:
            return None
        if kind in _LIMITS:
            over = isinstance(inner, Mapping) and (inner.get("inv") or inner.get("over"))
            self._asking.chances.note(f'"{rule.words}": {_LIMITS[kind]} is taken as not reached')
            if over:
                raise NoMatch
            return None
        if kind == "reject":
            hit = self._hit(chain, rule, "reject")
            return "", "", Answer("reject", hit, reply=_reject_reply(inner))
        if kind in ("dnat", "snat", "masquerade", "redirect"):
            nat, element = self._nat(kind, inner or {})
            hit = self._hit(chain, rule, kind, element)
            return "", "", Answer("accept", hit, nat=nat)
        if kind == "mangle":
            self._mangle(inner)
        elif kind == "notrack":
            self._asking.packet = replace(self._asking.packet, untracked=True)
        elif kind not in ("set", "map"):  # elements that packets add matter to the next packets only
            raise Unknown(f"nft statement {kind}")
        return None

    def _mangle(self, inner: Mapping[str, Any]) -> None:
        asking = self._asking
        value = evaluate(inner["value"], asking, self._table)
        key = inner["key"]
        if key == {"meta": {"key": "mark"}}:
            asking.packet = replace(asking.packet, mark=int(value) & 0xFFFFFFFF)
        elif key == {"ct": {"key": "mark"}} and asking.flow is not None:
            asking.flow.mark = int(value) & 0xFFFFFFFF
        elif isinstance(key, Mapping) and key.get("payload", {}).get("field") in ("ttl", "hoplimit"):
            asking.packet = replace(asking.packet, ttl=int(value))
        elif key == {"payload": {"protocol": "ether", "field": "daddr"}}:
            asking.packet = replace(asking.packet, destination_mac=str(value))
        elif key == {"payload": {"protocol": "ether", "field": "saddr"}}:
            asking.packet = replace(asking.packet, source_mac=str(value))
        elif not (isinstance(key, Mapping) and "tcp option" in key):
            raise Unknown(f"nft set {key}")

    def _nat(self, kind: str, inner: Mapping[str, Any]) -> tuple[Nat, str]:
        """The translation, and the map's element that it came from."""
        asking, table, element = self._asking, self._table, ""
        address, port = inner.get("addr"), inner.get("port")
        flags = inner.get("flags", ())
        flags = [flags] if isinstance(flags, str) else list(flags)
        if isinstance(address, Mapping) and "map" in address:
            found = look_up_element(table, address["map"]["data"], evaluate(address["map"]["key"], asking, table))
            if found is None:
                raise NoMatch
            types = table.sets[address["map"]["data"][1:]].types if isinstance(address["map"]["data"], str) else ()
            element = render_element(*found, types)
            address = found[1]
        elif address is not None:
            address = evaluate(address, asking, table)
        if isinstance(address, Mapping) and "concat" in address:
            address, port = address["concat"]
        elif isinstance(address, tuple):
            address, port = address
        if isinstance(address, Mapping) or isinstance(port, Mapping):
            port = evaluate(port, asking, table) if isinstance(port, Mapping) else port
            if not isinstance(port, int | None) or not isinstance(address, str | None):
                raise Unknown(f"nft {kind} to {address} port {port}")
        random = any("random" in flag for flag in flags)
        word = {"dnat": "dnat", "snat": "snat", "masquerade": "masquerade"}.get(kind, "redirect")
        return Nat(word, str(address or ""), int(port or 0), random), element  # type: ignore[arg-type]


def _reject_reply(inner: Any) -> str:
    """What is sent back: "tcp reset" or the name of an ICMP error."""
    if not isinstance(inner, Mapping):
        return "port-unreachable"
    if inner.get("type") == "tcp reset":
        return "tcp reset"
    return str(inner.get("expr", "port-unreachable"))
