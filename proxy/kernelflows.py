"""Deletes stale UDP flows from a node's connection tracker."""

import socket

from netsim.kernel.conntrack import Conntrack
from netsim.kernel.netns import Netns, run_in
from proxy.staleflows import Frontends, is_stale

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class KernelFlows:
    """`proxy.nodesync.FlowCleaner` for a network namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns

    async def clean(self, found: Frontends, node_ips: tuple[str, ...], family: int) -> int:
        """Delete the flows that `is_stale` names; how many. Raises KernelError."""
        return await run_in(self._netns, self._clean, found, node_ips, family)

    def _clean(self, found: Frontends, node_ips: tuple[str, ...], family: int) -> int:
        with Conntrack(self._netns) as tracker:
            flows = tracker.flows(family=_FAMILIES[family], protocol=socket.IPPROTO_UDP)
            stale = [
                flow
                for flow in flows
                if is_stale(
                    found,
                    flow.original.destination,
                    flow.original.destination_port,
                    flow.reply.source,
                    node_ips,
                )
            ]
            return tracker.delete_all(stale)
