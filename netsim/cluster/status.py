"""What ``netsim status`` shows, and what of it is kept in status.json for ``netsim list``, which asks no process."""

from typing import Any

from netsim.cluster.network import choose_node_addresses
from netsim.cluster.site import Site
from netsim.cluster.state import StateDir
from netsim.model.kinds import NODE
from netsim.model.objects import Object, node_cidrs
from proxy.component import ProxyComponent


class Status:
    """Of the running cluster, as it is now."""

    def __init__(self, site: Site, proxy: ProxyComponent, state: StateDir, api_url: str) -> None:
        self._site = site
        self._proxy = proxy
        self._state = state
        self._api_url = api_url
        self._pid = int(state.read_status()["pid"])  # our pid in here is 1

    def read(self) -> dict[str, Any]:
        config = self._site.config
        return {
            "name": config.name,
            "pid": self._pid,
            "apiServer": self._api_url,
            "kubeconfig": str(self._state.kubeconfig),
            "proxyMode": self._proxy.mode,
            "podNetwork": config.pod_network,
            "ipFamily": config.ip_family,
            "nodes": self._describe_nodes(),
        }

    def save(self) -> dict[str, Any]:
        """Write status.json; what was written."""
        status = self.read()
        self._state.write_status(status)
        return status

    def _describe_nodes(self) -> list[dict[str, Any]]:
        nodes = self._site.informers.of(NODE)
        addresses = choose_node_addresses(self._site.config)
        found = []
        for name in self._site.node_names():
            node = nodes.get(None, name)
            pod_cidrs = node_cidrs(node) if node is not None else ()
            found.append(
                {
                    "name": name,
                    "address": addresses[name][0],
                    "addresses": list(addresses[name]),
                    "podCIDR": next(iter(pod_cidrs), ""),
                    "podCIDRs": list(pod_cidrs),
                    "ready": is_ready(node),
                }
            )
        return found


def is_ready(obj: Object | None) -> bool:
    """Whether a Node or Pod has the condition Ready."""
    conditions = (obj or {}).get("status", {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
