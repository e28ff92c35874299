"""Several probes of one question: which took the same way, and who answered how many. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from netsim.observe.path import Hop, Packet, Path


@dataclass(slots=True)
class Group:
    """Probes whose way was the same; ``path`` is that of the first."""

    path: Path
    count: int = 1


@dataclass(slots=True)
class Spread:
    """All probes so far."""

    groups: list[Group] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def delivered(self) -> int:
        return sum(group.count for group in self.groups if group.path.verdict.outcome == "delivered")

    @property
    def outcomes(self) -> dict[str, int]:
        """How many there were of each, the most frequent first."""
        return _count((group.path.verdict.outcome, group.count) for group in self.groups)

    @property
    def answered_by(self) -> dict[str, int]:
        """Who answered how many."""
        return _count((group.path.answered_by, group.count) for group in self.groups if group.path.answered_by)

    def add(self, path: Path) -> None:
        """Count it to the probes that took the same way."""
        key = way_of(path)
        for group in self.groups:
            if way_of(group.path) == key:
                group.count += 1
                return
        self.groups.append(Group(path))


def way_of(path: Path) -> tuple[object, ...]:
    """What two probes of the same way have in common: all but times, ports by chance, and numbers of packets."""
    chance = {path.hops[0].packet.source_port} if path.hops else set()
    for hop in path.hops:
        if hop.kind == "rewrite" and hop.rewrite == "snat":
            chance.add(hop.packet.source_port)  # masquerading may choose another port each time
    hops = tuple(_way_of_hop(hop, chance) for hop in path.hops)
    return hops, path.verdict.outcome, path.verdict.place, path.answered_by


def _way_of_hop(hop: Hop, chance: set[int]) -> tuple[object, ...]:
    rules = tuple((r.table, r.chain, r.text, r.verdict) for r in hop.rules)
    packet = _way_of_packet(hop.packet, chance)
    return hop.place, hop.leg, hop.kind, hop.interface, hop.direction, hop.hook, hop.rewrite, rules, hop.route, packet


def _way_of_packet(packet: Packet, chance: Iterable[int]) -> tuple[object, ...]:
    ports: Sequence[int] = [
        0 if port in chance or packet.protocol.startswith("icmp") else port
        for port in (packet.source_port, packet.destination_port)
    ]
    return packet.source, packet.destination, packet.protocol, packet.note, packet.ttl, packet.mark, *ports


def _count(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    counter: Counter[str] = Counter()
    for name, number in pairs:
        counter[name] += number
    return dict(counter.most_common())
