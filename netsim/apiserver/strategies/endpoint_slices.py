"""EndpointSlices.

Source: kubernetes ``pkg/apis/discovery/v1/defaults.go``, ``pkg/apis/discovery/validation/validation.go``,
``pkg/registry/discovery/endpointslice/strategy.go`` and ``pkg/printers/internalversion/printers.go``.
"""

import re
from ipaddress import ip_address
from typing import Any

from netsim.apiserver.ages import NONE, age
from netsim.apiserver.causes import Causes
from netsim.apiserver.names import dns_label, dns_subdomain
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy

_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_MAX_ENDPOINTS = 1000
_MAX_PORTS = 20000
_MAX_ADDRESSES = 100
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)")


class EndpointSliceStrategy(Strategy):
    """Up to 1,000 endpoints of one Service, with one set of ports."""

    generation_fields = ("endpoints", "ports")
    columns = (NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"), AGE)

    def default(self, obj: Object) -> None:
        for port in obj.get("ports") or ():
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")
        obj.setdefault("endpoints", [])  # both lists are required fields: clients expect null or a list
        obj.setdefault("ports", [])

    def validate(self, obj: Object, causes: Causes) -> None:
        family = obj.get("addressType", "")
        if not family:
            causes.required("addressType")
        elif family not in _ADDRESS_TYPES:
            causes.not_supported("addressType", family, _ADDRESS_TYPES)
        if len(obj["endpoints"]) > _MAX_ENDPOINTS:
            causes.found.append(
                (
                    "FieldValueTooMany",
                    "endpoints",
                    f"Too many: {len(obj['endpoints'])}: must have at most {_MAX_ENDPOINTS} items",
                )
            )
        for index, endpoint in enumerate(obj["endpoints"]):
            _check_endpoint(endpoint, f"endpoints[{index}]", family, causes)
        names: set[str] = set()
        for index, port in enumerate(obj["ports"]):
            _check_port(port, f"ports[{index}]", names, causes)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        if new.get("addressType") != old.get("addressType"):
            causes.invalid("addressType", new.get("addressType", ""), "field is immutable")

    def row(self, obj: Object, now_s: float) -> list[Any]:
        endpoints = [address for item in obj.get("endpoints") or () for address in item.get("addresses") or ()]
        ports = ["*" if "port" not in port else str(port["port"]) for port in obj.get("ports") or ()]
        metadata = obj["metadata"]
        return [
            metadata["name"],
            obj.get("addressType", ""),
            _some(ports, "<unset>"),
            _some(endpoints, "<unset>"),
            age(metadata.get("creationTimestamp"), now_s),
        ]


def _some(items: list[str], nothing: str = NONE) -> str:
    """The first three, and how many more."""
    if not items:
        return nothing
    text = ",".join(items[:3])
    return f"{text} + {len(items) - 3} more..." if len(items) > 3 else text


def _check_endpoint(endpoint: Object, path: str, family: str, causes: Causes) -> None:
    addresses = endpoint.get("addresses") or ()
    if not addresses:
        causes.required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > _MAX_ADDRESSES:
        causes.found.append(
            (
                "FieldValueTooMany",
                f"{path}.addresses",
                f"Too many: {len(addresses)}: must have at most {_MAX_ADDRESSES} items",
            )
        )
    for index, address in enumerate(addresses):
        if family == "IPv4" and not _IPV4.fullmatch(address):
            causes.invalid(f"{path}.addresses[{index}]", address, "must be a valid IPv4 address")
        elif family == "IPv6" and not _is_ipv6(address):
            causes.invalid(f"{path}.addresses[{index}]", address, "must be a valid IPv6 address")
        elif family == "FQDN" and (bad := dns_subdomain(address)):
            causes.invalid(f"{path}.addresses[{index}]", address, bad)
    node, hostname = endpoint.get("nodeName"), endpoint.get("hostname")
    if node is not None and (bad := dns_subdomain(node)):
        causes.invalid(f"{path}.nodeName", node, bad)
    if hostname is not None and (bad := dns_label(hostname)):
        causes.invalid(f"{path}.hostname", hostname, bad)


def _check_port(port: Object, path: str, names: set[str], causes: Causes) -> None:
    name = port.get("name", "")
    if name in names:
        causes.duplicate(f"{path}.name", name)
    names.add(name)
    if name and (bad := dns_label(name)):
        causes.invalid(f"{path}.name", name, bad)
    if port.get("protocol") not in _PROTOCOLS:
        causes.not_supported(f"{path}.protocol", port.get("protocol"), _PROTOCOLS)
    number = port.get("port")
    if number is not None and not 1 <= number <= 65535:
        causes.invalid(f"{path}.port", number, "must be between 1 and 65535, inclusive")


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False
