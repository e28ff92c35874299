"""What cluster DNS answers: upstream's schema (DNS-Based Service Discovery 1.1.0), question by question."""

from collections.abc import Iterable

import pytest

from netsim.dns.records import NOERROR, NXDOMAIN, Answer, Soa, Srv, answer, slice_keys
from netsim.model.objects import Object

DOMAIN = "cluster.local"


def make_service(name: str, cluster_ip: str, *ports: tuple[str, int, str], **spec: object) -> Object:
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [{"name": n, "port": p, "protocol": proto} for n, p, proto in ports],
            **spec,
        },
    }


def make_slice(service: str, endpoints: list[Object], *ports: tuple[str, int, str]) -> Object:
    return {
        "metadata": {
            "name": f"{service}-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": n, "port": p, "protocol": proto} for n, p, proto in ports],
        "endpoints": endpoints,
    }


def make_endpoint(address: str, hostname: str = "", **conditions: bool) -> Object:
    endpoint: Object = {"addresses": [address], "conditions": conditions}
    return endpoint | ({"hostname": hostname} if hostname else {})


HTTP, ADMIN = ("http", 80, "TCP"), ("dns", 53, "UDP")
SERVICES = [
    make_service("web", "10.96.0.20", HTTP, ADMIN),
    make_service("idle", "10.96.0.21", HTTP),
    make_service("db", "None", ("sql", 5432, "TCP")),
    make_service("early", "None", ("sql", 5432, "TCP"), publishNotReadyAddresses=True),
    make_service("none", "None", ("sql", 5432, "TCP")),
    make_service("portless", "None"),
    make_service("six", "fd00::20", HTTP),
    make_service("both", "10.96.0.22", HTTP, clusterIPs=["10.96.0.22", "fd00::22"]),
    make_service("far", "", type="ExternalName", externalName="example.com", clusterIPs=[]),
    make_service("near", "", type="ExternalName", externalName="web.shop.svc.cluster.local.", clusterIPs=[]),
    make_service("ring1", "", type="ExternalName", externalName="ring2.shop.svc.cluster.local", clusterIPs=[]),
    make_service("ring2", "", type="ExternalName", externalName="ring1.shop.svc.cluster.local", clusterIPs=[]),
    make_service("number", "", type="ExternalName", externalName="192.0.2.7", clusterIPs=[]),
]
SLICES = [
    make_slice("web", [make_endpoint("10.244.1.5", ready=True)], ("http", 8080, "TCP")),
    make_slice(
        "db",
        [
            make_endpoint("10.244.0.7", ready=True),
            make_endpoint("10.244.0.8", "db-1", ready=True),
            make_endpoint("10.244.0.9", "db-2", ready=False, serving=True, terminating=True),
        ],
        ("sql", 5432, "TCP"),
    ),
    make_slice("early", [make_endpoint("10.244.0.30", ready=False)], ("sql", 5432, "TCP")),
    make_slice("portless", [make_endpoint("10.244.0.20")]),
]


class Snapshot:
    """A View over the lists above."""

    serial = 42

    def namespace_exists(self, name: str) -> bool:
        return name in ("shop", "default")

    def service(self, namespace: str, name: str) -> Object | None:
        found = [s for s in SERVICES if (s["metadata"]["namespace"], s["metadata"]["name"]) == (namespace, name)]
        return found[0] if found else None

    def slices(self, namespace: str, service: str) -> Iterable[Object]:
        return [s for s in SLICES if f"{namespace}/{service}" in slice_keys(s)]

    def services_at(self, address: str) -> Iterable[Object]:
        return [s for s in SERVICES if address in s["spec"]["clusterIPs"]]

    def slices_at(self, address: str) -> Iterable[Object]:
        return [s for s in SLICES if any(address in e["addresses"] for e in s["endpoints"])]


def ask(name: str, record_type: str = "A") -> Answer:
    return answer(name, record_type, Snapshot(), domain=DOMAIN, dns_ips=("10.96.0.10",))


def data(found: Answer) -> list[object]:
    return [record.data for record in found.answers]


