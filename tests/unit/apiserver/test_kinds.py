"""Deployments, ReplicaSets, Nodes, ConfigMaps, Events, EndpointSlices: defaults, rules, tables, scale."""

from typing import Any

import pytest

from netsim.model.errors import ApiError
from tests.unit.apiserver.server import DEPLOYMENTS, NS, PODS, TABLE, Object, Server, make_deployment

REPLICA_SETS = "/apis/apps/v1/namespaces/default/replicasets"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
EVENTS = f"{NS}/events"
NODES = "/api/v1/nodes"


@pytest.fixture
def server() -> Server:
    return Server()


def cells(server: Server, path: str) -> list[Any]:
    (row,) = server.get(path, accept=TABLE)["rows"]
    return row["cells"]  # type: ignore[no-any-return]


def test_deployment_defaults(server: Server) -> None:
    spec = server.create(DEPLOYMENTS, make_deployment())["spec"]
    assert spec["replicas"] == 1
    assert spec["revisionHistoryLimit"] == 10
    assert spec["progressDeadlineSeconds"] == 600
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert "minReadySeconds" not in spec
    recreate = server.create(DEPLOYMENTS, make_deployment("b", strategy={"type": "Recreate"}))
    assert recreate["spec"]["strategy"] == {"type": "Recreate"}


def test_zero_replicas_stay_zero(server: Server) -> None:
    assert server.create(DEPLOYMENTS, make_deployment(replicas=0))["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"replicas": -1},
            r'Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal',
        ),
        ({"selector": None}, "spec.selector: Required value"),
        ({"selector": {}}, "spec.selector: Invalid value: .*empty selector is invalid for deployment"),
        (
            {"selector": {"matchLabels": {"app": "other"}}},
            r'spec.template.metadata.labels: Invalid value: map\[string\]string\{"app":"web"\}: `selector` does not',
        ),
        ({"selector": {"matchExpressions": [{"key": "app", "operator": "Near"}]}}, "not a valid selector operator"),
        (
            {"selector": {"matchExpressions": [{"key": "app", "operator": "In"}]}},
            r"matchExpressions\[0\].values: Required",
        ),
        ({"template": {"metadata": {"labels": {"app": "web"}}}}, "spec.template.spec.containers: Required value"),
        ({"strategy": {"type": "Big Bang"}}, 'spec.strategy.type: Unsupported value: "Big Bang"'),
        (
            {"strategy": {"type": "Recreate", "rollingUpdate": {}}},
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        ({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}, "may not be 0 when `maxSurge` is 0"),
        ({"strategy": {"rollingUpdate": {"maxSurge": "lots"}}}, "a valid percent string must be a numeric string"),
        ({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}, "must not be greater than 100%"),
        ({"progressDeadlineSeconds": 5, "minReadySeconds": 5}, "must be greater than minReadySeconds"),
    ],
)
def test_bad_deployments_are_invalid(server: Server, spec: Object, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        server.create(DEPLOYMENTS, make_deployment(**spec))
    assert caught.value.reason == "Invalid"


def test_a_template_restarts_always(server: Server) -> None:
    body = make_deployment()
    body["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    with pytest.raises(
        ApiError, match=r'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'
    ):
        server.create(DEPLOYMENTS, body)


def test_a_selector_may_not_change(server: Server) -> None:
    server.create(DEPLOYMENTS, make_deployment())
    body = make_deployment()
    labels = {"app": "web", "more": "x"}
    body["spec"]["selector"]["matchLabels"] = body["spec"]["template"]["metadata"]["labels"] = labels
    with pytest.raises(
        ApiError, match=r"spec.selector: Invalid value: v1.LabelSelector\{MatchLabels:map.*field is immutable"
    ):
        server.update(f"{DEPLOYMENTS}/web", body)


def test_scale_reads_and_writes_replicas(server: Server) -> None:
    created = server.create(DEPLOYMENTS, make_deployment(replicas=2))
    server.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 2}})
    scale = server.get(f"{DEPLOYMENTS}/web/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 2, "selector": "app=web"})
    assert server.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 4}})["spec"]["replicas"] == 4
    deployment = server.get(f"{DEPLOYMENTS}/web")
    assert (deployment["spec"]["replicas"], deployment["metadata"]["generation"]) == (4, 2)
    with pytest.raises(ApiError, match="the object has been modified"):
        server.update(f"{DEPLOYMENTS}/web/scale", {**scale, "spec": {"replicas": 1}})
    with pytest.raises(ApiError, match=r"spec.replicas: Invalid value: -1"):
        server.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": -1}})
    assert created["spec"]["replicas"] == 2  # what was handed out stays as it was


def test_the_tables_of_workloads(server: Server) -> None:
    server.create(DEPLOYMENTS, make_deployment(replicas=3))
    server.patch(
        f"{DEPLOYMENTS}/web/status",
        {"status": {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}},
    )
    assert cells(server, DEPLOYMENTS) == ["web", "2/3", 3, 1, "0s", "web", "nginx", "app=web"]
    server.create(REPLICA_SETS, make_deployment(replicas=2))
    assert cells(server, REPLICA_SETS) == ["web", 2, 0, 0, "0s", "web", "nginx", "app=web"]
    with pytest.raises(ApiError, match=r"cannot be greater than status.replicas"):
        server.patch(f"{REPLICA_SETS}/web/status", {"status": {"readyReplicas": 2}})


