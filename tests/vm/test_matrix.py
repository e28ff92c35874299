"""The whole packet matrix (tests/packets/matrix.py) in every proxy mode, side by side on one kernel, with SCTP.

In the cluster that all tests share. A cut of it over vxlan, in a cluster of its own. And what `trace` and `explain` say
of cells in ipvs mode, of which other kernels know nothing.
"""

import os
from collections.abc import Iterator

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.packets import Packets
from netsim.testing.pool import ClusterPool
from tests.packets.agreement import check_paths, choose_cells
from tests.packets.cells import every_cell
from tests.packets.differences import MODES
from tests.packets.matrix import Ground, Pace, check_cells, deploy, run_matrix
from tests.packets.probes import choose_protocols
from tests.vm.conftest import PATIENCE_S, set_mode

pytestmark = [pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp")]
# An emulated processor needs its time to bring 300 answers; silence is all waited for at once.
PACE = Pace(quiet_s=4.0, patience_s=30.0, tries=1, deploy_s=PATIENCE_S)
FAMILIES = (4, 6)
TRACED = ("tcp", "udp")
TRACE_TIMEOUT_S = 0.9  # less than the second after which a segment is sent again, and only one of the two sees it


@pytest.fixture(scope="module")
def deployed(netsim_clusters: ClusterPool, shared_cluster: Cluster) -> Iterator[tuple[Cluster, Ground]]:
    with netsim_clusters.namespace(shared_cluster) as namespace:
        ground = deploy(shared_cluster, namespace, choose_protocols(), FAMILIES, PACE)
        yield shared_cluster, ground
        ground.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_cell_of_the_matrix(deployed: tuple[Cluster, Ground], mode: str) -> None:
    cluster, ground = deployed
    set_mode(cluster, mode)
    ground.mode = mode
    protocols = choose_protocols()
    assert "sctp" in protocols
    check_cells(ground, protocols, FAMILIES)


def test_the_cells_of_ipv4_in_ipvs_mode_over_vxlan(netsim_clusters: ClusterPool) -> None:
    """A cut of the matrix: the other modes have it on every kernel (tests/packets), and families are one code path."""
    cluster = netsim_clusters.start({"nodes": 2, "proxy_mode": "ipvs", "pod_network": "vxlan"})
    with cluster, netsim_clusters.namespace(cluster) as namespace:
        run_matrix(cluster, namespace, choose_protocols(), (4,), PACE)


def test_paths_of_ipvs_mode_agree_with_oracle_scapy_and_prediction(deployed: tuple[Cluster, Ground]) -> None:
    """The last test here: it closes the prober. NETSIM_EVERY_CELL=1 takes every cell, 2/4 the second quarter."""
    cluster, ground = deployed
    set_mode(cluster, "ipvs")
    ground.mode = "ipvs"
    cells = choose_cells(every_cell(TRACED, FAMILIES))
    if not os.environ.get("NETSIM_EVERY_CELL"):
        cells = cells[::3]  # two to three seconds each under emulation
    try:
        outcomes = check_paths(ground, Packets(cluster), cells, TRACE_TIMEOUT_S)
    except AssertionError as error:  # an emulated timer may be so late that a frame is not there in time
        print(f"asked once more, since: {error}")
        outcomes = check_paths(ground, Packets(cluster), cells, TRACE_TIMEOUT_S)
    assert {"delivered", "rejected"} <= set(outcomes), f"the cells met only {outcomes}"
