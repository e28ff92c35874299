"""Discovery, version, health, OpenAPI and the schema tables."""

from typing import Any

import pytest

from netsim.apiserver.schema.tables import SCALARS, TYPES
from netsim.model.errors import ApiError
from netsim.model.kinds import KINDS
from tests.unit.apiserver.server import Server


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


def test_every_type_the_tables_name_is_there() -> None:
    named = {(type_, name, field.type) for type_, fields in TYPES.items() for name, field in fields.items()}
    assert [where for where in named if where[2] not in SCALARS and where[2] not in TYPES] == []
    assert {kind.kind for kind in KINDS} <= TYPES.keys()


def test_every_merge_key_is_a_field() -> None:
    for type_, fields in TYPES.items():
        for name, field in fields.items():
            if field.merge_key and field.type in TYPES:
                assert field.merge_key in TYPES[field.type], (type_, name)


def test_the_version_is_one_whose_kubectl_speaks_json(server: Server) -> None:
    version = server.get("/version")
    assert (version["major"], version["minor"]) == ("1", "31")
    assert version["gitVersion"].startswith("v1.31.")


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/livez/ping"])
def test_health(server: Server, path: str) -> None:
    assert server.get(path) == "ok"


def test_discovery_lists_every_kind(server: Server) -> None:
    assert server.get("/api")["versions"] == ["v1"]
    groups = {group["name"]: group for group in server.get("/apis")["groups"]}
    assert set(groups) == {kind.group for kind in KINDS if kind.group}
    found: dict[str, Any] = {}
    for path in ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups.values())]:
        listed = server.get(path)
        assert path.endswith(listed["groupVersion"])
        found |= {(listed["groupVersion"], item["name"]): item for item in listed["resources"]}
    for kind in KINDS:
        resource = found[kind.api_version, kind.plural]
        assert (resource["kind"], resource["namespaced"]) == (kind.kind, kind.namespaced)
        assert resource.get("shortNames", []) == list(kind.short_names)
        assert "watch" in resource["verbs"]
        for subresource in kind.subresources:
            assert (kind.api_version, f"{kind.plural}/{subresource}") in found
    scale = found["apps/v1", "deployments/scale"]
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")
    assert server.get("/apis/apps")["preferredVersion"]["groupVersion"] == "apps/v1"


def test_openapi_lets_kubectl_leave_validation_to_the_server(server: Server) -> None:
    paths = server.get("/openapi/v3")["paths"]
    for kind in KINDS:
        prefix = kind.path().removesuffix(f"/{kind.plural}").strip("/")
        document = server.get(paths[prefix]["serverRelativeURL"])
        path = kind.path("{namespace}" if kind.namespaced else None, "{name}")
        patch = document["paths"][path]["patch"]
        assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}
        assert patch["x-kubernetes-group-version-kind"] == {
            "group": kind.group,
            "version": kind.version,
            "kind": kind.kind,
        }
        references = {ref for ref in _references(document) if ref.startswith("#/components/schemas/")}
        assert {ref.rpartition("/")[2] for ref in references} <= document["components"]["schemas"].keys()


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    if isinstance(value, list):
        return set().union(*map(_references, value))
    return set()


def test_openapi_carries_merge_keys(server: Server) -> None:
    schemas = server.get("/openapi/v3/api/v1")["components"]["schemas"]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"
    volumes = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"]
    assert volumes["x-kubernetes-patch-strategy"] == "merge,retainKeys"


def test_openapi_v2_is_not_offered(server: Server) -> None:
    with pytest.raises(ApiError) as caught:
        server.get("/openapi/v2")
    assert caught.value.code == 404
