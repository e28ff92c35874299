"""Deployments against the real API server."""

from typing import Any

import pytest

from netsim.controllers.plan_rollout import (
    Scale,
    plan_scale,
    rolling_limits,
    template_hash,
)
from netsim.model.kinds import DEPLOYMENT, REPLICA_SET
from netsim.model.objects import Object, annotations_of, get_condition, labels_of, name_of
from tests.control_plane import ControlPlane, make_workload_spec, scenario

REVISION = "deployment.kubernetes.io/revision"


async def deploy(world: ControlPlane, replicas: int, image: str = "nginx", **extra: Any) -> Object:
    return await world.create(DEPLOYMENT, "web", make_workload_spec(replicas, image=image, **extra))


async def set_image(world: ControlPlane, image: str) -> None:
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]
    await world.api.patch(DEPLOYMENT, "web", patch, "default", patch_type="json")


async def get(world: ControlPlane) -> Object:
    return await world.api.get(DEPLOYMENT, "web", "default")


@scenario
async def test_a_deployment_becomes_complete(world: ControlPlane) -> None:
    await deploy(world, 3)
    await world.make_all_running()
    deployment = await get(world)
    status = deployment["status"]
    assert status["observedGeneration"] == deployment["metadata"]["generation"]
    assert [status[f] for f in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")] == [3] * 4
    assert "unavailableReplicas" not in status
    assert (get_condition(deployment, "Available") or {})["reason"] == "MinimumReplicasAvailable"
    assert (get_condition(deployment, "Progressing") or {})["reason"] == "NewReplicaSetAvailable"
    assert annotations_of(deployment)[REVISION] == "1"
    (replica_set,) = await world.replica_sets()
    digest = labels_of(replica_set)["pod-template-hash"]
    assert name_of(replica_set) == f"web-{digest}"
    assert all(labels_of(pod)["pod-template-hash"] == digest for pod in await world.pods())
    (event,) = await world.events("ScalingReplicaSet")
    assert event["message"] == f"Scaled up replica set web-{digest} from 0 to 3"


@scenario
async def test_a_rolling_update_keeps_within_its_limits(world: ControlPlane) -> None:
    await deploy(world, 4, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}})
    await world.make_all_running()
    await set_image(world, "httpd")
    for _ in range(50):
        await world.settle()
        pods = await world.pods()
        ready = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
        assert len(pods) <= 5
        assert len(ready) >= 3
        waiting = [pod for pod in pods if pod not in ready]
        if not waiting:
            break
        await world.make_running(waiting[0])
    await world.make_all_running()
    assert {pod["spec"]["containers"][0]["image"] for pod in await world.pods()} == {"httpd"}
    assert annotations_of(await get(world))[REVISION] == "2"
    assert sorted(rs["spec"]["replicas"] for rs in await world.replica_sets()) == [0, 4]


@scenario
async def test_recreate_waits_until_the_old_pods_are_gone(world: ControlPlane) -> None:
    await world.add_node("node-1")  # a pod without a node has no grace period
    await deploy(world, 2, strategy={"type": "Recreate"})
    await world.make_all_running()
    await set_image(world, "httpd")
    await world.settle()
    images = {pod["spec"]["containers"][0]["image"] for pod in await world.pods()}
    assert "httpd" not in images
    await world.make_all_running()
    pods = await world.pods()
    assert [pod["spec"]["containers"][0]["image"] for pod in pods] == ["httpd", "httpd"]


@scenario
async def test_going_back_reuses_the_old_replica_set(world: ControlPlane) -> None:
    await deploy(world, 2)
    await world.make_all_running()
    (first,) = await world.replica_sets()
    await set_image(world, "httpd")
    await world.make_all_running()
    await set_image(world, "nginx")
    await world.make_all_running()
    sets = {name_of(rs): rs for rs in await world.replica_sets()}
    assert len(sets) == 2
    assert sets[name_of(first)]["spec"]["replicas"] == 2
    assert annotations_of(sets[name_of(first)])[REVISION] == "3"
    assert annotations_of(sets[name_of(first)])["deployment.kubernetes.io/revision-history"] == "1"
    assert annotations_of(await get(world))[REVISION] == "3"


@scenario
async def test_history_is_trimmed(world: ControlPlane) -> None:
    await deploy(world, 1, revisionHistoryLimit=1)
    for image in ("a", "b", "c"):
        await world.make_all_running()
        await set_image(world, image)
    await world.make_all_running()
    images = {rs["spec"]["template"]["spec"]["containers"][0]["image"] for rs in await world.replica_sets()}
    assert images == {"b", "c"}


