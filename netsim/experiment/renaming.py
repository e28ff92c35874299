"""Addresses and names that differ by allocation only, called by the object they belong to. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from netsim.observe.names import name_addresses

Object = Mapping[str, Any]

# kube-proxy names an endpoint's chain by a hash of its address (pkg/proxy/iptables, servicePortEndpointChainName).
_ENDPOINT_CHAIN = re.compile(r"\bKUBE-SEP-[A-Z2-7]{16}\b")
_VETH = re.compile(r"\bveth[0-9a-f]{6,}\b")
# Not within a longer number or word: 10.0.0.1 is no part of 10.0.0.10, nor of 110.0.0.1 or 10.0.0.1.2.
_ADDRESS = re.compile(
    r"(?<![\w.:])((?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}))(/\d{1,3})?(?![\w]|\.\d)"
)


class Renamer:
    """Puts names for addresses and networks. ``names``: address, or network such as 10.244.0.0/24, -> its owner.

    ``kinds``: only owners of these kinds; nodes have the same addresses in every cluster of as many.
    """

    def __init__(self, names: Mapping[str, str], kinds: tuple[str, ...] = ("pod/", "svc/")) -> None:
        self._names = {address: name for address, name in names.items() if name.startswith(kinds)}

    def __call__(self, text: str) -> str:
        text = _ENDPOINT_CHAIN.sub("KUBE-SEP-*", _VETH.sub("veth*", text))
        return _ADDRESS.sub(self._name, text) if self._names else text

    def _name(self, match: re.Match[str]) -> str:
        if match[0] in self._names:
            return self._names[match[0]]
        length = match[2] or ""
        name = self._names.get(match[1])
        return match[0] if name is None else name + ("" if length in ("/32", "/128") else length)


def name_objects(pods: Iterable[Object], nodes: Iterable[Object], services: Iterable[Object]) -> dict[str, str]:
    """The addresses of pods, nodes and Services, without ports, and whose they are."""
    services = list(services)
    found = name_addresses(pods, nodes, services, {})
    for service in services:  # rules name these without a port, too
        name = f"svc/{service['metadata']['namespace']}/{service['metadata']['name']}"
        found.update({address: name for address in service["spec"].get("clusterIPs") or () if address != "None"})
    return found
