"""Pods: defaults, validation, what an update may change, binding, the table."""

from typing import Any

import pytest

from netsim.model.errors import ApiError
from tests.unit.apiserver.server import PODS, TABLE, Object, Server, make_pod

WEB = f"{PODS}/web"


@pytest.fixture
def server() -> Server:
    return Server()


def with_container(**fields: Any) -> Object:
    return make_pod(containers=[{"name": "web", "image": "nginx", **fields}])


def test_defaults(server: Server) -> None:
    container = {
        "name": "web",
        "image": "registry.example:5000/nginx",
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}},
        "resources": {"limits": {"cpu": "1"}},
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    volumes = [{"name": "a", "configMap": {"name": "c"}}, {"name": "b"}]
    spec = server.create(PODS, make_pod(containers=[container], volumes=volumes))["spec"]
    (found,) = spec.pop("containers")
    assert spec == {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
        "volumes": [{"name": "a", "configMap": {"name": "c", "defaultMode": 420}}, {"name": "b", "emptyDir": {}}],
    }
    assert found["imagePullPolicy"] == "Always"
    assert found["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert found["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}
    assert found["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert found["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("h:5/n", "Always"),
        ("n@sha256:1", "IfNotPresent"),
    ],
)
def test_the_pull_policy_follows_the_tag(server: Server, image: str, policy: str) -> None:
    pod = server.create(PODS, make_pod(containers=[{"name": "web", "image": image}]))
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_the_quality_of_service_class(server: Server, resources: Object, wanted: str) -> None:
    assert server.create(PODS, with_container(resources=resources))["status"]["qosClass"] == wanted


def test_host_ports_of_the_host_network(server: Server) -> None:
    pod = server.create(
        PODS, make_pod(hostNetwork=True, containers=[{"name": "a", "image": "b", "ports": [{"containerPort": 80}]}])
    )
    assert pod["spec"]["containers"][0]["ports"][0]["hostPort"] == 80


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"metadata": {"name": "web"}}, "spec.containers: Required value"),
        (make_pod(containers=[{"image": "x"}]), r"spec.containers\[0\].name: Required value"),
        (make_pod(containers=[{"name": "x"}]), r"spec.containers\[0\].image: Required value"),
        (
            make_pod(containers=[{"name": "A", "image": "x"}]),
            r"containers\[0\].name: Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (make_pod(containers=[{"name": "a", "image": "x"}] * 2), r'spec.containers\[1\].name: Duplicate value: "a"'),
        (
            make_pod(restartPolicy="Sometimes"),
            'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "N',
        ),
        (make_pod(dnsPolicy="Magic"), "spec.dnsPolicy: Unsupported value"),
        (
            make_pod(dnsPolicy="None"),
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver",
        ),
        (
            make_pod(terminationGracePeriodSeconds=-1),
            "terminationGracePeriodSeconds: Invalid value: -1: must be greater than",
        ),
        (make_pod(hostname="a.b"), 'spec.hostname: Invalid value: "a.b"'),
        (make_pod(nodeSelector={"a": "b c"}), "spec.nodeSelector: Invalid value"),
        (
            make_pod(tolerations=[{"key": "a", "operator": "Maybe"}]),
            r"spec.tolerations\[0\].operator: Unsupported value",
        ),
        (
            make_pod(hostAliases=[{"ip": "x"}]),
            r"spec.hostAliases\[0\].ip: Invalid value: \"x\": must be a valid IP address",
        ),
        (with_container(ports=[{"containerPort": 0}]), r"ports\[0\].containerPort: Required value"),
        (
            with_container(ports=[{"containerPort": 70000}]),
            "Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            with_container(ports=[{"containerPort": 80, "protocol": "tcp"}]),
            'Unsupported value: "tcp": supported values: "SCTP"',
        ),
        (
            with_container(ports=[{"containerPort": 80, "name": "way-too-long-name"}]),
            "must be no more than 15 characters",
        ),
        (
            with_container(ports=[{"containerPort": 80, "name": "http"}, {"containerPort": 81, "name": "http"}]),
            r'ports\[1\].name: Duplicate value: "http"',
        ),
        (
            with_container(ports=[{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]),
            "hostPort: Duplicate",
        ),
        (with_container(env=[{"value": "x"}]), r"env\[0\].name: Required value"),
        (
            with_container(env=[{"name": "a=b"}]),
            "a valid environment variable name must consist only of printable ASCII",
        ),
        (
            with_container(env=[{"name": "a", "value": "b", "valueFrom": {"fieldRef": {}}}]),
            "may not be specified when `value`",
        ),
        (with_container(volumeMounts=[{"name": "v", "mountPath": "/x"}]), r'volumeMounts\[0\].name: Not found: "v"'),
        (with_container(readinessProbe={}), "readinessProbe: Required value: must specify a handler type"),
        (
            with_container(readinessProbe={"tcpSocket": {"port": 1}, "exec": {"command": ["x"]}}),
            "may not specify more than 1 handler",
        ),
        (
            with_container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2}),
            "successThreshold: Invalid value: 2: must be 1",
        ),
        (with_container(readinessProbe={"httpGet": {"port": 0}}), r"httpGet.port: Invalid value: 0"),
        (with_container(resources={"limits": {"cpu": "lots"}}), r"resources.limits\[cpu\]: Invalid value: \"lots\""),
        (make_pod(volumes=[{"name": "a"}, {"name": "a"}]), r'spec.volumes\[1\].name: Duplicate value: "a"'),
        (
            make_pod(volumes=[{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            "may not specify more than 1 volume type",
        ),
    ],
)
def test_bad_pods_are_invalid(server: Server, body: Object, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        server.create(PODS, body)
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


def test_all_that_is_wrong_is_said_at_once(server: Server) -> None:
    with pytest.raises(ApiError) as caught:
        server.create(PODS, make_pod("web", restartPolicy="x", containers=[{"name": "a"}]))
    assert len(caught.value.details["causes"]) == 2
    assert caught.value.message.startswith('Pod "web" is invalid: [spec.containers[0].image: Required value, ')


def test_a_pods_spec_is_fixed_but_for_images(server: Server) -> None:
    server.create(PODS, make_pod())
    image = {"spec": {"containers": [{"name": "web", "image": "nginx:2"}]}}
    assert server.patch(WEB, image, "strategic-merge")["spec"]["containers"][0]["image"] == "nginx:2"
    server.patch(WEB, {"spec": {"tolerations": [{"operator": "Exists"}]}})
    server.patch(WEB, {"metadata": {"labels": {"a": "b"}}})
    for patch in ({"spec": {"hostNetwork": True}}, {"spec": {"nodeName": "n1"}}):
        with pytest.raises(
            ApiError, match=r"spec: Forbidden: pod updates may not change fields other than `spec.containers"
        ):
            server.patch(WEB, patch)
    with pytest.raises(ApiError, match="pod updates may not add or remove containers"):
        server.patch(WEB, {"spec": {"containers": [{"name": "new", "image": "x"}]}}, "strategic-merge")
    with pytest.raises(ApiError, match="existing toleration can not be modified"):
        server.patch(WEB, {"spec": {"tolerations": []}})


def test_binding_assigns_a_node_once(server: Server) -> None:
    server.create(PODS, make_pod())
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "web"},
        "target": {"kind": "Node", "name": "n1"},
    }
    assert server.create(f"{WEB}/binding", binding)["status"] == "Success"
    pod = server.get(WEB)
    assert pod["spec"]["nodeName"] == "n1"
    assert [(c["type"], c["status"]) for c in pod["status"]["conditions"]] == [("PodScheduled", "True")]
    server.patch(f"{WEB}/status", {"status": {"phase": "Running"}})  # what was bound can be written on
    with pytest.raises(ApiError, match='pod web is already assigned to node "n1"') as caught:
        server.create(f"{WEB}/binding", binding)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    with pytest.raises(ApiError, match=r"target.name: Required value"):
        server.create(f"{WEB}/binding", {"target": {}})