@pytest.mark.parametrize(
    ("name", "record_type", "expected"),
    [
        ("web.shop.svc.cluster.local.", "A", ["10.96.0.20"]),
        ("web.shop.svc.cluster.local", "A", ["10.96.0.20"]),
        ("WEB.Shop.SVC.cluster.LOCAL.", "A", ["10.96.0.20"]),
        ("idle.shop.svc.cluster.local.", "A", ["10.96.0.21"]),  # endpoints are no matter of a ClusterIP's name
        ("six.shop.svc.cluster.local.", "AAAA", ["fd00::20"]),
        ("both.shop.svc.cluster.local.", "A", ["10.96.0.22"]),
        ("both.shop.svc.cluster.local.", "AAAA", ["fd00::22"]),
        ("both.shop.svc.cluster.local.", "ANY", ["10.96.0.22", "fd00::22"]),
        ("db.shop.svc.cluster.local.", "A", ["10.244.0.7", "10.244.0.8"]),
        ("early.shop.svc.cluster.local.", "A", ["10.244.0.30"]),
        ("portless.shop.svc.cluster.local.", "A", ["10.244.0.20"]),
        ("10-244-0-7.db.shop.svc.cluster.local.", "A", ["10.244.0.7"]),
        ("db-1.db.shop.svc.cluster.local.", "A", ["10.244.0.8"]),
        ("10-244-1-5.web.shop.svc.cluster.local.", "A", ["10.244.1.5"]),
        ("_http._tcp.web.shop.svc.cluster.local.", "A", ["10.96.0.20"]),
        ("10-1-2-3.shop.pod.cluster.local.", "A", ["10.1.2.3"]),
        ("fd00--1.shop.pod.cluster.local.", "AAAA", ["fd00::1"]),
        ("ns.dns.cluster.local.", "A", ["10.96.0.10"]),
        ("dns-version.cluster.local.", "TXT", ["1.1.0"]),
        ("cluster.local.", "NS", ["ns.dns.cluster.local"]),
        ("far.shop.svc.cluster.local.", "A", ["example.com"]),
        ("far.shop.svc.cluster.local.", "CNAME", ["example.com"]),
        ("near.shop.svc.cluster.local.", "A", ["web.shop.svc.cluster.local", "10.96.0.20"]),
        ("near.shop.svc.cluster.local.", "CNAME", ["web.shop.svc.cluster.local"]),
        ("number.shop.svc.cluster.local.", "A", ["192.0.2.7"]),
        ("20.0.96.10.in-addr.arpa.", "PTR", ["web.shop.svc.cluster.local"]),
        ("7.0.244.10.in-addr.arpa.", "PTR", ["10-244-0-7.db.shop.svc.cluster.local"]),
        ("8.0.244.10.in-addr.arpa.", "PTR", ["db-1.db.shop.svc.cluster.local"]),
        (f"0.2.{'0.' * 26}0.0.d.f.ip6.arpa.", "PTR", ["six.shop.svc.cluster.local"]),
    ],
)
def test_names_that_are_there(name: str, record_type: str, expected: list[str]) -> None:
    found = ask(name, record_type)
    assert found.rcode == NOERROR
    assert data(found) == expected


@pytest.mark.parametrize(
    ("name", "record_type"),
    [
        ("web.shop.svc.cluster.local.", "AAAA"),
        ("web.shop.svc.cluster.local.", "TXT"),
        ("web.shop.svc.cluster.local.", "SOA"),
        ("six.shop.svc.cluster.local.", "A"),
        ("db.shop.svc.cluster.local.", "AAAA"),
        ("portless.shop.svc.cluster.local.", "SRV"),
        ("shop.svc.cluster.local.", "A"),
        ("shop.pod.cluster.local.", "A"),
        ("svc.cluster.local.", "A"),
        ("pod.cluster.local.", "NS"),
        ("dns.cluster.local.", "A"),
        ("cluster.local.", "A"),
        ("dns-version.cluster.local.", "A"),
        ("10-1-2-3.shop.pod.cluster.local.", "AAAA"),
        ("20.0.96.10.in-addr.arpa.", "A"),
        (".", "A"),
    ],
)
def test_names_without_such_a_record_are_no_data(name: str, record_type: str) -> None:
    found = ask(name, record_type)
    assert (found.rcode, found.answers) == (NOERROR, ())
    assert [record.type for record in found.authority] == ["SOA"]


