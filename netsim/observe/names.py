"""What addresses belong to, from the API's objects, which are handed in. Pure.

Keys are addresses ("10.244.1.2" is "pod/default/web-1") and, for a Service's ports, "address:port" ("10.96.1.1:80" is
"svc/default/web:http"). A node's address belongs to the node, also where a pod uses it (hostNetwork).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]


def name_addresses(
    pods: Iterable[Object], nodes: Iterable[Object], services: Iterable[Object], others: Mapping[str, str]
) -> dict[str, str]:
    """``others``: addresses that no object has, such as a bridge's, and their places."""
    services, nodes = list(services), list(nodes)
    names = dict(others)
    for pod in pods:
        status = pod.get("status") or {}
        if pod["spec"].get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
            continue
        names |= {entry["ip"]: _name("pod", pod) for entry in status.get("podIPs") or ()}
    node_addresses: list[str] = []
    for node in nodes:
        found = [a["address"] for a in (node.get("status") or {}).get("addresses") or () if a["type"] == "InternalIP"]
        names |= dict.fromkeys(found, f"node/{node['metadata']['name']}")
        node_addresses += found
    for service in services:
        names.update(_name_service(service, node_addresses))
    return names


def _name_service(service: Object, node_addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    spec, name = service["spec"], _name("svc", service)
    addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP") or ""] if a and a != "None"]
    addresses += spec.get("externalIPs") or []
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses += [entry["ip"] for entry in ingress if entry.get("ip")]
    for address in addresses:
        yield address, name
        numbers = [port["port"] for port in spec.get("ports") or ()]
        for port in spec.get("ports") or ():
            number = port["port"]
            word = port.get("name") if numbers.count(number) == 1 else ""  # DNS has 53 twice, by two names
            yield join_port(address, number), f"{name}:{word or number}"
    for port in spec.get("ports") or ():
        if port.get("nodePort"):
            for address in node_addresses:
                yield join_port(address, port["nodePort"]), f"{name}:{port.get('name') or port['port']}"


def join_port(address: str, port: int) -> str:
    """``address:port``, of IPv6 with brackets (RFC 3986)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _name(kind: str, obj: Object) -> str:
    metadata = obj["metadata"]
    return f"{kind}/{metadata.get('namespace') or 'default'}/{metadata['name']}"
