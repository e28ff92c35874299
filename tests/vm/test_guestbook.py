"""The examples on Debian's kernel, in every proxy mode."""

from pathlib import Path

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import node_ip
from netsim.testing.traffic import Traffic
from tests.packets.world import EXTERNAL
from tests.vm.conftest import PATIENCE_S

pytestmark = [pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp")]
GUESTBOOK = Path(__file__).parents[2] / "examples" / "guestbook.yaml"


def test_the_guestbook_answers_outside(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    cluster.apply(GUESTBOOK, namespace=namespace, timeout_s=PATIENCE_S)
    for node in ("node-1", "node-2"):
        reply = traffic.http_get(EXTERNAL, f"http://{node_ip(cluster, node)}:30080/", timeout_s=30.0)
        assert reply.status == 200
    cluster.delete(GUESTBOOK, namespace=namespace, timeout_s=PATIENCE_S)
