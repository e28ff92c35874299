"""The whole packet matrix (tests/packets/matrix.py) in every proxy mode, side by side on one kernel, with SCTP."""

import pytest

from netsim.cluster.handle import Cluster
from tests.packets.matrix import Pace, run_matrix
from tests.packets.probes import choose_protocols
from tests.vm.conftest import PATIENCE_S

pytestmark = [
    pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp"),
    pytest.mark.netsim(ip_family="dual"),
]
# An emulated processor needs its time to bring 300 answers; silence is all waited for at once.
PACE = Pace(quiet_s=5.0, patience_s=30.0, tries=1, deploy_s=PATIENCE_S)


def test_every_cell_of_the_matrix(cluster: Cluster, namespace: str) -> None:
    protocols = choose_protocols()
    assert "sctp" in protocols
    run_matrix(cluster, namespace, protocols, (4, 6), PACE)
