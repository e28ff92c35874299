"""A kubelet in this process with the real API server, in real namespaces, on a clock that tests move."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.events import EventRecorder
from netsim.client.informerset import InformerSet
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kubelet.component import BuiltinProvider, KubeletComponent, NodeRuntime
from netsim.kubelet.responder import Responder
from netsim.model.config import ClusterConfig, make_nodes
from netsim.model.errors import ApiError
from netsim.model.kinds import EVENT, NODE, POD
from netsim.model.objects import Object
from netsim.store.store import Store
from tests.fake_clock import FakeClock

TIMEOUT_S = 20.0
REPEAT_PROBE_S = 1.0  # long, so that the clock stands wherever nothing was missed
POLL_S = 0.002


class World:
    """``node-1`` and ``node-2``, not connected to each other; pods are bound by hand."""

    def __init__(
        self,
        spawner: Spawner,
        responder: Responder,
        state_dir: Path,
        *,
        config: ClusterConfig | None = None,
        providers: Sequence[BuiltinProvider] = (),
        pod_cidrs: Sequence[str] = ("10.244.1.0/24", "10.244.2.0/24"),
    ) -> None:
        self.clock = FakeClock()
        self.state_dir = state_dir
        self.config = config or ClusterConfig(nodes=make_nodes(2))
        self.server = ApiServer(Store(), self.config, self.clock)
        self.api = Api(self.server.transport())
        self.informers = InformerSet(self.api, self.clock)
        self.events = EventRecorder(self.api, "kubelet", clock=self.clock)
        self.published: dict[str, Netns] = {}
        self.pod_cidrs = pod_cidrs
        self.spawner = spawner
        self.kubelet = KubeletComponent(
            api=self.api,
            informers=self.informers,
            spawner=spawner,
            responder=responder,
            events=self.events,
            config=self.config,
            state_dir=state_dir,
            clock=self.clock,
            publish=self._publish,
            providers=providers,
        )
        self.nodes = [Netns.create(node.name) for node in self.config.nodes]

    def _publish(self, name: str, netns: Netns | None) -> None:
        if netns is None:
            self.published.pop(name, None)
        else:
            self.published[name] = netns

    def play(self, scenario: Callable[["World"], Awaitable[None]], *, network: bool = True) -> None:
        """Run ``scenario`` with nodes that are ready, then delete every pod."""
        try:
            asyncio.run(self._play(scenario, network))
        finally:
            for node in self.nodes:
                node.close()

    async def _play(self, scenario: Callable[["World"], Awaitable[None]], network: bool) -> None:
        tasks = [asyncio.create_task(c.run()) for c in (self.informers, self.kubelet, self.events)]
        try:
            async with asyncio.timeout(3 * TIMEOUT_S):
                for index, node in enumerate(self.config.nodes):
                    runtime = NodeRuntime(node.name, self.nodes[index], (f"172.18.0.{index + 2}",))
                    await self.kubelet.add_node(runtime)
                    await self.api.patch(NODE, node.name, {"spec": {"podCIDR": self.pod_cidrs[index]}})
                await self.settle()
                if network:
                    for node in self.config.nodes:
                        self.kubelet.mark_network_ready(node.name)
                await scenario(self)
                for pod in (await self.api.list(POD)).items:
                    await self.delete(pod["metadata"]["name"], pod["metadata"]["namespace"], grace_s=0)
                await self.until("all pods gone", lambda: not self.published and not self.kubelet._workers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- what happens ---

    async def settle(self) -> None:
        """Until nothing moves by itself any more."""
        while True:
            revision = self.server.revision()
            await self.informers.settle(revision)
            await self.kubelet.settle(revision)
            if self.server.revision() == revision:
                return

    async def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """The first truthy value of ``condition``; real time passes, the clock stands."""

        async def ask() -> Any:
            return condition()

        return await self.until_told(what, ask)

    async def until_told(self, what: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The same with a question that is awaited."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    value = await ask()
                    if value:
                        return value
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {TIMEOUT_S:g} s; last state:\n{self.describe()}") from None

    def describe(self) -> str:
        """Every pod's status and every event not yet written, for the message of a test that waited in vain."""
        pods = {pod["metadata"]["name"]: pod.get("status") for pod in self.informers.of(POD).items()}
        events = [(known.obj["reason"], known.obj["message"]) for known in self.events._known.values()]
        return json.dumps({"pods": pods, "events": events, "published": list(self.published)}, indent=1)

    async def create(self, name: str = "web", *containers: Object, node: str = "node-1", **more: Any) -> None:
        metadata = {"name": name, "namespace": "default", **more.pop("metadata", {})}
        spec = {"nodeName": node, "containers": list(containers) or [container()], **more}
        await self.api.create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    async def delete(self, name: str = "web", namespace: str = "default", *, grace_s: int | None = None) -> None:
        try:
            await self.api.delete(POD, name, namespace, grace_period_s=grace_s)
        except ApiError as error:
            if error.code != 404:
                raise

    # --- what there is ---

    def pod(self, name: str = "web") -> Object | None:
        return self.informers.of(POD).get("default", name)

    def status(self, name: str = "web") -> Object:
        return (self.pod(name) or {}).get("status") or {}

    def container(self, name: str = "web", index: int = 0) -> Object:
        statuses = self.status(name).get("containerStatuses") or []
        return statuses[index] if len(statuses) > index else {"state": {}, "lastState": {}}

    def is_ready(self, name: str = "web") -> bool:
        conditions = self.status(name).get("conditions") or ()
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    async def running(self, name: str = "web") -> Object:
        """The pod once it runs and is ready.

        A probe may come before the container listens, and its next one only when the clock goes on: it does, a second
        for each REPEAT_PROBE_S of waiting in vain.
        """
        next_probe_at = time.monotonic() + REPEAT_PROBE_S

        async def ask() -> bool:
            nonlocal next_probe_at
            if self.status(name).get("phase") == "Running" and self.is_ready(name):
                return True
            if time.monotonic() > next_probe_at:
                next_probe_at = time.monotonic() + REPEAT_PROBE_S
                await self.clock.advance(1)
            return False

        await self.until_told(f"{name} ready", ask)
        pod = self.pod(name)
        assert pod is not None
        return pod

    async def gone(self, name: str = "web") -> None:
        await self.until(f"{name} gone", lambda: self.pod(name) is None)

    def ip(self, name: str = "web") -> str:
        return str(self.status(name)["podIP"])

    async def event_list(self, name: str = "web") -> list[tuple[str, str]]:
        """(reason, message) of a pod's events, in order."""

        async def written() -> bool:
            await self.clock.advance(0.2)  # repeats are counted for so long before they are written
            return not self.events._backlog and not self.events._busy

        await self.until_told("events written", written)
        events = (await self.api.list(EVENT, "default")).items
        return [(e["reason"], e["message"]) for e in events if e["involvedObject"]["name"] == name]

    async def exec(self, name: str, *argv: str, container: str | None = None) -> tuple[int, str]:
        """Exit status and output of a command in a pod."""
        reading, writing = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            process = await self.kubelet.exec(
                "default", name, container, argv, stdin=null, stdout=writing, stderr=writing
            )
        finally:
            os.close(writing)
            os.close(null)
        with os.fdopen(reading, "rb") as output:
            text = await asyncio.to_thread(output.read)
        return await process.wait(), text.decode()

    async def sh(self, name: str, script: str, container: str | None = None) -> str:
        """Output of a script that must succeed."""
        status, output = await self.exec(name, "/bin/sh", "-c", script, container=container)
        assert status == 0, output
        return output.strip()

    async def log(self, name: str = "web", container: str | None = None, **how: Any) -> str:
        pieces = await self.kubelet.read_log("default", name, container, **how)
        return b"".join([piece async for piece in pieces]).decode()


def container(name: str = "main", image: str = "nginx", **more: Any) -> Object:
    return {"name": name, "image": image, **more}


def shell(script: str, name: str = "main", **more: Any) -> Object:
    """A container that runs a script as a real process."""
    return container(name, "busybox", command=["/bin/sh", "-c", script], **more)


def netexec(*flags: str, name: str = "main", **more: Any) -> Object:
    return container(name, "registry.k8s.io/e2e-test-images/agnhost:2.53", args=["netexec", *flags], **more)
