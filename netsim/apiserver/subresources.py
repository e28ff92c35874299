"""pods/binding, pods/log, namespaces/finalize and scale.

Source: kubernetes ``pkg/registry/core/pod/storage/storage.go`` (BindingREST),
``pkg/registry/core/namespace/storage/storage.go`` (FinalizeREST) and
``pkg/registry/apps/deployment/storage/storage.go`` (ScaleREST).
"""

from collections.abc import Mapping
from typing import Any

from netsim.apiserver.decoding import check_decoded
from netsim.apiserver.refusals import conflict
from netsim.apiserver.request import Answer, bad_request, is_true, prune, whole_number
from netsim.apiserver.routing import Route
from netsim.apiserver.state import State
from netsim.apiserver.writing import apply_patch, is_dry_run, is_finally_gone, remove, replace
from netsim.model.errors import ApiError
from netsim.model.objects import copy_object, is_deleting, pod_node, with_condition
from netsim.model.selectors import label_selector_from_object

Object = dict[str, Any]


def bind(state: State, route: Route, body: Any, query: Mapping[str, str]) -> Answer:
    """POST pods/NAME/binding: assign the pod to a node."""
    if not isinstance(body, dict) or not isinstance(body.get("target"), dict) or not body["target"].get("name"):
        raise bad_request('Binding "" is invalid: target.name: Required value')
    node = body["target"]["name"]
    pod = state.record(route.kind, route.namespace, route.name or "").value
    name = pod["metadata"]["name"]
    if is_deleting(pod):
        raise conflict(route.kind, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod_node(pod):
        raise conflict(route.kind, name, f'pod {name} is already assigned to node "{pod_node(pod)}"')
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": state.now()}
    status = {**pod["status"], "conditions": with_condition(pod["status"].get("conditions") or [], condition)}
    metadata = dict(pod["metadata"])
    annotations = (body.get("metadata") or {}).get("annotations")
    if annotations:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
    if "generation" in metadata:
        metadata["generation"] += 1
    bound = {**pod, "metadata": metadata, "spec": {**pod["spec"], "nodeName": node}, "status": status}
    if not is_dry_run(query):
        state.store.put(route.kind.resource, route.namespace or "", name, bound)
    return Answer(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})


async def read_log(state: State, route: Route, query: Mapping[str, str]) -> Answer:
    """GET pods/NAME/log: text in pieces."""
    state.record(route.kind, route.namespace, route.name or "")
    if state.pods is None:
        raise ApiError(503, "ServiceUnavailable", "no node agent is there to read logs from")
    tail = whole_number(query, "tailLines")
    if tail is not None and tail < 0:
        raise ApiError(422, "Invalid", f"tailLines: Invalid value: {tail}: must be greater than or equal to 0")
    pieces = await state.pods.read_log(
        route.namespace or "",
        route.name or "",
        query.get("container") or None,
        tail_lines=tail,
        follow=is_true(query, "follow"),
    )
    return Answer(200, pieces)


def finalize(state: State, route: Route, body: Any, query: Mapping[str, str]) -> Object:
    """PUT namespaces/NAME/finalize: set ``spec.finalizers``, the only thing it writes."""
    if not isinstance(body, dict):
        raise bad_request("the request has no Namespace object in its body")
    check_decoded("Namespace", body, "v1")
    record = state.record(route.kind, None, route.name or "")
    old = record.value
    version = (body.get("metadata") or {}).get("resourceVersion")
    if version and version != old["metadata"]["resourceVersion"]:
        raise conflict(route.kind, old["metadata"]["name"])
    finalizers = list((body.get("spec") or {}).get("finalizers") or ())
    spec = {**old.get("spec", {}), "finalizers": finalizers}
    if not finalizers:
        del spec["finalizers"]
    new = {**old, "metadata": dict(old["metadata"]), "spec": spec}
    if is_dry_run(query) or spec == old.get("spec"):
        return new
    state.store.put(route.kind.resource, "", old["metadata"]["name"], new)
    return remove(state, route, new) if is_finally_gone(state.strategy(route.kind), new) else new


def scale_of(obj: Object) -> Object:
    """The autoscaling/v1 Scale of a Deployment or ReplicaSet."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": status.get("replicas", 0),
            "selector": str(label_selector_from_object(spec.get("selector"))),
        },
    }


def write_scale(
    state: State, route: Route, method: str, body: Any, content_type: str, query: Mapping[str, str]
) -> Object:
    """PUT or PATCH of /scale: sets ``spec.replicas``."""
    record = state.record(route.kind, route.namespace, route.name or "")
    current = scale_of(record.value)
    scale = apply_patch(current, body, content_type, "Scale") if method == "PATCH" else prune(body)
    if not isinstance(scale, dict):
        raise bad_request("the request has no Scale object in its body")
    check_decoded("Scale", scale, "autoscaling/v1")
    name = record.value["metadata"]["name"]
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version and version != current["metadata"]["resourceVersion"]:
        raise conflict(route.kind, name)
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if replicas < 0:
        text = f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0"
        raise ApiError(422, "Invalid", f'Scale.autoscaling "{name}" is invalid: {text}')
    new = copy_object(record.value)
    new["spec"]["replicas"] = replicas
    return scale_of(replace(state, route, record, new, query))
