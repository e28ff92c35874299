"""A real kubectl against the API: what people type must work, on the loopback port, with the kubeconfig we write."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netsim.apiserver.certificates import make_certificates, write_kubeconfig
from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import serve
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.store.store import Store

ROOT = Path(__file__).parents[3]
OURS = ROOT / ".venv" / "bin" / "kubectl"  # put there by scripts/install-kubectl
TIMEOUT_S = 60

GUESTBOOK = """
apiVersion: v1
kind: Service
metadata:
  name: redis
  labels: {app: redis}
spec:
  ports:
  - {port: 6379, targetPort: 6379}
  selector: {app: redis, role: leader}
---
apiVersion: v1
kind: Service
metadata:
  name: frontend
  labels: {app: guestbook, tier: frontend}
spec:
  type: NodePort
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
  selector: {app: guestbook, tier: frontend}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: frontend
spec:
  replicas: 3
  selector:
    matchLabels: {app: guestbook, tier: frontend}
  template:
    metadata:
      labels: {app: guestbook, tier: frontend}
    spec:
      containers:
      - name: php-redis
        image: gb-frontend:v5
        env:
        - {name: GET_HOSTS_FROM, value: dns}
        resources:
          requests: {cpu: 100m, memory: 100Mi}
        ports:
        - {name: http, containerPort: 80}
      - name: sidecar
        image: busybox:1.36
        env:
        - {name: LEVEL, value: "%s"}
