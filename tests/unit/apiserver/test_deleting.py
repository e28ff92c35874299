"""Deletion: grace periods, finalizers, propagation, preconditions, namespaces."""

import pytest

from netsim.model.errors import ApiError
from tests.unit.apiserver.server import DEPLOYMENTS, NS, PODS, SERVICES, Server, make_deployment, make_pod, make_service


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_pod_without_a_node_goes_at_once(server: Server) -> None:
    server.create(PODS, make_pod())
    assert server.delete(f"{PODS}/web")["kind"] == "Pod"
    assert server.names(PODS) == []


def test_a_pod_on_a_node_waits_for_its_kubelet(server: Server) -> None:
    server.create(PODS, make_pod(nodeName="n1"))
    server.clock._wall_s += 100
    marked = server.delete(f"{PODS}/web")["metadata"]
    assert (marked["deletionTimestamp"], marked["deletionGracePeriodSeconds"]) == ("2024-01-01T00:02:10Z", 30)
    revision = server.core.revision()
    server.delete(f"{PODS}/web")  # says nothing new
    assert server.core.revision() == revision
    shorter = server.delete(f"{PODS}/web", gracePeriodSeconds=5)["metadata"]
    assert (shorter["deletionTimestamp"], shorter["deletionGracePeriodSeconds"]) == ("2024-01-01T00:01:45Z", 5)
    longer = server.delete(f"{PODS}/web", gracePeriodSeconds=50)["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 5
    server.delete(f"{PODS}/web", gracePeriodSeconds=0)
    assert server.names(PODS) == []


def test_a_finished_pod_goes_at_once(server: Server) -> None:
    server.create(PODS, make_pod(nodeName="n1"))
    server.patch(f"{PODS}/web/status", {"status": {"phase": "Succeeded"}})
    server.delete(f"{PODS}/web")
    assert server.names(PODS) == []


def test_the_grace_period_is_the_pods_or_the_clients(server: Server) -> None:
    server.create(PODS, make_pod("a", nodeName="n1", terminationGracePeriodSeconds=7))
    server.create(PODS, make_pod("b", nodeName="n1"))
    server.create(PODS, make_pod("c", nodeName="n1", terminationGracePeriodSeconds=0))
    assert server.delete(f"{PODS}/a")["metadata"]["deletionGracePeriodSeconds"] == 7
    assert (
        server.request("DELETE", f"{PODS}/b", query={"gracePeriodSeconds": "2"})["metadata"][
            "deletionGracePeriodSeconds"
        ]
        == 2
    )
    server.delete(f"{PODS}/c")
    assert server.names(PODS) == ["a", "b"]
    with pytest.raises(ApiError, match="gracePeriodSeconds"):
        server.delete(f"{PODS}/a", gracePeriodSeconds=-1)


def test_finalizers_keep_an_object(server: Server) -> None:
    body = make_service()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    server.create(SERVICES, body)
    held = server.delete(f"{SERVICES}/web")
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    assert server.names(SERVICES) == ["kubernetes", "web"]
    with pytest.raises(ApiError, match="no new finalizers can be added"):
        server.patch(f"{SERVICES}/web", {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}})
    server.patch(f"{SERVICES}/web", {"metadata": {"labels": {"still": "here"}}})
    server.patch(f"{SERVICES}/web", {"metadata": {"finalizers": None}})
    assert server.names(SERVICES) == ["kubernetes"]


