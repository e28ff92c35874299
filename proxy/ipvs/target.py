"""The ipvs dialect's hands on one node.

A real server that goes gets weight 0 first and is removed when its connections are gone (a TCP connection to a pod
that shuts down may still end well); UDP and SCTP ones go at once, with vs/expire_nodest_conn their flows at the next
packet. Those on their way out are looked at in each sync and each check (30 s).
Source: kubernetes pkg/proxy/ipvs/graceful_termination.go, proxier.go (NewProxier, sysctls).
"""

import errno
import logging
import socket
from typing import Any

from netsim.kernel.ipset import Ipset
from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.ipvs import Ipvs, del_real, del_server, load_scheduler, new_real, new_server, set_real, set_server
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.process import Spawner
from netsim.kernel.rtnl import Rtnl, del_address, del_link, new_address, new_dummy
from netsim.kernel.rtnl_socket import BatchError
from netsim.kernel.rtnl_wire import Message
from netsim.kernel.sysctl import write_sysctls
from netsim.model.errors import FeatureMissing, KernelError
from netsim.ruleset.iptables import parse_save
from netsim.ruleset.ipvs import RealServer, ServerKey
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import Plan
from proxy.ipvs import rules, sets
from proxy.ipvs.plan import DUMMY, Existing, IpvsPlan, Operation, choose_local_ips

log = logging.getLogger(__name__)

SYSCTLS = {
    "net.ipv4.vs.conntrack": 1,  # or netfilter could not masquerade what IPVS translated
    "net.ipv4.vs.expire_nodest_conn": 1,
    "net.ipv4.vs.expire_quiescent_template": 1,  # affinity must not hold on to a server at weight 0
    "net.ipv4.ip_forward": 1,
}
STRICT_ARP_SYSCTLS = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_GRACEFUL = ("tcp",)
Leaving = tuple[ServerKey, RealServer]


