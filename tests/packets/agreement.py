"""What trace tells of cells of the matrix, held against three others: the oracle's expectation, what scapy saw at both
ends, and what `explain` predicts from the kernel's state alone.
"""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from netsim.cluster.explaining_client import Asked
from netsim.cluster.handle import Cluster
from netsim.observe.path import Path, join_end
from netsim.observe.pathtext import render_text
from netsim.testing.packets import Packets
from tests.packets.both_ends import told, watch_ends
from tests.packets.cells import PODS, SOURCES, Cell
from tests.packets.matrix import Ground
from tests.packets.prediction import compare
from tests.packets.probes import REFUSED, SILENCE, Result, Seen
from tests.packets.servers import Servers
from tests.packets.world import EXTERNAL

AT_ONCE = 3  # traces: while one waits for an answer that won't come, another is sent
EPHEMERAL = 10000  # from here on ports are clients'; those that masquerading draws are not below, as a rule
WAVE = 30  # cells whose packets at the ends are compared together


def check_paths(ground: Ground, packets: Packets, cells: Sequence[Cell], timeout_s: float) -> Counter[str]:
    """Trace every cell; how often each verdict was met. Raises AssertionError with all that differs.

    ``timeout_s``: how long an answer is waited for. The prober of ``ground`` is closed, as its servers answer only
    while it asks itself, and here they have to do so all the time.
    """
    ground.prober.close()
    servers = Servers(ground)
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, len(cells), WAVE):
                paths, differences = _check_wave(ground, packets, pool, cells[start : start + WAVE], timeout_s)
                wrong += differences
                outcomes.update(path.verdict.outcome for path in paths)
    finally:
        servers.close()
    print(f"{len(cells)} cells, mode {ground.mode}: {dict(outcomes)}")
    assert not wrong, f"{len(wrong)} differences in {len(cells)} cells, mode {ground.mode}:\n" + "\n\n".join(wrong)
    return outcomes


def _check_wave(
    ground: Ground, packets: Packets, pool: ThreadPoolExecutor, wave: Sequence[Cell], timeout_s: float
) -> tuple[list[Path], list[str]]:
    """The paths of these cells, and what differs."""
    wrong: list[str] = []
    asked = [_ask(ground, cell) for cell in wave]
    ends = [_where_of(ground, name) for name in (*PODS, "outside")]
    with watch_ends(packets, ends) as watched:
        paths = list(pool.map(lambda one: _trace(ground.cluster, one, timeout_s), asked))
        seen, said = watched.sighted(), told(paths, ends)
    if seen != said:
        differing = (seen - said) + (said - seen)
        ports = {port for one in differing for port in (one.source_port, one.destination_port) if port >= EPHEMERAL}
        concerned = [path for path in paths if ports & {hop.packet.source_port for hop in path.hops}]
        shown = "\n".join([*watched.errors, *map(render_text, concerned[:3])])
        wrong.append(f"scapy alone saw {list(seen - said)}, trace alone {list(said - seen)}\n{shown}")
    for cell, path, predicted in zip(wave, paths, ground.cluster.explain_all(asked), strict=True):
        found, expected = _result_of(ground, path, cell), ground.expected(cell)
        if found not in expected:
            wrong.append(f"{cell}: {found}, expected {set(expected)}\n{render_text(path)}")
        differences = compare(predicted, path)
        if differences:
            wrong.append("\n".join(f"{cell}: {words}" for words in differences))
    return paths, wrong


def _trace(cluster: Cluster, one: Asked, timeout_s: float) -> Path:
    return cluster.trace(one.from_, one.to, protocol=one.protocol, timeout_s=timeout_s)


def _ask(ground: Ground, cell: Cell) -> Asked:
    entry, port = ground.entry(cell)
    source = _where_of(ground, SOURCES[cell.source])
    return Asked(source, join_end(entry.address, port), "udp" if cell.protocol == "udp" else "tcp")


def _where_of(ground: Ground, name: str) -> str:
    if name in PODS:
        return f"pod/{ground.namespace}/{name}"
    return EXTERNAL if name == "outside" else f"node/{name}"


def _result_of(ground: Ground, path: Path, cell: Cell) -> Result:
    """A path in the words of the matrix. A datagram that came to an endpoint did so although its answer was lost."""
    outcome = path.verdict.outcome
    if outcome in ("refused", "rejected"):
        return REFUSED
    last = next((hop for hop in reversed(path.hops) if hop.leg == "there" and hop.kind == "interface"), None)
    server = next((name for name in (*PODS, "outside") if last and _where_of(ground, name) == last.place), None)
    if (
        last is None
        or server is None
        or (outcome != "delivered" and (cell.protocol != "udp" or last.direction == "out"))
    ):
        return SILENCE
    return Seen(server, last.packet.source, outcome == "delivered")


def choose_cells(cells: Sequence[Cell]) -> Sequence[Cell]:
    """`choose_pairs` of them, or what NETSIM_EVERY_CELL says: ``1`` for all, ``2/4`` for the second quarter."""
    word = os.environ.get("NETSIM_EVERY_CELL", "")
    part, _, parts = word.partition("/")
    if not word:
        return choose_pairs(cells)
    return cells[int(part) - 1 :: int(parts)] if parts else cells


def choose_pairs(cells: Sequence[Cell]) -> list[Cell]:
    """Few cells that together have every pair of two axes' values: next always the one that has most still missing."""
    left = {cell: _pairs(cell) for cell in sorted(cells, key=lambda cell: _hash_of(str(cell)))}
    missing = set().union(*left.values())
    chosen = []
    while missing:
        cell = max(left, key=lambda cell: len(left[cell] & missing))
        chosen.append(cell)
        missing -= left.pop(cell)
    return chosen


def _hash_of(text: str) -> int:
    """The same in every run, as hash() is not."""
    number = 0
    for char in text:
        number = (number * 31 + ord(char)) % 1000003
    return number


def _pairs(cell: Cell) -> set[tuple[str, str]]:
    values = (cell.entry, cell.policy, cell.state, cell.source, cell.protocol, cell.family)
    return set(itertools.combinations([f"{number}={value}" for number, value in enumerate(values)], 2))
