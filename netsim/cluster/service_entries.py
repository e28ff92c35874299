"""The ways to a Service, as its object says. Pure.

What ``netsim rules`` looks for in the kernel: addresses and ports are all it is told of the Service.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from netsim.observe.rules.model import Entry


def list_entries(service: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Every address and port a Service can be asked at; none of a headless one."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return ()
    return tuple(_entries(spec, service.get("status") or {}))


def _entries(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Entry]:
    ports = [
        (int(p["port"]), p.get("protocol", "TCP").lower(), int(p.get("nodePort") or 0)) for p in spec.get("ports", [])
    ]
    addresses = [("ClusterIP", a) for a in spec.get("clusterIPs") or [spec.get("clusterIP", "")] if a and a != "None"]
    addresses += [("externalIP", a) for a in spec.get("externalIPs") or ()]
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    addresses += [("LoadBalancer", item["ip"]) for item in ingress if item.get("ip")]
    for kind, address in addresses:
        yield from (Entry(kind, address, port, protocol) for port, protocol, _ in ports)
    yield from (Entry("NodePort", "", number, protocol) for _, protocol, number in ports if number)
    if spec.get("healthCheckNodePort"):
        yield Entry("health check", "", int(spec["healthCheckNodePort"]), "tcp")
