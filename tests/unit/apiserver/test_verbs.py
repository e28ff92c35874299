"""Create, get, list, update: names, versions, concurrency, namespaces."""

import re

import pytest

from netsim.model.errors import ApiError
from netsim.store.store import Store
from tests.unit.apiserver.server import DEPLOYMENTS, NS, PODS, SERVICES, Server, make_deployment, make_pod

CONFIG_MAPS = f"{NS}/configmaps"


def code_and_reason(caught: pytest.ExceptionInfo[ApiError]) -> tuple[int, str]:
    return caught.value.code, caught.value.reason


def test_create_sets_what_belongs_to_the_server() -> None:
    server = Server()
    body = make_pod()
    body["metadata"] |= {"uid": "mine", "generation": 7, "deletionTimestamp": "2020-01-01T00:00:00Z"}
    body["status"] = {"phase": "Running"}
    pod = server.create(PODS, body)
    metadata = pod["metadata"]
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    assert metadata["creationTimestamp"] == "2024-01-01T00:00:00Z"
    assert metadata["generation"] == 1
    assert "deletionTimestamp" not in metadata
    assert re.fullmatch(r"[0-9a-f-]{36}", metadata["uid"])
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert metadata["resourceVersion"] == str(server.core.revision())
    assert server.get(f"{PODS}/web") == pod


def test_create_leaves_the_callers_object_alone_and_keeps_none_of_it() -> None:
    server = Server()
    body = make_pod()
    before = repr(body)
    server.create(PODS, body)
    assert repr(body) == before
    body["spec"]["containers"][0]["image"] = "changed"
    assert server.get(f"{PODS}/web")["spec"]["containers"][0]["image"] == "nginx"


def test_generated_names_are_five_letters_longer_and_differ() -> None:
    server = Server()
    body = make_pod()
    body["metadata"] = {"generateName": "web-"}
    names = {server.create(PODS, body)["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch("web-[bcdfghjklmnpqrstvwxz2456789]{5}", name) for name in names)
    body["metadata"] = {"generateName": "x" * 70}
    assert len(server.create(PODS, body)["metadata"]["name"]) == 63


def test_a_name_is_taken_once() -> None:
    server = Server()
    server.create(PODS, make_pod())
    with pytest.raises(ApiError, match='pods "web" already exists') as caught:
        server.create(PODS, make_pod())
    assert code_and_reason(caught) == (409, "AlreadyExists")
    server.create(SERVICES, {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 1}]}})


def test_what_is_not_there_is_not_found() -> None:
    server = Server()
    for method, path in (("GET", f"{DEPLOYMENTS}/no"), ("DELETE", f"{DEPLOYMENTS}/no"), ("PATCH", f"{DEPLOYMENTS}/no")):
        with pytest.raises(ApiError, match=r'deployments.apps "no" not found') as caught:
            server.request(method, path, {}, content_type="application/json")
        assert code_and_reason(caught) == (404, "NotFound")
        assert caught.value.details == {"name": "no", "group": "apps", "kind": "deployments"}


def test_an_object_needs_its_namespace() -> None:
    server = Server()
    with pytest.raises(ApiError, match='namespaces "none" not found') as caught:
        server.create("/api/v1/namespaces/none/pods", make_pod())
    assert code_and_reason(caught) == (404, "NotFound")
    body = make_pod()
    body["metadata"]["namespace"] = "kube-system"
    with pytest.raises(ApiError, match="does not match the namespace") as caught:
        server.create(PODS, body)
    assert code_and_reason(caught) == (400, "BadRequest")