"""


def find_kubectl() -> str | None:
    """Ours, else the one on PATH."""
    return str(OURS) if os.access(OURS, os.X_OK) else shutil.which("kubectl")


pytestmark = pytest.mark.skipif(
    find_kubectl() is None and not {"kubectl", "all"} & set(os.environ.get("NETSIM_REQUIRE", "").split(",")),
    reason="kubectl: not on this machine; scripts/install-kubectl puts one into .venv",
)


class Cluster:
    """An API server on a loopback port, in a thread of its own, and kubectl to talk to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self.tls = make_certificates(directory / "pki")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self.server = ApiServer(Store(self.directory / "store.db"), ClusterConfig(), SystemClock())
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        runner = await serve(self.server, unix_socket=None, tcp_socket=self.listener, tls=self.tls)
        write_kubeconfig(self.kubeconfig, f"https://127.0.0.1:{self.port}", "netsim", self.tls)
        self.started.set()
        await self.stop.wait()
        await runner.close()

    def start(self) -> None:
        self.thread.start()
        assert self.started.wait(TIMEOUT_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()

    def command(self, *arguments: str) -> list[str]:
        cache = f"--cache-dir={self.directory / 'cache'}"
        return [find_kubectl() or "kubectl", f"--kubeconfig={self.kubeconfig}", cache, *arguments]

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.directory)}
        return subprocess.run(
            self.command(*arguments),
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=environment,
        )

    def kubectl(self, *arguments: str, text: str = "") -> str:
        """Its output; a failure fails the test with what it said."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl(*arguments, "-o", "json"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("kubectl"))
    made.start()
    yield made
    made.close()


@pytest.fixture
def guestbook(cluster: Cluster) -> Iterator[Cluster]:
    cluster.kubectl("apply", "-f", "-", text=GUESTBOOK % "info")
    yield cluster
    cluster.kubectl("delete", "--ignore-not-found", "-f", "-", text=GUESTBOOK % "info")


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def test_version_and_discovery(cluster: Cluster) -> None:
    version = cluster.json("version")
    assert version["serverVersion"]["minor"] == "31"
    kinds = {row[-1] for row in table(cluster.kubectl("api-resources", "--no-headers"))}
    assert {"Pod", "Service", "Deployment", "EndpointSlice"} <= kinds
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


def test_get_namespaces(cluster: Cluster) -> None:
    rows = table(cluster.kubectl("get", "ns"))
    assert rows[0] == ["NAME", "STATUS", "AGE"]
    assert [row[:2] for row in rows[1:]] == [
        [name, "Active"] for name in ("default", "kube-node-lease", "kube-public", "kube-system")
    ]


def test_apply_creates_then_changes_nothing_then_changes(guestbook: Cluster) -> None:
    again = guestbook.kubectl("apply", "-f", "-", text=GUESTBOOK % "info")
    assert [line.split()[-1] for line in again.splitlines()] == ["unchanged"] * 3
    changed = guestbook.kubectl("apply", "-f", "-", text=GUESTBOOK % "debug")
    assert "deployment.apps/frontend configured" in changed
    containers = guestbook.json("get", "deploy", "frontend")["spec"]["template"]["spec"]["containers"]
    assert [container["name"] for container in containers] == ["php-redis", "sidecar"]
    assert containers[1]["env"] == [{"name": "LEVEL", "value": "debug"}]
    fewer = (GUESTBOOK % "debug").split("      - name: sidecar")[0]
    guestbook.kubectl("apply", "-f", "-", text=fewer)
    containers = guestbook.json("get", "deploy", "frontend")["spec"]["template"]["spec"]["containers"]
    assert [container["name"] for container in containers] == ["php-redis"]


def test_get_wide_and_json(guestbook: Cluster) -> None:
    rows = table(guestbook.kubectl("get", "svc", "frontend", "-o", "wide"))
    assert rows[0] == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]
    assert rows[1][1] == "NodePort"
    assert rows[1][4] == "80:30080/TCP"
    assert rows[1][6] == "app=guestbook,tier=frontend"
    service = guestbook.json("get", "svc", "frontend")
    assert service["spec"]["clusterIP"] == rows[1][2]
    assert "deployment.apps/frontend" in guestbook.kubectl("get", "all")
    assert table(guestbook.kubectl("get", "svc", "-l", "tier=frontend", "--no-headers"))[0][0] == "frontend"


def test_label_scale_patch_and_set_image(guestbook: Cluster) -> None:
    guestbook.kubectl("label", "deploy/frontend", "team=web")
    guestbook.kubectl("annotate", "deploy/frontend", "note=here")
    guestbook.kubectl("scale", "deploy/frontend", "--replicas=5")
    guestbook.kubectl("set", "image", "deploy/frontend", "sidecar=busybox:1.37")
    guestbook.kubectl(
        "patch", "deploy", "frontend", "--type=json", "-p", '[{"op":"add","path":"/spec/paused","value":true}]'
    )
    guestbook.kubectl("patch", "deploy", "frontend", "--type=merge", "-p", '{"spec":{"minReadySeconds":3}}')
    found = guestbook.json("get", "deploy", "frontend")
    assert found["metadata"]["labels"] == {"team": "web"}
    assert found["metadata"]["annotations"]["note"] == "here"
    spec = found["spec"]
    assert (spec["replicas"], spec["paused"], spec["minReadySeconds"]) == (5, True, 3)
    assert spec["template"]["spec"]["containers"][1]["image"] == "busybox:1.37"


def test_describe_and_explain(guestbook: Cluster) -> None:
    assert "NodePort:                 http  30080/TCP" in guestbook.kubectl("describe", "svc", "frontend")
    assert "php-redis" in guestbook.kubectl("describe", "deploy", "frontend")
    assert "nodePort" in guestbook.kubectl("explain", "service.spec.ports")


def test_wait_and_watch(guestbook: Cluster) -> None:
    waiting = subprocess.Popen(
        guestbook.command("wait", "--for=jsonpath={.spec.replicas}=7", "deploy/frontend", "--timeout=30s"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    guestbook.kubectl("scale", "deploy/frontend", "--replicas=7")
    said, _ = waiting.communicate(timeout=TIMEOUT_S)
    assert waiting.returncode == 0, said
    watching = subprocess.Popen(
        guestbook.command("get", "deploy", "-w", "--no-headers"), stdout=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    try:
        assert watching.stdout.readline().split()[1] == "0/7"
        guestbook.kubectl("scale", "deploy/frontend", "--replicas=8")
        assert watching.stdout.readline().split()[1] == "0/8"
    finally:
        watching.terminate()
        watching.communicate(timeout=TIMEOUT_S)


def test_run_and_delete(cluster: Cluster) -> None:
    cluster.kubectl("run", "shell", "--image=busybox:1.36", "--restart=Never")
    assert table(cluster.kubectl("get", "pods", "--no-headers"))[0][:3] == ["shell", "0/1", "Pending"]
    cluster.kubectl("expose", "pod", "shell", "--port=80")
    cluster.kubectl("delete", "pod/shell", "service/shell", "--timeout=30s")
    done = cluster.run("get", "pod", "shell")
    assert done.returncode == 1
    assert 'Error from server (NotFound): pods "shell" not found' in done.stderr


def test_namespaces_and_configmaps(cluster: Cluster) -> None:
    cluster.kubectl("create", "ns", "shop")
    cluster.kubectl("-n", "shop", "create", "configmap", "c", "--from-literal=a=b")
    assert cluster.json("-n", "shop", "get", "cm", "c")["data"] == {"a": "b"}
    done = cluster.run("create", "ns", "shop")
    assert 'namespaces "shop" already exists' in done.stderr
    cluster.kubectl("delete", "ns", "shop", "--wait=false")  # no namespace controller runs here
    assert table(cluster.kubectl("get", "ns", "shop", "--no-headers"))[0][1] == "Terminating"


def test_mistakes_are_named(cluster: Cluster) -> None:
    bad_field = GUESTBOOK.replace("replicas: 3", "replicaz: 3") % "x"
    done = cluster.run("apply", "-f", "-", text=bad_field)
    assert done.returncode == 1
    assert 'unknown field "spec.replicaz"' in done.stderr
    cluster.kubectl("delete", "-f", "-", "--ignore-not-found", text=bad_field)
    taken = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\n"
        "spec: {type: NodePort, ports: [{port: 80, nodePort: 30099}]}\n"
    )
    cluster.kubectl("apply", "-f", "-", text=taken % "a")
    done = cluster.run("apply", "-f", "-", text=taken % "b")
    assert "spec.ports[0].nodePort: Invalid value: 30099: provided port is already allocated" in done.stderr
    cluster.kubectl("delete", "svc", "a")
    done = cluster.run("apply", "--server-side", "-f", "-", text=taken % "c")
    assert "server-side apply is not supported" in done.stderr
    done = cluster.run("get", "jobs")
    assert """the server doesn't have a resource type "jobs\"""" in done.stderr


def test_dry_run_and_diff(cluster: Cluster) -> None:
    text = GUESTBOOK % "info"
    assert "created (server dry run)" in cluster.kubectl("apply", "--dry-run=server", "-f", "-", text=text)
    assert cluster.kubectl("get", "deploy", "-o", "name") == ""


def test_nobody_gets_in_without_the_client_certificate(cluster: Cluster) -> None:
    context = ssl.create_default_context(cadata=cluster.tls.ca_pem.decode())
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(f"https://127.0.0.1:{cluster.port}/version", context=context, timeout=TIMEOUT_S)
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "guessed"}
    bare = cluster.directory / "bare"
    bare.write_text(json.dumps(config))
    done = cluster.run(f"--kubeconfig={bare}", "get", "--raw", "/version")
    assert (done.returncode, done.stdout) == (1, "")
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
