"""Validation of Services.

Source: kubernetes ``pkg/apis/core/validation/validation.go`` (ValidateService, ValidateServiceUpdate).
"""

from ipaddress import ip_address, ip_network
from typing import Any

from netsim.apiserver.causes import Causes
from netsim.apiserver.names import check_labels, dns_label, dns_subdomain, port_name, qualified_name
from netsim.apiserver.strategies.service_families import is_ip, validate_families
from netsim.apiserver.strategies.service_rules import (
    is_external,
    is_headless,
    needs_cluster_ip,
    needs_health_port,
)

Object = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")
_IP_MODES = ("Proxy", "VIP")
_DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")  # all of Kubernetes 1.35; 1.31 had the first
_PORT = "must be between 1 and 65535, inclusive"
_MAX_AFFINITY_S = 86400
_BAD_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _go_port(port: Object) -> str:
    target = port.get("targetPort", 0)
    is_name = isinstance(target, str)
    shown = f'Type:{int(is_name)}, IntVal:{0 if is_name else target}, StrVal:"{target if is_name else ""}"'
    return (
        f'core.ServicePort{{Name:"{port.get("name", "")}", Protocol:"{port.get("protocol", "")}", '
        f"AppProtocol:(*string)(nil), Port:{port.get('port', 0)}, TargetPort:intstr.IntOrString{{{shown}}}, "
        f"NodePort:{port.get('nodePort', 0)}}}"
    )


def validate_service_spec(spec: Object, causes: Causes) -> None:
    """Check a ServiceSpec that has its defaults."""
    kind = spec["type"]
    if kind not in _TYPES:
        causes.not_supported("spec.type", kind, _TYPES)
    ports = spec.get("ports") or ()
    if not ports and not is_headless(spec) and kind != "ExternalName":
        causes.required("spec.ports")
    if kind == "ExternalName":
        _check_external_name(spec, causes)
    elif kind != "ClusterIP" and is_headless(spec):
        causes.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    _check_ports(spec, ports, causes)
    if spec.get("selector"):
        check_labels(spec["selector"], "spec.selector", causes)
    _check_affinity(spec, causes)
    _check_traffic(spec, causes)
    validate_families(spec, causes)
    for index, text in enumerate(spec.get("externalIPs") or ()):
        _check_external_ip(text, f"spec.externalIPs[{index}]", causes)
    _check_load_balancer(spec, causes)