@pytest.mark.parametrize(
    "name",
    [
        "nope.shop.svc.cluster.local.",
        "web.nowhere.svc.cluster.local.",
        "nowhere.svc.cluster.local.",
        "none.shop.svc.cluster.local.",  # headless and nobody is ready: the specification wants NXDOMAIN
        "db-2.db.shop.svc.cluster.local.",  # terminating
        "db-9.db.shop.svc.cluster.local.",
        "x.far.shop.svc.cluster.local.",
        "_nope._tcp.web.shop.svc.cluster.local.",
        "_http._udp.web.shop.svc.cluster.local.",
        "a.b.c.web.shop.svc.cluster.local.",
        "10-1-2-3.nowhere.pod.cluster.local.",
        "10-1-2-300.shop.pod.cluster.local.",
        "web.shop.cluster.local.",
        "foo.cluster.local.",
        "9.0.244.10.in-addr.arpa.",  # the endpoint is not ready
        "1.1.1.10.in-addr.arpa.",
    ],
)
def test_names_that_do_not_exist(name: str) -> None:
    for record_type in ("A", "AAAA", "SRV", "PTR"):
        found = ask(name, record_type)
        assert (found.rcode, found.answers) == (NXDOMAIN, ())
        assert [record.type for record in found.authority] == ["SOA"]
        assert not found.outside


@pytest.mark.parametrize("name", ["example.com.", "web.", "web.shop.svc.other.local.", "xcluster.local."])
def test_names_outside_the_domain_do_not_exist_and_say_why(name: str) -> None:
    found = ask(name)
    assert found.rcode == NXDOMAIN
    assert found.outside


def test_an_alias_to_the_outside_is_told_but_not_followed() -> None:
    found = ask("far.shop.svc.cluster.local.")
    assert found.outside
    assert [record.type for record in found.answers] == ["CNAME"]


def test_a_ring_of_aliases_ends() -> None:
    assert len(ask("ring1.shop.svc.cluster.local.").answers) == 2


def test_srv_of_a_cluster_ip() -> None:
    found = ask("_http._tcp.web.shop.svc.cluster.local.", "SRV")
    assert data(found) == [Srv(0, 100, 80, "web.shop.svc.cluster.local")]
    assert [(r.name, r.data) for r in found.additional] == [("web.shop.svc.cluster.local", "10.96.0.20")]


def test_srv_without_a_port_names_them_all() -> None:
    targets = data(ask("web.shop.svc.cluster.local.", "SRV"))
    assert targets == [Srv(0, 50, port, "web.shop.svc.cluster.local") for port in (80, 53)]


def test_srv_of_a_headless_service_names_each_endpoint() -> None:
    found = ask("_sql._tcp.db.shop.svc.cluster.local.", "SRV")
    hosts = ["10-244-0-7.db.shop.svc.cluster.local", "db-1.db.shop.svc.cluster.local"]
    assert data(found) == [Srv(0, 50, 5432, host) for host in hosts]
    assert [(r.name, r.data) for r in found.additional] == list(zip(hosts, ["10.244.0.7", "10.244.0.8"], strict=True))


def test_every_target_of_srv_and_ptr_resolves() -> None:
    """Names that DNS gives out are names that DNS knows."""
    for record in ask("_sql._tcp.db.shop.svc.cluster.local.", "SRV").answers:
        assert isinstance(record.data, Srv)
        assert ask(record.data.target).answers
    for address in ("20.0.96.10", "7.0.244.10", "8.0.244.10"):
        (target,) = data(ask(f"{address}.in-addr.arpa.", "PTR"))
        assert ask(str(target)).answers


def test_times_to_live_and_the_soa() -> None:
    assert ask("web.shop.svc.cluster.local.").answers[0].ttl_s == 5
    (soa,) = ask("nope.shop.svc.cluster.local.").authority
    assert soa.name == DOMAIN
    assert soa.data == Soa("ns.dns.cluster.local", "hostmaster.cluster.local", 42, 7200, 1800, 86400, 5)
    (glue,) = ask("cluster.local.", "NS").additional
    assert (glue.name, glue.data) == ("ns.dns.cluster.local", "10.96.0.10")
