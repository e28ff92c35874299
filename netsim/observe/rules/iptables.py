"""One table of iptables: the rules that name an entry, what they lead to, and the way to them. Pure."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

from netsim.observe.iptables_save import SavedChain, SavedRule
from netsim.observe.rules.model import Entry, Group, Line


class IptablesChoice:
    """One table: which rules name an entry, and what they lead to."""

    def __init__(
        self,
        backend: str,
        family: str,
        table: str,
        chains: Mapping[str, SavedChain],
        entries: Sequence[Entry],
        sets: frozenset[str],
    ) -> None:
        self._where = backend, family, table
        self._chains = chains
        self._entries = entries
        self._sets = sets
        self._whole: dict[str, None] = {}  # chains shown whole, in the order they were reached
        self._lines: dict[str, dict[int, SavedRule]] = {}  # the others: rules by number

    def choose(self) -> list[Group]:
        named = [
            (chain.name, rule) for chain in self._chains.values() for rule in chain.rules if self._names_an_entry(rule)
        ]
        marks = 0
        for chain, rule in named:
            self._lines.setdefault(chain, {})[rule.number] = rule
            self._reach(rule.parts.target)
        for rule in [*(rule for _, rule in named), *(rule for c in self._whole for rule in self._chains[c].rules)]:
            marks |= set_mark_bits(rule)
        if marks:
            self._take_readers_of(marks)
        self._take_the_way()
        return self._groups()

    def _names_an_entry(self, rule: SavedRule) -> bool:
        text = rule.text
        if self._sets and "--match-set" in text:
            return any(c.value in self._sets for c in rule.values("--match-set"))
        if "--dport" not in text:
            return False
        return any(f"--dport {e.port}" in text and rule_names(rule, e) for e in self._entries)

    def _reach(self, chain: str) -> None:
        """A chain and all that it leads to."""
        if chain not in self._chains or chain in self._whole:
            return
        self._whole[chain] = None
        for rule in self._chains[chain].rules:
            self._reach(rule.parts.target)

    def _take_readers_of(self, marks: int) -> None:
        """Chains that ask for a mark that was set on the way: what masquerades, for one."""
        for chain in self._chains.values():
            for rule in chain.rules:
                if "--mark" in rule.text and any(_mask_of(c.value) & marks for c in rule.values("--mark")):
                    if chain.policy:
                        self._lines.setdefault(chain.name, {})[rule.number] = rule
                    else:
                        self._whole.setdefault(chain.name)

    def _take_the_way(self) -> None:
        """The jumps by which packets come to what was taken."""
        wanted = [*self._lines, *self._whole]
        for name in wanted:
            for chain in self._chains.values():
                for rule in chain.rules:
                    if name not in rule.text or rule.parts.target != name or chain.name in self._whole:
                        continue
                    if name in self._whole and chain.name not in self._lines and not chain.policy:
                        continue  # another Service's rule that leads to a chain they share
                    if chain.name not in self._lines:
                        wanted.append(chain.name)
                    known = self._lines.setdefault(chain.name, {})
                    if not (name in self._whole and self._is_other_service(rule)):
                        known[rule.number] = rule

    def _is_other_service(self, rule: SavedRule) -> bool:
        return any(True for _ in rule.values("--dport")) and not self._names_an_entry(rule)

    def _groups(self) -> list[Group]:
        order = self._order()
        backend, family, table = self._where
        groups = []
        for name in order:
            way = name not in self._whole
            rules = [self._lines[name][n] for n in sorted(self._lines[name])] if way else self._chains[name].rules
            lines = tuple(Line(f"-A {name} {rule.text}", rule.packets, rule.bytes) for rule in rules)
            if lines:
                groups.append(Group(backend, family, table, "chain", name, lines, way, self._is_shared(name)))
        return groups

    def _order(self) -> list[str]:
        """Base chains first, then as jumps lead."""
        order: dict[str, None] = {}
        for chain in self._chains.values():
            if chain.policy and chain.name in self._lines:
                self._follow(chain.name, order)
        for name in (*self._lines, *self._whole):
            order.setdefault(name)
        return list(order)

    def _follow(self, name: str, order: dict[str, None]) -> None:
        if name in order or name not in self._lines.keys() | self._whole.keys():
            return
        order[name] = None
        rules = self._chains[name].rules if name in self._whole else self._lines[name].values()
        for rule in rules:
            self._follow(rule.parts.target, order)

    def _is_shared(self, name: str) -> bool:
        """Whether rules that are not this Service's lead here, too."""
        if name not in self._whole:
            return True
        for chain in self._chains.values():
            for rule in chain.rules:
                if name not in rule.text or rule.parts.target != name or chain.name in self._whole:
                    continue
                if chain.policy or rule.number not in self._lines.get(chain.name, {}):
                    return True
        return False


def rule_names(rule: SavedRule, entry: Entry) -> bool:
    """Whether an iptables rule asks for this entry's address (if it has one), protocol and port."""
    ports = [c for c in rule.values("--dport") if not c.negated]
    protocols = [c.value for c in rule.values("-p") if not c.negated]
    destinations = [c.value for c in rule.values("-d") if not c.negated]
    if not any(c.value == str(entry.port) for c in ports) or entry.protocol not in protocols:
        return False
    if not entry.address:
        return not destinations or all("/" in d and not _is_host(d) for d in destinations)
    return any(
        _is_host(d) and ip_network(d, strict=False).network_address == ip_address(entry.address) for d in destinations
    )


def _is_host(cidr: str) -> bool:
    return ip_network(cidr, strict=False).num_addresses == 1


def set_mark_bits(rule: SavedRule) -> int:
    """The bits that a MARK target sets."""
    bits = 0
    for option in rule.parts.options if rule.parts.target == "MARK" else ():
        value, _, mask = option.value.partition("/")
        if option.option in ("--set-xmark", "--or-mark", "--set-mark"):
            bits |= int(value, 0) & int(mask or "0xffffffff", 0)
    return bits


def _mask_of(value: str) -> int:
    wanted, _, mask = value.partition("/")
    return int(mask or "0xffffffff", 0) if mask else int(wanted, 0)
