"""Which endpoints a Service has: pods, ports and conditions, grouped by address family and port set. Pure.

Source: kubernetes ``staging/src/k8s.io/endpointslice/utils.go`` and ``reconciler.go``, ``pkg/api/v1/endpoints``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from netsim.model.objects import (
    Object,
    is_deleting,
    is_pod_finished,
    is_pod_ready,
    name_of,
    namespace_of,
    pod_ips,
    pod_node,
    uid_of,
)

SAME_NODE = "PreferSameNode"
SAME_ZONE = ("PreferClose", "PreferSameZone", SAME_NODE)  # the first is the second's old name

# (name, protocol, port, appProtocol)
Port = tuple[str, str, int, str]
Ports = tuple[Port, ...]
GroupKey = tuple[str, Ports]  # (address type, ports)


@dataclass(slots=True)
class Group:
    """The endpoints that share a slice: one address family, one set of ports. By identity (pod uid, address)."""

    address_type: str
    ports: Ports
    endpoints: dict[str, Object] = field(default_factory=dict)


def address_types(service: Object) -> list[str]:
    """``spec.ipFamilies``, or the family of the ClusterIP, or IPv4."""
    spec = service["spec"]
    families = spec.get("ipFamilies")
    if families:
        return list(families)
    cluster_ip = spec.get("clusterIP")
    if cluster_ip and cluster_ip != "None" and ip_address(cluster_ip).version == 6:
        return ["IPv6"]
    return ["IPv4"]


def is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _container_port(pod: Object, name: str, protocol: str) -> int | None:
    spec = pod["spec"]
    sidecars = (c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always")
    for container in (*(spec.get("containers") or ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return None


def resolve_ports(service: Object, pod: Object | None) -> Ports:
    """The Service's ports as numbers of this pod; one whose name the pod has not is left out, as upstream."""
    ports: list[Port] = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        target = port.get("targetPort")
        number: int | None
        if isinstance(target, str) and not target.isdigit():
            number = _container_port(pod, target, protocol) if pod is not None else None
        else:
            number = int(target) if target else int(port["port"])
        if number is not None:
            ports.append((port.get("name") or "", protocol, number, port.get("appProtocol") or ""))
    return tuple(ports)


def has_named_targets(service: Object) -> bool:
    return any(
        isinstance(port.get("targetPort"), str) and not port["targetPort"].isdigit()
        for port in service["spec"].get("ports") or ()
    )


def render_ports(ports: Ports) -> list[Object]:
    """``ports`` of an EndpointSlice."""
    rendered = []
    for name, protocol, number, app_protocol in ports:
        port: Object = {"name": name, "port": number, "protocol": protocol}
        if app_protocol:
            port["appProtocol"] = app_protocol
        rendered.append(port)
    return rendered


def parse_ports(ports: Iterable[Mapping[str, object]] | None) -> Ports:
    """The inverse of render_ports; absent fields take the API's defaults."""
    return tuple(
        (
            str(port.get("name") or ""),
            str(port.get("protocol") or "TCP"),
            int(str(port.get("port") or 0)),
            str(port.get("appProtocol") or ""),
        )
        for port in ports or ()
    )


def may_be_endpoint(pod: Object) -> bool:
    """A pod with an address that has not finished, ready or not (ShouldPodBeInEndpoints)."""
    return bool((pod.get("status") or {}).get("podIP")) and not is_pod_finished(pod)


def plan_endpoint(service: Object, pod: Object, address: str, zone: str) -> Object:
    """One endpoint. Terminating pods go on serving while they are ready; only ``ready`` leaves them out."""
    serving = is_pod_ready(pod)
    terminating = is_deleting(pod)
    ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not terminating)
    endpoint: Object = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": namespace_of(pod),
            "name": name_of(pod),
            "uid": uid_of(pod),
        },
    }
    if node := pod_node(pod):
        endpoint["nodeName"] = node
    if zone:
        endpoint["zone"] = zone
    if ready and (hints := plan_hints(service, node, zone)):
        endpoint["hints"] = hints
    spec = pod["spec"]
    if spec.get("hostname") and spec.get("subdomain") == name_of(service):
        endpoint["hostname"] = spec["hostname"]
    return endpoint


def plan_hints(service: Object, node: str, zone: str) -> Object:
    """Who should use an endpoint, as the Service's trafficDistribution has it: proxies read hints, and never that.

    PreferSameNode prefers the zone where no endpoint is on the client's node. Source: kubernetes
    ``staging/src/k8s.io/endpointslice/trafficdist/trafficdist.go``, KEP-3015.
    """
    distribution = service["spec"].get("trafficDistribution")
    hints: Object = {}
    if zone and distribution in SAME_ZONE:
        hints["forZones"] = [{"name": zone}]
    if node and distribution == SAME_NODE:
        hints["forNodes"] = [{"name": node}]
    return hints


def identity(endpoint: Object) -> str:
    """What stays the same while an endpoint's conditions change."""
    uid = (endpoint.get("targetRef") or {}).get("uid", "")
    return f"{uid}/{endpoint['addresses'][0]}"


def plan_groups(service: Object, pods: Iterable[Object], zone_of: Callable[[str], str]) -> dict[GroupKey, Group]:
    """Every endpoint of the Service. Each family has at least one group, be it empty.

    zone_of: the zone of a node by its name, "" where it has none.
    """
    families = address_types(service)
    common = None if has_named_targets(service) else resolve_ports(service, None)
    groups: dict[GroupKey, Group] = {}
    for pod in pods:
        if not may_be_endpoint(pod):
            continue
        ports = common if common is not None else resolve_ports(service, pod)
        if not ports and not is_headless(service):
            continue  # none of the named ports is the pod's
        addresses = pod_ips(pod)
        for family in families:
            address = next((a for a in addresses if (":" in a) == (family == "IPv6")), None)
            if address is None:
                continue
            group = groups.get((family, ports))
            if group is None:
                group = groups[family, ports] = Group(family, ports)
            endpoint = plan_endpoint(service, pod, address, zone_of(pod_node(pod)))
            group.endpoints[identity(endpoint)] = endpoint
    for family in families:
        if not any(key[0] == family for key in groups):
            # Upstream's placeholder: a slice without endpoints and ports says "known, and has none".
            groups[family, ()] = Group(family, ())
    return groups
