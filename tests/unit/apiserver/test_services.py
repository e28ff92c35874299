"""Services: defaults, allocation of ClusterIPs and NodePorts, validation in upstream's words."""

from ipaddress import IPv4Network, ip_address

import pytest

from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.store.store import Store
from tests.unit.apiserver.server import SERVICES, Object, Server, make_service

WEB = f"{SERVICES}/web"


@pytest.fixture
def server() -> Server:
    return Server()


def refused(server: Server, body: Object, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        server.create(SERVICES, body)
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


def test_defaults(server: Server) -> None:
    spec = server.create(SERVICES, make_service())["spec"]
    ip = spec.pop("clusterIP")
    assert spec == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "ClusterIP",
        "clusterIPs": [ip],
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    assert server.get(WEB)["status"] == {"loadBalancer": {}}


def test_defaults_that_follow_the_type(server: Server) -> None:
    node_port = server.create(SERVICES, make_service("a", type="NodePort", sessionAffinity="ClientIP"))["spec"]
    assert node_port["externalTrafficPolicy"] == "Cluster"
    assert node_port["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert 30000 <= node_port["ports"][0]["nodePort"] <= 32767
    balancer = server.create(SERVICES, make_service("b", type="LoadBalancer", externalTrafficPolicy="Local"))["spec"]
    assert balancer["allocateLoadBalancerNodePorts"] is True
    assert balancer["healthCheckNodePort"] != balancer["ports"][0]["nodePort"]
    external = server.create(SERVICES, make_service("c", type="ExternalName", externalName="example.com"))["spec"]
    assert "clusterIP" not in external
    assert "ipFamilies" not in external
    headless = server.create(SERVICES, make_service("d", clusterIP="None"))["spec"]
    assert headless["clusterIPs"] == ["None"]


def test_cluster_ips_come_from_the_network_above_the_band_for_chosen_ones(server: Server) -> None:
    first, second = (server.create(SERVICES, make_service(name))["spec"]["clusterIP"] for name in ("a", "b"))
    assert first != second
    for ip in (first, second):
        assert ip_address(ip) in IPv4Network("10.96.0.0/12")
        assert ip_address(ip) > ip_address("10.96.1.0")  # the first 256 are left to those who choose
    assert server.create(SERVICES, make_service("c", clusterIP="10.96.0.10"))["spec"]["clusterIPs"] == ["10.96.0.10"]


def test_a_taken_cluster_ip_is_refused_in_upstreams_words(server: Server) -> None:
    server.create(SERVICES, make_service("a", clusterIP="10.96.0.10"))
    with pytest.raises(ApiError) as caught:
        server.create(SERVICES, make_service("b", clusterIP="10.96.0.10"))
    assert caught.value.message == (
        'Service "b" is invalid: spec.clusterIPs: Invalid value: []string{"10.96.0.10"}: failed to allocate IP '
        "10.96.0.10: provided IP is already allocated"
    )
    refused(
        server,
        make_service("b", clusterIP="192.0.2.1"),
        r"the provided IP \(192.0.2.1\) is not in the valid range. The range of valid IPs is 10.96.0.0/12",
    )
    refused(
        server,
        make_service("b", clusterIP="10.96"),
        r"spec.clusterIPs\[0\]: Invalid value: \"10.96\": must be a valid IP",
    )
    refused(server, make_service("b", clusterIP="10.96.0.0"), "not in the valid range")


def test_a_taken_node_port_is_refused_in_upstreams_words(server: Server) -> None:
    body = make_service("a", {"port": 80, "nodePort": 30080}, type="NodePort")
    server.create(SERVICES, body)
    with pytest.raises(ApiError) as caught:
        server.create(SERVICES, {**body, "metadata": {"name": "b"}})
    assert caught.value.message == (
        'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated'
    )
    refused(
        server,
        make_service("b", {"port": 80, "nodePort": 80}, type="NodePort"),
        r"spec.ports\[0\].nodePort: Invalid value: 80: provided port is not in the valid range. "
        "The range of valid ports is 30000-32767",
    )


def test_what_a_refused_service_took_is_free_again(server: Server) -> None:
    server.create(SERVICES, make_service("a", {"port": 80, "nodePort": 30080}, type="NodePort"))
    ports = [{"name": "x", "port": 1, "nodePort": 30081}, {"name": "y", "port": 2, "nodePort": 30080}]
    refused(server, make_service("b", *ports, type="NodePort", clusterIP="10.96.0.50"), "already allocated")
    server.create(SERVICES, make_service("c", ports[0], type="NodePort", clusterIP="10.96.0.50"))


def test_deleting_and_changing_the_type_give_back(server: Server) -> None:
    body = make_service("a", {"port": 80, "nodePort": 30080}, type="NodePort", clusterIP="10.96.0.50")
    server.create(SERVICES, body)
    server.delete(f"{SERVICES}/a")
    server.create(SERVICES, body)
    spec = server.patch(f"{SERVICES}/a", {"spec": {"type": "ClusterIP"}})["spec"]
    assert "nodePort" not in spec["ports"][0]
    assert "externalTrafficPolicy" not in spec
    assert spec["clusterIP"] == "10.96.0.50"
    server.create(SERVICES, make_service("b", {"port": 80, "nodePort": 30080}, type="NodePort"))
    spec = server.patch(f"{SERVICES}/a", {"spec": {"type": "ExternalName", "externalName": "example.com"}})["spec"]
    assert "clusterIP" not in spec
    server.create(SERVICES, make_service("c", clusterIP="10.96.0.50"))
    spec = server.patch(f"{SERVICES}/a", {"spec": {"type": "ClusterIP"}})["spec"]
    assert spec["clusterIP"] not in ("", "10.96.0.50")
    assert "externalName" not in spec


def test_udp_and_tcp_may_share_a_node_port(server: Server) -> None:
    ports = [
        {"name": "tcp", "port": 53, "protocol": "TCP", "nodePort": 30053},
        {"name": "udp", "port": 53, "protocol": "UDP", "nodePort": 30053},
    ]
    server.create(SERVICES, make_service("a", *ports, type="NodePort"))
    server.delete(f"{SERVICES}/a")
    server.create(SERVICES, make_service("b", *ports, type="NodePort"))
    for port in ports:
        del port["nodePort"]
    given = server.create(SERVICES, make_service("c", *ports, type="NodePort"))["spec"]["ports"]
    assert given[0]["nodePort"] == given[1]["nodePort"]


def test_an_update_that_names_no_addresses_keeps_them(server: Server) -> None:
    created = server.create(SERVICES, make_service("web", type="NodePort"))["spec"]
    body = make_service("web", {"port": 80}, type="NodePort", selector={"a": "b"})
    updated = server.update(WEB, body)["spec"]
    assert updated["clusterIP"] == created["clusterIP"]
    assert updated["ports"][0]["nodePort"] == created["ports"][0]["nodePort"]
    moved = server.patch(WEB, {"spec": {"ports": [{"port": 80, "nodePort": 30001}]}})["spec"]["ports"][0]
    assert moved["nodePort"] == 30001
    server.create(
        SERVICES, make_service("b", {"port": 80, "nodePort": created["ports"][0]["nodePort"]}, type="NodePort")
    )


def test_a_cluster_ip_may_not_change(server: Server) -> None:
    server.create(SERVICES, make_service("web", clusterIP="10.96.0.50"))
    with pytest.raises(ApiError) as caught:
        server.patch(WEB, {"spec": {"clusterIP": "10.96.0.51"}})
    assert caught.value.message == (
        'Service "web" is invalid: spec.clusterIPs[0]: Invalid value: []string{"10.96.0.51"}: may not change once set'
    )


def test_a_full_range_says_so() -> None:
    server = Server(ClusterConfig(service_cidrs=(IPv4Network("10.96.0.0/28"),), node_port_range=(30000, 30001)))
    for number in range(13):  # 16, less the network, the broadcast address and default/kubernetes
        server.create(SERVICES, make_service(f"s{number}"))
    with pytest.raises(ApiError, match="failed to allocate a serviceIP: range is full") as caught:
        server.create(SERVICES, make_service("more"))
    assert (caught.value.code, caught.value.reason) == (500, "InternalError")
    server.delete(f"{SERVICES}/s0")
    ports = [{"name": str(number), "port": number} for number in (1, 2, 3)]
    with pytest.raises(ApiError, match="failed to allocate a nodePort: range is full"):
        server.create(SERVICES, make_service("more", *ports, type="NodePort"))
    server.create(SERVICES, make_service("more", *ports[:2], type="NodePort"))  # all was given back


def test_a_restarted_server_remembers_what_is_taken() -> None:
    store = Store()
    Server(store=store).create(
        SERVICES, make_service("a", {"port": 80, "nodePort": 30080}, type="NodePort", clusterIP="10.96.0.50")
    )
    again = Server(store=store)
    refused(again, make_service("b", clusterIP="10.96.0.50"), "already allocated")
    refused(again, make_service("b", {"port": 80, "nodePort": 30080}, type="NodePort"), "already allocated")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (make_service("1web"), 'metadata.name: Invalid value: "1web": a DNS-1035 label must consist of'),
        ({"metadata": {"name": "web"}, "spec": {}}, "spec.ports: Required value"),
        (
            make_service("web", type="Magic"),
            'spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "Ext',
        ),
        (
            make_service("web", {"port": 0}),
            r"spec.ports\[0\].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (make_service("web", {"port": 80, "targetPort": 65536}), r"spec.ports\[0\].targetPort: Invalid value: 65536"),
        (
            make_service("web", {"port": 80, "targetPort": "a_b"}),
            r"targetPort: Invalid value: \"a_b\": must contain only alpha",
        ),
        (
            make_service("web", {"port": 80, "protocol": "ICMP"}),
            r'protocol: Unsupported value: "ICMP": supported values: "SCTP"',
        ),
        (make_service("web", {"port": 80}, {"port": 81}), r"spec.ports\[0\].name: Required value"),
        (
            make_service("web", {"name": "a", "port": 80}, {"name": "a", "port": 81}),
            r'spec.ports\[1\].name: Duplicate value: "a"',
        ),
        (
            make_service("web", {"name": "a", "port": 80}, {"name": "b", "port": 80}),
            r'spec.ports\[1\]: Duplicate value: core.ServicePort\{Name:"b", Protocol:"TCP"',
        ),
        (
            make_service("web", {"port": 80, "nodePort": 30000}),
            r"nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (make_service("web", type="ExternalName"), "spec.externalName: Required value"),
        (make_service("web", type="NodePort", clusterIP="None"), "may not be set to 'None' for NodePort services"),
        (make_service("web", sessionAffinity="Cookie"), 'spec.sessionAffinity: Unsupported value: "Cookie"'),
        (
            make_service(
                "web", sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86401}}
            ),
            "timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ),
        (make_service("web", externalTrafficPolicy="Local"), "may only be set for externally-accessible services"),
        (make_service("web", type="NodePort", externalTrafficPolicy="Near"), 'Unsupported value: "Near"'),
        (make_service("web", internalTrafficPolicy="Near"), "spec.internalTrafficPolicy: Unsupported value"),
        (make_service("web", externalIPs=["127.0.0.1"]), r"spec.externalIPs\[0\]: Invalid value: .* loopback range"),
        (
            make_service("web", ipFamilies=["IPv6"]),
            r'spec.ipFamilies\[0\]: Invalid value: "IPv6": not configured on this',
        ),
        (
            make_service("web", ipFamilyPolicy="RequireDualStack"),
            "this cluster is not configured for dual-stack services",
        ),
        (make_service("web", selector={"a": "b c"}), "spec.selector: Invalid value"),
        (
            make_service("web", loadBalancerSourceRanges=["10.0.0.0/8"]),
            "may only be used when `type` is 'LoadBalancer'",
        ),
        (make_service("web", healthCheckNodePort=31000), "may only be set when `type` is 'LoadBalancer' and"),
    ],
)
def test_bad_services_are_invalid(server: Server, body: Object, text: str) -> None:
    refused(server, body, text)


def test_the_table(server: Server) -> None:
    server.create(SERVICES, make_service("a", {"port": 80, "nodePort": 30080}, type="NodePort", selector={"a": "b"}))
    server.create(SERVICES, make_service("b", type="ExternalName", externalName="example.com"))
    server.create(SERVICES, make_service("c", type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    server.create(SERVICES, make_service("d", clusterIP="None", externalIPs=["192.0.2.1"]))
    table = server.get(SERVICES, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    rows = [row["cells"] for row in table["rows"]]
    ip = server.get(f"{SERVICES}/a")["spec"]["clusterIP"]
    assert rows[0] == ["a", "NodePort", ip, "<none>", "80:30080/TCP", "0s", "a=b"]
    assert rows[1][1:5] == ["ExternalName", "<none>", "example.com", "80/TCP"]
    assert rows[2][3] == "<pending>"
    assert rows[3][1:4] == ["ClusterIP", "None", "192.0.2.1"]


def test_a_load_balancers_addresses_go_with_the_type_and_need_it(server: Server) -> None:
    server.create(SERVICES, make_service(type="LoadBalancer"))
    status = {
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "lb.example"}]}}
    }
    assert server.patch(f"{WEB}/status", status)["status"] == status["status"]
    assert server.patch(WEB, {"metadata": {"labels": {"a": "b"}}})["status"] == status["status"]
    assert server.patch(WEB, {"spec": {"type": "NodePort"}})["status"] == {"loadBalancer": {}}
    with pytest.raises(ApiError, match=r"ingress: Forbidden: may only be used when `spec\.type` is 'LoadBalancer'"):
        server.patch(f"{WEB}/status", status)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"ip": "here"}, r"ingress\[0\].ip: Invalid value"),
        ({"ip": "192.0.2.1", "ipMode": "vip"}, r"ingress\[0\].ipMode: Unsupported value"),
        ({"hostname": "lb.example", "ipMode": "VIP"}, r"ingress\[0\].ipMode: Forbidden"),
    ],
)
def test_bad_load_balancer_addresses_are_invalid(server: Server, entry: Object, text: str) -> None:
    server.create(SERVICES, make_service(type="LoadBalancer"))
    with pytest.raises(ApiError, match=text):
        server.patch(f"{WEB}/status", {"status": {"loadBalancer": {"ingress": [entry]}}})