def _check_external_name(spec: Object, causes: Causes) -> None:
    name = str(spec.get("externalName", "")).removesuffix(".")
    if spec.get("clusterIP") or spec.get("clusterIPs"):
        causes.forbidden("spec.clusterIPs", "may not be set for ExternalName services")
    if not name:
        causes.required("spec.externalName")
    elif bad := dns_subdomain(name):
        causes.invalid("spec.externalName", spec["externalName"], bad)
    for field in ("ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
        if spec.get(field):
            causes.forbidden(f"spec.{field}", "may not be set for ExternalName services")


def _check_ports(spec: Object, ports: Any, causes: Causes) -> None:
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        _check_port(port, path, names, causes, named=len(ports) > 1)
        key = (port["protocol"], port.get("port", 0))
        if key in numbers:
            causes.duplicate_go(path, _go_port(port))
        numbers.add(key)
        node_port = port.get("nodePort", 0)
        if not node_port:
            continue
        if spec["type"] in ("ClusterIP", "ExternalName"):
            causes.forbidden(f"{path}.nodePort", f"may not be used when `type` is '{spec['type']}'")
        if (port["protocol"], node_port) in node_ports:
            causes.duplicate(f"{path}.nodePort", node_port)
        node_ports.add((port["protocol"], node_port))


def _check_port(port: Object, path: str, names: set[str], causes: Causes, *, named: bool) -> None:
    name, number = port.get("name", ""), port.get("port", 0)
    if not name and named:
        causes.required(f"{path}.name")
    elif name:
        if bad := dns_label(name):
            causes.invalid(f"{path}.name", name, bad)
        if name in names:
            causes.duplicate(f"{path}.name", name)
        names.add(name)
    if not 1 <= number <= 65535:
        causes.invalid(f"{path}.port", number, _PORT)
    if port["protocol"] not in _PROTOCOLS:
        causes.not_supported(f"{path}.protocol", port["protocol"], _PROTOCOLS)
    target = port["targetPort"]
    if isinstance(target, str):
        for bad in port_name(target):
            causes.invalid(f"{path}.targetPort", target, bad)
    elif not 1 <= target <= 65535 and 1 <= number <= 65535:
        causes.invalid(f"{path}.targetPort", target, _PORT)
    if port.get("appProtocol") and (bad := qualified_name(port["appProtocol"])):
        causes.invalid(f"{path}.appProtocol", port["appProtocol"], bad)


def _check_affinity(spec: Object, causes: Causes) -> None:
    affinity = spec["sessionAffinity"]
    if affinity not in ("ClientIP", "None"):
        causes.not_supported("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    elif affinity == "ClientIP":
        timeout = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < timeout <= _MAX_AFFINITY_S:
            path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            causes.invalid(path, timeout, f"must be greater than 0 and less than {_MAX_AFFINITY_S}")


def _check_traffic(spec: Object, causes: Causes) -> None:
    external, internal = spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy")
    if external is not None:
        if not is_external(spec):
            detail = "may only be set for externally-accessible services"
            causes.invalid("spec.externalTrafficPolicy", external, detail)
        elif external not in _POLICIES:
            causes.not_supported("spec.externalTrafficPolicy", external, _POLICIES)
    if internal is not None and internal not in _POLICIES and needs_cluster_ip(spec):
        causes.not_supported("spec.internalTrafficPolicy", internal, _POLICIES)
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        causes.not_supported("spec.trafficDistribution", distribution, _DISTRIBUTIONS)


def _check_external_ip(text: str, path: str, causes: Causes) -> None:
    if not is_ip(text):
        causes.invalid(path, text, _BAD_IP)
        return
    address = ip_address(text)
    for bad, detail in (
        (address.is_unspecified, f"may not be unspecified ({text})"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (address.is_multicast, "may not be in the multicast range (224.0.0.0/4, ff00::/8)"),
    ):
        if bad:
            causes.invalid(path, text, detail)


def _check_load_balancer(spec: Object, causes: Causes) -> None:
    ranges = spec.get("loadBalancerSourceRanges") or ()
    if ranges and spec["type"] != "LoadBalancer":
        causes.forbidden("spec.loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
    for index, text in enumerate(ranges):
        if not _is_network(text.strip()):
            path = f"spec.loadBalancerSourceRanges[{index}]"
            causes.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
    if spec.get("loadBalancerClass") and spec["type"] != "LoadBalancer":
        causes.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'")
    if spec["type"] != "LoadBalancer" and "allocateLoadBalancerNodePorts" in spec:
        causes.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'")
    health = spec.get("healthCheckNodePort", 0)
    if health and not needs_health_port(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        causes.invalid("spec.healthCheckNodePort", health, detail)


def validate_service_status(service: Object, causes: Causes) -> None:
    """ValidateLoadBalancerStatus of pkg/apis/core/validation/validation.go."""
    path = "status.loadBalancer.ingress"
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    if ingress and service["spec"]["type"] != "LoadBalancer":
        causes.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")
        return
    for index, entry in enumerate(ingress):
        ip, mode = entry.get("ip") or "", entry.get("ipMode")
        if ip and not is_ip(ip):
            causes.invalid(f"{path}[{index}].ip", ip, _BAD_IP)
        if mode is not None and not ip:
            causes.forbidden(f"{path}[{index}].ipMode", "may not be specified when `ip` is not set")
        elif mode not in (None, *_IP_MODES):
            causes.not_supported(f"{path}[{index}].ipMode", mode, _IP_MODES)


def validate_service_update(new: Object, old: Object, causes: Causes) -> None:
    """A health check's port stays as long as the Service has one."""
    if needs_health_port(new) and needs_health_port(old):
        was, now = old.get("healthCheckNodePort"), new.get("healthCheckNodePort")
        if was and was != now:
            causes.invalid("spec.healthCheckNodePort", now, "field is immutable")


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
