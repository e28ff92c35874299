"""Pod CIDRs of nodes, and namespaces on their way out."""

import asyncio
from ipaddress import ip_network

import pytest

from netsim.model.cidrs import CidrAllocator, CidrsExhausted
from netsim.model.config import ClusterConfig, parse_config
from netsim.model.errors import ApiError, NetsimError
from netsim.model.kinds import CONFIG_MAP, DEPLOYMENT, NAMESPACE, NODE, POD, SERVICE
from tests.control_plane import ControlPlane, make_workload_spec, scenario


async def pod_cidrs(world: ControlPlane) -> dict[str, str | None]:
    nodes = (await world.api.list(NODE)).items
    assert all(node["spec"].get("podCIDRs", [None]) == [node["spec"].get("podCIDR")] for node in nodes)
    return {node["metadata"]["name"]: node["spec"].get("podCIDR") for node in nodes}


@scenario
async def test_each_node_gets_a_cidr_of_its_own(world: ControlPlane) -> None:
    await world.create(NODE, "a", {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]})
    await world.add_node("b")
    await world.settle()
    assert await pod_cidrs(world) == {"a": "10.244.0.0/24", "b": "10.244.1.0/24"}


def test_each_node_gets_a_cidr_of_each_family_in_the_clusters_order() -> None:
    config = parse_config({"podCIDR": "fd01::/56,10.9.0.0/16", "podCIDRMask": "64,26"})

    async def scenario(world: ControlPlane) -> None:
        # One that came with its own, in an order of its own.
        taken = ["10.9.0.0/26", "fd01::/64"]
        await world.create(NODE, "a", {"podCIDR": taken[0], "podCIDRs": taken})
        await world.add_node("b")
        await world.settle()
        nodes = {node["metadata"]["name"]: node["spec"]["podCIDRs"] for node in (await world.api.list(NODE)).items}
        assert nodes == {"a": taken, "b": ["fd01:0:0:1::/64", "10.9.0.64/26"]}
        assert await world.events("CIDRAssignmentFailed") == []
        await world.api.delete(NODE, "a")
        await world.settle()
        # Nobody else's family is given, and it is said.
        await world.create(NODE, "c", {"podCIDR": "192.168.0.0/26"})
        await world.settle()
        (event,) = await world.events("CIDRAssignmentFailed")
        assert "out of the range of cluster CIDR 10.9.0.0/16" in event["message"]

    asyncio.run(ControlPlane(config).run(scenario))


def test_exhaustion_is_told_and_ends_when_a_node_goes() -> None:
    config = ClusterConfig(pod_cidrs=(ip_network("10.244.0.0/23"),))

    async def scenario(world: ControlPlane) -> None:
        for name in ("a", "b", "c"):
            await world.add_node(name)
            await world.settle()
        assert (await pod_cidrs(world))["c"] is None
        (event,) = await world.events("CIDRNotAvailable")
        assert event["involvedObject"]["name"] == "c"
        assert "there are no remaining CIDRs left to allocate in the accepted range 10.244.0.0/23" in event["message"]
        await world.api.delete(NODE, "a")
        await world.settle()
        assert (await pod_cidrs(world))["c"] == "10.244.0.0/24"

    asyncio.run(ControlPlane(config).run(scenario))


@pytest.mark.parametrize(("network", "mask"), [("10.244.0.0/22", 24), ("fd00::/62", 64)])
def test_the_allocator_gives_every_part_once(network: str, mask: int) -> None:
    allocator = CidrAllocator(ip_network(network), mask)
    parts = [allocator.allocate() for _ in range(4)]
    assert parts == list(ip_network(network).subnets(new_prefix=mask))
    with pytest.raises(CidrsExhausted, match="no remaining CIDRs"):
        allocator.allocate()
    allocator.release(parts[2])
    assert allocator.allocate() == parts[2]


def test_occupying_takes_every_part_it_touches() -> None:
    allocator = CidrAllocator(ip_network("10.244.0.0/22"), 24)
    allocator.occupy("10.244.0.0/23")
    assert str(allocator.allocate()) == "10.244.2.0/24"
    with pytest.raises(NetsimError, match="out of the range"):
        allocator.occupy("10.0.0.0/24")


@scenario
async def test_a_namespace_goes_when_it_is_empty(world: ControlPlane) -> None:
    await world.create(NAMESPACE, "shop")
    await world.create(CONFIG_MAP, "settings", metadata={"namespace": "shop"}, data={"a": "b"})
    await world.create(DEPLOYMENT, "web", make_workload_spec(3), metadata={"namespace": "shop"})
    await world.create(SERVICE, "web", {"ports": [{"port": 80}]}, metadata={"namespace": "shop"})
    await world.make_all_running()
    await world.api.delete(NAMESPACE, "shop")
    await world.settle()
    for _ in range(20):
        await world.make_all_running()
        await world.clock.advance(0.1)
    await world.settle()
    with pytest.raises(ApiError, match="not found"):
        await world.api.get(NAMESPACE, "shop")
    for kind in (CONFIG_MAP, DEPLOYMENT, SERVICE, POD):
        assert (await world.api.list(kind, "shop")).items == []
