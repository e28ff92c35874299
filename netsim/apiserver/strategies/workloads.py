"""Deployments and ReplicaSets.

Source: kubernetes ``pkg/apis/apps/v1/defaults.go``, ``pkg/apis/apps/validation/validation.go``,
``pkg/registry/apps/{deployment,replicaset}/strategy.go`` and ``pkg/printers/internalversion/printers.go``.
"""

import re
from typing import Any

from netsim.apiserver.ages import NONE, age
from netsim.apiserver.causes import Causes
from netsim.apiserver.names import check_labels, label_value, qualified_name
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy
from netsim.apiserver.strategies.pod_defaults import default_pod_spec
from netsim.apiserver.strategies.pod_validation import validate_pod_spec
from netsim.model.errors import ApiError
from netsim.model.selectors import label_selector_from_object

_NOT_NEGATIVE = "must be greater than or equal to 0"
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_PERCENT = re.compile(r"[0-9]+%")
_COUNTS = {
    "replicas": "status.replicas",
    "readyReplicas": "status.readyReplicas",
    "availableReplicas": "status.availableReplicas",
}


def go_map(labels: Any) -> str:
    """Labels as Go prints a map."""
    return "map[string]string{" + ", ".join(f'"{key}":"{value}"' for key, value in sorted((labels or {}).items())) + "}"


def _go_selector(selector: Object) -> str:
    """A LabelSelector as Go prints it."""
    labels = go_map(selector["matchLabels"]) if selector.get("matchLabels") else "map[string]string(nil)"
    expressions = "[]v1.LabelSelectorRequirement(nil)"
    if selector.get("matchExpressions"):
        expressions = "[]v1.LabelSelectorRequirement{...}"
    return f"v1.LabelSelector{{MatchLabels:{labels}, MatchExpressions:{expressions}}}"


class _Workload(Strategy):
    """What Deployments and ReplicaSets share: replicas, selector, template."""

    generation_fields = ("spec",)

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        template = spec.setdefault("template", {})
        template.setdefault("metadata", {})
        default_pod_spec(template.setdefault("spec", {}))

    def validate(self, obj: Object, causes: Causes) -> None:
        spec = obj["spec"]
        for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
            if spec.get(field, 0) < 0:
                causes.invalid(f"spec.{field}", spec[field], _NOT_NEGATIVE)
        template = spec["template"]
        labels = template["metadata"].get("labels") or {}
        selector = spec.get("selector")
        if selector is None:
            causes.required("spec.selector")
        elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
            causes.invalid_go("spec.selector", _go_selector(selector), "empty selector is invalid for deployment")
        elif _check_selector(selector, causes) and not label_selector_from_object(selector).matches(labels):
            causes.invalid_go(
                "spec.template.metadata.labels", go_map(labels), "`selector` does not match template `labels`"
            )
        check_labels(labels, "spec.template.metadata.labels", causes)
        validate_pod_spec(template["spec"], "spec.template.spec", causes, template=True)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        if new["spec"].get("selector") != old["spec"].get("selector"):
            shown = _go_selector(new["spec"].get("selector") or {})
            causes.invalid_go("spec.selector", shown, "field is immutable")

    def validate_status(self, new: Object, old: Object, causes: Causes) -> None:
        status = new["status"]
        for field, path in _COUNTS.items():
            if status.get(field, 0) < 0:
                causes.invalid(path, status[field], _NOT_NEGATIVE)
        for field in ("readyReplicas", "availableReplicas"):
            if status.get(field, 0) > status.get("replicas", 0):
                causes.invalid(f"status.{field}", status[field], "cannot be greater than status.replicas")


def _check_selector(selector: Object, causes: Causes) -> bool:
    before = len(causes.found)
    check_labels(selector.get("matchLabels"), "spec.selector.matchLabels", causes)
    for index, item in enumerate(selector.get("matchExpressions") or ()):
        path = f"spec.selector.matchExpressions[{index}]"
        operator, values = item.get("operator", ""), item.get("values") or ()
        if bad := qualified_name(item.get("key", "")):
            causes.invalid(f"{path}.key", item.get("key", ""), bad)
        if operator not in _OPERATORS:
            causes.invalid(f"{path}.operator", operator, "not a valid selector operator")
        elif operator in ("In", "NotIn") and not values:
            causes.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            causes.forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        for value in values:
            if bad := label_value(value):
                causes.invalid(f"{path}.values", value, bad)
    return len(causes.found) == before


