"""What a Service's type needs, and the defaults that follow.

Source: kubernetes ``pkg/apis/core/v1/defaults.go`` (SetDefaults_Service), ``pkg/registry/core/service/strategy.go``
(dropTypeDependentFields) and ``.../service/storage/storage.go`` (NormalizeClusterIPs, patchAllocatedValues).
"""

from typing import Any

Object = dict[str, Any]

DEFAULT_AFFINITY_S = 10800  # three hours


def needs_cluster_ip(spec: Object) -> bool:
    """Has a ClusterIP, or says ``None``."""
    return spec.get("type") in ("ClusterIP", "NodePort", "LoadBalancer")


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == "None"


def needs_node_port(spec: Object) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True))


def needs_health_port(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def is_external(spec: Object) -> bool:
    """Reachable from outside the cluster."""
    kind = spec.get("type")
    return kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def default_service_spec(spec: Object) -> None:
    """Fill in a ServiceSpec, but for its address families (`service_families`). May be repeated."""
    put = spec.setdefault
    put("type", "ClusterIP")
    if put("sessionAffinity", "None") == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = put("sessionAffinityConfig", {})
        config.setdefault("clientIP", {}).setdefault("timeoutSeconds", DEFAULT_AFFINITY_S)
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    if is_external(spec):
        put("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        put("allocateLoadBalancerNodePorts", True)
    if needs_cluster_ip(spec):
        put("internalTrafficPolicy", "Cluster")


def normalize_cluster_ips(new: Object, old: Object | None) -> None:
    """Make ``clusterIP`` and ``clusterIPs`` agree where only one of them was given or changed."""
    ip, ips = new.get("clusterIP", ""), new.get("clusterIPs") or []
    if old is None:
        if ip and not ips:
            new["clusterIPs"] = [ip]
        elif ips and not ip:
            new["clusterIP"] = ips[0]
        return
    old_ip, old_ips = old.get("clusterIP", ""), old.get("clusterIPs") or []
    if ip != old_ip and ips == old_ips:
        new["clusterIPs"] = [ip, *ips[1:]] if ip else []
    elif ips != old_ips and ip == old_ip:
        new["clusterIP"] = ips[0] if ips else ""
    for field in ("clusterIP", "clusterIPs"):
        if not new.get(field):
            new.pop(field, None)


def keep_allocated(new: Object, old: Object) -> None:
    """An update that says nothing of addresses and ports keeps those the Service has."""
    if needs_cluster_ip(old) and needs_cluster_ip(new) and not new.get("clusterIP") and not new.get("clusterIPs"):
        for field in ("clusterIP", "clusterIPs"):
            if field in old:
                new[field] = old[field]
    if needs_node_port(old) and needs_node_port(new):
        _keep_node_ports(new, old)
    if needs_health_port(old) and needs_health_port(new) and not new.get("healthCheckNodePort"):
        new["healthCheckNodePort"] = old.get("healthCheckNodePort", 0)


def _keep_node_ports(new: Object, old: Object) -> None:
    had = {(p.get("protocol"), p.get("port")): p["nodePort"] for p in old.get("ports") or () if p.get("nodePort")}
    asked = {(p.get("protocol"), p["nodePort"]) for p in new.get("ports") or () if p.get("nodePort")}
    for port in new.get("ports") or ():
        number = had.get((port.get("protocol"), port.get("port")))
        if not port.get("nodePort") and number and (port.get("protocol"), number) not in asked:
            port["nodePort"] = number


def drop_by_type(new: Object, old: Object) -> None:
    """When the type changes, fields only the old type used go, unless the update sets them anew."""
    if needs_cluster_ip(old) and not needs_cluster_ip(new):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            _drop_unchanged(new, old, field)
    if needs_node_port(old) and not needs_node_port(new):
        same = [p.get("nodePort") for p in new.get("ports") or ()] == [
            p.get("nodePort") for p in old.get("ports") or ()
        ]
        for port in new.get("ports") or () if same else ():
            port.pop("nodePort", None)
    if needs_health_port(old) and not needs_health_port(new):
        _drop_unchanged(new, old, "healthCheckNodePort")
    if is_external(old) and not is_external(new):
        _drop_unchanged(new, old, "externalTrafficPolicy")
    if old.get("type") == "LoadBalancer" and new.get("type") != "LoadBalancer":
        _drop_unchanged(new, old, "allocateLoadBalancerNodePorts")
        _drop_unchanged(new, old, "loadBalancerClass")
    if old.get("type") == "ExternalName" and new.get("type") != "ExternalName":
        _drop_unchanged(new, old, "externalName")


def _drop_unchanged(new: Object, old: Object, field: str) -> None:
    if new.get(field) == old.get(field):
        new.pop(field, None)
