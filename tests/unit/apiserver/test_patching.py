"""Merge, JSON and strategic merge patches."""

from typing import Any

import pytest

from netsim.apiserver.patching.json_patch import json_patch
from netsim.apiserver.patching.merge import merge_patch
from netsim.apiserver.patching.strategic import strategic_merge
from netsim.model.errors import ApiError
from tests.unit.apiserver.server import DEPLOYMENTS, Server, make_deployment

# RFC 7386, appendix A, where objects are patched; null as a value is dropped by the server, which holds no nulls.
RFC_7386 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, "bar", "bar"),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("document", "patch", "wanted"), RFC_7386)
def test_merge_patch_as_in_rfc_7386(document: Any, patch: Any, wanted: Any) -> None:
    before = repr(document)
    assert merge_patch(document, patch) == wanted
    assert repr(document) == before


# RFC 6902, appendix A.
RFC_6902 = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"g": {}}}], {"foo": "bar", "child": {"g": {}}}),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}], {"foo": ["bar", ["abc", "def"]]}),
    (
        {"a": [1]},
        [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}],
        {"a": [1], "b": [1, 2]},
    ),
    ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
]


@pytest.mark.parametrize(("document", "patch", "wanted"), RFC_6902)
def test_json_patch_as_in_rfc_6902(document: Any, patch: Any, wanted: Any) -> None:
    before = repr(document)
    assert json_patch(document, patch) == wanted
    assert repr(document) == before


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ({"op": "test", "path": "/baz", "value": "bar"}, "testing value /baz failed"),
        ({"op": "test", "path": "/n", "value": True}, "testing value /n failed"),
        ({"op": "add", "path": "/no/bat", "value": "x"}, 'path element "no" does not exist'),
        ({"op": "remove", "path": "/no"}, 'path element "no" does not exist'),
        ({"op": "replace", "path": "/no", "value": 1}, 'path element "no" does not exist'),
        ({"op": "add", "path": "/list/9", "value": 1}, "index 9 is out of bounds"),
        ({"op": "add", "path": "/list/01", "value": 1}, "index 01 is out of bounds"),
        ({"op": "add", "path": "/baz"}, "has no value"),
        ({"op": "fly", "path": "/baz"}, 'unknown operation "fly"'),
        ({"op": "add", "path": "baz", "value": 1}, "bad JSON pointer"),
        ({"op": "move", "from": "/map", "path": "/map/x"}, "into itself"),
    ],
)
def test_json_patch_refuses(operation: Any, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        json_patch({"baz": "qux", "list": [], "n": 1, "map": {}}, [operation])
    assert caught.value.code == 422


def containers(*items: Any) -> dict[str, Any]:
    return {"containers": list(items)}


A, B, C = ({"name": name, "image": name} for name in "abc")


@pytest.mark.parametrize(
    ("document", "patch", "wanted"),
    [
        (containers(A, B), containers({"name": "b", "image": "x"}), containers(A, {"name": "b", "image": "x"})),
        (containers(A), containers(B), containers(A, B)),
        (containers(A, B), containers({"name": "a", "$patch": "delete"}), containers(B)),
        (containers(A, B), containers({"$patch": "replace"}, C), containers(C)),
        (containers(A), {"containers": None}, {}),
        (
            containers(A, B),
            {
                **containers({"name": "b", "image": "x"}, A),
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            },
            containers({"name": "b", "image": "x"}, A),
        ),
        (containers(A, B, C), {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}, containers(B, C, A)),
        (
            containers({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}),
            containers({"name": "a", "env": [{"name": "Y", "$patch": "delete"}, {"name": "Z", "value": "3"}]}),
            containers({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Z", "value": "3"}]}),
        ),
        (
            containers({"name": "a", "args": ["1", "2"]}),
            containers({"name": "a", "args": ["3"]}),
            containers({"name": "a", "args": ["3"]}),
        ),
        (
            {"nodeSelector": {"a": "1", "b": "2"}},
            {"nodeSelector": {"b": None, "c": "3"}},
            {"nodeSelector": {"a": "1", "c": "3"}},
        ),
        ({"nodeSelector": {"a": "1"}}, {"nodeSelector": {"$patch": "replace", "c": "3"}}, {"nodeSelector": {"c": "3"}}),
        ({"nodeSelector": {"a": "1"}}, {"nodeSelector": {"$patch": "delete"}}, {"nodeSelector": {}}),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
        (
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]},
            {"volumes": [{"name": "v", "configMap": {"name": "c"}}]},
        ),
    ],
)
def test_strategic_merge_of_a_pod_spec(document: Any, patch: Any, wanted: Any) -> None:
    before = repr(document)
    assert strategic_merge(document, patch, "PodSpec") == wanted
    assert repr(document) == before


def test_strategic_merge_of_plain_lists_and_strategies() -> None:
    meta = {"finalizers": ["a", "b"]}
    assert strategic_merge(meta, {"finalizers": ["c", "a"]}, "ObjectMeta") == {"finalizers": ["a", "b", "c"]}
    assert strategic_merge(meta, {"$deleteFromPrimitiveList/finalizers": ["a"]}, "ObjectMeta") == {"finalizers": ["b"]}
    rolling = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}
    patch = {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}
    assert strategic_merge(rolling, patch, "DeploymentSpec") == {"strategy": {"type": "Recreate"}}


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        (containers({"image": "x"}), "map does not contain declared merge key: name"),
        (containers("x"), "holds objects"),
        ({"$patch": "explode"}, "unknown .patch directive: explode"),
        ({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}, "lacks emptyDir"),
        ([], "a strategic merge patch is an object"),
    ],
)
def test_strategic_merge_refuses(patch: Any, text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        strategic_merge(containers(A), patch, "PodSpec")
    assert caught.value.code == 400


def test_patches_go_through_defaults_and_validation() -> None:
    server = Server()
    server.create(DEPLOYMENTS, make_deployment())
    side = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "busybox:1"}]}}}}
    found = server.patch(f"{DEPLOYMENTS}/web", side, "strategic-merge")["spec"]["template"]["spec"]["containers"]
    assert [(c["name"], c["imagePullPolicy"]) for c in found] == [("web", "Always"), ("side", "IfNotPresent")]
    operations = [{"op": "replace", "path": "/spec/replicas", "value": 5}]
    assert server.patch(f"{DEPLOYMENTS}/web", operations, "json")["spec"]["replicas"] == 5
    with pytest.raises(ApiError, match=r"spec.replicas: Invalid value: -1"):
        server.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": -1}})
    with pytest.raises(ApiError, match="unmarshal string into"):
        server.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": "many"}})
    with pytest.raises(ApiError, match="does not match the name"):
        server.patch(f"{DEPLOYMENTS}/web", {"metadata": {"name": "other"}})
    assert server.get(f"{DEPLOYMENTS}/web")["spec"]["replicas"] == 5


def test_server_side_apply_and_unknown_patches_are_refused() -> None:
    server = Server()
    server.create(DEPLOYMENTS, make_deployment())
    for content_type, text in (
        ("application/apply-patch+yaml", "server-side apply is not supported: use kubectl apply without --server-side"),
        ("text/plain", "accepted media types include: application/json-patch.json"),
    ):
        with pytest.raises(ApiError, match=text) as caught:
            server.request("PATCH", f"{DEPLOYMENTS}/web", {}, content_type=content_type)
        assert (caught.value.code, caught.value.reason) == (415, "UnsupportedMediaType")