class DeploymentStrategy(_Workload):
    """Deployments."""

    columns = (
        NAME,
        Column("Ready"),
        Column("Up-to-date", "integer"),
        Column("Available", "integer"),
        AGE,
        Column("Containers", priority=1),
        Column("Images", priority=1),
        Column("Selector", priority=1),
    )

    def default(self, obj: Object) -> None:
        super().default(obj)
        spec = obj["spec"]
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("progressDeadlineSeconds", 600)
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")

    def validate(self, obj: Object, causes: Causes) -> None:
        super().validate(obj, causes)
        spec = obj["spec"]
        _check_rollout(spec["strategy"], causes)
        deadline = spec["progressDeadlineSeconds"]
        if deadline < 0:
            causes.invalid("spec.progressDeadlineSeconds", deadline, _NOT_NEGATIVE)
        elif deadline <= spec.get("minReadySeconds", 0):
            causes.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status", {})
        return [
            metadata["name"],
            f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
            status.get("updatedReplicas", 0),
            status.get("availableReplicas", 0),
            age(metadata.get("creationTimestamp"), now_s),
            *_template_cells(spec),
        ]


class ReplicaSetStrategy(_Workload):
    """ReplicaSets."""

    selectable = frozenset({"status.replicas"})
    columns = (
        NAME,
        Column("Desired", "integer"),
        Column("Current", "integer"),
        Column("Ready", "integer"),
        AGE,
        Column("Containers", priority=1),
        Column("Images", priority=1),
        Column("Selector", priority=1),
    )

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status", {})
        return [
            metadata["name"],
            spec.get("replicas", 0),
            status.get("replicas", 0),
            status.get("readyReplicas", 0),
            age(metadata.get("creationTimestamp"), now_s),
            *_template_cells(spec),
        ]


def _template_cells(spec: Object) -> list[str]:
    containers = spec["template"]["spec"].get("containers") or ()
    try:
        selector = str(label_selector_from_object(spec.get("selector")))
    except ApiError:  # a selector from before a stricter rule must not keep the table from being printed
        selector = "<invalid>"
    return [
        ",".join(container.get("name", "") for container in containers),
        ",".join(container.get("image", "") for container in containers),
        selector or NONE,
    ]


def _number(value: Any) -> int | None:
    """An IntOrString as a count or a percentage; None if it is neither."""
    if isinstance(value, int):
        return value
    return int(value[:-1]) if _PERCENT.fullmatch(value) else None


def _check_rollout(strategy: Object, causes: Causes) -> None:
    kind, rolling = strategy["type"], strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            causes.forbidden("spec.strategy.rollingUpdate", detail)
        return
    if kind != "RollingUpdate":
        causes.not_supported("spec.strategy.type", kind, ("Recreate", "RollingUpdate"))
        return
    numbers = {}
    for field in ("maxUnavailable", "maxSurge"):
        value = (rolling or {}).get(field)
        number = numbers[field] = _number(value)
        path = f"spec.strategy.rollingUpdate.{field}"
        if number is None:
            causes.invalid(
                path,
                value,
                "a valid percent string must be a numeric string followed by an ending '%' "
                "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            )
        elif number < 0:
            causes.invalid(path, value, _NOT_NEGATIVE)
        elif field == "maxUnavailable" and isinstance(value, str) and number > 100:
            causes.invalid(path, value, "must not be greater than 100%")
    if numbers["maxUnavailable"] == 0 and numbers["maxSurge"] == 0:
        value = (rolling or {})["maxUnavailable"]
        causes.invalid("spec.strategy.rollingUpdate.maxUnavailable", value, "may not be 0 when `maxSurge` is 0")
