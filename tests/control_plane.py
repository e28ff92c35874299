"""A control plane in this process: the real API server, informers, controllers and scheduler, on a fake clock."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.controller import Component
from netsim.client.informerset import InformerSet
from netsim.client.transport import Transport
from netsim.controllers.manager import make_controllers
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.model.kinds import ENDPOINT_SLICE, EVENT, NODE, POD, REPLICA_SET, Kind
from netsim.model.objects import Object, is_deleting, name_of
from netsim.scheduler.component import make_scheduler
from netsim.store.store import Store
from tests.fake_clock import FakeClock


class ControlPlane:
    """``settle`` brings everything to rest; pods live and die as the test says (there is no kubelet)."""

    def __init__(
        self,
        config: ClusterConfig | None = None,
        *,
        wrap: Callable[[Transport], Transport] = lambda transport: transport,
    ) -> None:
        """wrap: what lies between the components and the API server; the test itself talks to the server directly."""
        self.clock = FakeClock()
        self.config = config or ClusterConfig()
        self.server = ApiServer(Store(), self.config, self.clock)
        self.api = Api(self.server.transport())
        self.silent: dict[str, float] = {}  # nodes whose kubelets are silent, since when on the clock
        inner = Api(wrap(self.server.transport()))
        self.informers = InformerSet(inner, self.clock)
        self.components: list[Component] = [
            self.informers,
            *make_controllers(inner, self.informers, self.config, self.clock, self.silent.get),
            *make_scheduler(inner, self.informers, self.clock),
        ]
        self._addresses = 0

    async def run(self, scenario: Callable[["ControlPlane"], Awaitable[None]]) -> None:
        tasks = [asyncio.create_task(component.run()) for component in self.components]
        try:
            async with asyncio.timeout(30):  # a scenario that hangs fails
                await self.settle()
                await scenario(self)
            for task in tasks:
                if task.done():
                    task.result()  # a component that died is a failure
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Until a round of ``settle`` on every component brings no new write."""
        while True:
            revision = self.server.revision()
            for component in self.components:
                await component.settle(revision)
            if self.server.revision() == revision:
                return

    # --- what a person does ---

    async def create(self, kind: Kind, name: str, spec: Object | None = None, **extra: Any) -> Object:
        metadata: Object = {"name": name, **extra.pop("metadata", {})}
        if kind.namespaced:
            metadata.setdefault("namespace", "default")
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **extra}
        if spec is not None:
            obj["spec"] = spec
        return await self.api.create(kind, obj)

    async def add_node(self, name: str, *, labels: dict[str, str] | None = None, pods: int = 110, **spec: Any) -> None:
        metadata = {"labels": {"kubernetes.io/hostname": name, **(labels or {})}}
        await self.create(NODE, name, spec, metadata=metadata)
        status = {"allocatable": {"pods": str(pods)}, "conditions": [{"type": "Ready", "status": "True"}]}
        await self.api.patch(NODE, name, {"status": status}, subresource="status")

    # --- what a kubelet does ---

    async def make_running(self, pod: Object, *, ready: bool = True) -> None:
        address = ((pod.get("status") or {}).get("podIP")) or self._next_address()
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "lastTransitionTime": "2024-01-01T00:00:00Z",
        }
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [condition],
        }
        await self.api.patch(POD, name_of(pod), {"status": status}, pod["metadata"]["namespace"], subresource="status")

    async def make_all_running(self) -> None:
        """Every pod becomes ready and every one that is to go is gone, until nothing moves any more."""
        while True:
            await self.settle()
            revision = self.server.revision()
            for pod in (await self.api.list(POD)).items:
                if is_deleting(pod):
                    await self.remove(pod)
                elif (pod.get("status") or {}).get("phase") != "Running":
                    await self.make_running(pod)
            await self.settle()
            if self.server.revision() == revision:
                return

    async def remove(self, pod: Object) -> None:
        """The pod's processes have ended."""
        try:
            await self.api.delete(POD, name_of(pod), pod["metadata"]["namespace"], grace_period_s=0)
        except ApiError as error:
            if error.code != 404:
                raise

    def _next_address(self) -> str:
        self._addresses += 1
        return f"10.244.{self._addresses // 250}.{self._addresses % 250 + 1}"

    # --- what there is ---

    async def pods(self, namespace: str | None = None) -> list[Object]:
        return [pod for pod in (await self.api.list(POD, namespace)).items if not is_deleting(pod)]

    async def replica_sets(self) -> list[Object]:
        return (await self.api.list(REPLICA_SET)).items

    async def slices(self, service: str, namespace: str = "default") -> list[Object]:
        return (await self.api.list(ENDPOINT_SLICE, namespace, labels=f"kubernetes.io/service-name={service}")).items

    async def events(self, reason: str) -> list[Object]:
        await self.clock.advance(1)
        return [event for event in (await self.api.list(EVENT)).items if event["reason"] == reason]


def scenario(function: Callable[[ControlPlane], Awaitable[None]]) -> Callable[[], None]:
    """Run an async test against a fresh control plane."""

    def test() -> None:
        async def main() -> None:
            await ControlPlane().run(function)

        asyncio.run(main())

    test.__name__ = function.__name__
    test.__doc__ = function.__doc__
    test.__module__ = function.__module__
    return test


def make_template(labels: dict[str, str], image: str = "nginx", **spec: Any) -> Object:
    containers = [{"name": "main", "image": image, "ports": [{"containerPort": 80, "name": "http"}]}]
    return {"metadata": {"labels": labels}, "spec": {"containers": containers, **spec}}


def make_workload_spec(replicas: int, app: str = "web", image: str = "nginx", **extra: Any) -> Object:
    """The spec of a Deployment or a ReplicaSet."""
    labels = {"app": app}
    template = make_template(labels, image)
    return {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **extra}


def make_pod_spec(**extra: Any) -> Object:
    return {"containers": [{"name": "main", "image": "nginx"}], **extra}