def test_the_system_namespaces_and_the_api_service_are_there_once() -> None:
    store = Store()
    server = Server(store=store)
    assert server.names("/api/v1/namespaces") == ["default", "kube-node-lease", "kube-public", "kube-system"]
    assert server.get("/api/v1/namespaces/default")["metadata"]["labels"] == {"kubernetes.io/metadata.name": "default"}
    service = server.get(f"{SERVICES}/kubernetes")
    assert service["spec"]["clusterIP"] == "10.96.0.1"
    again = Server(store=store)
    assert again.get(f"{SERVICES}/kubernetes") == service


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, "no Pod object in its body"),
        ([], "no Pod object in its body"),
        ({**make_pod(), "apiVersion": "apps/v1"}, r"the API version in the data \(apps/v1\) does not match"),
        ({**make_pod(), "kind": "Service"}, "cannot be handled as a Pod"),
        ({"metadata": {"name": "x", "resourceVersion": "5"}}, "resourceVersion should not be set"),
        (
            make_pod(containers="no"),
            r'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field '
            r"spec.containers of type \[\]Container",
        ),
        (
            make_pod(terminationGracePeriodSeconds="3"),
            "unmarshal string into .* spec.terminationGracePeriodSeconds of type int64",
        ),
        (make_pod(hostNetwork=1), "unmarshal number into .* spec.hostNetwork of type bool"),
        ({"metadata": "x"}, "field metadata of type ObjectMeta"),
        ({"metadata": {"name": "x", "labels": {"a": 1}}}, "field metadata.labels of type string"),
    ],
)
def test_a_malformed_body_is_a_bad_request(body: object, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        Server().create(PODS, body)  # type: ignore[arg-type]
    assert code_and_reason(caught) == (400, "BadRequest")


def test_null_fields_are_absent_fields() -> None:
    body = make_pod(nodeSelector=None)
    body["metadata"]["creationTimestamp"] = None
    body["status"] = None
    pod = Server().create(PODS, body)
    assert "nodeSelector" not in pod["spec"]
    assert pod["metadata"]["creationTimestamp"]


def test_unknown_fields_are_kept_named_or_refused_as_asked() -> None:
    server = Server()
    body = make_deployment()
    body["spec"]["template"]["spec"]["containers"][0]["colour"] = "red"
    body["extra"] = {"a": 1}
    path = 'unknown field "spec.template.spec.containers[0].colour"'
    kept = server.create(DEPLOYMENTS, body)
    assert kept["extra"] == {"a": 1}
    assert kept["spec"]["template"]["spec"]["containers"][0]["colour"] == "red"
    with pytest.raises(ApiError, match="strict decoding error: ") as caught:
        server.create(DEPLOYMENTS, body, query={"fieldValidation": "Strict"})
    assert caught.value.code == 400
    assert path in caught.value.message
    assert 'unknown field "extra"' in caught.value.message
    body["metadata"]["name"] = "other"
    response = server.respond("POST", DEPLOYMENTS, body, query={"fieldValidation": "Warn"})
    assert response.status == 201
    assert path in response.warnings  # type: ignore[attr-defined]


def test_unknown_kinds_are_refused_with_the_list_of_known_ones() -> None:
    server = Server()
    for path in ("/apis/batch/v1/namespaces/default/jobs", f"{NS}/secrets", "/nonsense", f"{PODS}/a/exec2", "/apis/x"):
        with pytest.raises(
            ApiError, match=r"known kinds: v1 Namespace, v1 Node, v1 Pod,.*apps/v1 Deployment"
        ) as caught:
            server.get(path)
        assert code_and_reason(caught) == (404, "NotFound")


@pytest.mark.parametrize("stream", ["exec", "attach", "portforward"])
def test_what_kubectl_exec_asks_for_is_refused_with_what_to_do_instead(stream: str) -> None:
    with pytest.raises(ApiError, match="use netsim exec pod/") as caught:
        Server().get(f"{PODS}/a/{stream}")
    assert code_and_reason(caught) == (404, "NotFound")


def test_a_stale_update_is_a_conflict() -> None:
    server = Server()
    first = server.create(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    server.update(f"{CONFIG_MAPS}/c", {**first, "data": {"a": "2"}})
    with pytest.raises(ApiError) as caught:
        server.update(f"{CONFIG_MAPS}/c", {**first, "data": {"a": "3"}})
    assert code_and_reason(caught) == (409, "Conflict")
    assert caught.value.message == (
        'Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to '
        "the latest version and try again"
    )
    with pytest.raises(ApiError, match="the object has been modified"):
        server.patch(f"{CONFIG_MAPS}/c", {"metadata": {"resourceVersion": "1"}, "data": {"a": "4"}})


def test_an_update_without_a_version_overwrites() -> None:
    server = Server()
    server.create(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"a": "1"}})
    assert server.update(f"{CONFIG_MAPS}/c", {"metadata": {"name": "c"}, "data": {"b": "2"}})["data"] == {"b": "2"}


