"""The iptables dialect's hands on one node."""

import logging
import weakref
from typing import Any

from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.nfacct import delete_counters, ensure_counters
from netsim.kernel.process import Spawner
from netsim.kernel.sysctl import read_sysctl, write_sysctl
from netsim.model.errors import FeatureMissing, KernelError
from netsim.ruleset.iptables import Tables, parse_save
from proxy.config import FamilyView, ProxyConfig, serves_loopback
from proxy.dialect import Plan
from proxy.iptables.names import COUNTERS, INVALID_COUNTER, PROBE
from proxy.iptables.plan import NodeTables, check_text
from proxy.kernelsettings import ROUTE_LOCALNET, TCP_BE_LIBERAL

log = logging.getLogger(__name__)

# A chain that is gone again in the same commit, to see whether the tool and the kernel have nfacct.
_PROBE = (
    f"*filter\n:{PROBE} - [0:0]\n-A {PROBE} -m nfacct --nfacct-name {INVALID_COUNTER}\n-F {PROBE}\n-X {PROBE}\nCOMMIT\n"
).encode()
# What works in one namespace works in all of a sandbox; known once rules were written, or refused.
_can_count: "weakref.WeakKeyDictionary[Spawner, bool]" = weakref.WeakKeyDictionary()


class IptablesTarget:
    """`proxy.dialect.Target` for a network namespace."""

    def __init__(self, netns: Netns, spawner: Spawner, config: ProxyConfig, *, backend: Backend | None = None) -> None:
        """``backend``: nft or legacy; None: the one that works."""
        self._netns = netns
        self._config = config
        self._spawner = spawner
        self._iptables = Iptables(netns, spawner, backend=backend)
        self._prepared = False

    async def read(self, family: int) -> Tables:
        """All tables of the family; sees to the packet counters, and when first called sets the sysctl that NodePorts
        on 127.0.0.1 need.
        """
        if not self._prepared:
            if 4 in self._config.families and serves_loopback(self._config):
                write_sysctl(self._netns, ROUTE_LOCALNET, 1)
            self._prepared = True
        tables = NodeTables(await self.look(family))
        tables.counted = self._count()
        tables.liberal = self._is_liberal()
        return tables

    async def look(self, family: int) -> Tables:
        """All tables of the family; sets nothing. Raises KernelError, FeatureMissing."""
        return parse_save(await self._iptables.save_async(family=family))

    async def apply(self, plan: Plan[Any]) -> None:
        """One ``iptables-restore --noflush --counters``. Raises KernelError; the next full plan does without counters
        where they were the reason.
        """
        try:
            if plan.text:
                await self._iptables.restore_async(plan.text.encode(), family=plan.family)
        except KernelError:
            if plan.state.counted and self._spawner not in _can_count:
                await self._try_counting()
            raise
        if plan.state.counted:
            _can_count[self._spawner] = True
        if plan.state.gone:
            self._uncount()

    def _count(self) -> bool:
        """Have our packet counters, where the kernel has such; it does without them else, as upstream's."""
        if _can_count.get(self._spawner) is False:
            return False
        try:
            ensure_counters(self._netns, COUNTERS)
        except (FeatureMissing, KernelError) as error:
            self._do_without_counters(error)
            return False
        return True

    async def _try_counting(self) -> None:
        """Find out whether rules can name counters. Only where rules were refused: it costs a process."""
        try:
            await self._iptables.restore_async(_PROBE)
        except KernelError as error:
            self._do_without_counters(error)

    def _do_without_counters(self, error: Exception) -> None:
        log.info("%s: packets are not counted: %s", self._netns.name, error)
        _can_count.setdefault(self._spawner, False)

    def _is_liberal(self) -> bool:
        """Whether the connection tracker takes packets out of window, so that none of them is invalid."""
        try:
            return read_sysctl(self._netns, TCP_BE_LIBERAL) != "0"
        except (FeatureMissing, KernelError):
            return False

    def _uncount(self) -> None:
        try:
            delete_counters(self._netns, COUNTERS)
        except (FeatureMissing, KernelError) as error:  # the other family's rules may still count
            log.debug("%s: %s", self._netns.name, error)

    async def is_intact(self, view: FamilyView) -> bool:
        """Whether our chains and the jumps to them are there."""
        try:
            await self._iptables.restore_async(check_text(view).encode(), family=view.family)
        except KernelError as error:
            log.info("%s: %s", self._netns.name, error)
            return False
        return True
