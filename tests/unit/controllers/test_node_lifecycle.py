"""A node whose kubelet is silent: NotReady after the grace period, its pods unready, then evicted; and its return."""

from typing import Any

from netsim.controllers.plan_node_health import DEFAULT_TOLERATION_S, UNREACHABLE, tolerated_s
from netsim.model.kinds import NODE, POD
from netsim.model.objects import get_condition, is_deleting, is_pod_ready
from tests.control_plane import ControlPlane, scenario

GRACE_S = 40.0


async def ready(world: ControlPlane, node: str) -> str:
    return str((get_condition(await world.api.get(NODE, node), "Ready") or {})["status"])


async def taints(world: ControlPlane, node: str) -> list[tuple[str, str]]:
    found = (await world.api.get(NODE, node))["spec"].get("taints") or []
    return [(taint["key"], taint["effect"]) for taint in found]


async def make_pod(world: ControlPlane, name: str, node: str, **spec: Any) -> None:
    container = {"name": "main", "image": "pause"}
    await world.make_running(await world.create(POD, name, {"nodeName": node, "containers": [container], **spec}))


async def silence(world: ControlPlane, node: str) -> None:
    """The kubelet stops; as the cluster does it, the controller is told."""
    world.silent[node] = world.clock.monotonic_s()
    await touch(world, node)


async def touch(world: ControlPlane, node: str) -> None:
    await world.api.patch(NODE, node, {"metadata": {"labels": {"touched": str(world.clock.monotonic_s())}}})
    await world.settle()


@scenario
async def test_silence_shorter_than_the_grace_period_changes_nothing(world: ControlPlane) -> None:
    await world.add_node("a")
    await make_pod(world, "web", "a")
    await silence(world, "a")
    await world.clock.advance(GRACE_S - 1)
    await world.settle()
    assert await ready(world, "a") == "True"
    assert is_pod_ready(await world.api.get(POD, "web", "default"))
    assert await taints(world, "a") == []


@scenario
async def test_after_the_grace_period_the_node_is_unknown_and_its_pods_unready(world: ControlPlane) -> None:
    await world.add_node("a")
    await world.add_node("b")
    await make_pod(world, "web", "a")
    await make_pod(world, "other", "b")
    await silence(world, "a")
    await world.clock.advance(GRACE_S)
    await world.settle()
    assert await ready(world, "a") == "Unknown"
    condition = get_condition(await world.api.get(NODE, "a"), "Ready") or {}
    assert (condition["reason"], condition["message"]) == (
        "NodeStatusUnknown",
        "Kubelet stopped posting node status.",
    )
    assert await taints(world, "a") == [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]
    assert not is_pod_ready(await world.api.get(POD, "web", "default"))
    # The others are as they were.
    assert await ready(world, "b") == "True"
    assert is_pod_ready(await world.api.get(POD, "other", "default"))


@scenario
async def test_pods_are_evicted_when_they_tolerate_it_no_longer(world: ControlPlane) -> None:
    await world.add_node("a")
    short = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}
    await make_pod(world, "usual", "a")
    await make_pod(world, "short", "a", tolerations=[short])
    await make_pod(world, "faithful", "a", tolerations=[{"operator": "Exists"}])

    async def going() -> set[str]:
        return {pod["metadata"]["name"] for pod in (await world.api.list(POD)).items if is_deleting(pod)}

    await silence(world, "a")
    await world.clock.advance(GRACE_S + 9)
    await world.settle()
    assert await going() == set()
    await world.clock.advance(2)
    await world.settle()
    assert await going() == {"short"}
    await world.clock.advance(DEFAULT_TOLERATION_S)
    await world.settle()
    # Nobody on that node can say that they ended, so they are still there.
    assert await going() == {"short", "usual"}
    assert len(await world.events("TaintManagerEviction")) == 2


@scenario
async def test_a_pod_that_comes_late_is_evicted_too(world: ControlPlane) -> None:
    await world.add_node("a")
    await silence(world, "a")
    await world.clock.advance(GRACE_S + DEFAULT_TOLERATION_S + 1)
    await world.settle()
    await make_pod(world, "late", "a")
    await world.settle()
    assert is_deleting(await world.api.get(POD, "late", "default"))


@scenario
async def test_the_node_comes_back(world: ControlPlane) -> None:
    own = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
    await world.add_node("a", taints=[own])
    await silence(world, "a")
    await world.clock.advance(GRACE_S + 1)
    await world.settle()
    assert len(await taints(world, "a")) == 3
    del world.silent["a"]
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    await world.api.patch(NODE, "a", {"status": status}, subresource="status")
    await world.settle()
    assert await taints(world, "a") == [("dedicated", "NoSchedule")]


@scenario
async def test_a_node_that_speaks_again_in_time_was_never_gone(world: ControlPlane) -> None:
    await world.add_node("a")
    await silence(world, "a")
    await world.clock.advance(GRACE_S / 2)
    del world.silent["a"]
    await world.clock.advance(GRACE_S)
    await world.settle()
    assert await ready(world, "a") == "True"
    await silence(world, "a")  # the grace period starts anew
    await world.clock.advance(GRACE_S - 1)
    await world.settle()
    assert await ready(world, "a") == "True"


@scenario
async def test_nothing_is_scheduled_to_an_unreachable_node(world: ControlPlane) -> None:
    await world.add_node("a")
    await world.add_node("b")
    await silence(world, "a")
    await world.clock.advance(GRACE_S)
    await world.settle()
    for number in range(4):
        await world.create(POD, f"p{number}", {"containers": [{"name": "main", "image": "pause"}]})
    await world.settle()
    assert {pod["spec"]["nodeName"] for pod in (await world.api.list(POD)).items} == {"b"}


def test_what_pods_tolerate() -> None:
    def pod(*tolerations: dict[str, Any]) -> dict[str, Any]:
        return {"spec": {"tolerations": list(tolerations)}}

    exists = {"key": UNREACHABLE, "operator": "Exists"}
    assert tolerated_s({"spec": {}}) == DEFAULT_TOLERATION_S
    assert tolerated_s(pod({"operator": "Exists"})) is None
    assert tolerated_s(pod(exists | {"tolerationSeconds": 0})) == 0
    assert tolerated_s(pod(exists | {"effect": "NoSchedule"})) == DEFAULT_TOLERATION_S
    assert tolerated_s(pod({"key": "node.kubernetes.io/not-ready", "operator": "Exists"})) == DEFAULT_TOLERATION_S
    assert tolerated_s(pod(exists | {"tolerationSeconds": 60}, exists)) == 60
    assert tolerated_s(pod({"key": UNREACHABLE, "tolerationSeconds": 5})) == 5
