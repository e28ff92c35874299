"""The iptables dialect's hands on one node."""

import logging
from pathlib import Path

from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.process import Spawner
from netsim.model.errors import KernelError
from netsim.ruleset.iptables import Tables, parse_save
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import Plan
from proxy.iptables.plan import check_text

log = logging.getLogger(__name__)

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
# Upstream's conntrack.tcpEstablishedTimeout and tcpCloseWaitTimeout (v1alpha1/defaults.go). nf_conntrack_max is the
# machine's, not the namespace's, and is left alone.
CONNTRACK_SYSCTLS = {
    "net/netfilter/nf_conntrack_tcp_timeout_established": "86400",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait": "3600",
}
_PROC_SYS = Path("/proc/sys")


class IptablesTarget:
    """`proxy.dialect.Target` for a network namespace."""

    def __init__(self, netns: Netns, spawner: Spawner, config: ProxyConfig) -> None:
        self._netns = netns
        self._config = config
        self._iptables = Iptables(netns, spawner)
        self._prepared = False

    async def read(self, family: int) -> Tables:
        """All tables of the family; sets the sysctls when first called."""
        if not self._prepared:
            await run_in(self._netns, _set_sysctls, self._config)
            self._prepared = True
        return parse_save(await self._iptables.save_async(family=family))

    async def apply(self, plan: Plan[object]) -> None:
        """One ``iptables-restore --noflush --counters``. Raises KernelError."""
        if plan.text:
            await self._iptables.restore_async(plan.text.encode(), family=plan.family)

    async def is_intact(self, view: FamilyView) -> bool:
        """Whether our chains and the jumps to them are there."""
        try:
            await self._iptables.restore_async(check_text(view).encode(), family=view.family)
        except KernelError as error:
            log.info("%s: %s", self._netns.name, error)
            return False
        return True


def _set_sysctls(config: ProxyConfig) -> None:
    """In the namespace of the calling thread. What this kernel does not have is left out. Raises KernelError."""
    wanted = dict(CONNTRACK_SYSCTLS)
    if config.localhost_node_ports and 4 in config.families:
        wanted[ROUTE_LOCALNET] = "1"
    for name, value in wanted.items():
        path = _PROC_SYS / name
        try:
            if path.exists() and path.read_text().strip() != value:
                path.write_text(value)
        except OSError as error:
            raise KernelError(f"cannot set {name} to {value}: {error.strerror}", errno=error.errno or 0) from error
