"""What a Service's objects say of a destination that it can't serve. Pure.

The kernel only knows that a rule refuses the packet; in nftables mode that rule does not even name the Service.
"""

from collections.abc import Collection, Iterable

from netsim.cluster.service_entries import list_entries
from netsim.model.objects import Object, name_of, namespace_of
from netsim.model.target import Destination

LABEL_SERVICE = "kubernetes.io/service-name"  # of an EndpointSlice
_API_SERVER = ("default", "kubernetes")


def note_services(
    destination: Destination, services: Iterable[Object], slices: Collection[Object], node_addresses: Collection[str]
) -> list[str]:
    """A note where a Service has the address that is asked and can't serve it: not on this port, or by nobody."""
    if destination.protocol == "icmp":
        return []
    asked = (destination.port, destination.protocol)
    for service in services:
        entries = [entry for entry in list_entries(service) if entry.kind != "health check"]
        addressed = [
            entry
            for entry in entries
            if entry.address == destination.address
            or (entry.kind == "NodePort" and destination.address in node_addresses)
        ]
        if any((entry.port, entry.protocol) == asked for entry in addressed):
            return _note_endpoints(service, slices)
        # Another Service may have other ports of an address that is no ClusterIP.
        if any(entry.kind == "ClusterIP" for entry in addressed):
            has = ", ".join(f"{entry.port}/{entry.protocol}" for entry in addressed)
            return [f"{_name(service)} has no port {asked[0]}/{asked[1]}, but {has}"]
    return []


def _note_endpoints(service: Object, slices: Collection[Object]) -> list[str]:
    endpoints = [
        endpoint
        for piece in slices
        if namespace_of(piece) == namespace_of(service)
        and (piece["metadata"].get("labels") or {}).get(LABEL_SERVICE) == name_of(service)
        for endpoint in piece.get("endpoints") or ()
    ]
    if any((endpoint.get("conditions") or {}).get("ready") is not False for endpoint in endpoints):
        return []
    if not endpoints and (namespace_of(service), name_of(service)) == _API_SERVER:
        where = "the API server is not in the cluster's network, but on the machine (netsim kubeconfig)"
        return [f"{_name(service)} has no endpoints: {where}"]
    counted = f"{len(endpoints)} endpoint{'s' if len(endpoints) > 1 else ''}"
    has = f"{counted}, of which none is ready" if endpoints else "no endpoints"
    return [f"{_name(service)} has {has}: netsim describe svc {name_of(service)} -n {namespace_of(service)}"]


def _name(service: Object) -> str:
    return f"svc/{namespace_of(service)}/{name_of(service)}"
