"""Evidence of a probe through a cluster in ipvs mode: rules, connections of IPVS, and both ends' frames."""

import fcntl
import socket
from contextlib import ExitStack

import pytest

from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.observe.collect import collect
from netsim.observe.path import Question
from netsim.testing.lookup import cluster_ip, pod_ip
from tests.packets.world import HTTP_PORT, make_pod, make_service

_SIOCGSKNS = 0x894C


@pytest.mark.needs("ipvs", "dummy", "nft_trace", "packet")
@pytest.mark.netsim(proxy_mode="ipvs", nodes=2)
def test_evidence_of_a_probe_through_ipvs(cluster: Cluster, namespace: str, spawner: Spawner, proxy_mode: str) -> None:
    pods = [make_pod("client", node="node-1"), make_pod("web", node="node-2")]
    cluster.apply([*pods, make_service("web", app="web")], namespace=namespace)
    address, endpoint = cluster_ip(cluster, "web", namespace), pod_ip(cluster, "web", namespace)
    client, web = f"pod/{namespace}/client", f"pod/{namespace}/web"
    with ExitStack() as stack:
        places = {}
        for where in (client, web, "node/node-1", "node/node-2"):
            with cluster.socket(where, socket.AF_INET, socket.SOCK_DGRAM) as there:
                places[where] = stack.enter_context(Netns(where, fcntl.ioctl(there.fileno(), _SIOCGSKNS)))
        # Under software emulation a handshake takes its time.
        evidence = collect(Question(client, "", "tcp", address, 80), places, client, timeout_s=10.0, spawner=spawner)
    assert evidence.reply.result == "connected"
    assert {one.place for one in evidence.sightings} == set(places)
    [connection] = evidence.ipvs["node/node-1"]
    assert f"{address}:80 {endpoint}:{HTTP_PORT}" in connection
    assert any(f"dst={address}" in entry for entry in evidence.conntrack["node/node-1"])
    assert any(event.hook == "input" for event in evidence.events if event.place == "node/node-1")
