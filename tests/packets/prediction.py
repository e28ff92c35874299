"""What `explain` predicts held against what `trace` saw of a real probe: verdict, endpoint, source address, every
interface crossed, every rewrite. A difference is a bug in one of the two.
"""

from collections.abc import Sequence

from netsim.observe.explain.predict import Explanation
from netsim.observe.path import Hop, Path


def compare(predicted: Explanation, seen: Path) -> list[str]:
    """What of the seen path is in none of the predicted ways; the nearest way is compared."""
    nearest = max((way.path for way in predicted.ways), key=lambda path: sum(a == b for a, b in _aspects(path, seen)))
    names = ("verdict", "arrival", "client's address", "way there", "way back", "rewrites")
    return [
        f"{name}: predicted {a}, seen {b}"
        for name, (a, b) in zip(names, _aspects(nearest, seen), strict=True)
        if a != b
    ]


def _aspects(one: Path, other: Path) -> list[tuple[object, object]]:
    return list(zip(_list_aspects(one), _list_aspects(other), strict=True))


def _list_aspects(path: Path) -> list[object]:
    there = [hop for hop in path.hops if hop.leg == "there"]
    back = [hop for hop in path.hops if hop.leg == "back"]
    rewrites = [
        (hop.leg, hop.place, hop.rewrite, hop.packet.source, hop.packet.destination, hop.packet.destination_port)
        for hop in there
        if hop.kind == "rewrite"
    ]
    return [
        (path.verdict.outcome, path.verdict.place),
        there[-1].place if there else "",
        _address_of(path.seen_source) if path.verdict.outcome in ("delivered", "refused") else "",
        _crossings(there),
        _crossings(back),
        rewrites,
    ]


def _crossings(hops: Sequence[Hop]) -> list[tuple[str, str, str]]:
    """Interfaces in order. What is translated on a bridge goes out by the bridge itself the first time, when the
    neighbour has no cached header yet, and then no more (br_nf_pre_routing_finish_bridge): that no reader can tell.
    """
    found: list[tuple[str, str, str]] = []
    for hop in hops:
        if hop.kind == "interface":
            by_port = bool(found) and found[-1][0] == hop.place and found[-1][1].startswith("veth")
            if not (hop.interface == "cni0" and hop.direction == "out" and by_port and found[-1][2] == "in"):
                found.append((hop.place, hop.interface, hop.direction))
    return found


def _address_of(end: str) -> str:
    """Without the port, which an observed one has and a predicted one has not."""
    has_port = end.startswith("[") or end.count(":") == 1
    return end.rpartition(":")[0].strip("[]") if has_port else end
