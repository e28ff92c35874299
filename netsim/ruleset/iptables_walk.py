"""Follow a packet through iptables rules in memory: every fate it may meet.

A random match is followed both ways. Only the first packet of a flow is modelled, as nat sees no other. A rule that
is not understood is an error, never a pass.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from netsim.model.errors import InputError
from netsim.ruleset.iptables import Tables
from netsim.ruleset.iptables_rule import Match, Rule, parse_rule

MAX_DEPTH = 16  # jumps in a row; the kernel's own limit is NF_TABLES' 16, nft_do_chain


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow. ``interface`` is where it came in, "" for one the node itself sends."""

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    interface: str = "eth0"
    mark: int = 0
    states: frozenset[str] = frozenset({"NEW"})
    masqueraded: bool = False
    remembered: frozenset[str] = frozenset()  # ``recent`` lists that the sender was put on

    @property
    def translated(self) -> bool:
        return "DNAT" in self.states


@dataclass(frozen=True, slots=True)
class Fate:
    """What may become of it. ``verdict``: ACCEPT, DROP or REJECT; then where to, and whether as the node itself."""

    verdict: str
    destination: str = ""
    port: int = 0
    masqueraded: bool = False
    remembered: frozenset[str] = frozenset()


_Step = tuple[str, Packet]  # verdict "" means: came to the end, or returned


@dataclass(frozen=True, slots=True)
class Walker:
    """A node: its rules, its own addresses, and the ``recent`` lists clients are on, as (list, address)."""

    tables: Tables
    local: Collection[str] = ("127.0.0.1",)
    recent: Collection[tuple[str, str]] = ()

    def walk(self, packet: Packet) -> set[Fate]:
        """Every fate of ``packet``. Raises InputError for a rule that is not understood."""
        first = "PREROUTING" if packet.interface else "OUTPUT"
        fates: set[Fate] = set()
        for verdict, after in self._chain("nat", first, packet, 0):
            if verdict in ("DROP", "REJECT"):
                fates.add(_fate(verdict, after))
                continue
            fates.update(self._filter(after))
        return fates

    def _filter(self, packet: Packet) -> Iterator[Fate]:
        chain = "OUTPUT"
        if packet.interface:
            chain = "INPUT" if self._is_local(packet.destination) else "FORWARD"
        for verdict, after in self._chain("filter", chain, packet, 0):
            if verdict in ("DROP", "REJECT"):
                yield _fate(verdict, after)
            elif chain == "INPUT":
                yield _fate("ACCEPT", after)
            else:
                for _verdict, sent in self._chain("nat", "POSTROUTING", after, 0):
                    if chain == "OUTPUT" and self._is_local(sent.destination):
                        # To itself: over lo, and in again. PREROUTING's nat has nothing to say, the flow is known.
                        yield from self._filter(replace(sent, interface="lo"))
                    else:
                        yield _fate("ACCEPT", sent)

    def _chain(self, table: str, chain: str, packet: Packet, depth: int) -> Iterator[_Step]:
        if depth > MAX_DEPTH:
            raise InputError(f"{table} {chain}: more than {MAX_DEPTH} jumps in a row")
        chains = self.tables.get(table, {})
        if chain not in chains:
            if depth == 0:  # a built-in chain that nothing was ever put in
                yield "", packet
                return
            raise InputError(f"table {table} has no chain {chain}")
        rules = [parse_rule(spec) for spec in chains[chain]]
        yield from self._rules(table, rules, 0, packet, depth)

    def _rules(self, table: str, rules: list[Rule], at: int, packet: Packet, depth: int) -> Iterator[_Step]:
        """The steps from rule ``at`` on."""
        while at < len(rules):
            rule = rules[at]
            at += 1
            odds = self._matches(rule, packet)
            if odds < 1:
                if odds == 0:
                    continue
                yield from self._rules(table, rules, at, packet, depth)  # the way round
            packet = _remember(rule, packet)
            if rule.target in ("", "MARK"):
                packet = _mark(rule, packet)
                if odds < 1:
                    raise InputError(f"a random match on {rule} is not modelled")
                continue
            if rule.target == "RETURN":
                break
            if rule.target in ("ACCEPT", "DROP", "REJECT", "DNAT", "MASQUERADE"):
                yield _verdict(rule, packet)
                return
            for verdict, after in self._chain(table, rule.target, packet, depth + 1):
                if verdict:
                    yield verdict, after
                else:
                    yield from self._rules(table, rules, at, after, depth)
            return
        yield "", packet

    def _matches(self, rule: Rule, packet: Packet) -> float:
        """1: it does, 0: it does not, between: it may."""
        odds = 1.0
        for match in rule.matches:
            if match.option == "--probability":
                odds = min(odds, float(match.value))
            elif match.option == "--rcheck":
                if (rule.get("--name") or "", packet.source) not in self.recent:
                    return 0
            elif self._is(match, packet) == match.negated:
                return 0
        return odds

    def _is(self, match: Match, packet: Packet) -> bool:
        value = match.value
        match match.option:
            case "-s":
                return ip_address(packet.source) in ip_network(value)
            case "-d":
                return ip_address(packet.destination) in ip_network(value)
            case "-p":
                return packet.protocol == value
            case "--dport":
                return packet.port == int(value)
            case "-i":
                return packet.interface == value or (value[-1] == "+" and packet.interface.startswith(value[:-1]))
            case "--ctstate":
                return not packet.states.isdisjoint(value.split(","))
            case "--mark":
                wanted, _, mask = value.partition("/")
                return packet.mark & int(mask or "0xffffffff", 0) == int(wanted, 0)
            case "--dst-type" if value == "LOCAL":
                return self._is_local(packet.destination)
            case "--src-type" if value == "LOCAL":
                return self._is_local(packet.source)
            case "-m" | "--comment" | "--mode" | "--name" | "--set" | "--seconds" | "--reap" | "--mask" | "--rsource":
                return True
            case "--nfacct-name":  # counts
                return True
        raise InputError(f"match {match} is not modelled")

    def _is_local(self, address: str) -> bool:
        return address in self.local or ip_address(address).is_loopback


def _remember(rule: Rule, packet: Packet) -> Packet:
    name = rule.get("--name")
    if name is not None and rule.get("--set") is not None:
        return replace(packet, remembered=packet.remembered | {name})
    return packet


def _mark(rule: Rule, packet: Packet) -> Packet:
    mark = packet.mark
    for option, value in rule.options:
        wanted, _, mask = value.partition("/")
        number = int(wanted, 0)
        if option == "--or-mark":
            mark |= number
        elif option == "--xor-mark":
            mark ^= number
        else:  # --set-xmark: zero the bits of the mask, then xor
            mark = (mark & ~int(mask or "0xffffffff", 0)) ^ number
    return replace(packet, mark=mark)


def _verdict(rule: Rule, packet: Packet) -> _Step:
    if rule.target == "DNAT":
        address, _, port = dict(rule.options)["--to-destination"].rpartition(":")
        states = packet.states | {"DNAT"}
        return "DNAT", replace(packet, destination=address.strip("[]"), port=int(port), states=states)
    if rule.target == "MASQUERADE":
        return "MASQUERADE", replace(packet, masqueraded=True)
    return rule.target, packet


def _fate(verdict: str, packet: Packet) -> Fate:
    if verdict == "ACCEPT":
        return Fate(verdict, packet.destination, packet.port, packet.masqueraded, packet.remembered)
    return Fate(verdict)
