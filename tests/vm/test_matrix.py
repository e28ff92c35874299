"""The whole packet matrix (tests/packets/matrix.py) in every proxy mode, side by side on one kernel, with SCTP.

One cluster for all modes: a second one would cost a minute under emulation, changing this one's mode a few seconds.
"""

from collections.abc import Iterator

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.pool import ClusterPool
from tests.packets.differences import MODES
from tests.packets.matrix import Ground, Pace, check_cells, deploy
from tests.packets.probes import choose_protocols
from tests.vm.conftest import PATIENCE_S

pytestmark = [pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp")]
# An emulated processor needs its time to bring 300 answers; silence is all waited for at once.
PACE = Pace(quiet_s=4.0, patience_s=30.0, tries=1, deploy_s=PATIENCE_S)
FAMILIES = (4, 6)


@pytest.fixture(scope="module")
def deployed(netsim_clusters: ClusterPool) -> Iterator[tuple[Cluster, Ground]]:
    cluster = netsim_clusters.start({"nodes": 2, "ip_family": "dual", "proxy_mode": MODES[0]})
    with cluster, netsim_clusters.namespace(cluster) as namespace:
        ground = deploy(cluster, namespace, choose_protocols(), FAMILIES, PACE)
        yield cluster, ground
        ground.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_cell_of_the_matrix(deployed: tuple[Cluster, Ground], mode: str) -> None:
    cluster, ground = deployed
    if ground.mode != mode:
        cluster.set_proxy_mode(mode)
        ground.mode = mode
    protocols = choose_protocols()
    assert "sctp" in protocols
    check_cells(ground, protocols, FAMILIES)
