"""The scheduler against the real API server."""

from netsim.model.kinds import DEPLOYMENT, NODE, POD
from netsim.model.objects import get_condition
from tests.control_plane import ControlPlane, make_pod_spec, make_workload_spec, scenario


async def node_of(world: ControlPlane, pod: str) -> str | None:
    found: str | None = (await world.api.get(POD, pod, "default"))["spec"].get("nodeName")
    return found


@scenario
async def test_a_deployment_is_spread_over_the_nodes(world: ControlPlane) -> None:
    for name in ("a", "b", "c"):
        await world.add_node(name)
    await world.create(DEPLOYMENT, "web", make_workload_spec(9))
    await world.settle()
    assert sorted(pod["spec"]["nodeName"] for pod in await world.pods()) == sorted("abc" * 3)
    events = await world.events("Scheduled")
    assert len(events) == 9
    assert events[0]["message"].startswith("Successfully assigned default/web-")


@scenario
async def test_why_a_pod_waits_is_told_and_it_goes_when_there_is_room(world: ControlPlane) -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    await world.add_node("a", taints=[taint])
    await world.add_node("b", pods=1)
    await world.create(POD, "first", make_pod_spec())
    await world.settle()
    await world.create(POD, "second", make_pod_spec())
    await world.settle()
    why = "0/2 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint {dedicated: gpu}."
    (event,) = await world.events("FailedScheduling")
    assert (event["message"], event["type"], event["involvedObject"]["name"]) == (why, "Warning", "second")
    condition = get_condition(await world.api.get(POD, "second", "default"), "PodScheduled") or {}
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Unschedulable", why)
    await world.remove(await world.api.get(POD, "first", "default"))
    await world.settle()
    assert await node_of(world, "second") == "b"
    assert (get_condition(await world.api.get(POD, "second", "default"), "PodScheduled") or {})["status"] == "True"


@scenario
async def test_a_node_that_comes_takes_what_waited(world: ControlPlane) -> None:
    await world.create(POD, "web", make_pod_spec())
    await world.settle()
    (event,) = await world.events("FailedScheduling")
    assert event["message"] == "no nodes available to schedule pods"
    await world.add_node("a")
    await world.settle()
    assert await node_of(world, "web") == "a"


@scenario
async def test_cordoned_nodes_get_nothing_until_uncordoned(world: ControlPlane) -> None:
    await world.add_node("a", unschedulable=True)
    await world.create(POD, "web", make_pod_spec())
    await world.settle()
    assert await node_of(world, "web") is None
    await world.api.patch(NODE, "a", {"spec": {"unschedulable": None}})
    await world.settle()
    assert await node_of(world, "web") == "a"


@scenario
async def test_other_schedulers_pods_are_left_alone(world: ControlPlane) -> None:
    await world.add_node("a")
    await world.create(POD, "web", make_pod_spec(schedulerName="mine"))
    await world.settle()
    assert await node_of(world, "web") is None
