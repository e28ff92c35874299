"""Deletes stale UDP flows from a node's connection tracker."""

from netsim.kernel.conntrack import Conntrack
from netsim.kernel.netns import Netns, run_in
from proxy.staleflows import Frontends, is_stale


class KernelFlows:
    """`proxy.nodesync.FlowCleaner` for a network namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns

    async def clean(self, found: Frontends, node_ips: tuple[str, ...], family: int) -> int:
        """Delete the flows that `is_stale` names; how many. Raises KernelError."""
        return await run_in(self._netns, self._clean, found, node_ips, family)

    def _clean(self, found: Frontends, node_ips: tuple[str, ...], family: int) -> int:
        tracker = Conntrack(self._netns)
        deleted = 0
        for flow in tracker.flows():
            if flow.protocol != "udp":
                continue
            original, reply = flow.original, flow.reply
            if is_stale(found, original.destination, original.destination_port, reply.source, node_ips):
                tracker.delete(flow)
                deleted += 1
        return deleted
