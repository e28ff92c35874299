"""A cluster whose kube-proxy writes legacy iptables: trace, explain and rules see the same as over nf_tables."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netsim.cluster.handle import Cluster, attach
from netsim.observe.pathtext import render_text
from netsim.testing.lookup import node_port
from tests.packets.world import make_deployment, make_pod, make_service

pytestmark = pytest.mark.needs("root", "iptables-legacy", "iptables-nft", "nft_trace")

# A machine that has the older back end only: in the cluster's own view of it the newer one's program does not work.
WITHOUT_NFT = 'mount --make-rprivate / && mount --bind "$1" "$2" && shift 2 && exec "$@"'
UP = (sys.executable, "-m", "netsim.cli.main", "up", "legacy", "--nodes", "2", "--ip-family", "dual")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    program, useless = shutil.which("iptables-nft-save", path=path), shutil.which("false", path=path)
    assert program is not None
    assert useless is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETSIM_STATE_DIR", str(tmp_path_factory.mktemp("legacy")))
        hide = ["unshare", "-m", "sh", "-c", WITHOUT_NFT, "sh", useless, str(Path(program).resolve())]
        subprocess.run([*hide, *UP], check=True, timeout=60)
        with attach("legacy") as cluster:
            service = make_service("web", app="web", type="NodePort", ipFamilyPolicy="RequireDualStack")
            cluster.apply([make_pod("client", node="node-1"), make_deployment("web", 2), service])
            yield cluster


@pytest.mark.parametrize("ip_family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("port", ["http", "udp"])
def test_the_rules_that_chose_the_endpoint(cluster: Cluster, port: str, ip_family: str) -> None:
    path = cluster.trace("pod/client", f"svc/web:{port}", ip_family=ip_family)  # type: ignore[arg-type]
    assert path.verdict.outcome == "delivered", render_text(path)
    hits = [
        hit for hop in path.hops for hit in hop.rules if hop.place == "node/node-1" and hit.chain.startswith("KUBE")
    ]
    assert {hit.backend for hit in hits} == {"iptables-legacy"}
    assert {hit.family for hit in hits} == {"ip" if ip_family == "ipv4" else "ip6"}
    chosen = [hit for hit in hits if "-j DNAT" in hit.text]
    rewritten = next(hop.packet for hop in path.hops if hop.rewrite == "dnat")
    assert [hit.chain[:8] for hit in chosen] == ["KUBE-SEP"]
    assert rewritten.destination in chosen[0].text
    predicted = cluster.explain("pod/client", f"svc/web:{port}", ip_family=ip_family)  # type: ignore[arg-type]
    assert path.answered_by in {way.path.answered_by for way in predicted.ways}
    assert [way.probability for way in predicted.ways] == [0.5, 0.5]


def test_rules_of_a_service_are_found_there(cluster: Cluster) -> None:
    nodes = cluster.rules("svc/web").nodes
    assert [{group.backend for group in node.groups} for node in nodes] == [{"iptables-legacy"}] * 2


def test_a_drop_and_where_to_look(cluster: Cluster) -> None:
    rule = ["FORWARD", "-p", "tcp", "--dport", "8080", "-j", "DROP"]
    cluster.exec("node/node-1", ["iptables-legacy", "-w", "-I", *rule], check=True)
    try:
        path = cluster.trace("host/external", f"node/node-1:{node_port(cluster, 'web')}")
    finally:
        cluster.exec("node/node-1", ["iptables-legacy", "-w", "-D", *rule], check=True)
    assert (path.verdict.outcome, path.verdict.place) == ("dropped", "node/node-1"), render_text(path)
    assert path.verdict.cause.endswith("-A FORWARD -p tcp -m tcp --dport 8080 -j DROP")
    assert path.verdict.next == "netsim exec node/node-1 -- iptables-legacy-save"
