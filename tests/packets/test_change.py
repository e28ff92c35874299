"""Change under traffic: once the barrier has passed, no new connection to a ready endpoint is lost, and connections to
pods that stay live on.
"""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import cluster_ip, pod_ip, ready_pods
from netsim.testing.traffic import Traffic
from netsim.testing.waiting import wait_until
from tests.packets.world import HTTP_PORT, make_deployment, make_pod, make_service

CLIENT_TRIES_AFTER = 30


class Client(threading.Thread):
    """Makes one new connection after the other; keeps who answered, when, and every failure with its time."""

    def __init__(self, traffic: Traffic, where: str, url: str) -> None:
        super().__init__(name=f"client {where}", daemon=True)
        self._traffic, self._where, self._url = traffic, where, url
        self._stopping = threading.Event()
        self.answers: list[tuple[float, str]] = []
        self.failures: list[tuple[float, OSError]] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self.answers.append((started, self._traffic.http_get(self._where, self._url, timeout_s=3.0).body))
            except OSError as error:
                self.failures.append((started, error))

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def answers_since(self, moment: float) -> Counter[str]:
        return Counter(name for started, name in list(self.answers) if started >= moment)


@contextmanager
def client_running(traffic: Traffic, where: str, url: str) -> Iterator[Client]:
    client = Client(traffic, where, url)
    client.start()
    try:
        wait_until("the client's first answers", lambda: len(client.answers) >= 5)
        yield client
    finally:
        client.stop()


