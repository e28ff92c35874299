"""What a chain of iptables says to one packet: its rules followed in order, through jumps. Pure.

Source: iptables-extensions(8), net/ipv4/netfilter/ip_tables.c (ipt_do_table).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, cast

from netsim.observe.explain.context import Answer, Asking, Nat
from netsim.observe.explain.routing import address_type, contains
from netsim.observe.iptables_save import Condition, SavedChain, SavedRule
from netsim.observe.path import RuleHit

Backend = Literal["iptables-nft", "iptables-legacy"]
_PASSIVE_TARGETS = frozenset(
    {"", "LOG", "NFLOG", "ULOG", "TRACE", "TCPMSS", "CLASSIFY", "SET", "AUDIT", "CHECKSUM", "DSCP", "TOS", "IDLETIMER"}
)
# Options that say nothing by themselves: they name a module, or go with another option.
_SILENT = frozenset(
    [
        "-m",
        "--comment",
        "--mode",
        "--packet",
        "--set",
        "--name",
        "--seconds",
        "--hitcount",
        "--reap",
        "--mask",
        "--rsource",
        "--rdest",
        "--limit-burst",
        "--nfacct-name",
        "--return-nomatch",
        "--hashlimit-name",
        "--hashlimit-mode",
        "--icmp-code",
    ]
)
_TYPES = {
    "UNICAST": "unicast",
    "LOCAL": "local",
    "BROADCAST": "broadcast",
    "MULTICAST": "multicast",
    "ANYCAST": "anycast",
}
_ICMP_TYPES = {"echo request": ("8", "echo-request", "128"), "echo reply": ("0", "echo-reply", "129")}
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "NONE": 0, "ALL": 63}


class Unknown(Exception):
    """A match or target that the model does not know."""


class IptablesWalk:
    """One packet in one table."""

    def __init__(
        self, chains: Mapping[str, SavedChain], asking: Asking, *, backend: Backend, family: str, table: str
    ) -> None:
        self._chains = chains
        self._asking = asking
        self._backend: Backend = backend
        self._family = family
        self._table = table

    def walk(self, name: str) -> Answer:
        """A built-in chain, with its policy at the end."""
        chain = self._chains.get(name)
        if chain is None:
            return Answer()
        answer = self._chain(chain, 0)
        if answer is not None:
            return answer
        if chain.policy == "DROP":
            hit = RuleHit(self._family, self._table, name, "policy DROP", "drop", self._backend)
            self._asking.hits.append(hit)
            return Answer("drop", hit)
        return Answer()

    def _chain(self, chain: SavedChain, depth: int) -> Answer | None:
        for rule in chain.rules:
            if not self._matches(rule):
                continue
            target = rule.parts.target
            if target in self._chains:
                self._hit(chain, rule, f"{'goto' if rule.parts.goto else 'jump'} {target}")
                answer = self._chain(self._chains[target], depth + 1)
                if answer is not None or rule.parts.goto:
                    return answer
                continue
            if target == "RETURN":
                self._hit(chain, rule, "return")
                return None
            answer = self._act(chain, rule)
            if answer is not None:
                return answer
        return None

    def _hit(self, chain: SavedChain, rule: SavedRule, verdict: str) -> RuleHit:
        text = f"-A {chain.name} {rule.text}"
        hit = RuleHit(self._family, self._table, chain.name, text, verdict, self._backend, rule.number)
        self._asking.hits.append(hit)
        return hit

    # --- targets ---

    def _act(self, chain: SavedChain, rule: SavedRule) -> Answer | None:
        target, asking = rule.parts.target, self._asking
        options = {option.option: option.value for option in rule.parts.options}
        if target in ("ACCEPT", "DROP"):
            return Answer("accept" if target == "ACCEPT" else "drop", self._hit(chain, rule, target.lower()))
        if target == "REJECT":
            words = options.get("--reject-with", "icmp-port-unreachable")
            reply = "tcp reset" if words == "tcp-reset" else words.removeprefix("icmp6-").removeprefix("icmp-")
            return Answer("reject", self._hit(chain, rule, "reject"), reply=reply)
        if target in ("DNAT", "SNAT", "MASQUERADE", "REDIRECT"):
            return Answer("accept", self._hit(chain, rule, target.lower()), nat=_nat(target, options))
        self._hit(chain, rule, "continue")
        if target == "MARK":
            asking.packet = replace(asking.packet, mark=_set_mark(asking.packet.mark, options))
        elif target == "CONNMARK" and asking.flow is not None:
            self._connmark(options)
        elif target == "NOTRACK" or (target == "CT" and "--notrack" in options):
            asking.packet = replace(asking.packet, untracked=True)
        elif target not in _PASSIVE_TARGETS and target not in ("CT", "CONNMARK"):
            asking.chances.note(
                f'not modelled: target {target}, in the rule "-A {chain.name} {rule.text}"; passed over'
            )
        return None

    def _connmark(self, options: Mapping[str, str]) -> None:
        asking = self._asking
        if asking.flow is None:
            return
        if "--restore-mark" in options:
            asking.packet = replace(asking.packet, mark=asking.flow.mark)
        elif "--save-mark" in options:
            asking.flow.mark = asking.packet.mark
        else:
            asking.flow.mark = _set_mark(asking.flow.mark, options)

    # --- matches ---

    def _matches(self, rule: SavedRule) -> bool:
        """All conditions hold. Those by chance are asked last, so that chance is asked as seldom as may be."""
        module, late = "", []
        for condition in rule.parts.conditions:
            if condition.option == "-m":
                module = condition.value
            elif condition.option in ("--probability", "--every"):
                late.append(condition)
            elif condition.option not in _SILENT:
                try:
                    if self._is(condition, module, rule) == condition.negated:
                        return False
                except Unknown as unknown:
                    late.append(Condition("unknown", (str(unknown),)))
        return all(self._by_chance(condition, rule) for condition in late)

    def _by_chance(self, condition: Condition, rule: SavedRule) -> bool:
        chances = self._asking.chances
        if condition.option == "unknown":
            chances.note(f'not modelled: {condition.value}, in the rule "{rule.text}"; followed both ways')
            return chances.choose([0.5, 0.5]) == 0
        odds = float(condition.value) if condition.option == "--probability" else 1 / int(condition.value)
        if condition.negated:
            odds = 1 - odds
        if not 0 < odds < 1:
            return odds >= 1
        return chances.choose([odds, 1 - odds]) == 0

    def _is(self, condition: Condition, module: str, rule: SavedRule) -> bool:  # noqa: PLR0912 - a case for each option
        asking, value = self._asking, condition.value
        packet = asking.packet
        has_ports = not packet.protocol.startswith("icmp")
        match condition.option:
            case "-s":
                return contains(value, packet.source)
            case "-d":
                return contains(value, packet.destination)
            case "-p":
                return value in ("all", packet.protocol) or {"ipv6-icmp": "icmpv6"}.get(value) == packet.protocol
            case "-i":
                return _is_interface(value, asking.interface_in)
            case "-o":
                return _is_interface(value, asking.interface_out)
            case "--dport" | "--dports":
                return has_ports and _has_port(value, packet.destination_port)
            case "--sport" | "--sports":
                return has_ports and _has_port(value, packet.source_port)
            case "--ports":
                ports = (packet.source_port, packet.destination_port)
                return has_ports and any(_has_port(value, port) for port in ports)
            case "--ctstate" | "--state":
                return bool(self._states() & set(value.split(",")))
            case "--ctstatus":
                return bool(self._statuses() & set(value.split(",")))
            case "--ctdir":
                return (value == "REPLY") == asking.reply
            case "--ctorigdst" | "--ctorigsrc" if asking.flow is not None:
                one = asking.flow.original
                return contains(value, one.destination if condition.option == "--ctorigdst" else one.source)
            case "--ctorigdstport" if asking.flow is not None:
                return _has_port(value, asking.flow.original.destination_port)
            case "--mark":
                mark = packet.mark if module != "connmark" else (asking.flow.mark if asking.flow else 0)
                wanted, _, mask = value.partition("/")
                return mark & int(mask or "0xffffffff", 0) == int(wanted, 0)
            case "--dst-type":
                return address_type(asking.place, packet.destination) in _types(value)
            case "--src-type":
                return address_type(asking.place, packet.source) in _types(value)
            case "--rcheck" | "--update":
                name = next((c.value for c in rule.values("--name")), "DEFAULT")
                by_destination = any(True for _ in rule.values("--rdest"))
                address = packet.destination if by_destination else packet.source
                return address in asking.place.recent.get(name, ())
            case "--match-set":
                return self._in_ipset(value, condition.values[1].split(","))
            case "--limit" | "--connlimit-upto" | "--hashlimit-upto":
                asking.chances.note(f'"{rule.text}": a limit is taken as not reached')
                return True
            case "--connlimit-above" | "--hashlimit-above":
                asking.chances.note(f'"{rule.text}": a limit is taken as not reached')
                return False
            case "--icmp-type" | "--icmpv6-type":
                return value in ("any", *_ICMP_TYPES.get(packet.note, ()))
            case "--tcp-flags":
                return _tcp_flags(packet.note, condition.values)
            case "--syn":
                return packet.note == "SYN"
            case "--physdev-in":
                return _is_interface(value, asking.port_in)
            case "--physdev-out":
                return _is_interface(value, asking.port_out)
            case "--physdev-is-bridged":
                return bool(asking.port_in and asking.port_out)
            case "--physdev-is-in":
                return bool(asking.port_in)
            case "--mac-source":
                return packet.source_mac.lower() == value.lower()
            case "--length":
                return _has_port(value, packet.length)
            case "--ttl-eq" | "--hl-eq":
                return packet.ttl == int(value)
            case "--ttl-lt" | "--hl-lt":
                return packet.ttl < int(value)
            case "--ttl-gt" | "--hl-gt":
                return packet.ttl > int(value)
        raise Unknown(f"the match {condition.option}")

    def _states(self) -> set[str]:
        flow = self._asking.flow
        states = {(self._asking.state or "invalid").upper()}
        if flow is not None:
            states |= {word for word, on in (("DNAT", flow.dnat), ("SNAT", flow.snat)) if on}
        return states

    def _statuses(self) -> set[str]:
        flow = self._asking.flow
        if flow is None:
            return {"NONE"}
        words = (
            ("SEEN_REPLY", flow.seen_reply),
            ("CONFIRMED", flow.confirmed),
            ("DNAT", flow.dnat),
            ("SNAT", flow.snat),
        )
        return {word for word, on in words if on} or {"NONE"}

    def _in_ipset(self, name: str, directions: list[str]) -> bool:
        """An element's parts against the packet's, one for each direction."""
        elements = self._asking.place.rules.ipsets.get(name)
        if elements is None:
            raise Unknown(f"the ipset {name}")
        return any(self._is_element(element, directions) for element in elements)

    def _is_element(self, element: str, directions: list[str]) -> bool:
        packet, parts = self._asking.packet, element.split(",")
        if len(parts) != len(directions):
            raise Unknown(f"an ipset's element {element}")
        for part, direction in zip(parts, directions, strict=True):
            address = packet.destination if direction == "dst" else packet.source
            port = packet.destination_port if direction == "dst" else packet.source_port
            protocol, colon, number = part.partition(":")
            if colon and number.isdigit() and protocol in ("tcp", "udp", "sctp", "udplite"):
                if (protocol, int(number)) != (packet.protocol, port):
                    return False
            elif part.isdigit():
                if int(part) != port:
                    return False
            elif not contains(part, address):
                return False
        return True


def _types(value: str) -> Iterator[str]:
    for word in value.split(","):
        yield _TYPES.get(word, word.lower())


def _is_interface(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _has_port(ranges: str, port: int) -> bool:
    for one in ranges.split(","):
        first, colon, last = one.partition(":")
        if int(first or 0) <= port <= int((last or 65535) if colon else first):
            return True
    return False


def _tcp_flags(note: str, values: tuple[str, ...]) -> bool:
    mask, wanted = (sum(_FLAGS.get(flag, 0) for flag in value.split(",")) for value in values[:2])
    have = sum(_FLAGS.get(flag, 0) for flag in note.split(","))
    return have & mask == wanted


def _set_mark(mark: int, options: Mapping[str, str]) -> int:
    """--set-xmark VALUE/MASK: zero the bits of the mask, then xor (xt_mark.c)."""
    for option, value in options.items():
        wanted, _, mask = value.partition("/")
        number = int(wanted or "0", 0)
        if option == "--or-mark":
            mark |= number
        elif option == "--and-mark":
            mark &= number
        elif option == "--xor-mark":
            mark ^= number
        elif option == "--set-mark":
            bits = int(mask or "0xffffffff", 0)
            mark = (mark & ~(bits | number)) | number
        elif option == "--set-xmark":
            mark = (mark & ~int(mask or "0xffffffff", 0)) ^ number
    return mark & 0xFFFFFFFF


def _nat(target: str, options: Mapping[str, str]) -> Nat:
    where = options.get("--to-destination") or options.get("--to-source") or ""
    address, port = where, options.get("--to-ports", "")
    if where.startswith("["):
        address, _, port = where[1:].partition("]:")
    elif where.count(":") == 1:
        address, _, port = where.partition(":")
    first = port.partition("-")[0]
    kind = cast(Literal["dnat", "snat", "masquerade", "redirect"], target.lower())
    random = any(option.startswith("--random") for option in options)
    return Nat(kind, address.rstrip("]").partition("-")[0], int(first or 0), random)