def test_nodes(server: Server) -> None:
    body: Object = {
        "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": ""}},
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "172.18.0.2"}, {"type": "Hostname", "address": "n1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.31.0", "kernelVersion": "6.18"},
        },
    }
    created = server.create(NODES, body)
    assert created["spec"]["podCIDRs"] == ["10.244.0.0/24"]
    server.patch(f"{NODES}/n1", {"spec": {"unschedulable": True}})
    assert cells(server, NODES) == [
        "n1", "Ready,SchedulingDisabled", "worker", "0s", "v1.31.0", "172.18.0.2", "<none>", "<unknown>", "6.18",
        "<unknown>",
    ]  # fmt: skip
    with pytest.raises(
        ApiError, match=r'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'
    ):
        server.patch(f"{NODES}/n1", {"spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}})
    with pytest.raises(ApiError, match=r"spec.taints\[0\].effect: Required value"):
        server.patch(f"{NODES}/n1", {"spec": {"taints": [{"key": "a"}]}})
    with pytest.raises(ApiError, match=r"spec.podCIDRs\[0\]: Invalid value: \"x\""):
        server.create(NODES, {"metadata": {"name": "n2"}, "spec": {"podCIDR": "x"}})


def test_config_maps(server: Server) -> None:
    path = f"{NS}/configmaps"
    server.create(path, {"metadata": {"name": "c"}, "data": {"a": "1"}, "binaryData": {"b": "eA=="}, "immutable": True})
    assert cells(server, path) == ["c", 2, "0s"]
    with pytest.raises(ApiError, match=r"data: Forbidden: field is immutable when `immutable` is set"):
        server.patch(f"{path}/c", {"data": {"a": "2"}})
    with pytest.raises(ApiError, match=r"data\[a b\]: Invalid value: \"a b\": a valid config key"):
        server.create(path, {"metadata": {"name": "d"}, "data": {"a b": ""}})
    with pytest.raises(ApiError, match="Too long: must have at most 1048576 bytes"):
        server.create(path, {"metadata": {"name": "d"}, "data": {"a": "x" * 1048577}})


def test_events(server: Server) -> None:
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"},
        "reason": "Started",
        "message": "it runs\n",
        "type": "Normal",
        "count": 3,
        "firstTimestamp": "2023-12-31T23:59:00Z",
        "lastTimestamp": "2023-12-31T23:59:50Z",
        "source": {"component": "kubelet", "host": "n1"},
    }
    server.create(EVENTS, event)
    assert cells(server, EVENTS) == [
        "10s", "Normal", "Started", "pod/web", "", "kubelet, n1", "it runs", "60s", 3, "e",
    ]  # fmt: skip
    assert server.names(EVENTS, fieldSelector="involvedObject.name=web,type!=Warning") == ["e"]
    with pytest.raises(
        ApiError, match=r"involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"
    ):
        server.create(EVENTS, {**event, "metadata": {"name": "f"}, "involvedObject": {"namespace": "other"}})
    server.create(EVENTS, {**event, "metadata": {"name": "g"}, "involvedObject": {"kind": "Node", "name": "n1"}})


def test_endpoint_slices(server: Server) -> None:
    body: Object = {
        "metadata": {"name": "s"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.2"], "nodeName": "n1"}]
        + [{"addresses": [f"10.244.0.{n}"]} for n in (3, 4, 5)],
        "ports": [{"port": 80}],
    }
    created = server.create(SLICES, body)
    assert created["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]
    assert cells(server, SLICES) == ["s", "IPv4", "80", "10.244.0.2,10.244.0.3,10.244.0.4 + 1 more...", "0s"]
    assert server.patch(f"{SLICES}/s", {"endpoints": []})["metadata"]["generation"] == 2
    assert cells(server, SLICES)[3] == "<unset>"
    for change, text in (
        ({"addressType": "IPv5"}, 'addressType: Unsupported value: "IPv5"'),
        ({"addressType": None}, "addressType: Required value"),
        (
            {"endpoints": [{"addresses": []}]},
            r"endpoints\[0\].addresses: Required value: must contain at least 1 address",
        ),
        ({"endpoints": [{"addresses": ["10.1"]}]}, "must be a valid IPv4 address"),
        (
            {"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001},
            "endpoints: Too many: 1001: must have at most 1000 items",
        ),
        ({"ports": [{"port": 80}, {"port": 81}]}, r'ports\[1\].name: Duplicate value: ""'),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, r"ports\[0\].protocol: Unsupported value"),
    ):
        with pytest.raises(ApiError, match=text):
            server.create(SLICES, {**body, "metadata": {"name": "t"}, **change})
    with pytest.raises(ApiError, match=r"addressType: Invalid value: .*field is immutable"):
        server.patch(f"{SLICES}/s", {"addressType": "IPv6"})


def test_a_table_defines_columns_and_carries_metadata(server: Server) -> None:
    server.create(DEPLOYMENTS, make_deployment())
    table = server.get(f"{DEPLOYMENTS}/web", accept=TABLE)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [c["name"] for c in table["columnDefinitions"] if c["priority"] == 0] == [
        "Name",
        "Ready",
        "Up-to-date",
        "Available",
        "Age",
    ]
    assert table["columnDefinitions"][0]["format"] == "name"
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    whole = server.get(f"{DEPLOYMENTS}/web", accept=TABLE, query={"includeObject": "Object"})
    assert whole["rows"][0]["object"]["kind"] == "Deployment"
    assert server.get(f"{DEPLOYMENTS}/web", accept="application/json")["kind"] == "Deployment"
    assert server.get(PODS, accept=TABLE)["rows"] == []
