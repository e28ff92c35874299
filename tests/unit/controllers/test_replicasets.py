"""ReplicaSets against the real API server."""

import asyncio
from collections.abc import Mapping
from typing import Any

from netsim.client.transport import Response, Transport, WatchStream
from netsim.controllers.plan_replicas import choose_pods_to_delete
from netsim.model.errors import ApiError
from netsim.model.kinds import POD, REPLICA_SET
from netsim.model.objects import Object, controller_of, get_condition, name_of
from tests.control_plane import ControlPlane, make_pod_spec, make_workload_spec, scenario


@scenario
async def test_as_many_pods_as_asked_for(world: ControlPlane) -> None:
    await world.create(REPLICA_SET, "web", make_workload_spec(5))
    await world.settle()
    pods = await world.pods()
    assert len(pods) == 5
    assert all(pod["metadata"]["labels"] == {"app": "web"} for pod in pods)
    assert all((controller_of(pod) or {})["name"] == "web" for pod in pods)
    assert (await world.replica_sets())[0]["status"]["replicas"] == 5
    assert len(await world.events("SuccessfulCreate")) == 5


@scenario
async def test_a_deleted_pod_is_replaced(world: ControlPlane) -> None:
    await world.create(REPLICA_SET, "web", make_workload_spec(3))
    await world.make_all_running()
    victim = (await world.pods())[0]
    await world.remove(victim)
    await world.settle()
    names = {name_of(pod) for pod in await world.pods()}
    assert len(names) == 3
    assert name_of(victim) not in names


@scenario
async def test_a_failed_pod_does_not_count(world: ControlPlane) -> None:
    await world.create(REPLICA_SET, "web", make_workload_spec(2))
    await world.settle()
    failed = (await world.pods())[0]
    await world.api.patch(POD, name_of(failed), {"status": {"phase": "Failed"}}, "default", subresource="status")
    await world.settle()
    assert len(await world.pods()) == 3


@scenario
async def test_scaling_down_takes_those_that_are_not_ready(world: ControlPlane) -> None:
    await world.create(REPLICA_SET, "web", make_workload_spec(4))
    await world.settle()
    ready = (await world.pods())[:2]
    for pod in ready:
        await world.make_running(pod)
    await world.api.patch(REPLICA_SET, "web", {"spec": {"replicas": 2}}, "default")
    await world.settle()
    assert {name_of(pod) for pod in await world.pods()} == {name_of(pod) for pod in ready}


@scenario
async def test_status_follows_readiness(world: ControlPlane) -> None:
    await world.create(REPLICA_SET, "web", make_workload_spec(3, minReadySeconds=30))
    await world.settle()
    for pod in await world.pods():
        await world.make_running(pod)
    await world.settle()
    status = (await world.replica_sets())[0]["status"]
    assert status["readyReplicas"] == 3
    assert "availableReplicas" not in status
    await world.clock.advance(31)
    await world.settle()
    assert (await world.replica_sets())[0]["status"]["availableReplicas"] == 3


@scenario
async def test_an_orphan_that_matches_is_adopted_and_one_relabelled_released(world: ControlPlane) -> None:
    await world.create(POD, "stray", make_pod_spec(), metadata={"labels": {"app": "web"}})
    await world.create(REPLICA_SET, "web", make_workload_spec(2))
    await world.settle()
    stray = await world.api.get(POD, "stray", "default")
    assert (controller_of(stray) or {})["name"] == "web"
    assert len(await world.pods()) == 2
    await world.api.patch(POD, "stray", {"metadata": {"labels": {"app": "other"}}}, "default")
    await world.settle()
    assert controller_of(await world.api.get(POD, "stray", "default")) is None
    assert len(await world.pods()) == 3


@scenario
async def test_many_changes_are_few_status_writes(world: ControlPlane) -> None:
    await world.create(REPLICA_SET, "web", make_workload_spec(200))
    await world.settle()
    writes = 0

    def count(old: Object | None, new: Object | None) -> None:
        nonlocal writes
        writes += 1

    world.informers.of(REPLICA_SET).add_handler(count)
    writes = 0
    for pod in await world.pods():
        await world.make_running(pod)
    await world.settle()
    assert (await world.replica_sets())[0]["status"]["readyReplicas"] == 200
    assert writes < 20


class Quota:
    """A transport that lets no pod be made while it is full."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.full = True

    async def request(self, method: str, path: str, **rest: Any) -> Response:
        if self.full and method == "POST" and path.endswith("/pods"):
            return Response(403, ApiError(403, "Forbidden", "exceeded quota: pods").to_status())
        return await self._transport.request(method, path, **rest)

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        return await self._transport.watch(path, query)

    async def close(self) -> None:
        await self._transport.close()


def test_what_the_api_refuses_is_told_and_tried_again() -> None:
    quotas: list[Quota] = []

    def wrap(transport: Transport) -> Transport:
        quotas.append(Quota(transport))
        return quotas[0]

    async def scenario(world: ControlPlane) -> None:
        await world.create(REPLICA_SET, "web", make_workload_spec(2))
        await world.settle()
        (event,) = await world.events("FailedCreate")
        assert (event["type"], event["message"]) == ("Warning", "Error creating: exceeded quota: pods")
        condition = get_condition((await world.replica_sets())[0], "ReplicaFailure") or {}
        assert (condition["reason"], condition["message"]) == ("FailedCreate", "exceeded quota: pods")
        quotas[0].full = False
        await world.clock.advance(60)
        await world.settle()
        assert len(await world.pods()) == 2
        assert get_condition((await world.replica_sets())[0], "ReplicaFailure") is None

    asyncio.run(ControlPlane(wrap=wrap).run(scenario))


def make_pod(name: str, node: str, phase: str, ready: bool, created: str = "2024-01-01T00:00:00Z") -> Object:
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2024-01-01T00:00:00Z"}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": created},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": [condition]},
    }


def test_upstreams_order_of_deletion() -> None:
    pods = [
        make_pod("old", "a", "Running", True, "2024-01-01T00:00:00Z"),
        make_pod("new", "c", "Running", True, "2024-01-02T00:00:00Z"),
        make_pod("sibling", "b", "Running", True),
        make_pod("sibling-unready", "b", "Running", False),
        make_pod("pending", "d", "Pending", False),
        make_pod("unassigned", "", "Pending", False),
    ]
    order = [name_of(pod) for pod in choose_pods_to_delete(pods, 6)]
    assert order == ["unassigned", "pending", "sibling-unready", "sibling", "new", "old"]