def test_the_status_must_have_a_known_phase_and_types(server: Server) -> None:
    server.create(PODS, make_pod())
    with pytest.raises(ApiError, match=r'status.phase: Unsupported value: "Busy"'):
        server.patch(f"{WEB}/status", {"status": {"phase": "Busy"}})
    with pytest.raises(ApiError, match=r"unmarshal number into .* podIP of type string"):
        server.patch(f"{WEB}/status", {"status": {"podIP": 5}})


def test_conditions_merge_by_type(server: Server) -> None:
    server.create(PODS, make_pod())
    for status in ("False", "True"):
        patch = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
        server.patch(f"{WEB}/status", patch, "strategic-merge")
    server.patch(f"{WEB}/status", {"status": {"conditions": [{"type": "Gate", "status": "True"}]}}, "strategic-merge")
    conditions = server.get(WEB)["status"]["conditions"]
    assert [(c["type"], c["status"]) for c in conditions] == [("Ready", "True"), ("Gate", "True")]


RUNNING = {"name": "web", "ready": True, "restartCount": 0, "state": {"running": {}}}
CRASHED = {
    "name": "web",
    "ready": False,
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2023-12-31T23:58:00Z"}},
}


@pytest.mark.parametrize(
    ("status", "cells"),
    [
        ({}, ["0/1", "Pending", "0"]),
        ({"phase": "Running", "containerStatuses": [RUNNING]}, ["1/1", "Running", "0"]),
        ({"phase": "Running", "containerStatuses": [CRASHED]}, ["0/1", "CrashLoopBackOff", "3 (2m ago)"]),
        ({"phase": "Failed", "reason": "Evicted"}, ["0/1", "Evicted", "0"]),
        (
            {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]},
            ["0/1", "Completed", "0"],
        ),
        (
            {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 7}}}]},
            ["0/1", "ExitCode:7", "0"],
        ),
    ],
)
def test_the_table_says_what_a_person_wants_to_know(server: Server, status: Object, cells: list[str]) -> None:
    server.create(PODS, make_pod(nodeName="n1"))
    server.patch(f"{WEB}/status", {"status": {**status, "podIP": "10.244.0.5"}})
    (row,) = server.get(PODS, accept=TABLE)["rows"]
    assert row["cells"] == ["web", *cells, "0s", "10.244.0.5", "n1", "<none>", "<none>"]


def test_a_pod_that_is_being_deleted_is_terminating(server: Server) -> None:
    server.create(PODS, make_pod(nodeName="n1"))
    server.delete(WEB)
    assert server.get(PODS, accept=TABLE)["rows"][0]["cells"][2] == "Terminating"
