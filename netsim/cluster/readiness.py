"""When is an object ready, and if it is not, why."""

from dataclasses import dataclass

from netsim.client.api import Api
from netsim.model.errors import ApiError
from netsim.model.kinds import EVENT, NODE, POD, kind_of
from netsim.model.objects import Object, is_pod_ready, name_of, namespace_of


@dataclass(frozen=True, slots=True)
class NotReady:
    """An object that is not ready; ``final`` when it can't become so by waiting."""

    object: Object
    reason: str
    final: bool = False


async def find_unready(api: Api, obj: Object) -> NotReady | None:
    """None when the object, as it is now, is ready. One that is gone counts as ready: somebody deleted it."""
    kind = kind_of(obj["apiVersion"], obj["kind"])
    if kind is None:
        return None
    try:
        live = await api.get(kind, name_of(obj), namespace_of(obj) or None)
    except ApiError as error:
        if error.code == 404:
            return None
        raise
    return check_ready(live)


def check_ready(obj: Object) -> NotReady | None:
    """The pure half: what the object's own status says."""
    if obj["kind"] in ("Deployment", "ReplicaSet"):
        return _check_replicas(obj)
    if obj["kind"] == "Pod":
        return _check_pod(obj)
    if obj["kind"] == "Node" and not _has_condition(obj, "Ready"):
        return NotReady(obj, "the node is not Ready")
    return None


def _check_replicas(obj: Object) -> NotReady | None:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    wanted = spec.get("replicas", 1)
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return NotReady(obj, "not seen by its controller yet")
    if obj["kind"] == "Deployment" and not spec.get("paused"):
        if status.get("updatedReplicas", 0) < wanted:
            return NotReady(obj, f"{status.get('updatedReplicas', 0)} of {wanted} pods are up to date")
        if status.get("replicas", 0) > status.get("updatedReplicas", 0):
            return NotReady(obj, f"{status['replicas'] - status['updatedReplicas']} old pods are still there")
    available = status.get("availableReplicas", 0)
    if available < wanted:
        return NotReady(obj, f"{available} of {wanted} pods are available")
    if status.get("replicas", 0) > wanted:
        return NotReady(obj, f"{status['replicas'] - wanted} pods too many are still there")
    return None


def _check_pod(obj: Object) -> NotReady | None:
    phase = obj.get("status", {}).get("phase", "Pending")
    if phase == "Succeeded" or (is_pod_ready(obj) and phase == "Running"):
        return None
    if phase == "Failed":
        words = obj["status"].get("message") or obj["status"].get("reason") or "a container ended with an error"
        return NotReady(obj, f"Failed: {words}", final=True)
    for status in obj.get("status", {}).get("containerStatuses") or []:
        waiting = (status.get("state") or {}).get("waiting")
        if waiting:
            words = f": {waiting['message']}" if waiting.get("message") else ""
            return NotReady(obj, f"container {status['name']} is waiting, {waiting.get('reason', '')}{words}")
    return NotReady(obj, f"the pod is {phase}" + ("" if phase != "Running" else " but not Ready"))


def _has_condition(obj: Object, name: str) -> bool:
    conditions = obj.get("status", {}).get("conditions") or []
    return any(item["type"] == name and item["status"] == "True" for item in conditions)


async def explain_unready(api: Api, item: NotReady) -> str:
    """A line or two for the user: the object, the reason, and the newest warning about it or its pods."""
    obj = item.object
    namespace = namespace_of(obj) or None
    text = f"  {obj['kind'].lower()}/{name_of(obj)}: {item.reason}"
    node = obj["spec"].get("nodeName") if obj["kind"] == "Pod" else None
    if node and node not in [name_of(one) for one in (await api.list(NODE)).items]:
        text += f"\n    its nodeName is {node}, and there is no such node"
    if obj["kind"] in ("Deployment", "ReplicaSet") and namespace:
        labels = ",".join(f"{key}={value}" for key, value in _match_labels(obj).items())
        for pod in (await api.list(POD, namespace, labels=labels)).items:
            unready = check_ready(pod)
            if unready is not None:
                text += f"\n    pod/{name_of(pod)}: {unready.reason}"
                break
    warnings = [
        event
        for event in (await api.list(EVENT, namespace)).items
        if event.get("type") == "Warning" and event["involvedObject"].get("name", "").startswith(name_of(obj))
    ]
    if warnings:
        newest = max(warnings, key=lambda event: event.get("lastTimestamp") or "")
        text += f"\n    last warning: {newest.get('reason', '')}: {newest.get('message', '')}"
    return text


def _match_labels(obj: Object) -> dict[str, str]:
    labels: dict[str, str] = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return labels
