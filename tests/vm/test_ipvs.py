"""The ipvs mode seen from outside: by ipvsadm, ip and ipset, and by what must not answer."""

import json
import socket
import struct

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.packets.world import EXTERNAL, make_pod, make_service
from tests.vm.conftest import PATIENCE_S

pytestmark = [pytest.mark.needs("root", "ipvs", "dummy", "ipset"), pytest.mark.netsim(proxy_mode="ipvs")]
NODE = "node/node-2"


def run(cluster: Cluster, *argv: str) -> str:
    return cluster.exec(NODE, argv, timeout_s=PATIENCE_S, check=True).stdout


def reals_of(cluster: Cluster, address: str, port: int) -> dict[str, tuple[int, int, int]]:
    """``ip:port`` of each real server of a TCP virtual server, with weight, active and inactive connections."""
    found: dict[str, tuple[int, int, int]] = {}
    inside = False
    for line in run(cluster, "ipvsadm", "-L", "-n").splitlines():
        words = line.split()
        if words and words[0] in ("TCP", "UDP", "SCTP"):
            inside = words[:2] == ["TCP", f"{address}:{port}"]
        elif inside and words and words[0] == "->" and words[1] != "RemoteAddress:Port":
            found[words[1]] = (int(words[3]), int(words[4]), int(words[5]))
    return found


def addresses_of_dummy(cluster: Cluster) -> set[str]:
    links = json.loads(run(cluster, "ip", "-j", "address", "show", "dev", "kube-ipvs0"))
    return {info["local"] for info in links[0]["addr_info"]}


def test_the_kernel_holds_a_service_and_lets_it_go(cluster: Cluster, namespace: str) -> None:
    pod = make_pod("web", node="node-1")
    cluster.apply([pod, make_service("web", app="web")], namespace=namespace, timeout_s=PATIENCE_S)
    address, server = cluster_ip(cluster, "web", namespace), pod_ip(cluster, "web", namespace)
    assert list(reals_of(cluster, address, 80)) == [f"{server}:8080"]
    assert address in addresses_of_dummy(cluster)
    assert f"{address},udp:81" in run(cluster, "ipset", "list", "KUBE-CLUSTER-IP")
    cluster.delete("Service", "web", namespace=namespace, timeout_s=PATIENCE_S)
    assert reals_of(cluster, address, 80) == {}
    assert f"TCP  {address}:80" not in run(cluster, "ipvsadm", "-L", "-n")
    assert address not in addresses_of_dummy(cluster)
    assert address not in run(cluster, "ipset", "list")


