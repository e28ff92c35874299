"""Pods whose node does not exist are deleted, in time."""

from netsim.controllers.podgc import QUARANTINE_S
from netsim.model.kinds import NODE, POD
from netsim.model.objects import name_of
from tests.control_plane import ControlPlane, scenario


async def bind_pod(world: ControlPlane, name: str, node: str) -> None:
    await world.create(POD, name, {"nodeName": node, "containers": [{"name": "main", "image": "pause"}]})


async def pods(world: ControlPlane) -> list[str]:
    await world.settle()
    return sorted(name_of(pod) for pod in (await world.api.list(POD, "default")).items)


@scenario
async def test_pods_of_a_node_that_never_was_go_after_a_while(world: ControlPlane) -> None:
    await world.add_node("a")
    await bind_pod(world, "here", "a")
    await bind_pod(world, "nowhere", "b")
    await world.clock.advance(QUARANTINE_S - 1)
    assert await pods(world) == ["here", "nowhere"]
    await world.clock.advance(1)
    assert await pods(world) == ["here"]
    await bind_pod(world, "nowhere-again", "b")
    assert await pods(world) == ["here", "nowhere-again"]


@scenario
async def test_pods_of_a_deleted_node_go_also_those_that_wait_for_its_kubelet_to_end_them(world: ControlPlane) -> None:
    await world.add_node("a")
    await bind_pod(world, "running", "a")
    await bind_pod(world, "leaving", "a")
    await world.api.delete(POD, "leaving", "default")
    await world.api.delete(NODE, "a")
    assert await pods(world) == ["leaving", "running"]
    await world.clock.advance(QUARANTINE_S)
    assert await pods(world) == []


@scenario
async def test_a_node_that_comes_in_time_keeps_its_pods(world: ControlPlane) -> None:
    await bind_pod(world, "early", "a")
    await world.clock.advance(QUARANTINE_S - 1)
    await world.add_node("a")
    await world.clock.advance(QUARANTINE_S)
    assert await pods(world) == ["early"]
    await world.api.delete(NODE, "a")
    await world.clock.advance(QUARANTINE_S - 1)
    assert await pods(world) == ["early"], "time is counted anew"
