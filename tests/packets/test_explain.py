"""What `explain` predicts, from the kernel's state alone, held against the oracle that real packets are held against in
`test_matrix`: every cell, the set of endpoints, the source address that each sees, refusals and silence.
"""

import pytest

from netsim.cluster.explaining_client import Asked
from netsim.cluster.handle import Cluster
from netsim.observe.explain.predict import Explanation
from netsim.observe.path import Path
from tests.packets.cells import NODES, PODS, SOURCES, Cell, every_cell
from tests.packets.extra_cells import ON_A_NODE, extra_cells
from tests.packets.matrix import Ground, Pace, deploy
from tests.packets.probes import REFUSED, SILENCE, Result, Seen, choose_protocols

pytestmark = pytest.mark.netsim(nodes=2, ip_family="dual")

BATCH = 500  # one reading of the kernel's state for so many


def test_prediction_and_matrix_agree_on_every_cell(cluster: Cluster, namespace: str) -> None:
    protocols = tuple(name for name in choose_protocols() if name in ("tcp", "udp"))
    ground = deploy(cluster, namespace, protocols, (4, 6), Pace())
    try:
        cells = every_cell(protocols, (4, 6)) + extra_cells(ground.mode, protocols, (4, 6))
        cells = [cell for cell in cells if cell.entry != ON_A_NODE]  # those need Services that come and go
        wrong = []
        for start in range(0, len(cells), BATCH):
            batch = cells[start : start + BATCH]
            for cell, found in zip(batch, cluster.explain_all(_ask(ground, namespace, c) for c in batch), strict=True):
                predicted, expected = _results(found, namespace, cell), ground.expected(cell)
                if predicted != expected:
                    wrong.append(
                        f"{cell}: predicted {sorted(map(str, predicted))}, expected {sorted(map(str, expected))}"
                    )
        assert not wrong, f"{len(wrong)} of {len(cells)} cells, mode {ground.mode}:\n" + "\n".join(wrong)
    finally:
        ground.close()


def _ask(ground: Ground, namespace: str, cell: Cell) -> Asked:
    entry, port = ground.entry(cell)
    address = f"[{entry.address}]" if ":" in entry.address else entry.address
    source = _place(SOURCES[cell.source], namespace)
    return Asked(source, f"{address}:{port}", "udp" if cell.protocol == "udp" else "tcp")


def _place(name: str, namespace: str) -> str:
    if name in PODS:
        return f"pod/{namespace}/{name}"
    return f"node/{name}" if name in NODES else "host/external"


def _results(found: Explanation, namespace: str, cell: Cell) -> frozenset[Result]:
    assert found.complete
    return frozenset(_result(way.path, namespace, cell) for way in found.ways)


def _result(path: Path, namespace: str, cell: Cell) -> Result:
    """A path in the words of the matrix."""
    outcome = path.verdict.outcome
    if outcome in ("refused", "rejected"):
        return REFUSED
    arrived = [hop.place for hop in path.hops if hop.leg == "there"][-1]
    seen = outcome == "delivered" or (bool(path.seen_source) and cell.protocol == "udp")
    if not seen:
        return SILENCE
    server = next((name for name in (*PODS, "outside") if _place(name, namespace) == arrived), arrived)
    return Seen(server, path.seen_source, answered=outcome == "delivered")
