"""Manifests: what the parser makes of YAML, and what it says about what is wrong, with file and line."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netsim.model.errors import ApiError, InputError
from netsim.model.manifests import locate, parse_manifests

SERVICE = """\
# the front door
apiVersion: v1
kind: Service
metadata:
  name: web
  labels:
    example.com/tier: front
spec:
  ports:
  - port: 80
    name: http
  - name: admin
    port: 81
"""


def head(kind: str = "ConfigMap", name: str = "x") -> str:
    return f"apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\n"


def fault(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_manifests(text, "web.yaml")
    return caught.value


def test_documents_know_their_line() -> None:
    found = parse_manifests(f"---\n{SERVICE}---\n# nothing here\n---\n{head('Pod', 'a')}", "web.yaml")
    assert [(o.name, o.kind.kind, o.where) for o in found] == [
        ("web", "Service", "web.yaml:3"),
        ("a", "Pod", "web.yaml:18"),
    ]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("spec.ports[0].port", 10),
        ("spec.ports[1].port", 13),
        ("spec.ports[1]", 12),
        ("spec.ports[1].targetPort", 12),
        ("spec.ports[9]", 9),
        ("spec.clusterIP", 8),
        ("metadata.labels[example.com/tier]", 7),
        ("metadata.labels", 6),
        ("status", 2),
    ],
)
def test_a_field_knows_its_line(path: str, line: int) -> None:
    (service,) = parse_manifests(SERVICE, "web.yaml")
    assert service.line_of(path) == line
    assert service.position_of(path) == f"web.yaml:{line}"


def test_lists_are_opened_and_nested_items_keep_their_lines() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n"
    (pod,) = parse_manifests(text, "web.yaml")
    assert (pod.name, pod.line) == ("a", 4)


@pytest.mark.parametrize("text", ["", "---\n", "# a comment\n", "---\n---\n"])
def test_nothing_is_nothing(text: str) -> None:
    assert parse_manifests(text) == []


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: b: c", "web.yaml:1", "broken YAML: mapping values are not allowed in this context"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n\tname: x", "web.yaml:4", "cannot start any token"),
        ("a: [1, 2\nb: 3\n", "web.yaml:2", "flow sequence"),
        ("a: \x00", "web.yaml:1", "control characters are not allowed"),
        ("- a\n- b", "web.yaml:1", "the document is a list, not a Kubernetes object"),
        ("hello", "web.yaml:1", "the document is text, not a Kubernetes object"),
        ("kind: Pod\nmetadata: {name: a}", "web.yaml:1", "apiVersion: missing"),
        ("apiVersion: v1\nmetadata: {name: a}", "web.yaml:1", "kind: missing"),
        ("apiVersion: v1\nkind: Pod\n", "web.yaml:1", "metadata: missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\n", "web.yaml:3", "metadata.name: missing (kind Pod)"),
        ("apiVersion: v1\nkind: Pod\nmetadata: []\n", "web.yaml:3", "metadata: must be an object, not a list"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: 12\n", "web.yaml:4", "must be a string, not a number (12)"),
        ("apiVersion: v1\nkind: [Pod]\n", "web.yaml:2", "kind: must be a string, not a list"),
        ("apiVersion: v1\nkind: Frog\nmetadata: {name: a}", "web.yaml:2", 'unknown kind "Frog" in apiVersion "v1"'),
        ("apiVersion: v1\nkind: Pod\nkind: Pod\n", "web.yaml:3", 'the key "kind" is there twice, first on line 2'),
        (head() + "data:\n  a: 1\n  b: 2\n  a: 3\n", "web.yaml:8", 'the key "a" is there twice, first on line 6'),
        (head() + "data: !!binary aGk=\n", "web.yaml:5", "has no place in a manifest"),
        (head() + "data: !!python/object:os.system x\n", "web.yaml:5", "has no place in a manifest"),
        (head() + "data: {? [a] : b}\n", "web.yaml:5", "a key must be a string"),
        (head() + "data: .inf\n", "web.yaml:5", "no number that JSON knows"),
        (head() + "data: *nowhere\n", "web.yaml:5", "undefined alias"),
        (head() + "data: &a [*a]\n", "web.yaml:5", "an anchor contains itself"),
        ("apiVersion: v1\nkind: List\nitems: {}\n---\nx", "web.yaml:5", "not a Kubernetes object"),
    ],
)
def test_what_is_wrong_has_a_line_and_words(text: str, where: str, words: str) -> None:
    error = fault(text)
    assert error.where == where
    assert words in error.message


def test_an_unknown_kind_names_the_known_ones() -> None:
    hint = fault("apiVersion: v1\nkind: Frog\nmetadata: {name: a}").hint
    assert "v1 Pod" in hint
    assert "apps/v1 Deployment" in hint


def test_anchors_that_grow_without_bound_are_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    assert "values" in fault("\n".join(lines)).message


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("80:80", "80:80"),
        ("2024-01-01", "2024-01-01"),
        ("1e3", 1000),
        ("0644", 420),
        ("0o17", 15),
        ("0x10", 16),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1.0", 1),
        ("-1", -1),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("=", "="),
        ('"12"', "12"),
        ("10.96.0.10", "10.96.0.10"),
        ("08:00", "08:00"),
    ],
)
def test_scalars_are_what_kubectl_makes_of_them(written: str, value: object) -> None:
    (found,) = parse_manifests(f"{head()}data: {written}\n")
    assert found.object["data"] == value
    assert type(found.object["data"]) is type(value)


def test_keys_are_strings_and_merge_keys_work() -> None:
    text = head() + "base: &base {a: 1, b: 2}\ndata: {<<: *base, b: 3, 80: x, true: y}\n"
    (found,) = parse_manifests(text)
    assert found.object["data"] == {"a": 1, "b": 3, "80": "x", "true": "y"}


def test_aliases_are_separate_copies() -> None:
    (found,) = parse_manifests(head() + "one: &a {x: [1]}\ntwo: *a\n")
    found.object["one"]["x"].append(2)
    assert found.object["two"] == {"x": [1]}


def test_json_with_tabs_is_read_too() -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}, indent="\t")
    (pod,) = parse_manifests(text)
    assert pod.object["metadata"] == {"name": "a"}


def test_an_answer_of_the_api_gets_the_place_of_its_first_cause() -> None:
    (service,) = parse_manifests(SERVICE, "web.yaml")
    error = ApiError(422, "Invalid", "no", details={"causes": [{"field": "spec.ports[1].port", "message": "no"}]})
    assert locate(error, service).where == "web.yaml:13"
    assert locate(ApiError(409, "AlreadyExists", "no"), service).where == "web.yaml:2"
    words = 'strict decoding error: unknown field "spec.ports[0].name"'
    assert locate(ApiError(400, "BadRequest", words), service).where == "web.yaml:11"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc-./", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_written_is_read(value: object) -> None:
    """parse(render(x)) == x, whether rendered as YAML or as JSON."""
    whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": value}
    for text in (yaml.safe_dump(whole, allow_unicode=True), json.dumps(whole)):
        (found,) = parse_manifests(text)
        assert found.object == whole
