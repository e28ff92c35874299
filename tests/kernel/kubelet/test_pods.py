"""Pods in real namespaces: sandbox, network, ways of running, what containers see."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from netsim.kernel.netns import run_in
from netsim.kernel.rtnl import Rtnl
from netsim.kubelet.component import BuiltinContext
from netsim.model.errors import ApiError, KernelError
from netsim.model.kinds import CONFIG_MAP, NODE, POD
from netsim.model.objects import Object
from tests.kernel.kubelet.conftest import MakeWorld
from tests.kernel.kubelet.world import World, container, netexec, shell

pytestmark = pytest.mark.needs("root", "netns", "pidns")


def test_a_builtin_pod_becomes_ready_with_one_status_write(world: World) -> None:
    async def scenario(world: World) -> None:
        before = world.server.revision()
        writes: list[Object] = []
        world.informers.of(POD).add_handler(lambda old, new: writes.append(new or {}))
        await world.create()
        pod = await world.running()
        await world.settle()
        assert len(writes) == 2  # created, and the status
        assert world.server.revision() >= before + 2
        assert pod["status"]["podIP"] == "10.244.1.2"
        assert pod["status"]["hostIP"] == "172.18.0.2"
        assert world.container()["imageID"] == "netsim-builtin://nginx"
        assert await world.event_list() == [("Started", "Started container main (built-in: nginx)")]

    world.play(scenario)


def test_nodes_register_and_become_ready_with_their_network(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create()
        await world.settle()
        assert world.status()["phase"] == "Pending"
        assert "network is not ready" in world.status()["message"]
        node = await world.api.get(NODE, "node-1")
        assert node["status"]["addresses"] == [
            {"type": "InternalIP", "address": "172.18.0.2"},
            {"type": "Hostname", "address": "node-1"},
        ]
        assert node["status"]["allocatable"]["pods"] == "110"
        assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "node-1"
        assert [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["False"]
        world.kubelet.mark_network_ready("node-1")
        await world.running()
        assert "message" not in world.status()
        node = await world.api.get(NODE, "node-1")
        assert [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["True"]

    world.play(scenario, network=False)


def test_containers_share_network_and_host_name_and_are_apart_in_mounts_and_pids(world: World) -> None:
    async def scenario(world: World) -> None:
        a = shell("echo $$$$ > /tmp/own; exec nc -lk 127.0.0.1 7000 >/dev/null", "a")
        await world.create("web", a, shell("exec sleep 1000", "b"), container("c", "redis"))
        await world.running()

        async def of(name: str) -> list[str]:
            links = [f"readlink /proc/self/ns/{kind}" for kind in ("net", "uts", "pid", "mnt")]
            return (await world.sh("web", f"hostname; {'; '.join(links)}", name)).split()

        a, b, c = [await of(name) for name in "abc"]
        assert a[:3] == b[:3] == c[:3]  # host name, network, UTS
        assert a[0] == "web"
        assert len({a[3], b[3], c[3]}) == 3
        assert len({a[4], b[4], c[4]}) == 3
        assert await world.sh("web", "until cat /tmp/own; do :; done 2>/dev/null", "a") == "1"
        assert (await world.exec("web", "cat", "/tmp/own", container="b"))[0] == 1
        assert await world.sh("web", "echo hi | nc -N 127.0.0.1 7000 && echo sent", "b") == "sent"  # the pod's loopback
        assert "sleep 1000" not in await world.sh("web", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", "a")

    world.play(scenario)


def test_pods_of_a_node_reach_each_other_with_their_own_addresses(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("server", netexec("--http-port=80"))
        await world.create("client", container("main", "agnhost"))
        await world.running("server")
        await world.running("client")
        seen = await world.sh("client", f"curl -s -m 5 http://{world.ip('server')}/clientip")
        assert seen.rpartition(":")[0] == world.ip("client")
        assert (await world.exec("client", "/agnhost", "connect", f"{world.ip('server')}:80"))[0] == 0
        assert await world.exec("client", "/agnhost", "connect", f"{world.ip('server')}:81") == (1, "REFUSED\n")
        assert f"{world.ip('client')}/24" in await world.sh("client", "ip -4 -br addr show eth0")

    world.play(scenario)


def test_what_a_process_sees(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.api.create(
            CONFIG_MAP,
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "settings", "namespace": "default"},
                "data": {"color": "blue", "page.html": "<p>"},
            },
        )
        environment = [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
            {"name": "URL", "value": "http://$(IP)/$(COLOR)"},
        ]
        mounts = [{"name": "conf", "mountPath": "/etc/web"}, {"name": "shared", "mountPath": "/shared"}]
        script = "echo $URL; cat /etc/web/page.html; echo; hostname; tail -1 /etc/hosts; cat /etc/resolv.conf; pwd"
        main = shell(f"{script}; echo x > /shared/f; exec sleep 1000", env=environment, volumeMounts=mounts)
        other = shell("exec sleep 1000", "other", volumeMounts=mounts[1:])
        volumes = [{"name": "conf", "configMap": {"name": "settings"}}, {"name": "shared", "emptyDir": {}}]
        await world.create("web", main, other, volumes=volumes, hostname="h", subdomain="s")
        await world.running()
        ip = world.ip()

        async def output() -> list[str]:
            lines = (await world.log(container="main")).splitlines()
            return lines if len(lines) == 8 else []

        lines = await world.until_told("the output", output)
        assert lines[:7] == [
            f"http://{ip}/blue",
            "<p>",
            "h",
            f"{ip}\th.s.default.svc.cluster.local\th",
            "nameserver 10.96.0.10",
            lines[5],
            "options ndots:5",
        ]
        assert lines[5].startswith("search default.svc.cluster.local svc.cluster.local cluster.local")
        assert lines[7] == "/"
        assert await world.sh("web", "until cat /shared/f; do :; done", "other") == "x"

    world.play(scenario)


@pytest.mark.parametrize(
    ("make", "state", "words"),
    [
        (
            container(command=["no-such-program"]),
            "RunContainerError",
            'exec: "no-such-program": executable file not found',
        ),
        (container(command=["/no/such"]), "RunContainerError", 'exec: "/no/such": no such file or directory'),
        (netexec("--nonsense"), "RunContainerError", "agnhost netexec: unknown flag: --nonsense"),
        (
            container(env=[{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]),
            "CreateContainerConfigError",
            'configmap "none" not found',
        ),
        (container(readinessProbe={"grpc": {"port": 1}}), "CreateContainerConfigError", "grpc is not supported"),
    ],
    ids=["not in PATH", "no such file", "flag", "config map", "probe"],
)
def test_a_container_that_can_not_run_says_why(world: World, make: Object, state: str, words: str) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", make)
        waiting = await world.until("waiting", lambda: world.container()["state"].get("waiting", {}).get("message"))
        assert words in waiting
        assert world.container()["state"]["waiting"]["reason"] == state
        assert world.status()["phase"] == "Pending"
        (event,) = await world.event_list()
        assert event[0] == "Failed"
        assert words in event[1]

    world.play(scenario)


def test_a_config_map_that_comes_later_lets_the_container_start(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", container(envFrom=[{"configMapRef": {"name": "late"}}]))
        await world.until("waiting", lambda: world.container()["state"].get("waiting", {}).get("message"))
        metadata = {"name": "late", "namespace": "default"}
        await world.api.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
        await world.settle()
        await world.clock.advance(10)
        await world.running()

    world.play(scenario)


def test_a_log_that_can_not_be_written_holds_no_port(world: World) -> None:
    async def scenario(world: World) -> None:
        obstacle = world.state_dir / "logs"
        obstacle.write_text("a file where a folder should be")
        await world.create("web", netexec())
        state = await world.until("waiting", lambda: world.container()["state"].get("waiting"))
        assert state["reason"] == "RunContainerError"
        obstacle.unlink()

        def is_free() -> bool:  # the responder closes what it was told to a moment later
            with world.published["default_web"].entered():
                return not any(
                    ":1F90 " in Path(f"/proc/thread-self/net/{table}").read_text() for table in ("tcp", "tcp6")
                )

        await world.until("port 8080 free", is_free)
        await world.clock.advance(10)
        await world.running()

    world.play(scenario)


def test_a_pod_with_the_longest_name_has_a_log_and_events(world: World) -> None:
    async def scenario(world: World) -> None:
        name = "p" * 253
        await world.create(name, shell("echo hello; exec sleep 1000"))
        await world.running(name)
        await world.until_told("a line", lambda: world.log(name))
        assert ("Started", "Started container main (process: sh)") in await world.event_list(name)

    world.play(scenario)


def test_two_containers_on_one_port(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", container("a"), container("b"))
        state = await world.until("b's state", lambda: world.container(index=1)["state"].get("waiting"))
        assert state["reason"] == "RunContainerError"
        assert "listen tcp :80: bind: address already in use" in state["message"]
        assert "running" in world.container(index=0)["state"]
        assert ("Failed", "Error: listen tcp :80: bind: address already in use") in await world.event_list()

    world.play(scenario)


def test_host_network(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", shell("hostname; exec sleep 1000"), hostNetwork=True)
        await world.running()
        assert world.ip() == "172.18.0.2"
        assert world.kubelet.netns_of("default", "web") is world.nodes[0]
        assert await world.sh("web", "hostname") == "node-1"
        await world.delete(grace_s=0)
        await world.gone()
        await world.settle()
        assert await run_in(world.nodes[0], lambda: True)  # the node's namespace is still there

    world.play(scenario)


def test_init_containers_then_the_others(world: World) -> None:
    async def scenario(world: World) -> None:
        volume = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        await world.create(
            "web",
            shell("cat /v/f; exec sleep 1000", **volume),
            initContainers=[shell("echo one > /v/f", "one", **volume), shell("echo two >> /v/f", "two", **volume)],
            volumes=[{"name": "v", "emptyDir": {}}],
        )
        pod = await world.running()
        assert [c["state"]["terminated"]["reason"] for c in pod["status"]["initContainerStatuses"]] == ["Completed"] * 2
        assert await world.until_told("the output", world.log) == "one\ntwo\n"

    world.play(scenario)


class Provider:
    """Another component's image."""

    def __init__(self) -> None:
        self.contexts: list[BuiltinContext] = []
        self.stopped = 0

    def matches(self, container: Any) -> bool:
        return container["image"] == "mine:1"

    async def start(self, context: BuiltinContext) -> "Provider":
        self.contexts.append(context)
        context.log("hello")
        return self

    async def stop(self) -> None:
        self.stopped += 1