def test_an_update_keeps_what_belongs_to_the_server() -> None:
    server = Server()
    old = server.create(CONFIG_MAPS, {"metadata": {"name": "c"}})
    new = server.update(
        f"{CONFIG_MAPS}/c", {"metadata": {"name": "c", "creationTimestamp": "2000-01-01T00:00:00Z"}, "data": {}}
    )
    for field in ("uid", "creationTimestamp", "namespace"):
        assert new["metadata"][field] == old["metadata"][field]
    with pytest.raises(ApiError, match="Precondition failed: UID in precondition: other"):
        server.update(f"{CONFIG_MAPS}/c", {"metadata": {"name": "c", "uid": "other"}})
    with pytest.raises(ApiError, match=r"the name of the object \(d\) does not match the name on the URL \(c\)"):
        server.update(f"{CONFIG_MAPS}/c", {"metadata": {"name": "d"}})


def test_an_update_that_changes_nothing_writes_nothing() -> None:
    server = Server()
    created = server.create(DEPLOYMENTS, make_deployment())
    revision = server.core.revision()
    assert server.update(f"{DEPLOYMENTS}/web", created) == created
    assert server.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 1}}) == created
    assert server.patch(f"{DEPLOYMENTS}/web/status", {"status": {}}) == created
    assert server.core.revision() == revision


def test_generation_counts_changes_of_the_spec() -> None:
    server = Server()
    assert server.create(DEPLOYMENTS, make_deployment())["metadata"]["generation"] == 1
    assert server.patch(f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1
    assert server.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 3}})["metadata"]["generation"] == 2
    assert server.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 3}})["metadata"]["generation"] == 2


def test_status_and_spec_are_written_apart() -> None:
    server = Server()
    created = server.create(DEPLOYMENTS, make_deployment())
    body = {**created, "spec": {**created["spec"], "replicas": 9}, "status": {"replicas": 4}}
    del body["metadata"]
    body["metadata"] = {"name": "web"}
    by_status = server.update(f"{DEPLOYMENTS}/web/status", body)
    assert (by_status["spec"]["replicas"], by_status["status"]) == (1, {"replicas": 4})
    by_main = server.update(f"{DEPLOYMENTS}/web", {**body, "status": {"replicas": 7}})
    assert (by_main["spec"]["replicas"], by_main["status"]) == (9, {"replicas": 4})


def test_a_status_update_keeps_annotations() -> None:
    server = Server()
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    server.create(SERVICES, {"metadata": {"name": "web"}, "spec": spec})
    ingress = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}
    patch = {"metadata": {"annotations": {"patched": "true"}}, "status": ingress, "spec": {"type": "NodePort"}}
    server.patch(f"{SERVICES}/web/status", patch)
    service = server.get(f"{SERVICES}/web/status")
    assert service["metadata"]["annotations"] == {"patched": "true"}
    assert service["status"] == ingress
    assert service["spec"]["type"] == "LoadBalancer"


def test_lists_select_by_labels_and_fields() -> None:
    server = Server()
    for name, app, node in (("a", "web", "n1"), ("b", "web", "n2"), ("c", "db", "n1")):
        server.create(PODS, make_pod(name, labels={"app": app}, nodeName=node))
    server.create("/api/v1/namespaces/kube-system/pods", make_pod("d", labels={"app": "web"}))
    assert server.names(PODS, labelSelector="app=web") == ["a", "b"]
    assert server.names("/api/v1/pods", labelSelector="app=web") == ["a", "b", "d"]
    assert server.names(PODS, labelSelector="app in (db,x)") == ["c"]
    assert server.names(PODS, fieldSelector="spec.nodeName=n1") == ["a", "c"]
    assert server.names(PODS, fieldSelector="spec.nodeName!=n1,metadata.namespace=default") == ["b"]
    assert server.names(PODS, fieldSelector="metadata.name=b") == ["b"]
    assert server.names("/api/v1/pods", fieldSelector="metadata.name=d") == ["d"]
    assert server.names(PODS, fieldSelector="status.phase=Pending", labelSelector="!missing") == ["a", "b", "c"]
    with pytest.raises(ApiError, match=r"field label not supported: spec.foo") as caught:
        server.names(PODS, fieldSelector="spec.foo=1")
    assert caught.value.code == 400
    with pytest.raises(ApiError, match="unable to parse requirement"):
        server.names(PODS, labelSelector="a in (")


