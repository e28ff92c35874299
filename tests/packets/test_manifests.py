"""Manifests of the size and shape people really have, and a real program in a pod."""

from collections import Counter
from pathlib import Path

import pytest

from netsim.cluster.handle import Cluster
from netsim.testing.lookup import node_ip, pod_ip, pod_node, ready_pods
from netsim.testing.traffic import Traffic
from tests.packets.world import EXTERNAL, EXTERNAL_IP, make_pod, make_service

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.netsim(fresh=True)
def test_the_guestbook(cluster: Cluster, traffic: Traffic) -> None:
    cluster.apply(EXAMPLES / "guestbook.yaml")
    cluster.apply(make_pod("client"))
    frontends = ready_pods(cluster, "app=guestbook,tier=frontend")
    assert len(frontends) == 3
    assert {pod_node(cluster, name) for name in frontends} == {"node-1", "node-2", "node-3"}  # spread
    for node in ("node-1", "node-2", "node-3"):
        reply = traffic.http_get(EXTERNAL, f"http://{node_ip(cluster, node)}:30080/")
        assert reply.status == 200
        assert any(name in reply.body for name in frontends)
    # As the frontend does it: names, and Redis' port.
    for name, count in (("redis-leader", 1), ("redis-follower", 2)):
        done = cluster.exec("pod/client", ["nc", "-w", "3", name, "6379"], input="PING\n")
        assert done.returncode == 0, done.stderr
        role = name.removeprefix("redis-")
        pods = ready_pods(cluster, f"app=redis,role={role}")
        assert len(pods) == count
        assert any(pod in done.stdout for pod in pods)


@pytest.mark.netsim(fresh=True)
def test_a_shop_in_one_file(cluster: Cluster, traffic: Traffic) -> None:
    cluster.apply(EXAMPLES / "shop.yaml")
    cluster.apply(make_pod("client"), namespace="shop")
    done = cluster.exec("pod/shop/client", ["curl", "-sS", "--max-time", "5", "http://catalog"], check=True)
    assert any(name in done.stdout for name in ready_pods(cluster, "tier=catalog", "shop"))
    # Session affinity: one client, one cart.
    carts = Counter(
        cluster.exec("pod/shop/client", ["curl", "-sS", "http://cart:8080/"], check=True).stdout for _ in range(5)
    )
    carts_hit = {name for name in ready_pods(cluster, "tier=cart", "shop") if any(name in body for body in carts)}
    assert len(carts_hit) == 1
    # A headless Service: its name is its pod's address.
    answer = cluster.exec("pod/shop/client", ["getent", "hosts", "redis.shop.svc.cluster.local"], check=True).stdout
    (redis,) = ready_pods(cluster, "tier=redis", "shop")
    assert answer.split()[0] == pod_ip(cluster, redis, "shop")
    # externalTrafficPolicy Local: every node has a frontend, so every node answers.
    for node in ("node-1", "node-2", "node-3"):
        assert traffic.http_get(EXTERNAL, f"http://{node_ip(cluster, node)}:30081/").status == 200


NGINX_CONFIGURATION = """
daemon off;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server { listen 80; location / { return 200 "$remote_addr $hostname\\n"; } }
}
"""


@pytest.mark.needs("command:nginx")
def test_a_real_nginx_serves_behind_a_service(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    configuration = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "nginx"},
        "data": {"nginx.conf": NGINX_CONFIGURATION},
    }
    pod = make_pod("web", node="node-2")
    pod["spec"]["containers"] = [
        {
            "name": "nginx",
            "image": "nginx:1.27",
            "command": ["nginx", "-c", "/etc/nginx-conf/nginx.conf"],
            "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
            "volumeMounts": [{"name": "conf", "mountPath": "/etc/nginx-conf"}],
        }
    ]
    pod["spec"]["volumes"] = [{"name": "conf", "configMap": {"name": "nginx"}}]
    service = make_service("web", app="web", type="NodePort", externalTrafficPolicy="Local")
    service["spec"]["ports"] = [{"port": 80}]
    cluster.apply([configuration, make_pod("client", node="node-1"), pod, service], namespace=namespace)
    client_ip = pod_ip(cluster, "client", namespace)
    done = cluster.exec(f"pod/{namespace}/client", ["curl", "-sS", "--max-time", "5", "http://web"], check=True)
    assert done.stdout == f"{client_ip} web\n"
    port = cluster.get("Service", "web", namespace)["spec"]["ports"][0]["nodePort"]
    reply = traffic.http_get(EXTERNAL, f"http://{node_ip(cluster, 'node-2')}:{port}/")
    assert reply.body == f"{EXTERNAL_IP} web\n"
    assert "nginx" in reply.headers["Server"]
