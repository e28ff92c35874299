"""Bad input, each with one clear error: what failed, where, and what to do next; nothing lost, nothing left."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import netsim
from netsim.cluster.handle import Cluster
from netsim.model.errors import (
    ApiError,
    InputError,
    NetsimError,
    TimeoutExpired,
    UsageError,
)
from netsim.testing.lookup import ready_pods
from netsim.testing.waiting import wait_until
from tests.packets.world import make_deployment, make_pod, make_service

pytestmark = pytest.mark.needs("root")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.netsim(nodes=1)
class TestManifests:
    def test_broken_yaml_names_file_and_line(self, cluster: Cluster, tmp_path: Path) -> None:
        path = write(tmp_path, "web.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [web\n")
        with pytest.raises(InputError) as caught:
            cluster.apply(path)
        assert caught.value.where.startswith(f"{path}:")
        assert int(caught.value.where.split(":")[1]) >= 4

    def test_an_unknown_kind_lists_the_known_ones(self, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
        text = (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n---\n"
            "apiVersion: v1\nkind: Gadget\nmetadata: {name: g}\n"
        )
        path = write(tmp_path, "gadget.yaml", text)
        with pytest.raises(NetsimError) as caught:
            cluster.apply(path, namespace=namespace)
        for word in ("Gadget", "Deployment", "Service", "gadget.yaml"):
            assert word in str(caught.value)
        # It was seen before anything was done: the ConfigMap before it is not there either.
        with pytest.raises(ApiError, match="not found"):
            cluster.get("ConfigMap", "first", namespace)

    def test_a_wrong_field_is_named_by_its_path(self, cluster: Cluster, namespace: str) -> None:
        pod = make_pod("web")
        pod["spec"]["containers"][0]["ports"] = [{"containerPort": 70000}]
        with pytest.raises(NetsimError) as caught:
            cluster.apply(pod, namespace=namespace)
        assert "spec.containers[0].ports[0].containerPort" in str(caught.value)

    def test_an_unknown_field_is_named_with_its_line(self, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
        text = (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports: [{port: 80}]\n  selektor: {a: b}\n"
        )
        path = write(tmp_path, "service.yaml", text)
        with pytest.raises(NetsimError) as caught:
            cluster.apply(path, namespace=namespace)
        for word in ("spec.selektor", "unknown field", f"{path}:"):
            assert word in str(caught.value)

    def test_a_taken_node_port_is_refused_in_upstreams_words(self, cluster: Cluster, namespace: str) -> None:
        first, second = (make_service(name, app="web", type="NodePort") for name in ("first", "second"))
        for service in (first, second):
            service["spec"]["ports"] = [{"port": 80, "nodePort": 30555}]
        cluster.apply(first, namespace=namespace)
        with pytest.raises(NetsimError, match="provided port is already allocated"):
            cluster.apply(second, namespace=namespace)
        assert cluster.get("Service", "first", namespace)["spec"]["ports"][0]["nodePort"] == 30555

    def test_a_file_that_is_not_there(self, cluster: Cluster, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            cluster.apply(tmp_path / "nothing.yaml")
        assert "nothing.yaml" in str(caught.value)

    def test_a_pod_that_can_not_be_placed_says_why(self, cluster: Cluster, namespace: str) -> None:
        pod = make_pod("homeless", nodeSelector={"disk": "ssd"})
        with pytest.raises(TimeoutExpired) as caught:
            cluster.apply(pod, namespace=namespace, timeout_s=1.0)
        assert "homeless" in str(caught.value)
        events = wait_until(
            "an event that says why",
            lambda: [e for e in cluster.list("Event", namespace) if e.get("reason") == "FailedScheduling"],
        )
        assert "0/1 nodes are available" in events[0]["message"]

    def test_a_command_the_machine_lacks(self, cluster: Cluster, namespace: str) -> None:
        pod = make_pod("web")
        pod["spec"]["containers"][0] |= {"command": ["no-such-program"], "args": []}
        with pytest.raises(TimeoutExpired):
            cluster.apply(pod, namespace=namespace, timeout_s=1.5)
        told = str(cluster.get("Pod", "web", namespace)["status"]) + str(cluster.list("Event", namespace))
        assert 'exec: "no-such-program": executable file not found in $PATH' in told
        # In an exec likewise.
        cluster.apply(make_pod("good"), namespace=namespace)
        with pytest.raises(NetsimError, match='exec: "no-such-program": executable file not found'):
            cluster.exec(f"pod/{namespace}/good", ["no-such-program"])

    @pytest.mark.parametrize("command", [[], [""], "ls", ["sleep", 1], ["/bin/echo", "a\0b"]])
    def test_what_is_no_command_is_refused_and_the_cluster_lives_on(self, cluster: Cluster, command: Any) -> None:
        with pytest.raises(NetsimError):
            cluster.exec("host/external", command)
        assert cluster.exec("host/external", ["echo", "alive"]).stdout == "alive\n"

    def test_an_empty_name_deletes_nothing(self, cluster: Cluster, namespace: str) -> None:
        cluster.apply(make_pod("stays"), namespace=namespace)
        for call in (cluster.delete, cluster.get):
            with pytest.raises(UsageError, match='"" is no name of an object'):
                call("pods", "", namespace=namespace)
        with pytest.raises(UsageError, match="no name of an object"):
            cluster.patch("pods", "", {}, namespace)
        assert not cluster.get("pod", "stays", namespace)["metadata"].get("deletionTimestamp")

    def test_a_pod_with_the_longest_name_runs(self, cluster: Cluster, namespace: str) -> None:
        name = "p" * 253
        pod = make_pod("short")
        pod["metadata"]["name"] = name
        cluster.apply(pod, namespace=namespace)
        assert cluster.exec(f"pod/{namespace}/{name}", ["hostname"]).stdout == f"{name[:63]}\n"
        cluster.delete("pod", name, namespace=namespace)

    def test_a_place_that_is_not_there(self, cluster: Cluster, namespace: str) -> None:
        for where in (f"pod/{namespace}/nobody", "node/node-9", "host/nowhere"):
            with pytest.raises(NetsimError) as caught:
                cluster.exec(where, ["true"])
            assert where.rpartition("/")[2] in str(caught.value)
        with pytest.raises(UsageError, match="no place"):
            cluster.exec("nonsense", ["true"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"podCIDR": "10.96.0.0/16"}, ("serviceCIDR", "overlaps", "podCIDR")),
        ({"nodes": 5, "podCIDR": "10.244.0.0/23"}, ("room for 2 nodes", "5 are asked for")),
        ({"podCIDR": "10.244.0.1/16"}, ("podCIDR", "host bits set")),
        ({"nodez": 3}, ('unknown field "nodez"', "known fields")),
        ({"nodes": [{"name": "a"}, {"name": "a"}]}, ('"a" is there twice',)),
        ({"nodes": [{"name": "external"}]}, ("taken by netsim",)),
        ({"proxyMode": "userspace"}, ("proxyMode", "iptables")),
        ({"podNetwork": "magic"}, ("podNetwork", "routes", "vxlan")),
    ],
)
def test_a_wrong_topology_is_refused_before_anything_is_made(
    tmp_path: Path, config: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        netsim.up("wrong", config=config, state_dir=tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_topology_file_with_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "topology.yaml", "nodes: 2\npodCIDR: [\n")
    with pytest.raises(InputError) as caught:
        netsim.up("wrong", config=path, state_dir=tmp_path)
    assert str(caught.value.where).startswith(f"{path}:")


@pytest.mark.netsim(fresh=True, nodes=1, config={"podCIDR": "10.244.0.0/24", "podCIDRMask": 29})
def test_an_exhausted_pod_cidr_is_told_by_an_event_and_heals(cluster: Cluster) -> None:
    # A /29 has 8 addresses; network, broadcast and the gateway are taken.
    cluster.apply(make_deployment("web", 8), wait=False)

    def told() -> list[Any]:
        return [e for e in cluster.list("Event", "default") if "no IP addresses available" in e["message"]]

    wait_until("an event that names the exhausted range", told)

    def addresses() -> list[str]:
        return [p["status"]["podIP"] for p in cluster.list("Pod", "default") if p["status"].get("podIP")]

    wait_until("four pods with an address", lambda: len(addresses()) >= 4)
    assert len(addresses()) == len(set(addresses())) == 4  # and cluster DNS has the fifth
    cluster.patch("Deployment", "web", {"spec": {"replicas": 2}})
    wait_until("two pods, both ready", lambda: len(cluster.list("Pod", "default")) == 2)
    assert len(ready_pods(cluster, "app=web")) == 2
    cluster.patch("Deployment", "web", {"spec": {"replicas": 4}})
    wait_until("the freed addresses in use", lambda: len(ready_pods(cluster, "app=web")) == 4, timeout_s=20)


@pytest.mark.slow
def test_the_pod_beyond_what_a_bridge_can_hold_is_refused_with_the_kernels_limit(tmp_path: Path) -> None:
    # 1,023 ports: BR_MAX_PORTS, net/bridge/br_private.h. One node that takes more pods than its bridge has ports.
    config = {
        "nodes": [{"name": "node-1", "maxPods": 2000}],
        "podCIDR": "10.244.0.0/16",
        "podCIDRMask": 20,
        "dns": False,
    }
    with netsim.up("full", config=config, state_dir=tmp_path) as cluster:
        cluster.apply(make_deployment("many", 1024, image="registry.k8s.io/pause:3.10", args=[], ports=[]), wait=False)
        wait_until(
            "1,023 pods Running",
            lambda: sum(p["status"].get("phase") == "Running" for p in cluster.list("Pod", "default")) >= 1023,
            timeout_s=120,
        )
        told = wait_until(
            "an event about the last one",
            lambda: [e for e in cluster.list("Event", "default") if "1023" in e["message"] or "1,023" in e["message"]],
            timeout_s=20,
        )
        assert told
        running = [p for p in cluster.list("Pod", "default") if p["status"].get("phase") == "Running"]
        assert len(running) == 1023


TRY_UP = """
import sys, netsim
from netsim.model.errors import NetsimError
try:
    netsim.up("lacking", nodes=1, state_dir=sys.argv[1]).down()