def test_a_provider_serves_its_image(make_world: MakeWorld) -> None:
    provider = Provider()

    async def scenario(world: World) -> None:
        await world.create("web", container(image="mine:1"))
        await world.running()
        assert provider.contexts[0].netns is world.kubelet.netns_of("default", "web")
        assert await world.log() == "hello\n"
        await world.delete()
        await world.gone()
        assert provider.stopped == 1

    make_world(providers=[provider]).play(scenario)


class FaultyProvider(Provider):
    """Fails in a way nobody foresaw, once."""

    async def start(self, context: BuiltinContext) -> "FaultyProvider":
        self.contexts.append(context)
        if len(self.contexts) == 1:
            raise RuntimeError("a fault")
        return self


def test_an_unforeseen_fault_is_told_and_tried_again(make_world: MakeWorld) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", container(image="mine:1"))
        await world.settle()
        assert await world.event_list() == [("FailedSync", "error syncing pod: RuntimeError('a fault')")]
        assert "running" not in world.container()["state"]
        assert not world.is_ready()
        await world.clock.advance(10)
        await world.running()

    make_world(providers=[FaultyProvider()]).play(scenario)


def test_exec_and_logs_say_what_is_not_there(world: World) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ApiError, match='pods "none" not found'):
            await world.exec("none", "true")
        await world.create("web", container("a"), container("b", "redis"), shell("exit 1", "c"))
        await world.until("c's end", lambda: world.container(index=2)["state"].get("waiting"))
        with pytest.raises(ApiError, match="container x is not valid for pod web"):
            await world.exec("web", "true", container="x")
        with pytest.raises(ApiError, match="container c is not running"):
            await world.exec("web", "true", container="c")
        with pytest.raises(KernelError, match='exec: "nope": executable file not found in \\$PATH'):
            await world.exec("web", "nope", container="a")
        with pytest.raises(ApiError, match="a container name must be specified"):
            await world.log()
        assert (await world.exec("web", "sh", "-c", "exit 7", container="a"))[0] == 7

    world.play(scenario)


