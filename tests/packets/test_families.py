"""Clusters of IPv6, and of both families: the same paths as with IPv4, in each family that the cluster has."""

import ipaddress
import json
from typing import Any

import dnslib
import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.packets import VXLAN, Packets
from netsim.testing.traffic import Traffic
from tests.packets.world import EXTERNAL, EXTERNAL_IP, HTTP_PORT, UDP_PORT, make_pod, make_service

CASES = [("ipv6", 6), ("dual", 4), ("dual", 6)]
ANY_PROXY = pytest.mark.netsim(proxy_mode="iptables")  # tests that are not about the proxy
IPV6_OFF = ("all", "default", "lo", "eth0")
EXTERNAL_IPS = {4: EXTERNAL_IP, 6: "2001:db8:113::2"}
DNS_IPS = {4: "10.96.0.10", 6: "fd00:10:96::a"}

pytestmark = [pytest.mark.needs("ipv6"), pytest.mark.netsim(nodes=2)]


@pytest.fixture(params=CASES, ids=[f"{cluster}-{family}" for cluster, family in CASES])
def case(request: pytest.FixtureRequest) -> tuple[str, int]:
    """(the cluster's families, the one that the packets are of)"""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def netsim_options(netsim_options: dict[str, Any], case: tuple[str, int]) -> dict[str, Any]:
    return {**netsim_options, "ip_family": case[0]}


@pytest.fixture
def family(case: tuple[str, int]) -> int:
    return case[1]


def url(address: str, port: int, path: str = "/clientip") -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}{path}"


