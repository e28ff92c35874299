"""Cluster DNS against the real API server and controllers: answers follow the API."""

import asyncio
from ipaddress import ip_address

import pytest

from netsim.dns.component import DnsComponent
from netsim.dns.manifests import make_manifests
from netsim.dns.records import NOERROR, NXDOMAIN
from netsim.model.config import ClusterConfig, parse_config
from netsim.model.kinds import POD, SERVICE, kind_of
from tests.control_plane import ControlPlane, make_pod_spec, scenario


def start_dns(world: ControlPlane) -> DnsComponent:
    dns = DnsComponent(world.informers, world.config)
    world.components.append(dns)
    return dns


def data(dns: DnsComponent, name: str, record_type: str = "A") -> list[object]:
    return [record.data for record in dns.resolve(f"{name}.", record_type).answers]


@scenario
async def test_answers_follow_services_and_endpoints(world: ControlPlane) -> None:
    dns = start_dns(world)
    await world.add_node("node-1")
    pod = await world.create(
        POD, "db-0", make_pod_spec(hostname="db-0", subdomain="db"), metadata={"labels": {"app": "db"}}
    )
    ports = [{"name": "sql", "port": 5432}]
    await world.create(SERVICE, "db", {"clusterIP": "None", "selector": {"app": "db"}, "ports": ports})
    await world.create(SERVICE, "web", {"clusterIP": "10.96.7.7", "selector": {"app": "web"}, "ports": [{"port": 80}]})
    await world.settle()
    assert data(dns, "web.default.svc.cluster.local") == ["10.96.7.7"]
    assert data(dns, "7.7.96.10.in-addr.arpa", "PTR") == ["web.default.svc.cluster.local"]
    assert dns.resolve("db.default.svc.cluster.local.", "A").rcode == NXDOMAIN  # nobody is ready

    await world.make_running(pod)
    await world.settle()
    (address,) = data(dns, "db.default.svc.cluster.local")
    assert data(dns, "db-0.db.default.svc.cluster.local") == [address]
    reverse = ".".join(reversed(str(address).split(".")))
    assert data(dns, f"{reverse}.in-addr.arpa", "PTR") == ["db-0.db.default.svc.cluster.local"]

    serial = dns.serial
    await world.api.delete(SERVICE, "db", "default")
    await world.settle()
    assert dns.resolve("db.default.svc.cluster.local.", "A").rcode == NXDOMAIN
    assert dns.resolve(f"{reverse}.in-addr.arpa.", "PTR").rcode == NXDOMAIN
    assert dns.serial > serial


@scenario
async def test_its_own_objects_are_taken_by_the_api_and_found_by_name(world: ControlPlane) -> None:
    dns = start_dns(world)
    for obj in make_manifests(world.config):
        kind = kind_of(obj["apiVersion"], obj["kind"])
        assert kind is not None
        await world.api.create(kind, obj)
    await world.settle()
    assert data(dns, "kube-dns.kube-system.svc.cluster.local") == list(world.config.dns_ips)
    (pod,) = await world.pods("kube-system")
    assert dns.matches(pod["spec"]["containers"][0])


@pytest.mark.parametrize(
    ("image", "matches"),
    [
        ("netsim/dns", True),
        ("netsim/dns:1.0", True),
        ("registry.example.com:5000/netsim/dns:1.0", True),
        ("registry.example.com:5000/netsim/dns", True),
        ("netsim/dns@sha256:abc", True),
        ("coredns/coredns", False),
        ("othernetsim/dns", False),
        ("netsim/dnsmasq", False),
        ("", False),
    ],
)
def test_containers_are_told_by_their_image(image: str, matches: bool) -> None:
    dns = DnsComponent(ControlPlane(ClusterConfig()).informers, ClusterConfig())
    assert dns.matches({"image": image}) is matches


def test_both_families_have_addresses_and_names() -> None:
    async def scenario(world: ControlPlane) -> None:
        dns = start_dns(world)
        for obj in make_manifests(world.config):
            kind = kind_of(obj["apiVersion"], obj["kind"])
            assert kind is not None
            await world.api.create(kind, obj)
        spec = {"ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"}, "ports": [{"port": 80}]}
        await world.create(SERVICE, "web", {**spec, "clusterIPs": ["10.96.7.7", "fd00:10:96::707"]})
        await world.create(SERVICE, "one", {"selector": {"app": "web"}, "ports": [{"port": 80}]})
        await world.settle()
        assert data(dns, "web.default.svc.cluster.local") == ["10.96.7.7"]
        assert data(dns, "web.default.svc.cluster.local", "AAAA") == ["fd00:10:96::707"]
        assert data(dns, ip_address("fd00:10:96::707").reverse_pointer, "PTR") == ["web.default.svc.cluster.local"]
        # A Service of the other family alone exists, without such a record (NODATA).
        answer = dns.resolve("one.default.svc.cluster.local.", "AAAA")
        assert (answer.rcode, answer.answers) == (NOERROR, ())
        assert data(dns, "kube-dns.kube-system.svc.cluster.local", "AAAA") == ["fd00:10:96::a"]
        assert data(dns, "ns.dns.cluster.local", "AAAA") == ["fd00:10:96::a"]
        glue = dns.resolve("cluster.local.", "NS").additional
        assert [(record.type, record.data) for record in glue] == [("A", "10.96.0.10"), ("AAAA", "fd00:10:96::a")]

    asyncio.run(ControlPlane(parse_config({"ipFamily": "dual"})).run(scenario))