def deploy(cluster: Cluster, namespace: str, replicas: int, **container: object) -> str:
    """A client, a Deployment and its Service; the URL that answers with the name of the pod it hit."""
    deployment = make_deployment("web", replicas, **container)
    # A terminating pod serves on until its grace is over: that is what lets nobody fall between two stools.
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 2
    deployment["spec"]["template"]["spec"]["containers"][0]["args"] = ["netexec", "--delay-shutdown=1"]
    deployment["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    cluster.apply([make_pod("client", node="node-1"), deployment, make_service("web", app="web")], namespace=namespace)
    return f"http://{cluster_ip(cluster, 'web', namespace)}/hostname"


def test_scaling_up_and_down_under_traffic_loses_no_connection(
    cluster: Cluster, namespace: str, traffic: Traffic
) -> None:
    url = deploy(cluster, namespace, 2)
    with client_running(traffic, f"pod/{namespace}/client", url) as client:
        cluster.patch("Deployment", "web", {"spec": {"replicas": 5}}, namespace)
        wait_until("five ready pods", lambda: len(ready_pods(cluster, "app=web", namespace)) == 5)
        cluster.barrier()
        moment, five = time.monotonic(), set(ready_pods(cluster, "app=web", namespace))
        wait_until("the new pods to be hit", lambda: set(client.answers_since(moment)) == five)
        cluster.patch("Deployment", "web", {"spec": {"replicas": 1}}, namespace)
        wait_until("one ready pod", lambda: len(ready_pods(cluster, "app=web", namespace)) == 1)
        cluster.barrier()
        moment, (last,) = time.monotonic(), ready_pods(cluster, "app=web", namespace)
        wait_until("answers after the change", lambda: client.answers_since(moment).total() >= CLIENT_TRIES_AFTER)
        assert set(client.answers_since(moment)) == {last}
    assert client.failures == []


def test_a_rolling_update_under_traffic_loses_no_connection(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    url = deploy(cluster, namespace, 3)
    before = set(ready_pods(cluster, "app=web", namespace))
    with client_running(traffic, f"pod/{namespace}/client", url) as client:
        change = {"spec": {"template": {"metadata": {"labels": {"app": "web", "version": "2"}}}}}
        cluster.patch("Deployment", "web", change, namespace)
        wait_until(
            "three pods of the new version and none of the old",
            lambda: (
                len(ready_pods(cluster, "app=web,version=2", namespace)) == 3
                and len(ready_pods(cluster, "app=web", namespace)) == 3
            ),
            timeout_s=30,
        )
        cluster.barrier()
        moment, after = time.monotonic(), set(ready_pods(cluster, "app=web", namespace))
        wait_until("answers after the update", lambda: client.answers_since(moment).total() >= CLIENT_TRIES_AFTER)
        assert set(client.answers_since(moment)) <= after
        assert not after & before
    assert client.failures == []


def test_a_pod_that_fails_its_readiness_probe_gets_no_new_connection(
    cluster: Cluster, namespace: str, traffic: Traffic
) -> None:
    # Ready as long as somebody listens on port 9999 of the pod; the test itself is that somebody.
    probe = {"tcpSocket": {"port": 9999}, "periodSeconds": 1, "failureThreshold": 1}
    pods = [make_pod(f"web-{n}", app="web", node=f"node-{n}") for n in (1, 2)]
    for pod in pods:
        pod["spec"]["containers"][0]["readinessProbe"] = probe
    cluster.apply([make_pod("client", node="node-3"), make_service("web", app="web")], namespace=namespace)
    cluster.apply(pods, namespace=namespace, wait=False)
    wait_until("the pods' addresses", lambda: [pod_ip(cluster, f"web-{n}", namespace) for n in (1, 2)])
    listeners = [traffic.listen(f"pod/{namespace}/web-{n}", 9999, backlog=1024) for n in (1, 2)]
    try:
        wait_until("both ready", lambda: ready_pods(cluster, "app=web", namespace) == ["web-1", "web-2"])
        cluster.barrier()
        url = f"http://{cluster_ip(cluster, 'web', namespace)}/hostname"
        with client_running(traffic, f"pod/{namespace}/client", url) as client:
            listeners[0].close()
            wait_until("web-1 unready", lambda: ready_pods(cluster, "app=web", namespace) == ["web-2"])
            cluster.barrier()
            moment = time.monotonic()
            wait_until("answers after the change", lambda: client.answers_since(moment).total() >= CLIENT_TRIES_AFTER)
            assert set(client.answers_since(moment)) == {"web-2"}
        assert client.failures == []
    finally:
        for listener in listeners:
            listener.close()


def open_kept_connections(traffic: Traffic, where: str, address: str, pods: set[str]) -> dict[str, socket.socket]:
    """One open HTTP/1.1 connection to each of these pods, through the Service."""
    kept: dict[str, socket.socket] = {}
    for _ in range(200):
        connection = traffic.connect(where, address, 80)
        name = ask(connection)
        if name in kept:
            connection.close()
        else:
            kept[name] = connection
        if set(kept) == pods:
            return kept
    pytest.fail(f"200 connections never reached {sorted(pods - set(kept))}")


def ask(connection: socket.socket) -> str:
    """GET /hostname over a connection that stays open."""
    connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: web\r\nConnection: keep-alive\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += receive(connection)
    return body.decode()


def receive(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionError("the server closed the connection")
    return piece


def test_established_connections_to_surviving_pods_live_on(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    url = deploy(cluster, namespace, 3)
    client, address = f"pod/{namespace}/client", url.split("/")[2]
    kept = open_kept_connections(traffic, client, address, set(ready_pods(cluster, "app=web", namespace)))
    try:
        cluster.patch("Deployment", "web", {"spec": {"replicas": 1}}, namespace)
        wait_until("one ready pod", lambda: len(ready_pods(cluster, "app=web", namespace)) == 1)
        cluster.patch("Deployment", "web", {"spec": {"replicas": 4}}, namespace)
        wait_until("four ready pods", lambda: len(ready_pods(cluster, "app=web", namespace)) == 4)
        cluster.barrier()
        survivors = set(kept) & set(ready_pods(cluster, "app=web", namespace))
        assert len(survivors) == 1
        for name in survivors:
            assert ask(kept[name]) == name
    finally:
        for connection in kept.values():
            connection.close()


def test_an_unready_pod_keeps_its_established_connections(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    pod = make_pod("web", node="node-2")
    pod["spec"]["containers"][0]["readinessProbe"] = {
        "tcpSocket": {"port": 9999},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    cluster.apply([make_pod("client", node="node-1"), make_service("web", app="web")], namespace=namespace)
    cluster.apply(pod, namespace=namespace, wait=False)
    wait_until("the pod's address", lambda: pod_ip(cluster, "web", namespace))
    with traffic.listen(f"pod/{namespace}/web", 9999, backlog=1024):
        wait_until("the pod ready", lambda: ready_pods(cluster, "app=web", namespace))
        cluster.barrier()
        address = cluster_ip(cluster, "web", namespace)
        connection = traffic.connect(f"pod/{namespace}/client", address, 80)
        assert ask(connection) == "web"
    with connection:
        wait_until("the pod unready", lambda: not ready_pods(cluster, "app=web", namespace))
        cluster.barrier()
        with pytest.raises(ConnectionRefusedError):
            traffic.connect(f"pod/{namespace}/client", address, 80)
        assert ask(connection) == "web"
        direct = f"http://{pod_ip(cluster, 'web', namespace)}:{HTTP_PORT}/hostname"
        assert traffic.http_get(f"pod/{namespace}/client", direct).body == "web"


@pytest.mark.netsim(nodes=3, fresh=True, pod_network="routes")
def test_a_traffic_distribution_is_heeded_while_it_can_be(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    zones = {"node-1": "east", "node-2": "east", "node-3": "west"}
    for node, zone in zones.items():
        cluster.patch("Node", node, {"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}})
    pods = [make_pod(f"web-{node}", app="web", node=node) for node in zones]
    cluster.apply([*pods, make_pod("client", node="node-1"), make_service("web", app="web")], namespace=namespace)
    url = f"http://{cluster_ip(cluster, 'web', namespace)}/hostname"

    def answers() -> set[str]:
        cluster.barrier()
        bodies = (traffic.http_get(f"pod/{namespace}/client", url).body for _ in range(40))
        return {body.removeprefix("web-node-") for body in bodies}

    assert answers() == {"1", "2", "3"}
    for distribution, expected in (("PreferClose", {"1", "2"}), ("PreferSameNode", {"1"})):
        cluster.patch("Service", "web", {"spec": {"trafficDistribution": distribution}}, namespace)
        assert answers() == expected, distribution
    for gone, expected in (("1", {"2"}), ("2", {"3"})):  # no endpoint on the node: its zone's; none in the zone: all
        cluster.delete([pods[int(gone) - 1]], namespace=namespace)
        assert answers() == expected, gone
