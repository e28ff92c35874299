"""What addresses belong to, from the API's objects, which are handed in. Pure.

Keys are addresses ("10.244.1.2" is "pod/default/web-1") and, for a Service's ports, "address:port" ("10.96.1.1:80" is
"svc/default/web:http"). A node's address belongs to the node, also where a pod uses it (hostNetwork).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]
_OR = " or "


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
    ports: dict[str, str] = {}
    for service in services:
        for key, name in _name_service(service, node_addresses):
            known = ports.setdefault(key, name)
            if name not in known.split(_OR):  # a node port may be one Service's of TCP and another's of UDP
                ports[key] = f"{known}{_OR}{name}"
    return names | ports


def _name_service(service: Object, node_addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    spec, name = service["spec"], _name("svc", service)
    addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP") or ""] if a and a != "None"]
    addresses += spec.get("externalIPs") or []
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses += [entry["ip"] for entry in ingress if entry.get("ip")]
    ports = spec.get("ports") or ()
    for address in addresses:
        yield address, name
        for port, word in _name_ports(ports, "port"):
            yield join_port(address, port["port"]), f"{name}:{word}"
    for port, word in _name_ports([port for port in ports if port.get("nodePort")], "nodePort"):
        for address in node_addresses:
            yield join_port(address, port["nodePort"]), f"{name}:{word}"


def _name_ports(ports: Sequence[Object], number: str) -> Iterator[tuple[Object, str]]:
    """Each with its name; of those that share a ``number`` (DNS has 53 twice, by two names) its port."""
    numbers = [port[number] for port in ports]
    for port in ports:
        word = port.get("name") if numbers.count(port[number]) == 1 else ""
        yield port, str(word or port["port"])


def join_port(address: str, port: int) -> str:
    """``address:port``, of IPv6 with brackets (RFC 3986)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _name(kind: str, obj: Object) -> str:
    metadata = obj["metadata"]
    return f"{kind}/{metadata.get('namespace') or 'default'}/{metadata['name']}"
