"""Paths of cells of the matrix, as trace tells them, against oracle, scapy and prediction (`agreement`).

A sample of the matrix that has every pair of its axes' values; NETSIM_EVERY_CELL=1 takes every cell, 2/4 the second
quarter of them.
"""

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.packets import Packets
from tests.packets.agreement import check_paths, choose_cells
from tests.packets.cells import every_cell
from tests.packets.matrix import Pace, deploy

pytestmark = pytest.mark.netsim(nodes=2, ip_family="dual")

PROTOCOLS, FAMILIES = ("tcp", "udp"), (4, 6)
TIMEOUT_S = 0.4  # less than a second, after which a segment would be sent again


def test_paths_agree_with_oracle_scapy_and_prediction(cluster: Cluster, namespace: str, packets: Packets) -> None:
    ground = deploy(cluster, namespace, PROTOCOLS, FAMILIES, Pace())
    cells = choose_cells(every_cell(PROTOCOLS, FAMILIES))
    try:
        outcomes = check_paths(ground, packets, cells, TIMEOUT_S)
    finally:
        ground.close()
    assert {"delivered", "dropped", "rejected"} <= set(outcomes), f"the cells met only {outcomes}"
