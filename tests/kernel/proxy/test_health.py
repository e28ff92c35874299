"""The health and metrics servers on real sockets in a node's namespace, and health-check node ports."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import write_sysctl
from netsim.model.errors import KernelError
from netsim.model.kinds import EVENT, NODE
from netsim.testing.waiting import wait_until
from proxy.health.proxyhealth import Answer
from proxy.health.servers import HttpServer, open_listener
from tests.kernel.proxy.node import NODE_IP, RealNode, real_node
from tests.unit.proxy.make import CONFIG, make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "command:iptables-nft-restore")

HEALTH, METRICS = 10256, 10249
BALANCED: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}


def fetch(ns: Netns, address: str, port: int, path: str = "/") -> tuple[int, dict[str, str], bytes] | None:
    """Status, headers and body over one connection; None when nobody listens."""
    sock = ns.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.sock = sock
    try:
        sock.settimeout(5)
        sock.connect((address, port))
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def status_of(ns: Netns, address: str, port: int, path: str = "/") -> int:
    answer = fetch(ns, address, port, path)
    return answer[0] if answer else 0


def wait_for(node: RealNode, port: int, status: int, path: str = "/") -> None:
    wait_until(f"status {status} on {port}{path}", lambda: status_of(node.node, NODE_IP, port, path) == status)


@pytest.fixture
def served(node: RealNode) -> RealNode:
    wait_for(node, HEALTH, 200, "/healthz")
    wait_until("the metrics server", lambda: status_of(node.node, "127.0.0.1", METRICS, "/healthz") == 200)
    return node


def test_healthz_from_everywhere_and_metrics_from_the_node_alone(served: RealNode) -> None:
    for place, address in ((served.external, NODE_IP), (served.pods["pod-1"], NODE_IP), (served.node, "127.0.0.1")):
        answer = fetch(place, address, HEALTH, "/healthz")
        assert answer is not None
        assert (answer[0], json.loads(answer[2])["nodeEligible"]) == (200, True)
    assert status_of(served.node, NODE_IP, HEALTH, "/livez") == 200
    assert status_of(served.node, NODE_IP, HEALTH, "/metrics") == 404
    assert fetch(served.external, NODE_IP, METRICS, "/metrics") is None
    answer = fetch(served.node, "127.0.0.1", METRICS, "/metrics")
    assert answer is not None
    assert answer[1]["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'kubeproxy_proxy_healthz_total{code="200"}' in answer[2]


def test_slis(served: RealNode) -> None:
    answer = fetch(served.node, "127.0.0.1", METRICS, "/metrics/slis")
    assert answer is not None
    assert answer[0] == 200
    assert b'kubernetes_healthchecks_total{name="ping"' in answer[2]


def test_proxy_mode_and_configz(served: RealNode) -> None:
    answer = fetch(served.node, "127.0.0.1", METRICS, "/proxyMode")
    assert answer is not None
    assert answer[2] == b"iptables"
    answer = fetch(served.node, "127.0.0.1", METRICS, "/configz")
    assert answer is not None
    assert json.loads(answer[2])["kubeproxy.config.k8s.io"]["clusterCIDR"] == "10.244.0.0/16"


def test_a_node_that_is_to_be_deleted_sends_load_balancers_away(served: RealNode) -> None:
    async def taint() -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
        await served.api.create(NODE, node)
        taints = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
        await served.api.patch(NODE, "node-1", {"spec": {"taints": taints}})

    served.call(taint())
    wait_for(served, HEALTH, 503, "/healthz")
    assert status_of(served.node, NODE_IP, HEALTH, "/livez") == 200
    answer = fetch(served.node, "127.0.0.1", METRICS, "/metrics")
    assert answer is not None
    assert b'kubeproxy_proxy_healthz_total{code="503"} 0.0' not in answer[2]


def test_health_check_node_ports_follow_services_and_endpoints(served: RealNode) -> None:
    served.put(make_service(ip="10.96.0.77", **BALANCED), make_slice([make_endpoint("10.244.1.2")]))
    wait_for(served, 31000, 200)
    answer = fetch(served.external, NODE_IP, 31000)
    assert answer is not None
    assert answer[1]["X-Load-Balancing-Endpoint-Weight"] == "1"
    assert json.loads(answer[2]) == {
        "service": {"namespace": "ns", "name": "web"},
        "localEndpoints": 1,
        "serviceProxyHealthy": True,
    }
    served.put(make_slice([make_endpoint("10.244.2.2", node="node-2"), make_endpoint("10.244.1.2", state="gone")]))
    wait_for(served, 31000, 503)
    served.delete("web")
    wait_for(served, 31000, 0)


@pytest.mark.parametrize("options", [{"mode": "nftables"}, {"node_port_addresses": ("primary",)}])
def test_health_check_node_ports_are_where_node_ports_are_and_follow_the_node(
    spawner: Spawner, options: dict[str, Any]
) -> None:
    with real_node(spawner, replace(CONFIG, families=(4, 6), **options)) as node:  # the node has no IPv6 address
        node.put(make_service(ip="10.96.0.77", **BALANCED), make_slice([make_endpoint("10.244.1.2")]))
        wait_for(node, 31000, 200)
        assert status_of(node.node, "127.0.0.1", 31000) == 0
        node.run(node.node, "ip", "addr", "add", "172.18.0.9/16", "dev", "eth0")

        async def move() -> None:
            node.proxy.set_addresses("node-1", ("172.18.0.9",))
            await node.proxy.settle(node.server.revision())

        node.call(move())
        wait_until("the new address", lambda: status_of(node.node, "172.18.0.9", 31000) == 200)
        assert status_of(node.node, NODE_IP, 31000) == 0


def test_a_port_that_is_taken_is_an_event_and_the_others_go_on(served: RealNode) -> None:
    taken = served.node.socket(socket.AF_INET, socket.SOCK_STREAM)
    with taken:
        taken.bind(("0.0.0.0", 31000))
        taken.listen()
        other = BALANCED | {"healthCheckNodePort": 31001}
        served.put(make_service(ip="10.96.0.77", **BALANCED), make_service("other", "10.96.0.78", **other))
        wait_for(served, 31001, 503)  # no endpoints

        def events() -> list[Any]:
            found = served.call(served.api.list(EVENT, "ns")).items
            return [e for e in found if e["reason"] == "FailedToStartServiceHealthcheck"]

        wait_until("the event", lambda: len(events()) == 1)
        event = events()[0]
        assert (event["type"], event["involvedObject"]["name"]) == ("Warning", "web")
        assert 'node node-1 failed to start healthcheck "ns/web" on port 31000' in event["message"]
        assert "Address already in use" in event["message"]
    served.put(make_slice([make_endpoint("10.244.1.2")]))  # the next sync tries again
    wait_for(served, 31000, 200)


@pytest.fixture
def namespace() -> Iterator[Netns]:
    ns = Netns.create("dual", ipv6=True)
    yield ns
    ns.close()


async def hello(_request: Any) -> Answer:
    return Answer(200, b"hello")


def test_a_listener_of_all_ipv6_takes_ipv4_where_asked(namespace: Netns) -> None:
    async def run() -> None:
        both = HttpServer(open_listener(namespace, "::", 1000, dual=True), hello)
        alone = HttpServer(open_listener(namespace, "::", 1001), hello)
        beside = HttpServer(open_listener(namespace, "0.0.0.0", 1001), hello)  # not taken by the one before
        for server in (both, alone, beside):
            await server.start()
        for address, port in (("127.0.0.1", 1000), ("::1", 1000), ("127.0.0.1", 1001), ("::1", 1001)):
            assert await asyncio.to_thread(status_of, namespace, address, port) == 200
        for server in (both, alone, beside):
            await server.close()
        assert await asyncio.to_thread(status_of, namespace, "::1", 1000) == 0

    asyncio.run(run())


def test_a_taken_port_says_who_to_ask(namespace: Netns) -> None:
    with open_listener(namespace, "127.0.0.1", 1000):
        with pytest.raises(KernelError, match=r"cannot listen on 127.0.0.1:1000: Address already in use") as caught:
            open_listener(namespace, "127.0.0.1", 1000)
        assert caught.value.where == "dual"


def test_a_server_that_cannot_start_says_so_as_a_taken_port_does(namespace: Netns) -> None:
    async def run() -> None:
        listener = open_listener(namespace, "127.0.0.1", 10256)
        listener.close()
        server = HttpServer(listener, hello)
        with pytest.raises(KernelError, match="cannot serve: Bad file descriptor"):
            await server.start()
        await server.close()

    asyncio.run(run())


def test_other_addresses_and_no_server_at_all(spawner: Spawner) -> None:
    config = replace(CONFIG, healthz_bind_address="127.0.0.1:1", metrics_bind_address="")
    with real_node(spawner, config) as node:
        wait_until("the health server", lambda: status_of(node.node, "127.0.0.1", 1, "/livez") == 200)
        assert fetch(node.node, NODE_IP, HEALTH) is None
        assert fetch(node.node, "127.0.0.1", METRICS) is None


def test_all_addresses_means_both_families_of_a_dual_cluster(spawner: Spawner) -> None:
    config = replace(CONFIG, families=(4, 6))
    with real_node(spawner, config) as node:
        write_sysctl(node.node, "net.ipv6.conf.all.disable_ipv6", 0)
        for address in ("127.0.0.1", "::1"):
            wait_until(f"healthz on {address}", lambda ip=address: status_of(node.node, ip, HEALTH, "/healthz") == 200)
        answer = fetch(node.node, "::1", HEALTH, "/livez")
        assert answer is not None
        assert json.loads(answer[2])["status"].keys() == {"IPv4", "IPv6"}