def peer(address: str, port: int) -> str:
    """As a server names its client."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def make_dual(name: str, *, app: str, **spec: Any) -> dict[str, Any]:
    return make_service(name, app=app, ipFamilyPolicy="PreferDualStack", **spec)


def addresses_at(cluster: Cluster, where: str, interface: str, family: int) -> set[str]:
    """Without their prefix lengths."""
    found = next(i.addresses for i in cluster.interfaces(where) if i.name == interface)
    return {a.split("/")[0] for a in found if (":" in a) == (family == 6)}


@ANY_PROXY
@pytest.mark.parametrize(("server_node", "ttl"), [("node-1", 64), ("node-2", 62)], ids=["same-node", "other-node"])
def test_pod_to_pod_keeps_addresses_and_crosses_two_routers_or_none(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, family: int, server_node: str, ttl: int
) -> None:
    cluster.apply([make_pod("client", node="node-1"), make_pod("server", node=server_node)], namespace=namespace)
    client_ip = pod_ip(cluster, "client", namespace, family=family)
    server_ip = pod_ip(cluster, "server", namespace, family=family)
    client, server = f"pod/{namespace}/client", f"pod/{namespace}/server"
    with packets.sniffer(client) as at_client, packets.sniffer(server) as at_server:
        reply = traffic.http_get(client, url(server_ip, HTTP_PORT), source_port=40001)
        assert reply.body == peer(client_ip, 40001)
        syn = at_server.first(lambda s: s.is_syn)
        assert (syn.src, syn.dst, syn.direction, syn.ttl) == (client_ip, server_ip, "in", ttl)
        answer = at_client.first(lambda s: s.is_syn_ack)
        assert (answer.src, answer.dst, answer.direction, answer.ttl) == (server_ip, client_ip, "in", ttl)
        said = traffic.udp_exchange(client, server_ip, UDP_PORT, "clientip", source_port=40002)
        assert said == peer(client_ip, 40002).encode()
        assert at_server.first(lambda s: s.dport == UDP_PORT).ttl == ttl


@ANY_PROXY
def test_the_wrapping_is_ipv4_where_there_is_ipv4(
    cluster: Cluster,
    namespace: str,
    packets: Packets,
    traffic: Traffic,
    case: tuple[str, int],
    pod_network: str,
) -> None:
    families, family = case
    cluster.apply([make_pod("client", node="node-1"), make_pod("server", node="node-2")], namespace=namespace)
    client, server_ip = f"pod/{namespace}/client", pod_ip(cluster, "server", namespace, family=family)
    mtu = {i.name: i.mtu for i in cluster.interfaces(client)}["eth0"]
    with packets.sniffer("node/node-2") as at_node:
        traffic.udp_exchange(client, server_ip, UDP_PORT, "hostname")
        if pod_network == "routes":
            assert mtu == 1500
            seen = at_node.first(lambda s: s.dport == UDP_PORT)
            assert (seen.dst, seen.ttl) == (server_ip, 63)
            return
        outer_family = 6 if families == "ipv6" else 4
        outer = at_node.first(lambda s: s.packet.haslayer(VXLAN) and s.direction == "in")
        ends = [node_ip(cluster, node, family=outer_family) for node in ("node-1", "node-2")]
        assert [outer.src, outer.dst] == ends
        inner = outer.packet[VXLAN].payload.payload
        assert (inner.dst, inner.hlim if family == 6 else inner.ttl) == (server_ip, 63)
        # The largest packet of a pod fills the fabric's 1500 bytes.
        assert mtu == 1500 - {4: 50, 6: 70}[outer_family]
    large = "x" * (mtu - {4: 28, 6: 48}[family] - len("echo "))
    assert traffic.udp_exchange(client, server_ip, UDP_PORT, f"echo {large}") == large.encode()


@pytest.mark.parametrize("server_node", ["node-1", "node-2"])
def test_cluster_ip(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, family: int, server_node: str
) -> None:
    objects = [make_pod("client", node="node-1"), make_pod("server", node=server_node), make_dual("web", app="server")]
    cluster.apply(objects, namespace=namespace)
    client, ip = f"pod/{namespace}/client", cluster_ip(cluster, "web", namespace, family=family)
    client_ip = pod_ip(cluster, "client", namespace, family=family)
    with packets.sniffer(f"pod/{namespace}/server") as at_server:
        assert traffic.http_get(client, url(ip, 80), source_port=40003).body == peer(client_ip, 40003)
        assert at_server.first(lambda s: s.is_syn).dst == pod_ip(cluster, "server", namespace, family=family)
    said = traffic.udp_exchange(client, ip, 81, "clientip", source_port=40004)
    assert said == peer(client_ip, 40004).encode()
    # A node is no pod: its connections are masqueraded.
    seen = traffic.http_get("node/node-1", url(ip, 80)).body.rpartition(":")[0].strip("[]")
    own = {a for link in ("eth0", "cni0", "vxlan0") for a in _addresses_if(cluster, "node/node-1", link, family)}
    assert seen in own


def _addresses_if(cluster: Cluster, where: str, interface: str, family: int) -> set[str]:
    if all(i.name != interface for i in cluster.interfaces(where)):
        return set()
    return addresses_at(cluster, where, interface, family)


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_node_port_from_the_external_host(
    cluster: Cluster, namespace: str, traffic: Traffic, family: int, policy: str
) -> None:
    service = make_dual("web", app="server", type="NodePort", externalTrafficPolicy=policy)
    cluster.apply([make_pod("server", node="node-2"), service], namespace=namespace)
    port, udp_port = (node_port(cluster, "web", namespace, port_name=name) for name in ("http", "udp"))
    outside = EXTERNAL_IPS[family]
    near = node_ip(cluster, "node-2", family=family)
    body = traffic.http_get(EXTERNAL, url(near, port), source_port=40005).body
    assert (body == peer(outside, 40005)) == (policy == "Local")
    assert traffic.udp_exchange(EXTERNAL, near, udp_port, "hostname") == b"server"
    far = node_ip(cluster, "node-1", family=family)
    if policy == "Cluster":
        assert traffic.http_get(EXTERNAL, url(far, port, "/hostname")).body == "server"
    else:
        with pytest.raises(TimeoutError):
            traffic.connect(EXTERNAL, far, port, timeout_s=0.5)


def test_a_pod_meets_itself_behind_its_service(cluster: Cluster, namespace: str, traffic: Traffic, family: int) -> None:
    cluster.apply([make_pod("only", node="node-1"), make_dual("web", app="only")], namespace=namespace)
    ip = cluster_ip(cluster, "web", namespace, family=family)
    body = traffic.http_get(f"pod/{namespace}/only", url(ip, 80)).body
    assert body.rpartition(":")[0].strip("[]") in addresses_at(cluster, "node/node-1", "cni0", family)


def test_a_service_without_endpoints_refuses(cluster: Cluster, namespace: str, traffic: Traffic, family: int) -> None:
    service = make_dual("none", app="nobody", type="NodePort")
    cluster.apply([make_pod("client", node="node-1"), service], namespace=namespace)
    cluster.barrier()
    client, ip = f"pod/{namespace}/client", cluster_ip(cluster, "none", namespace, family=family)
    with pytest.raises(ConnectionRefusedError):
        traffic.connect(client, ip, 80)
    with pytest.raises(ConnectionRefusedError):
        traffic.udp_exchange(client, ip, 81, "hostname")
    with pytest.raises(ConnectionRefusedError):
        traffic.connect(EXTERNAL, node_ip(cluster, "node-2", family=family), node_port(cluster, "none", namespace))


@ANY_PROXY
def test_what_leaves_the_cluster_has_the_nodes_address(
    cluster: Cluster, namespace: str, packets: Packets, traffic: Traffic, family: int
) -> None:
    cluster.apply(make_pod("client", node="node-2"), namespace=namespace)
    outside = EXTERNAL_IPS[family]
    with (
        traffic.listen(EXTERNAL, address="::" if family == 6 else "0.0.0.0") as listener,
        packets.sniffer(EXTERNAL) as seen,
    ):
        port = listener.getsockname()[1]
        with traffic.connect(f"pod/{namespace}/client", outside, port):
            syn = seen.first(lambda s: s.is_syn and s.dport == port)
    assert (syn.src, syn.dst, syn.ttl) == (node_ip(cluster, "node-2", family=family), outside, 62)


def ask(traffic: Traffic, where: str, server: str, name: str, kind: str) -> list[str]:
    answer = traffic.udp_exchange(where, server, 53, bytes(dnslib.DNSRecord.question(name, kind).pack()))
    return [str(record.rdata) for record in dnslib.DNSRecord.parse(answer).rr]


@ANY_PROXY
def test_dns_answers_in_each_family_for_each_family(
    cluster: Cluster, namespace: str, traffic: Traffic, case: tuple[str, int]
) -> None:
    families, family = case
    headless = make_dual("all", app="server", clusterIP="None")
    objects = [make_pod("client"), make_pod("server"), make_dual("web", app="server"), headless]
    cluster.apply(objects, namespace=namespace)
    client, server = f"pod/{namespace}/client", DNS_IPS[family]
    domain = f"{namespace}.svc.cluster.local"
    for of, kind in ((4, "A"), (6, "AAAA")):
        has = of in {"ipv6": (6,), "dual": (4, 6)}[families]
        web = [cluster_ip(cluster, "web", namespace, family=of)] if has else []
        assert ask(traffic, client, server, f"web.{domain}", kind) == web
        pods = [pod_ip(cluster, "server", namespace, family=of)] if has else []
        assert ask(traffic, client, server, f"all.{domain}", kind) == pods
        for ip in web:
            name = ipaddress.ip_address(ip).reverse_pointer
            assert ask(traffic, client, server, name, "PTR") == [f"web.{domain}."]
        for ip in pods:
            dashed = ip.replace(":", "-").replace(".", "-")
            name = ipaddress.ip_address(ip).reverse_pointer
            answers = ask(traffic, client, server, name, "PTR")
            assert f"{dashed}.all.{domain}." in answers
            assert ask(traffic, client, server, f"{dashed}.{namespace}.pod.cluster.local", kind) == [ip]
    found = cluster.exec(client, ["curl", f"-s{family}", "http://web/hostname"], check=True)
    assert found.stdout == "server"
    # And through the built-in's own resolver.
    dial = url(pod_ip(cluster, "client", namespace, family=family), HTTP_PORT, "/dial")
    asked = f"{dial}?host=web&port=80&protocol=http&request=hostname"
    assert json.loads(traffic.http_get(client, asked).body) == {"responses": ["server"]}


def test_udp_forgets_an_endpoint_that_went(cluster: Cluster, namespace: str, traffic: Traffic, family: int) -> None:
    objects = [make_pod("client"), make_pod("one", app="server"), make_dual("web", app="server")]
    cluster.apply(objects, namespace=namespace)
    client, ip = f"pod/{namespace}/client", cluster_ip(cluster, "web", namespace, family=family)
    assert traffic.udp_exchange(client, ip, 81, "hostname", source_port=40006) == b"one"
    cluster.delete("Pod", "one", namespace=namespace)
    cluster.apply(make_pod("two", app="server"), namespace=namespace)
    assert traffic.udp_exchange(client, ip, 81, "hostname", source_port=40006) == b"two"


def test_session_affinity(cluster: Cluster, namespace: str, traffic: Traffic, family: int) -> None:
    pods = [make_pod(name, app="server") for name in ("one", "two", "three")]
    service = make_dual("web", app="server", sessionAffinity="ClientIP")
    cluster.apply([make_pod("client"), *pods, service], namespace=namespace)
    ip = cluster_ip(cluster, "web", namespace, family=family)
    bodies = {traffic.http_get(f"pod/{namespace}/client", url(ip, 80, "/hostname")).body for _ in range(12)}
    assert len(bodies) == 1


@ANY_PROXY
def test_the_api_says_what_there_is(cluster: Cluster, namespace: str, case: tuple[str, int]) -> None:
    kinds = {"ipv6": ["IPv6"], "dual": ["IPv4", "IPv6"]}[case[0]]
    probe = {"httpGet": {"port": HTTP_PORT, "path": "/healthz"}, "periodSeconds": 1}
    pod = make_pod("server", node="node-1")
    pod["spec"]["containers"][0]["readinessProbe"] = probe
    cluster.apply([pod, make_dual("web", app="server")], namespace=namespace)

    def of(addresses: list[str]) -> list[str]:
        return ["IPv6" if ":" in address else "IPv4" for address in addresses]

    status = cluster.get("Pod", "server", namespace)["status"]
    pod_ips, host_ips = ([entry["ip"] for entry in status[key]] for key in ("podIPs", "hostIPs"))
    assert of(pod_ips) == of(host_ips) == kinds
    assert (status["podIP"], status["hostIP"]) == (pod_ips[0], host_ips[0])
    node = cluster.get("Node", "node-1")
    assert [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"] == host_ips
    assert of(node["spec"]["podCIDRs"]) == kinds
    assert node["spec"]["podCIDR"] == node["spec"]["podCIDRs"][0]
    found = cluster.status()
    assert found["ipFamily"] == case[0]
    assert (found["nodes"][0]["addresses"], found["nodes"][0]["podCIDRs"]) == (host_ips, node["spec"]["podCIDRs"])
    slices = cluster.list("EndpointSlice", namespace, labels="kubernetes.io/service-name=web")
    assert sorted(s["addressType"] for s in slices) == kinds
    assert sorted(s["endpoints"][0]["addresses"][0] for s in slices) == sorted(pod_ips)
    where = f"pod/{namespace}/server"
    hosts = cluster.exec(where, ["cat", "/etc/hosts"], check=True).stdout
    assert all(f"{ip}\tserver" in hosts for ip in pod_ips)
    resolver = cluster.exec(where, ["cat", "/etc/resolv.conf"], check=True).stdout
    wanted = [DNS_IPS[4 if kind == "IPv4" else 6] for kind in kinds]
    assert [line.split()[1] for line in resolver.splitlines() if line.startswith("nameserver")] == wanted


@ANY_PROXY
@pytest.mark.parametrize("case", [("ipv6", 6)], ids=["ipv6"], indirect=True)
def test_no_ipv4_in_a_cluster_of_ipv6(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make_pod("any"), namespace=namespace)
    for where in (f"pod/{namespace}/any", "node/node-1", EXTERNAL):
        for interface in cluster.interfaces(where):
            if interface.name != "lo":
                assert [a for a in interface.addresses if ":" not in a] == []


@ANY_PROXY
def test_host_network_has_the_nodes_addresses(cluster: Cluster, namespace: str, traffic: Traffic, family: int) -> None:
    cluster.apply(make_pod("host", node="node-1", hostNetwork=True), namespace=namespace)
    ip = pod_ip(cluster, "host", namespace, family=family)
    assert ip == node_ip(cluster, "node-1", family=family)
    assert traffic.http_get(EXTERNAL, url(ip, HTTP_PORT), source_port=40007).body == peer(EXTERNAL_IPS[family], 40007)


@ANY_PROXY
def test_the_rules_of_every_family_are_there(cluster: Cluster, case: tuple[str, int]) -> None:
    for tool, of in (("iptables-save", "ipv4"), ("ip6tables-save", "ipv6")):
        rules = cluster.exec("node/node-1", [tool], check=True).stdout
        assert ("KUBE-SERVICES" in rules) == (case[0] in (of, "dual"))


@ANY_PROXY
@pytest.mark.parametrize("case", [("ipv4", 4)], ids=["ipv4"], indirect=True)
def test_ipv6_is_off_in_a_cluster_of_ipv4(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make_pod("any"), namespace=namespace)
    for where in (f"pod/{namespace}/any", "node/node-1", EXTERNAL):
        for interface in cluster.interfaces(where):
            assert [a for a in interface.addresses if ":" in a] == []
        paths = [f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6" for name in IPV6_OFF]
        assert cluster.exec(where, ["cat", *paths], check=True).stdout.split() == ["1"] * len(paths)
