"""The three-way merge of apply: what is sent for what was said before and what is said now."""

from netsim.apiserver.patching.strategic import strategic_merge
from netsim.cluster.apply import plan_patch


def test_a_field_that_is_no_longer_said_is_taken_back() -> None:
    assert plan_patch({"data": {"a": "1", "b": "2"}}, {"data": {"a": "1"}}, "ConfigMap") == {
        "data": {"b": None, "a": "1"}
    }


def test_fields_nobody_said_are_left_alone() -> None:
    assert plan_patch({}, {"spec": {"replicas": 3}}, "Deployment") == {"spec": {"replicas": 3}}


def test_a_container_that_is_no_longer_said_is_deleted_by_name() -> None:
    before = {"containers": [{"name": "web", "image": "nginx"}, {"name": "log", "image": "busybox"}]}
    now = {"containers": [{"name": "web", "image": "nginx:2"}]}
    assert plan_patch(before, now, "PodSpec") == {
        "containers": [{"name": "web", "image": "nginx:2"}, {"name": "log", "$patch": "delete"}],
        "$setElementOrder/containers": [{"name": "web"}],
    }


def test_a_list_without_merge_key_is_replaced() -> None:
    assert plan_patch({"args": ["a"]}, {"args": ["b", "c"]}, "Container") == {"args": ["b", "c"]}


def test_applying_over_a_removed_container_gives_what_was_asked_for() -> None:
    before = {"containers": [{"name": "web", "image": "nginx"}, {"name": "log", "image": "busybox"}]}
    live = {"containers": [{"name": "web", "image": "nginx", "imagePullPolicy": "Always"}, before["containers"][1]]}
    now = {"containers": [{"name": "new", "image": "x"}, {"name": "web", "image": "nginx:2"}]}
    merged = strategic_merge(live, plan_patch(before, now, "PodSpec"), "PodSpec")
    assert merged == {
        "containers": [
            {"name": "new", "image": "x"},
            {"name": "web", "image": "nginx:2", "imagePullPolicy": "Always"},
        ]
    }