@scenario
async def test_paused_scales_but_does_not_roll(world: ControlPlane) -> None:
    await deploy(world, 2)
    await world.make_all_running()
    await world.api.patch(DEPLOYMENT, "web", {"spec": {"paused": True}}, "default")
    await set_image(world, "httpd")
    await world.api.patch(DEPLOYMENT, "web", {"spec": {"replicas": 4}}, "default")
    await world.make_all_running()
    pods = await world.pods()
    assert [pod["spec"]["containers"][0]["image"] for pod in pods] == ["nginx"] * 4
    assert (get_condition(await get(world), "Progressing") or {})["reason"] == "DeploymentPaused"
    await world.api.patch(DEPLOYMENT, "web", {"spec": {"paused": False}}, "default")
    await world.make_all_running()
    assert {pod["spec"]["containers"][0]["image"] for pod in await world.pods()} == {"httpd"}


@scenario
async def test_a_rollout_that_stands_still_is_late(world: ControlPlane) -> None:
    await deploy(world, 1, progressDeadlineSeconds=60)
    await world.settle()
    assert (get_condition(await get(world), "Progressing") or {})["status"] == "True"
    await world.clock.advance(70)
    await world.settle()
    condition = get_condition(await get(world), "Progressing") or {}
    assert (condition["status"], condition["reason"]) == ("False", "ProgressDeadlineExceeded")


@scenario
async def test_scaling_during_a_rollout_is_shared_out(world: ControlPlane) -> None:
    await deploy(world, 10, strategy={"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}})
    await world.make_all_running()
    await set_image(world, "httpd")
    await world.settle()
    assert sorted(rs["spec"]["replicas"] for rs in await world.replica_sets()) == [5, 8]
    await world.api.patch(DEPLOYMENT, "web", {"spec": {"replicas": 15}}, "default")
    await world.settle()
    # The example of the Kubernetes documentation (concepts/workloads/controllers/deployment, proportional scaling).
    assert sorted(rs["spec"]["replicas"] for rs in await world.replica_sets()) == [7, 11]


@scenario
async def test_deleting_a_deployment_takes_everything_with_it(world: ControlPlane) -> None:
    await deploy(world, 3)
    await world.make_all_running()
    await world.api.delete(DEPLOYMENT, "web", "default")
    await world.make_all_running()
    assert await world.replica_sets() == []
    assert await world.pods() == []


@scenario
async def test_orphaning_keeps_the_replica_set_and_a_new_deployment_adopts_it(world: ControlPlane) -> None:
    await deploy(world, 2)
    await world.make_all_running()
    (before,) = await world.replica_sets()
    await world.api.delete(DEPLOYMENT, "web", "default", propagation="Orphan")
    await world.make_all_running()
    (orphan,) = await world.replica_sets()
    assert not orphan["metadata"].get("ownerReferences")
    await deploy(world, 2)
    await world.make_all_running()
    (adopted,) = await world.replica_sets()
    assert adopted["metadata"]["uid"] == before["metadata"]["uid"]
    assert len(await world.pods()) == 2


@scenario
async def test_foreground_deletion_waits_for_the_pods(world: ControlPlane) -> None:
    await world.add_node("node-1")  # a pod without a node has no grace period
    await deploy(world, 2)
    await world.make_all_running()
    await world.api.delete(DEPLOYMENT, "web", "default", propagation="Foreground")
    await world.settle()
    assert (await get(world))["metadata"]["deletionTimestamp"]
    await world.make_all_running()
    assert (await world.api.list(DEPLOYMENT)).items == []
    assert (await world.api.list(REPLICA_SET)).items == []


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),  # surge rounds up, unavailable down
        (1, "25%", "25%", (1, 0)),
        (3, 0, "10%", (0, 1)),  # never both zero
        (4, 2, 9, (2, 4)),
    ],
)
def test_limits_round_as_upstream(replicas: int, surge: object, unavailable: object, expected: tuple[int, int]) -> None:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    deployment: Object = {"spec": {"replicas": replicas, "strategy": {"rollingUpdate": rolling}}}
    assert rolling_limits(deployment) == expected


def test_the_hash_is_that_of_the_template() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    turned = {"spec": {"containers": []}, "metadata": {"labels": {"a": "b"}}}
    assert template_hash(template) == template_hash(turned)
    assert template_hash(template) != template_hash(template, collisions=1)


def test_one_active_replica_set_takes_the_whole_change() -> None:
    replica_set: Object = {"metadata": {"name": "a", "uid": "a"}, "spec": {"replicas": 2}}
    deployment: Object = {"metadata": {"name": "web"}, "spec": {"replicas": 7}}
    assert plan_scale(deployment, replica_set, []) == [Scale(replica_set, 7)]
