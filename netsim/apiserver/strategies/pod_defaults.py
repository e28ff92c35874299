"""Defaults of pods and pod templates.

Source: kubernetes ``pkg/apis/core/v1/defaults.go`` and ``pkg/apis/core/v1/zz_generated.defaults.go``.
"""

from typing import Any

Object = dict[str, Any]

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def default_pod_spec(spec: Object) -> None:
    """Fill in a PodSpec. May be repeated."""
    put = spec.setdefault
    put("restartPolicy", "Always")
    put("terminationGracePeriodSeconds", 30)
    put("dnsPolicy", "ClusterFirst")
    put("securityContext", {})
    put("schedulerName", "default-scheduler")
    put("enableServiceLinks", True)
    if "serviceAccountName" in spec:
        put("serviceAccount", spec["serviceAccountName"])
    host_network = spec.get("hostNetwork", False)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            _default_container(container, host_network)
    for constraint in spec.get("topologySpreadConstraints") or ():
        constraint.setdefault("nodeAffinityPolicy", "Honor")
        constraint.setdefault("nodeTaintsPolicy", "Ignore")


def _default_container(container: Object, host_network: bool) -> None:
    put = container.setdefault
    put("terminationMessagePath", "/dev/termination-log")
    put("terminationMessagePolicy", "File")
    if "imagePullPolicy" not in container:
        container["imagePullPolicy"] = "Always" if _tag(container.get("image", "")) == "latest" else "IfNotPresent"
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network:
            port.setdefault("hostPort", port.get("containerPort", 0))
    resources = put("resources", {})
    if resources.get("limits"):
        requests = resources.setdefault("requests", {})
        for name, quantity in resources["limits"].items():
            requests.setdefault(name, quantity)
    for name in _PROBES:
        if name in container:
            _default_probe(container[name])
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for handler in (container.get("lifecycle") or {}).values():
        if isinstance(handler, dict):
            _default_http_get(handler)


def _tag(image: str) -> str:
    """The tag of an image; ``latest`` when it has neither tag nor digest."""
    if "@" in image:
        return ""
    return image.rpartition("/")[2].partition(":")[2] or "latest"


def _default_http_get(handler: Object) -> None:
    if "httpGet" in handler:
        handler["httpGet"].setdefault("path", "/")
        handler["httpGet"].setdefault("scheme", "HTTP")


def _default_probe(probe: Object) -> None:
    put = probe.setdefault
    put("timeoutSeconds", 1)
    put("periodSeconds", 10)
    put("successThreshold", 1)
    put("failureThreshold", 3)
    _default_http_get(probe)
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_volume(volume: Object) -> None:
    for source in ("configMap", "secret", "downwardAPI", "projected"):
        if source in volume:
            volume[source].setdefault("defaultMode", 0o644)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    if len(volume) == 1 and "name" in volume:
        volume["emptyDir"] = {}


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort. Source: kubernetes pkg/apis/core/v1/helper/qos/qos.go."""
    any_resources, guaranteed = False, True
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or ():
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            if requests.keys() & {"cpu", "memory"} or limits.keys() & {"cpu", "memory"}:
                any_resources = True
            for name in ("cpu", "memory"):
                if name not in limits or requests.get(name, limits[name]) != limits[name]:
                    guaranteed = False
    if not any_resources:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