class IpvsTarget:
    """`proxy.dialect.Target` for a network namespace."""

    def __init__(self, netns: Netns, spawner: Spawner, config: ProxyConfig, *, backend: Backend | None = None) -> None:
        self._netns = netns
        self._config = config
        self._iptables = Iptables(netns, spawner, backend=backend)
        self._ipset = Ipset(netns, spawner)
        self._prepared = False
        self._local_ips: dict[int, tuple[str, ...]] = {}  # by family: where NodePorts answer now
        self.leaving: set[Leaving] = set()  # real servers at weight 0 that still have connections

    async def read(self, family: int) -> Existing:
        """What is there. Makes the dummy and sets the sysctls when first called.

        Raises FeatureMissing where the kernel has no IPVS or no dummy devices.
        """
        if not self._prepared:
            await run_in(self._netns, self._prepare)
            self._prepared = True
        return await self.look(family)

    async def look(self, family: int) -> Existing:
        """What is there; makes and sets nothing. Raises KernelError, FeatureMissing."""
        servers = await run_in(self._netns, self._read_servers, family)
        on_dummy, local_ips = await run_in(self._netns, self._read_addresses, family)
        found = sets.parse_save(await self._ipset.save(), family)
        tables = parse_save(await self._iptables.save_async(family=family))
        return Existing(tables, found, servers, frozenset(on_dummy or ()), local_ips)

    async def apply(self, plan: Plan[Any]) -> None:
        """The plan's steps in order. Raises KernelError; what was done before stays, and the next full sync sees it."""
        if not isinstance(plan, IpvsPlan):
            raise TypeError(f"not a plan of this dialect: {plan!r}")
        if plan.sets_before:
            await self._ipset.restore(plan.sets_before)
        # Last to come, first to go: they let service addresses past the rules of any other mode.
        if plan.rules and plan.remove_dummy:
            await self._iptables.restore_async(plan.rules.encode(), family=plan.family)
        await run_in(self._netns, self._apply_servers, plan)
        if plan.rules and not plan.remove_dummy:
            await self._iptables.restore_async(plan.rules.encode(), family=plan.family)
        if plan.sets_after:
            await self._ipset.restore(plan.sets_after)

    async def is_intact(self, view: FamilyView) -> bool:
        """Whether rules and dummy are there and the node's addresses are those that NodePorts answer on; looks after
        real servers on their way out.
        """
        await run_in(self._netns, self.end_leaving)
        try:
            on_dummy, found = await run_in(self._netns, self._read_addresses, view.family)
            if on_dummy is None or choose_local_ips(view, found) != self._local_ips.get(view.family):
                return False
            await self._iptables.restore_async(rules.check_text(view).encode(), family=view.family)
        except KernelError as error:
            log.info("%s: %s", self._netns.name, error)
            return False
        return True

    # --- in worker threads ---

    def _prepare(self) -> None:
        load_scheduler(self._config.ipvs_scheduler)
        with Ipvs(self._netns):  # loads the module, or says that there is none
            pass
        write_sysctls(self._netns, SYSCTLS)
        if self._config.ipvs_strict_arp:
            write_sysctls(self._netns, STRICT_ARP_SYSCTLS)
        with Rtnl(self._netns) as rtnl:
            if rtnl.link(DUMMY) is None:
                try:
                    rtnl.batch([new_dummy(DUMMY)])
                except KernelError as error:
                    if error.errno != errno.EOPNOTSUPP:
                        raise
                    raise FeatureMissing(
                        "dummy", "the kernel has no dummy devices (CONFIG_DUMMY)", hint="modprobe dummy"
                    ) from None

    def _read_servers(self, family: int) -> dict[ServerKey, Any]:
        with Ipvs(self._netns) as ipvs:
            return {
                key: (virtual, ipvs.reals(key))
                for key, virtual in ipvs.servers().items()
                if (":" in key.address) == (family == 6)
            }

    def _read_addresses(self, family: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        """The addresses on the dummy, None where there is no dummy, and those on all other links."""
        with Rtnl(self._netns) as rtnl:
            dummy = rtnl.link(DUMMY)
            index = dummy.ifindex if dummy is not None else 0
            found = rtnl.addresses(family=_FAMILIES[family])
        own = tuple(address.address for address in found if address.ifindex == index)
        others = tuple(address.address for address in found if address.ifindex != index)
        return own if dummy is not None else None, others

    def _apply_servers(self, plan: IpvsPlan) -> None:
        if plan.operations or self.leaving:
            with Ipvs(self._netns) as ipvs:
                self._run(ipvs, plan.operations)
        self._apply_addresses(plan)
        if not plan.remove_dummy:
            self._local_ips[plan.family] = plan.state.local_ips
        self.end_leaving()

    def _apply_addresses(self, plan: IpvsPlan) -> None:
        if not (plan.new_addresses or plan.old_addresses or plan.remove_dummy):
            return
        with Rtnl(self._netns) as rtnl:
            dummy = rtnl.link(DUMMY)
            if plan.remove_dummy:
                if dummy is not None:
                    rtnl.batch([del_link(DUMMY)])
                self._prepared = False
                return
            if dummy is None:
                raise KernelError(f"{DUMMY} is gone", errno=errno.ENODEV, where=self._netns.name)
            length = 32 if plan.family == 4 else 128
            messages = [new_address(f"{ip}/{length}", dummy.ifindex) for ip in plan.new_addresses]
            messages += [del_address(f"{ip}/{length}", dummy.ifindex) for ip in plan.old_addresses]
            try:
                rtnl.batch(messages)
            except BatchError as error:
                if any(number not in (errno.EEXIST, errno.EADDRNOTAVAIL) for _, number, _ in error.failures):
                    raise

    def _run(self, ipvs: Ipvs, operations: tuple[Operation, ...]) -> None:
        messages: list[Message] = []
        ensured: list[tuple[int, Operation]] = []
        retired: list[Leaving] = []
        for operation in operations:
            if operation.verb == "ensure":
                ensured.append((len(messages), operation))
            if operation.verb == "retire" and operation.real is not None:
                retired.append((operation.key, operation.real))
            else:
                messages.append(_message(operation))
        there = frozenset(ipvs.run(messages, ignore=(errno.EEXIST,)))
        again: list[Message] = []
        for position, operation in ensured:
            if operation.real is not None:
                self.leaving.discard((operation.key, operation.real))
                if position in there:  # on its way out, and wanted again
                    again.append(set_real(operation.key, operation.real, 1))
        ipvs.run(again)
        gone = {operation.key for operation in operations if operation.verb == "del"}
        self.leaving = {item for item in self.leaving if item[0] not in gone}
        self._retire(ipvs, retired)

    def _retire(self, ipvs: Ipvs, retired: list[Leaving]) -> None:
        """No new connections for these; those without any, and all of protocols that know no end, go at once."""
        graceful = [item for item in retired if item[0].protocol in _GRACEFUL]
        ipvs.run([set_real(key, real, 0) for key, real in graceful], ignore=(errno.ENOENT,))
        self.leaving.update(graceful)
        at_once = [del_real(key, real) for key, real in retired if key.protocol not in _GRACEFUL]
        ipvs.run(at_once, ignore=(errno.ENOENT,))

    def end_leaving(self) -> None:
        """Remove the real servers at weight 0 whose connections are gone. Raises KernelError."""
        if not self.leaving:
            return
        by_server: dict[ServerKey, list[RealServer]] = {}
        for key, real in self.leaving:
            by_server.setdefault(key, []).append(real)
        with Ipvs(self._netns) as ipvs:
            done: list[Leaving] = []
            for key, reals in by_server.items():
                states = _read_reals(ipvs, key)
                done += [(key, real) for real in reals if real not in states or states[real].idle]
            ipvs.run([del_real(key, real) for key, real in done], ignore=(errno.ENOENT, errno.ESRCH))
        self.leaving.difference_update(done)


def _read_reals(ipvs: Ipvs, key: ServerKey) -> dict[RealServer, Any]:
    try:
        return dict(ipvs.reals(key))
    except KernelError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT):
            raise
        return {}  # the virtual server went, and its real servers with it


def _message(operation: Operation) -> Message:
    key, virtual, real = operation.key, operation.virtual, operation.real
    if operation.verb == "ensure" and real is not None:
        return new_real(key, real)
    if virtual is not None:
        return new_server(key, virtual) if operation.verb == "new" else set_server(key, virtual)
    return del_server(key)