def test_both_families_of_a_service_answer(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    """ClusterIP from a pod, NodePort from outside; what the kernel holds of IPv6."""
    pods = [make_pod("web", node="node-1"), make_pod("client", node="node-2")]
    service = make_service("web", app="web", type="NodePort", ipFamilyPolicy="RequireDualStack")
    cluster.apply([*pods, service], namespace=namespace, timeout_s=PATIENCE_S)
    port = node_port(cluster, "web", namespace)
    for family in (4, 6):
        address, client = (
            cluster_ip(cluster, "web", namespace, family=family),
            pod_ip(cluster, "client", namespace, family=family),
        )
        assert address in addresses_of_dummy(cluster)
        reply = traffic.http_get(
            f"pod/{namespace}/client", url(address, 80, "/clientip"), source_port=40001, timeout_s=30.0
        )
        assert reply.body.rpartition(":")[0].strip("[]") == client
        node = node_ip(cluster, "node-2", family=family)
        assert traffic.http_get(EXTERNAL, url(node, port, "/hostname"), timeout_s=30.0).body == "web"
    assert f"{address},udp:81" in run(cluster, "ipset", "list", "KUBE-6-CLUSTER-IP")
    server = f"[{pod_ip(cluster, 'web', namespace, family=6)}]:8080"
    for virtual in (f"[{address}]:80", f"[{node}]:{port}"):
        assert f"TCP  {virtual} rr\n  -> {server}" in run(cluster, "ipvsadm", "-L", "-n")


def url(address: str, port: int, path: str) -> str:
    return f"http://[{address}]:{port}{path}" if ":" in address else f"http://{address}:{port}{path}"


def test_affinity_and_its_timeout_are_the_virtual_servers(cluster: Cluster, namespace: str) -> None:
    config = {"clientIP": {"timeoutSeconds": 77}}
    service = make_service("sticky", app="none", sessionAffinity="ClientIP", sessionAffinityConfig=config)
    cluster.apply(service, namespace=namespace, timeout_s=PATIENCE_S)
    address = cluster_ip(cluster, "sticky", namespace)
    assert f"TCP  {address}:80 rr persistent 77" in run(cluster, "ipvsadm", "-L", "-n")


def test_what_a_node_listens_on_does_not_answer_on_a_service_address(
    cluster: Cluster, namespace: str, traffic: Traffic
) -> None:
    """Upstream's #72236 and #119656: the service's address is an address of the node."""
    pods = [make_pod("web", node="node-1"), make_pod("client", node="node-2", app="client")]
    cluster.apply([*pods, make_service("web", app="web")], namespace=namespace, timeout_s=PATIENCE_S)
    address, node = cluster_ip(cluster, "web", namespace), node_ip(cluster, "node-2")
    with traffic.listen(NODE, 7777):
        traffic.connect(f"pod/{namespace}/client", node, 7777, timeout_s=10.0).close()
        for client in (f"pod/{namespace}/client", NODE):
            with pytest.raises(ConnectionRefusedError):
                traffic.connect(client, address, 7777, timeout_s=10.0)


def test_a_connection_outlives_its_endpoints_readiness(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    """Weight 0 at first; removed when its connections are gone."""
    pods = [make_pod("old", node="node-1", app="old"), make_pod("new", node="node-1", app="new")]
    client = make_pod("client", node="node-2", app="client")
    service = make_service("web", app="old")
    service["spec"]["ports"] = [{"name": "raw", "port": 80, "targetPort": 9999}]
    cluster.apply([*pods, client, service], namespace=namespace, timeout_s=PATIENCE_S)
    address = cluster_ip(cluster, "web", namespace)
    old, new = (f"{pod_ip(cluster, name, namespace)}:9999" for name in ("old", "new"))
    with traffic.listen(f"pod/{namespace}/old", 9999) as listening:
        caller = traffic.connect(f"pod/{namespace}/client", address, 80, timeout_s=30.0)
        accepted, _ = listening.accept()
        cluster.patch("Service", "web", {"spec": {"selector": {"app": "new"}}}, namespace)
        cluster.barrier(PATIENCE_S)
        wait_until("the new endpoint is there", lambda: new in reals_of(cluster, address, 80), 30.0)
        assert reals_of(cluster, address, 80)[old] == (0, 1, 0)
        assert reals_of(cluster, address, 80)[new][0] == 1
        accepted.settimeout(30.0)
        caller.sendall(b"still here")
        assert accepted.recv(64) == b"still here"
        with pytest.raises(ConnectionRefusedError):  # goes to the new pod, where nobody listens
            traffic.connect(f"pod/{namespace}/client", address, 80, timeout_s=10.0)
        # Ended by a reset, which IPVS remembers for 10 s; an orderly end it remembers for two minutes (TIME_WAIT).
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
        accepted.close()
    wait_until("the connection is forgotten", lambda: reals_of(cluster, address, 80)[old][1:] == (0, 0), 60.0)
    cluster.apply(make_service("other", app="other"), namespace=namespace, timeout_s=PATIENCE_S)  # makes it look again
    cluster.barrier(PATIENCE_S)
    assert old not in reals_of(cluster, address, 80)


def test_modes_change_and_leave_nothing(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    """From iptables to ipvs a connection goes on; from ipvs to iptables nothing of ipvs is left."""
    pods = [make_pod("web", node="node-1"), make_pod("client", node="node-2", app="client")]
    service = make_service("web", app="web")
    service["spec"]["ports"].append({"name": "raw", "port": 90, "targetPort": 9999})
    cluster.apply([*pods, service], namespace=namespace, timeout_s=PATIENCE_S)
    address, client = cluster_ip(cluster, "web", namespace), f"pod/{namespace}/client"
    url = f"http://{address}/hostname"
    try:
        cluster.set_proxy_mode("iptables")
        for command in (("ipvsadm", "-L", "-n"), ("ipset", "list", "-name"), ("iptables-save",)):
            assert address + ":80 rr" not in run(cluster, *command)
            assert "IPVS" not in run(cluster, *command)
        assert cluster.exec(NODE, ["ip", "link", "show", "kube-ipvs0"], timeout_s=PATIENCE_S).returncode != 0
        assert traffic.http_get(client, url, timeout_s=30.0).body == "web"
        with traffic.listen(f"pod/{namespace}/web", 9999) as listening:
            caller = traffic.connect(client, address, 90, timeout_s=30.0)
            accepted, _ = listening.accept()
            accepted.settimeout(30.0)
            cluster.set_proxy_mode("ipvs")
            caller.sendall(b"unbroken")
            assert accepted.recv(64) == b"unbroken"
            accepted.close()
            caller.close()
        assert traffic.http_get(client, url, timeout_s=30.0).body == "web"
        assert "KUBE-SVC-" not in run(cluster, "iptables-save")
    finally:
        cluster.set_proxy_mode("ipvs")


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh"])
def test_the_kernel_has_the_scheduler(scheduler: str) -> None:
    from netsim.kernel.ipvs import Ipvs, del_server, load_scheduler, new_real, new_server, set_server
    from netsim.kernel.netns import Netns
    from netsim.ruleset.ipvs import FLAG_SH_FALLBACK, RealServer, RealState, ServerKey, VirtualServer

    key, real = ServerKey("tcp", "10.96.0.1", 443), RealServer("127.0.0.1", 6443)
    virtual = VirtualServer(scheduler, 60, FLAG_SH_FALLBACK if scheduler == "mh" else 0)
    load_scheduler(scheduler)
    with Netns.create("ipvs") as ns, Ipvs(ns) as ipvs:
        ipvs.run([new_server(key, virtual), new_real(key, real)])
        assert ipvs.servers() == {key: virtual}
        assert ipvs.reals(key) == {real: RealState(1)}
        ipvs.run([set_server(key, virtual._replace(persistent_s=0))])
        assert ipvs.servers() == {key: virtual._replace(persistent_s=0)}
        ipvs.run([del_server(key)])
        assert ipvs.servers() == {}