def test_a_list_has_the_revision_it_was_read_at() -> None:
    server = Server()
    server.create(PODS, make_pod())
    listed = server.get(PODS, query={"limit": "1", "resourceVersion": "0"})
    assert (listed["kind"], listed["apiVersion"]) == ("PodList", "v1")
    assert listed["metadata"]["resourceVersion"] == str(server.core.revision())
    with pytest.raises(ApiError, match="Too large resource version: 999") as caught:
        server.get(PODS, query={"resourceVersion": "999"})
    assert code_and_reason(caught) == (504, "Timeout")


def test_a_dry_run_answers_and_writes_nothing() -> None:
    server = Server()
    revision = server.core.revision()
    assert server.create(PODS, make_pod(), query={"dryRun": "All"})["spec"]["dnsPolicy"] == "ClusterFirst"
    body = {"metadata": {"name": "web"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}}
    server.create(SERVICES, body, query={"dryRun": "All"})
    assert server.core.revision() == revision
    server.create(SERVICES, body)  # the dry run has not kept the NodePort
    server.patch(f"{SERVICES}/web", {"spec": {"selector": {"a": "b"}}}, query={"dryRun": "All"})
    assert "selector" not in server.get(f"{SERVICES}/web")["spec"]
    with pytest.raises(ApiError, match="dryRun"):
        server.create(PODS, make_pod("b"), query={"dryRun": "Some"})


def test_methods_that_make_no_sense_are_refused() -> None:
    server = Server()
    for method, path in (
        ("POST", f"{PODS}/web"),
        ("PUT", PODS),
        ("PATCH", PODS),
        ("POST", "/api/v1/pods"),
        ("POST", f"{PODS}/web/log"),
    ):
        with pytest.raises(ApiError, match="does not allow this method") as caught:
            server.request(method, path, make_pod())
        assert code_and_reason(caught) == (405, "MethodNotAllowed")


def test_protobuf_is_refused_with_what_to_do() -> None:
    with pytest.raises(ApiError, match=r"kubectl 1\.31 or older, or apply -f") as caught:
        Server().create(PODS, make_pod(), content_type="application/vnd.kubernetes.protobuf")
    assert code_and_reason(caught) == (415, "UnsupportedMediaType")


def test_no_content_type_is_json() -> None:
    assert Server().create(PODS, make_pod(), content_type="")["metadata"]["name"] == "web"


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({}, "metadata.name: Required value: name or generateName is required"),
        (
            {"name": "Web"},
            r'Pod "Web" is invalid: metadata.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must',
        ),
        ({"name": "a" * 254}, "must be no more than 253 characters"),
        ({"name": "a", "labels": {"a b": ""}}, r'metadata.labels: Invalid value: "a b": name part must consist of'),
        (
            {"name": "a", "labels": {"a": "b c"}},
            r'metadata.labels: Invalid value: "b c": a valid label must be an empty',
        ),
        ({"name": "a", "labels": {"/a": ""}}, "prefix part must be non-empty"),
        (
            {"name": "a", "annotations": {"a": "x" * 262145}},
            "metadata.annotations: Too long: must have at most 262144 bytes",
        ),
        ({"name": "a", "finalizers": ["a b"]}, "metadata.finalizers: Invalid value"),
        ({"name": "a", "ownerReferences": [{"kind": "Pod"}]}, r"metadata.ownerReferences\[0\].apiVersion"),
    ],
)
def test_bad_metadata_is_invalid(metadata: dict[str, object], text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        Server().create(PODS, {**make_pod(), "metadata": metadata})
    assert code_and_reason(caught) == (422, "Invalid")
    assert caught.value.details["causes"]