def test_propagation_is_left_to_the_garbage_collector_as_finalizers(server: Server) -> None:
    server.create(DEPLOYMENTS, make_deployment("a"))
    server.create(DEPLOYMENTS, make_deployment("b"))
    server.create(DEPLOYMENTS, make_deployment("c"))
    assert server.delete(f"{DEPLOYMENTS}/a", propagationPolicy="Foreground")["metadata"]["finalizers"] == [
        "foregroundDeletion"
    ]
    assert server.delete(f"{DEPLOYMENTS}/b", propagationPolicy="Orphan")["metadata"]["finalizers"] == ["orphan"]
    status = server.delete(f"{DEPLOYMENTS}/c", propagationPolicy="Background")
    assert (status["kind"], status["status"], status["details"]["name"]) == ("Status", "Success", "c")
    assert server.names(DEPLOYMENTS) == ["a", "b"]
    server.delete(f"{DEPLOYMENTS}/a", propagationPolicy="Background")  # changes one's mind
    server.delete(f"{DEPLOYMENTS}/b", orphanDependents=False)
    assert server.names(DEPLOYMENTS) == []
    with pytest.raises(ApiError, match='propagationPolicy: Unsupported value: "Fast"'):
        server.delete(f"{DEPLOYMENTS}/a", propagationPolicy="Fast")


def test_preconditions_guard_against_the_wrong_object(server: Server) -> None:
    pod = server.create(PODS, make_pod())
    with pytest.raises(ApiError, match="Precondition failed: UID in precondition: other") as caught:
        server.delete(f"{PODS}/web", preconditions={"uid": "other"})
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    with pytest.raises(ApiError, match="ResourceVersion in precondition: 1"):
        server.delete(f"{PODS}/web", preconditions={"resourceVersion": "1"})
    server.delete(f"{PODS}/web", preconditions={"uid": pod["metadata"]["uid"]})


def test_a_dry_run_deletes_nothing(server: Server) -> None:
    server.create(PODS, make_pod())
    server.request("DELETE", f"{PODS}/web", query={"dryRun": "All"})
    server.delete(f"{PODS}/web", dryRun=["All"])
    assert server.names(PODS) == ["web"]


def test_a_collection_is_deleted_by_selector(server: Server) -> None:
    for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
        server.create(PODS, make_pod(name, labels={"app": app}))
    answer = server.request("DELETE", PODS, query={"labelSelector": "app=web"})
    assert [item["metadata"]["name"] for item in answer["items"]] == ["a", "b"]
    assert server.names(PODS) == ["c"]


def test_a_namespace_terminates_until_it_is_finalized(server: Server) -> None:
    path = "/api/v1/namespaces/shop"
    created = server.create("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    assert (created["status"], created["spec"]) == ({"phase": "Active"}, {"finalizers": ["kubernetes"]})
    server.create(f"{path}/configmaps", {"metadata": {"name": "c"}})
    assert server.delete(path)["status"]["phase"] == "Terminating"
    with pytest.raises(ApiError) as caught:
        server.create(f"{path}/pods", make_pod())
    assert (caught.value.code, caught.value.reason) == (403, "Forbidden")
    assert caught.value.message == (
        'pods "web" is forbidden: unable to create new content in namespace shop because it is being terminated'
    )
    assert caught.value.details["causes"][0]["reason"] == "NamespaceTerminating"
    server.patch(path, {"spec": {"finalizers": None}})  # only /finalize may
    assert "shop" in server.names("/api/v1/namespaces")
    server.update(f"{path}/finalize", {"metadata": {"name": "shop"}, "spec": {"finalizers": []}})
    assert "shop" not in server.names("/api/v1/namespaces")


def test_the_system_namespaces_stay(server: Server) -> None:
    for name in ("default", "kube-system", "kube-public"):
        with pytest.raises(ApiError, match=f'namespaces "{name}" is forbidden: this namespace may not be deleted'):
            server.delete(f"/api/v1/namespaces/{name}")


def test_deletion_bumps_the_generation(server: Server) -> None:
    server.create(PODS, make_pod(nodeName="n1"))
    assert server.delete(f"{PODS}/web")["metadata"]["generation"] == 2


def test_the_body_must_be_delete_options(server: Server) -> None:
    server.create(PODS, make_pod())
    with pytest.raises(ApiError, match="DeleteOptions"):
        server.request("DELETE", f"{PODS}/web", {"kind": "Pod"})
    assert server.names(NS + "/pods") == ["web"]
