"""Restarts, probes, graceful ends, and a network that fails: pod life over time."""

import asyncio
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni.types import CniError
from netsim.kernel.netns import run_in
from netsim.kubelet.cni_config import parse_conflist
from netsim.kubelet.cni_runtime import CniRuntime
from netsim.model.config import ClusterConfig, make_nodes
from tests.kernel.kubelet.conftest import MakeWorld
from tests.kernel.kubelet.test_pods import read_links
from tests.kernel.kubelet.world import World, container, netexec, shell

pytestmark = pytest.mark.needs("root", "netns", "pidns")


def test_a_crash_loop_backs_off(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", shell("exit 3"))
        await world.until(
            "back-off", lambda: world.container()["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        )
        assert world.container()["restartCount"] == 1  # the first restart came at once
        assert world.container()["lastState"]["terminated"]["exitCode"] == 3
        assert world.status()["phase"] == "Running"
        await world.settle()
        await world.clock.advance(9)
        await world.settle()
        assert world.container()["restartCount"] == 1
        await world.clock.advance(1)
        await world.until("the next restart", lambda: world.container().get("restartCount") == 2)
        assert "BackOff" in [reason for reason, _ in await world.event_list()]

    world.play(scenario)


@pytest.mark.parametrize(("script", "phase"), [("exit 0", "Succeeded"), ("exit 1", "Failed")])
def test_a_pod_that_ends_keeps_its_status_and_loses_its_network(world: World, script: str, phase: str) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", shell(f"echo words; {script}"), restartPolicy="Never")
        await world.until("the end", lambda: world.status().get("phase") == phase)
        await world.settle()
        assert world.kubelet.netns_of("default", "web") is None
        assert world.ip() == "10.244.1.2"
        assert world.container()["state"]["terminated"]["exitCode"] == int(script[-1])
        assert await world.log() == "words\n"
        assert [link.name for link in await run_in(world.nodes[0], read_links)] == ["lo", "cni0"]

    world.play(scenario)


def test_a_process_gets_sigterm_and_its_grace_period(world: World) -> None:
    async def scenario(world: World) -> None:
        mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        script = "trap 'echo got it > /v/term; exit 0' TERM; touch /v/up; while :; do sleep 0.01; done"
        await world.create("web", shell(script, **mounts), volumes=[{"name": "v", "emptyDir": {}}])
        await world.running()
        (folder,) = Path(world.state_dir).glob("pods/*/volumes/v")
        await world.until("the trap", (folder / "up").exists)
        await world.delete()
        await world.gone()  # on a clock that stands still: SIGKILL was not needed
        assert ("Killing", "Stopping container main") in await world.event_list()

    world.play(scenario)


def test_sigkill_comes_after_the_grace_period(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", shell("trap '' TERM; exec sleep 1000"))
        await world.running()
        await world.delete(grace_s=7)
        await world.settle()
        await world.clock.advance(6)
        await world.settle()
        assert "running" in world.container()["state"]
        assert world.is_ready()  # it still serves
        await world.clock.advance(1)
        await world.gone()

    world.play(scenario)


def test_netexec_serves_on_while_it_terminates(world: World) -> None:
    async def scenario(world: World) -> None:
        probe = {"httpGet": {"path": "/readyz", "port": 80}, "periodSeconds": 1, "failureThreshold": 1}
        await world.create("web", netexec("--http-port=80", "--delay-shutdown=5", readinessProbe=probe))
        await world.create("client", container(image="agnhost"))
        await world.running()
        await world.running("client")
        await world.delete(grace_s=30)
        await world.settle()
        url = f"http://{world.ip()}"
        assert await world.sh("client", f"curl -s -m 5 {url}/readyz; curl -s -m 5 {url}/hostname") == "shutting downweb"
        await world.clock.advance(1)
        await world.until("not ready", lambda: not world.is_ready())  # its own readiness probe says so
        await world.clock.advance(4)
        await world.gone()

    world.play(scenario)


def test_a_force_deleted_pod_is_torn_down_at_once(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", shell("trap '' TERM; exec sleep 1000"))
        await world.running()
        await world.delete(grace_s=0)
        await world.until("teardown", lambda: not world.kubelet._workers)
        assert world.published == {}

    world.play(scenario)


def test_a_pod_of_the_same_name_waits_for_the_old_one(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create()
        old = await world.running()
        await world.delete(grace_s=0)
        await world.create()
        await world.until("the new pod", lambda: (world.pod() or old)["metadata"]["uid"] != old["metadata"]["uid"])
        await world.running()
        await world.settle()
        assert list(world.published) == ["default_web"]
        assert await world.sh("web", "curl -s -o /dev/null -w '%{http_code}' localhost") == "200"

    world.play(scenario)


def test_a_readiness_probe_decides_and_is_asked_from_the_node(world: World) -> None:
    async def scenario(world: World) -> None:
        mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        probe = {"exec": {"command": ["cat", "/v/ready"]}, "periodSeconds": 2, "failureThreshold": 2}
        await world.create(
            "web", shell("exec sleep 1000", readinessProbe=probe, **mounts), volumes=[{"name": "v", "emptyDir": {}}]
        )
        await world.until("running", lambda: world.container()["state"].get("running"))
        assert not world.is_ready()
        assert world.status()["phase"] == "Running"
        (folder,) = Path(world.state_dir).glob("pods/*/volumes/v")

        async def unhealthy() -> bool:
            return "Unhealthy" in [reason for reason, _ in await world.event_list()]

        await world.until_told("the event", unhealthy)
        (folder / "ready").touch()
        await advance_until(world, world.is_ready)
        (folder / "ready").unlink()
        await advance_until(world, lambda: not world.is_ready())

    world.play(scenario)


async def advance_until(world: World, condition: object, step_s: float = 2.0) -> None:
    """Let probe periods pass until ``condition``; each gets real time to be answered."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await world.clock.advance(step_s)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["httpGet", "tcpSocket"])
def test_http_and_tcp_probes_of_a_pod(world: World, kind: str) -> None:
    async def scenario(world: World) -> None:
        handler = {"httpGet": {"path": "/healthz", "port": "web"}, "tcpSocket": {"port": "web"}}
        probe = {kind: handler[kind]}
        ports = [{"name": "web", "containerPort": 8080}]
        await world.create("web", netexec(ports=ports, readinessProbe=probe, livenessProbe=probe, startupProbe=probe))
        await world.running()
        assert world.container()["started"] is True

    world.play(scenario)


def test_a_failed_liveness_probe_restarts_the_container(world: World) -> None:
    async def scenario(world: World) -> None:
        probe = {"httpGet": {"path": "/echo?code=500", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2}
        await world.create("web", netexec(livenessProbe=probe))
        await world.running()
        await advance_until(world, lambda: world.container().get("restartCount"), 1.0)
        events = await world.event_list()
        assert ("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500") in events
        assert ("Killing", "Container main failed liveness probe, will be restarted") in events

    world.play(scenario)


def test_pre_stop_runs_before_sigterm(world: World) -> None:
    async def scenario(world: World) -> None:
        lifecycle = {"preStop": {"sleep": {"seconds": 3}}}
        await world.create("web", container(lifecycle=lifecycle))
        await world.running()
        await world.delete(grace_s=10)
        await world.settle()
        await world.clock.advance(2)
        await world.settle()
        assert "running" in world.container()["state"]
        await world.clock.advance(1)
        await world.gone()

    world.play(scenario)


def test_an_exhausted_network_keeps_the_pod_waiting_until_an_address_is_free(make_world: MakeWorld) -> None:
    async def scenario(world: World) -> None:
        await world.create("one")
        await world.running("one")
        await world.create("two")
        message = await world.until("the refusal", lambda: world.status("two").get("message"))
        assert 'plugin type="netsim-cni" name="netsim" failed (add): ' in message
        assert world.status("two")["phase"] == "Pending"
        assert world.container("two")["state"]["waiting"]["reason"] == "ContainerCreating"
        assert [reason for reason, _ in await world.event_list("two")] == ["FailedCreatePodSandBox"]
        await world.delete("one", grace_s=0)
        await world.until("one's end", lambda: "default_one" not in world.published)
        await world.settle()
        await world.clock.advance(60)
        await world.running("two")
        assert "message" not in world.status("two")

    make_world(pod_cidrs=["10.244.1.0/30", "10.244.1.4/30"]).play(scenario)  # the gateway and one pod


class OutOfFiles:
    """A CNI runtime with no file descriptor left: once, and in words that are the kernel's."""

    def __init__(self, runtime: CniRuntime) -> None:
        self.runtime = runtime
        self.tries = 0

    def add(self, *arguments: Any) -> Any:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc/1/fd/7")
        return self.runtime.add(*arguments)

    def delete(self, *arguments: Any) -> Any:
        return self.runtime.delete(*arguments)


def test_an_error_of_the_system_is_told_as_the_sandboxs_and_tried_again(make_world: MakeWorld) -> None:
    world = make_world()
    tools = world.kubelet._tools
    failing: Any = OutOfFiles(tools.cni)
    world.kubelet._tools = replace(tools, cni=failing)

    async def scenario(world: World) -> None:
        await world.create()
        message = await world.until("the refusal", lambda: world.status().get("message"))
        words = "Failed to create pod sandbox: [Errno 24] Too many open files: '/proc/1/fd/7'"
        assert message == words
        assert await world.event_list() == [("FailedCreatePodSandBox", words)]
        await world.clock.advance(60)
        await world.running()

    world.play(scenario)


PLUGIN = """#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID $(readlink /proc/self/ns/net) $config" >> {log}
[ -e {fail} ] && [ "$CNI_COMMAND" = ADD ] && echo '{{"code": 11, "msg": "not today"}}' && exit 1
[ "$CNI_COMMAND" = ADD ] && echo "$config" | sed 's/.*"prevResult": //; s/}}$//'
exit 0
"""


def test_a_chained_program_runs_in_the_node_and_its_refusal_undoes_all(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, fail = tmp_path / "calls", tmp_path / "fail"
    program = tmp_path / "bin" / "extra"
    program.parent.mkdir()
    program.write_text(PLUGIN.format(log=log, fail=fail))
    program.chmod(0o755)
    monkeypatch.setenv("CNI_PATH", str(program.parent))
    bridge = {"type": "netsim-cni", "bridge": "cni0", "isGateway": True, "ipam": {"type": "host-local"}}
    conflist = {"cniVersion": "1.0.0", "name": "mine", "plugins": [bridge, {"type": "extra", "key": "value"}]}
    parse_conflist(conflist)

    async def scenario(world: World) -> None:
        fail.touch()
        await world.create()
        message = await world.until("the refusal", lambda: world.status().get("message"))
        assert 'plugin type="extra" name="mine" failed (add): not today' in message
        commands = [line.split()[0] for line in log.read_text().splitlines()]
        assert commands == ["ADD", "DEL"]
        assert [link.name for link in await run_in(world.nodes[0], read_links)] == ["lo", "cni0"]
        fail.unlink()
        await world.settle()
        await world.clock.advance(5)
        await world.running()
        added = log.read_text().splitlines()[2]
        netns = await run_in(world.nodes[0], os.readlink, "/proc/thread-self/ns/net")
        assert added.split()[:2] == ["ADD", "eth0"]
        assert added.split()[3] == netns
        assert '"key": "value"' in added
        assert f'"address": "{world.ip()}/24"' in added

    make_world(config=ClusterConfig(nodes=make_nodes(2), cni=conflist)).play(scenario)


def test_a_plugin_that_is_not_there_is_named(make_world: MakeWorld) -> None:
    conflist = {"cniVersion": "1.0.0", "name": "mine", "plugins": [{"type": "no-such-plugin"}]}

    async def scenario(world: World) -> None:
        await world.create()
        message = await world.until("the refusal", lambda: world.status().get("message"))
        assert 'failed to find plugin "no-such-plugin" in path' in message

    make_world(config=ClusterConfig(nodes=make_nodes(2), cni=conflist)).play(scenario)


def test_a_missing_volume_is_told_and_waited_for(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", container(), volumes=[{"name": "v", "configMap": {"name": "none"}}])
        await world.until("the refusal", lambda: world.status().get("message"))
        (event,) = await world.event_list()
        assert event[0] == "FailedMount"
        assert 'configmap "none" not found' in event[1]

    world.play(scenario)


def test_a_wrong_conflist_is_told_at_once(make_world: MakeWorld) -> None:
    with pytest.raises(CniError, match='invalid plugin type "a/b"'):
        make_world(config=ClusterConfig(nodes=make_nodes(2), cni={"name": "n", "plugins": [{"type": "a/b"}]}))


def test_netexec_runs_commands_in_its_container(world: World) -> None:
    async def scenario(world: World) -> None:
        await world.create("web", netexec("--http-port=80"))
        await world.running()
        answer = json.loads(await world.sh("web", "curl -s 'localhost/shell?cmd=hostname;+exit+3'"))
        assert answer == {"output": "web\n", "error": "exit status 3"}

    world.play(scenario)
