"""EndpointSlices against the real API server."""

from typing import Any

from netsim.model.kinds import ENDPOINT_SLICE, NODE, POD, SERVICE
from netsim.model.objects import Object, annotations_of, labels_of, name_of, uid_of
from tests.control_plane import ControlPlane, make_pod_spec, scenario


async def add_pod(world: ControlPlane, name: str, *, ready: bool = True, app: str = "web", **spec: Any) -> Object:
    pod = await world.create(POD, name, make_pod_spec(**spec), metadata={"labels": {"app": app}})
    await world.make_running(pod, ready=ready)
    return pod


async def add_service(world: ControlPlane, ports: list[Object] | None = None, **spec: Any) -> Object:
    spec = {"selector": {"app": "web"}, "ports": ports or [{"port": 80}], **spec}
    return await world.create(SERVICE, "web", spec)


def conditions(endpoint: Object) -> tuple[bool, bool, bool]:
    found = endpoint["conditions"]
    return found["ready"], found["serving"], found["terminating"]


@scenario
async def test_what_an_endpoint_tells(world: ControlPlane) -> None:
    await world.add_node("node-1", labels={"topology.kubernetes.io/zone": "east"})
    pod = await add_pod(world, "web-0", hostname="zero", subdomain="web")
    await add_service(world, [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}])
    await world.settle()
    (found,) = await world.slices("web")
    assert labels_of(found)["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
    assert found["addressType"] == "IPv4"
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}]
    assert found["endpoints"] == [
        {
            "addresses": ["10.244.0.2"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "hostname": "zero",
            "nodeName": "node-1",
            "zone": "east",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0", "uid": uid_of(pod)},
        }
    ]
    assert "endpoints.kubernetes.io/last-change-trigger-time" in annotations_of(found)
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Service"


@scenario
async def test_conditions_follow_readiness_and_termination(world: ControlPlane) -> None:
    await world.add_node("node-1")
    pod = await add_pod(world, "web-0", ready=False)
    await add_service(world)
    await world.settle()

    async def now() -> tuple[bool, bool, bool]:
        await world.settle()
        ((endpoint,),) = [s["endpoints"] for s in await world.slices("web")]
        return conditions(endpoint)

    assert await now() == (False, False, False)
    await world.make_running(pod)
    assert await now() == (True, True, False)
    await world.api.delete(POD, "web-0", "default", grace_period_s=30)
    assert await now() == (False, True, True)
    await world.make_running(pod, ready=False)
    assert await now() == (False, False, True)
    await world.remove(pod)
    await world.settle()
    (empty,) = await world.slices("web")
    assert not empty.get("endpoints")


@scenario
async def test_not_ready_addresses_are_published_when_asked(world: ControlPlane) -> None:
    await world.add_node("node-1")
    await add_pod(world, "web-0", ready=False)
    await add_service(world, clusterIP="None", publishNotReadyAddresses=True)
    await world.settle()
    (found,) = await world.slices("web")
    assert conditions(found["endpoints"][0]) == (True, False, False)
    assert labels_of(found)["service.kubernetes.io/headless"] == ""


@scenario
async def test_a_service_that_matches_nothing_has_one_empty_slice(world: ControlPlane) -> None:
    await add_service(world)
    await world.settle()
    (found,) = await world.slices("web")
    assert not found.get("endpoints")


@scenario
async def test_named_ports_are_each_pods_own(world: ControlPlane) -> None:
    await world.add_node("node-1")
    for name, number in (("a", 8080), ("b", 8080), ("c", 9090)):
        ports = [{"name": "http", "containerPort": number}]
        await add_pod(world, name, containers=[{"name": "main", "image": "nginx", "ports": ports}])
    await add_pod(world, "d", containers=[{"name": "main", "image": "nginx"}])  # has no such port
    await add_service(world, [{"port": 80, "targetPort": "http"}])
    await world.settle()
    found = {s["ports"][0]["port"]: [e["targetRef"]["name"] for e in s["endpoints"]] for s in await world.slices("web")}
    assert {port: sorted(names) for port, names in found.items()} == {8080: ["a", "b"], 9090: ["c"]}


@scenario
async def test_slices_deleted_or_changed_by_hand_come_back(world: ControlPlane) -> None:
    await world.add_node("node-1")
    await add_pod(world, "web-0")
    await add_service(world)
    await world.settle()
    (found,) = await world.slices("web")
    await world.api.delete(ENDPOINT_SLICE, name_of(found), "default")
    await world.settle()
    (again,) = await world.slices("web")
    assert again["endpoints"] == found["endpoints"]
    await world.api.patch(ENDPOINT_SLICE, name_of(again), {"endpoints": []}, "default")
    await world.settle()
    (again,) = await world.slices("web")
    assert again["endpoints"] == found["endpoints"]


@scenario
async def test_one_change_is_one_write(world: ControlPlane) -> None:
    await world.add_node("node-1", pods=500)
    pods = [await add_pod(world, f"web-{number:03}") for number in range(250)]
    await add_service(world)
    await world.settle()
    assert sorted(len(s["endpoints"]) for s in await world.slices("web")) == [50, 100, 100]
    await world.clock.advance(1)
    changes: list[str] = []

    def count(old: Object | None, new: Object | None) -> None:
        changes.append("deleted" if new is None else "added" if old is None else "changed")

    world.informers.of(ENDPOINT_SLICE).add_handler(count)
    changes.clear()
    await world.make_running(pods[120], ready=False)
    await world.settle()
    await world.clock.advance(1)
    await world.settle()
    assert changes == ["changed"]


@scenario
async def test_a_zone_given_later_reaches_the_endpoints(world: ControlPlane) -> None:
    await world.add_node("node-1")
    await add_pod(world, "web-0")
    await add_service(world)
    await world.settle()
    await world.api.patch(NODE, "node-1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "west"}}})
    await world.settle()
    (found,) = await world.slices("web")
    assert found["endpoints"][0]["zone"] == "west"


@scenario
async def test_a_traffic_distribution_becomes_hints_of_ready_endpoints_that_go_with_it(world: ControlPlane) -> None:
    await world.add_node("node-1", labels={"topology.kubernetes.io/zone": "east"})
    await add_pod(world, "web-0")
    await add_pod(world, "web-1", ready=False)
    await add_service(world)
    zones, nodes = {"forZones": [{"name": "east"}]}, {"forNodes": [{"name": "node-1"}]}
    for distribution, hints in (
        ("PreferClose", zones),
        ("PreferSameNode", zones | nodes),
        ("PreferSameZone", zones),
        (None, None),
    ):
        await world.api.patch(SERVICE, "web", {"spec": {"trafficDistribution": distribution}}, "default")
        await world.settle()
        await world.clock.advance(1)
        await world.settle()
        (found,) = await world.slices("web")
        by_pod = {endpoint["targetRef"]["name"]: endpoint.get("hints") for endpoint in found["endpoints"]}
        assert by_pod == {"web-0": hints, "web-1": None}, distribution


@scenario
async def test_changing_the_selector_changes_the_endpoints(world: ControlPlane) -> None:
    await world.add_node("node-1")
    await add_pod(world, "web-0")
    await add_pod(world, "db-0", app="db")
    await add_service(world)
    await world.settle()
    await world.api.patch(SERVICE, "web", {"spec": {"selector": {"app": "db"}}}, "default")
    await world.settle()
    (found,) = await world.slices("web")
    assert [e["targetRef"]["name"] for e in found["endpoints"]] == ["db-0"]


@scenario
async def test_slices_go_with_their_service(world: ControlPlane) -> None:
    await add_service(world)
    await world.settle()
    await world.api.delete(SERVICE, "web", "default")
    await world.settle()
    assert await world.slices("web") == []


@scenario
async def test_without_a_selector_slices_are_left_alone(world: ControlPlane) -> None:
    await world.create(SERVICE, "web", {"ports": [{"port": 80}]})
    await world.settle()
    assert await world.slices("web") == []
