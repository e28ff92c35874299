"""The iptables dialect's hands on one node."""

import logging
from typing import Any

from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import write_sysctl
from netsim.model.errors import KernelError
from netsim.ruleset.iptables import Tables, parse_save
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import Plan
from proxy.iptables.plan import check_text
from proxy.kernelsettings import ROUTE_LOCALNET

log = logging.getLogger(__name__)


class IptablesTarget:
    """`proxy.dialect.Target` for a network namespace."""

    def __init__(self, netns: Netns, spawner: Spawner, config: ProxyConfig, *, backend: Backend | None = None) -> None:
        """``backend``: nft or legacy; None: the one that works."""
        self._netns = netns
        self._config = config
        self._iptables = Iptables(netns, spawner, backend=backend)
        self._prepared = False

    async def read(self, family: int) -> Tables:
        """All tables of the family; sets the sysctl that NodePorts on 127.0.0.1 need when first called."""
        if not self._prepared:
            if self._config.localhost_node_ports and 4 in self._config.families:
                write_sysctl(self._netns, ROUTE_LOCALNET, 1)
            self._prepared = True
        return await self.look(family)

    async def look(self, family: int) -> Tables:
        """All tables of the family; sets nothing. Raises KernelError, FeatureMissing."""
        return parse_save(await self._iptables.save_async(family=family))

    async def apply(self, plan: Plan[Any]) -> None:
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
