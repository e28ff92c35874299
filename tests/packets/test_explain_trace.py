"""What `explain` predicts held against what `trace` sees of a real probe: verdict, endpoint, source address, every
interface crossed, every rewrite, and the rules that led on. A difference is a bug in one of the two.

A sample of the matrix that has every pair of its axes' values; NETSIM_EVERY_CELL=1 takes every cell.
"""

import itertools
import os
import selectors
import socket
import threading
from collections.abc import Sequence

import pytest

from netsim.cluster.explaining_client import Asked
from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns
from netsim.observe.explain.predict import Explanation
from netsim.observe.path import Hop, Path
from tests.packets.cells import NODES, PODS, PORTS, SOURCES, STRAY_PORT, Cell, every_cell
from tests.packets.matrix import Ground, Pace, deploy

pytestmark = pytest.mark.netsim(nodes=2, ip_family="dual")


def test_prediction_and_observation_agree(cluster: Cluster, namespace: str) -> None:
    ground = deploy(cluster, namespace, ("tcp", "udp"), (4, 6), Pace())
    ground.prober.close()  # its servers answer while it asks; here they have to do so all the time
    servers = Servers(ground)
    try:
        cells = every_cell(("tcp", "udp"), (4, 6))
        if not os.environ.get("NETSIM_EVERY_CELL"):
            cells = choose_pairs(cells)
        asked = [ask(ground, namespace, cell) for cell in cells]
        wrong = []
        for cell, one, predicted in zip(cells, asked, cluster.explain_all(asked), strict=True):
            seen = cluster.trace(one.from_, one.to, protocol=one.protocol, timeout_s=0.4)
            wrong += [f"{cell}: {words}" for words in compare(predicted, seen)]
        assert not wrong, f"{len(wrong)} differences in {len(cells)} cells, mode {ground.mode}:\n" + "\n".join(wrong)
    finally:
        servers.close()
        ground.close()


class Servers:
    """What listens in the matrix, answering from a thread: datagrams are echoed, connections come by themselves."""

    def __init__(self, ground: Ground) -> None:
        self._selector = selectors.DefaultSelector()
        self._ours, self._theirs = socket.socketpair()
        self._selector.register(self._ours, selectors.EVENT_READ)
        self._sockets: list[socket.socket] = [self._ours, self._theirs]
        for family in (4, 6):
            strays = [address for (_, version), address in ground.strays.items() if version == family]
            for protocol, (_, port) in PORTS.items():
                if protocol in ground.protocols:
                    for pod in ("web-1", "web-2"):
                        self._listen(ground.netns[pod], protocol, "::" if family == 6 else "0.0.0.0", port)
                    for address in strays:
                        self._listen(ground.netns["outside"], protocol, address, STRAY_PORT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._theirs.send(b"end")
        self._thread.join()
        for one in self._sockets:
            one.close()
        self._selector.close()

    def _listen(self, ns: Netns, protocol: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = ns.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
        self._sockets.append(one)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        if protocol == "udp":
            self._selector.register(one, selectors.EVENT_READ)
        else:
            one.listen(1024)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._ours:
                    return
                try:
                    data, peer = found.recvfrom(65536)
                    found.sendto(data, peer)
                except OSError:  # an ICMP error about an answer before
                    continue


def choose_pairs(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that together have every pair of two axes' values, greedily."""
    missing = {pair for cell in cells for pair in _pairs(cell)}
    chosen = []
    for cell in sorted(cells, key=lambda cell: hash_of(str(cell))):
        new = _pairs(cell) & missing
        if len(new) >= 3 or (new and len(missing) < 60):
            chosen.append(cell)
            missing -= new
    return chosen


def hash_of(text: str) -> int:
    """The same in every run, as hash() is not."""
    number = 0
    for char in text:
        number = (number * 31 + ord(char)) % 1000003
    return number


def _pairs(cell: Cell) -> set[tuple[str, str]]:
    values = [
        f"{n}={v}" for n, v in enumerate((cell.entry, cell.policy, cell.state, cell.source, cell.protocol, cell.family))
    ]
    return set(itertools.combinations(values, 2))


def ask(ground: Ground, namespace: str, cell: Cell) -> Asked:
    entry, port = ground.entry(cell)
    address = f"[{entry.address}]" if ":" in entry.address else entry.address
    place = SOURCES[cell.source]
    where = f"pod/{namespace}/{place}" if place in PODS else f"node/{place}" if place in NODES else "host/external"
    return Asked(where, f"{address}:{port}", "udp" if cell.protocol == "udp" else "tcp")


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
