"""Every cell of entry x policy x endpoints' state x source x protocol x family, as real packets, against an oracle that
knows no rules (`oracle`), in every proxy mode and pod network. The matrix counts itself: a cell that nobody asked is a
failure.
"""

import pytest

from netsim.cluster.handle import Cluster
from tests.packets.matrix import Pace, run_matrix
from tests.packets.probes import REFUSED, SILENCE, Seen, choose_protocols

pytestmark = pytest.mark.netsim(nodes=2, ip_family="dual")


def test_every_cell_of_the_matrix(cluster: Cluster, namespace: str) -> None:
    report = run_matrix(cluster, namespace, choose_protocols(), (4, 6), Pace())
    # Every kind of fate is met, or the matrix has lost its teeth.
    fates = {result for results in report.asked.values() for result in results}
    assert {REFUSED, SILENCE} < fates
    assert {result.answered for result in fates if isinstance(result, Seen)} == {True, False}