def test_logs_can_be_followed_and_cut(world: World) -> None:
    async def scenario(world: World) -> None:
        script = "seq 1 5; touch /v/up; until [ -e /v/go ]; do sleep 0.01; done; echo end"
        mounts = [{"name": "v", "mountPath": "/v"}]
        volumes = [{"name": "v", "emptyDir": {}}]
        await world.create("web", shell(script, volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
        await world.running()
        (volume,) = Path(world.state_dir).glob("pods/*/volumes/v")
        await world.until("five lines", (volume / "up").exists)
        following = asyncio.create_task(world.log(tail_lines=2, follow=True))
        await world.clock.advance(1)
        assert not following.done()
        (volume / "go").touch()
        await world.until("the end", lambda: world.status()["phase"] == "Succeeded")
        await world.clock.advance(1)
        assert await following == "4\n5\nend\n"
        assert (await world.log(tail_lines=1)) == "end\n"

    world.play(scenario)


def test_nothing_is_left_of_deleted_pods(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", container("a"), shell("exec sleep 1000", "b"))
        await world.create("other", netexec("--http-port=80"))
        await world.running()
        await world.running("other")
        await world.sh("web", "true", "a")
        await world.sh("other", "true")
        for name in ("web", "other"):
            await world.delete(name, grace_s=1)
        await world.clock.advance(1)
        for name in ("web", "other"):
            await world.gone(name)
        await world.until("workers gone", lambda: not world.kubelet._workers)
        assert world.published == {}
        assert [link.name for link in await run_in(world.nodes[0], read_links)] == ["lo", "cni0"]
        assert list((world.state_dir / "pods").iterdir()) == []
        assert list((world.state_dir / "logs").iterdir()) == []
        assert list((world.state_dir / "cni" / "results").iterdir()) == []

    world.play(scenario)


def read_links() -> list[Any]:
    with Rtnl() as rtnl:
        return list(rtnl.links())
