"""Addresses and chain names that differ by allocation only, called by the object they belong to."""

import re
from collections.abc import Mapping

from netsim.cluster.handle import Cluster
from netsim.observe.names import name_addresses

# kube-proxy names an endpoint's chain by a hash of its address (pkg/proxy/iptables, servicePortEndpointChainName).
_ENDPOINT_CHAIN = re.compile(r"\bKUBE-SEP-[A-Z2-7]{16}\b")
_VETH = re.compile(r"\bveth[0-9a-f]{6,}\b")
# Not within a longer number or word: 10.0.0.1 is no part of 10.0.0.10, nor of 110.0.0.1 or 10.0.0.1.2.
_ADDRESS = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})(?![\w]|\.\d)")


class Renamer:
    """Puts names for addresses. ``names``: address -> its owner; the names of Services' ports are passed over.

    ``kinds``: only owners of these kinds; nodes have the same addresses in every cluster of as many.
    """

    def __init__(self, names: Mapping[str, str], kinds: tuple[str, ...] = ("pod/", "svc/")) -> None:
        self._names = {address: name for address, name in names.items() if name.startswith(kinds)}

    def __call__(self, text: str) -> str:
        text = _ENDPOINT_CHAIN.sub("KUBE-SEP-*", _VETH.sub("veth*", text))
        return _ADDRESS.sub(self._name, text) if self._names else text

    def _name(self, match: re.Match[str]) -> str:
        return self._names.get(match[0], match[0])


def name_objects(cluster: Cluster) -> dict[str, str]:
    """The addresses of pods, nodes and Services of a cluster, and whose they are."""
    found = name_addresses(cluster.list("Pod"), cluster.list("Node"), cluster.list("Service"), {})
    for service in cluster.list("Service"):  # of these the addresses themselves too, which rules name without a port
        name = f"svc/{service['metadata']['namespace']}/{service['metadata']['name']}"
        found.update({address: name for address in service["spec"].get("clusterIPs") or () if address != "None"})
    return found
