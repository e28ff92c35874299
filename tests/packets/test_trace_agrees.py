"""What trace tells of cells of the matrix, against the oracle's expectation and against what scapy saw at both ends.

A sample of the cells, chosen by a fixed seed: a trace takes a few hundred milliseconds, a request of `test_matrix` less
than one.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from netsim.cluster.handle import Cluster
from netsim.observe.path import Hop, Path
from netsim.observe.pathtext import join, render_text
from netsim.testing.packets import Packets, Sniffer
from netsim.testing.packets import Seen as Sighted
from tests.packets.cells import PODS, SOURCES, Cell, every_cell
from tests.packets.matrix import Ground, Pace, deploy
from tests.packets.probes import REFUSED, SILENCE, Result, Seen
from tests.packets.world import EXTERNAL

pytestmark = pytest.mark.netsim(nodes=2, ip_family="dual")

SEED = 4
CELLS = 48
FAMILIES = (4, 6)
NOTES = {"S": "SYN", "SA": "SYN,ACK"}
Crossing = tuple[
    str, str, str, int, str, int, int, str
]  # place, direction, source, port, destination, port, TTL, flags


@contextmanager
def deployed(cluster: Cluster, namespace: str) -> Iterator[Ground]:
    ground = deploy(cluster, namespace, ("tcp",), FAMILIES, Pace())
    try:
        yield ground
    finally:
        ground.close()


def choose_cells() -> list[Cell]:
    return random.Random(SEED).sample(every_cell(("tcp",), FAMILIES), CELLS)


def where_of(place: str, namespace: str) -> str:
    if place in PODS:
        return f"pod/{namespace}/{place}"
    return EXTERNAL if place == "outside" else f"node/{place}"


def result_of(path: Path, place: str) -> Result:
    """A verdict in the words of the matrix."""
    match path.verdict.outcome:
        case "delivered":
            return Seen(path.answered_by.rpartition("/")[2], path.seen_source.rpartition(":")[0].strip("[]"), True)
        case "refused" | "rejected":
            return REFUSED
        case _:
            return SILENCE


def told(hops: Iterable[Hop], places: Iterable[str]) -> set[Crossing]:
    """The handshake's packets at eth0 of these places, as the path has them."""
    return {
        (h.place, h.direction, p.source, p.source_port, p.destination, p.destination_port, p.ttl or 0, p.note)
        for h in hops
        if h.kind == "interface" and h.place in places and h.interface == "eth0" and h.packet.note in NOTES.values()
        for p in [h.packet]
    }


def sighted(sniffers: dict[str, Sniffer], places: Iterable[str], since_s: float) -> set[Crossing]:
    """The same, as scapy saw them."""
    found = set()
    for place in places:
        for seen in sniffers[place].seen(lambda one: one.is_syn or one.is_syn_ack):
            if seen.time_s > since_s:
                found.add(_crossing(place, seen))
    return found


def _crossing(place: str, seen: Sighted) -> Crossing:
    return (
        place,
        seen.direction,
        seen.src,
        seen.sport,
        seen.dst,
        seen.dport,
        seen.ttl,
        "SYN" if seen.is_syn else "SYN,ACK",
    )


def test_paths_agree_with_the_oracle_and_with_scapy(cluster: Cluster, namespace: str, packets: Packets) -> None:
    wrong: list[str] = []
    outcomes = set()
    with deployed(cluster, namespace) as ground, ExitStack() as stack:
        ends = [where_of(pod, namespace) for pod in PODS] + [EXTERNAL]
        sniffers = {place: stack.enter_context(packets.sniffer(place)) for place in ends}
        for cell in choose_cells():
            entry, port = ground.entry(cell)
            source = where_of(SOURCES[cell.source], namespace)
            path = cluster.trace(source, join(entry.address, port), protocol="tcp")
            outcomes.add(path.verdict.outcome)
            expected = ground.expected(cell)
            if result_of(path, source) not in expected:
                wrong.append(f"{cell}: expected {set(expected)}\n{render_text(path)}")
            begin = min((hop.time_ns or 0 for hop in path.hops if hop.time_ns), default=0) / 1e9 - 1e-6
            places = {hop.place for hop in path.hops} & set(ends)
            seen, said = sighted(sniffers, places, begin), told(path.hops, places)
            if seen != said:
                wrong.append(f"{cell}: scapy {seen - said}, trace {said - seen}\n{render_text(path)}")
    assert not wrong, f"{len(wrong)} of {CELLS}:\n" + "\n\n".join(wrong)
    assert {"delivered", "dropped"} < outcomes, f"the sample met only {outcomes}"