except NetsimError as error:
    print(type(error).__name__, error)
    sys.exit(3)
"""
# A state directory on a file system of so many bytes; "full" fills it first.
SMALL_DISK = """
mount -t tmpfs -o size="$2" tmpfs "$1"
[ "$3" = full ] && head -c "$2" /dev/zero > "$1/junk"
exec "$4" -c "$5" "$1"
"""


@pytest.mark.needs("mount")
@pytest.mark.parametrize(
    ("size", "state", "words"),
    [
        ("64k", "full", "lacking: cannot start the cluster: No space left on device"),
        ("4k", "", "the store cannot write"),
        ("24k", "", "store.db: database or disk is full"),
        ("40k", "", "store.db: database or disk is full"),
    ],
)
def test_a_full_disk_is_named_with_the_path_and_the_kernels_words(
    tmp_path: Path, size: str, state: str, words: str
) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SMALL_DISK, "sh", str(tmp_path), size, state, sys.executable, TRY_UP],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert words in done.stdout
    assert str(tmp_path) in done.stdout
    assert "next: make room there" in done.stdout


# /usr/sbin without the iptables programs, for the processes of one mount namespace only.
HIDE_IPTABLES = """
mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/state"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$1/upper,workdir=$1/work" /usr/sbin
rm -f /usr/sbin/*tables*
exec "$2" -c "$3" "$1/state"
"""


@pytest.mark.needs("mount", "overlay")
def test_a_missing_tool_is_named_with_the_package_that_brings_it(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDE_IPTABLES, "sh", str(tmp_path), sys.executable, TRY_UP],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "iptables" in done.stdout
    assert "install" in done.stdout


@pytest.mark.needs("userns")
def test_no_root_and_no_user_namespaces_is_a_clear_refusal(tmp_path: Path) -> None:
    # A user namespace whose limit of further ones is 0 stands in for a kernel that forbids them to an ordinary user.
    # In it, root of this machine is user 65534, so that the files of this tree can be read.
    holder = subprocess.Popen(["unshare", "--user", "cat"], stdin=subprocess.PIPE)
    try:
        own = os.readlink("/proc/self/ns/user")
        wait_until("a user namespace", lambda: os.readlink(f"/proc/{holder.pid}/ns/user") != own)
        for numbers in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{numbers}").write_text("65534 0 1\n0 1 1\n")
        forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
        drop = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
        enter = ("nsenter", "--user", f"--target={holder.pid}", "--setuid=0", "--setgid=0")
        done = subprocess.run(
            [*enter, "sh", "-c", f"{forbid} && {drop}", "sh", sys.executable, "-c", TRY_UP, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        holder.communicate()
    assert done.returncode == 3, done.stdout + done.stderr
    for word in ("user namespace", "run netsim as root", "user.max_user_namespaces"):
        assert word in done.stdout
