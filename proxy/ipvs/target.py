"""The ipvs dialect's hands on one node.

A real server that goes gets weight 0 first and is removed when its connections are gone (a TCP connection to a pod
that shuts down may still end well); UDP and SCTP ones go at once, with vs/expire_nodest_conn their flows at the next
packet. Those on their way out are looked at in each sync and each check (30 s).
Source: kubernetes pkg/proxy/ipvs/graceful_termination.go, proxier.go (NewProxier, sysctls).
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from netsim.kernel.address_events import AddressEvents
from netsim.kernel.ipset import Ipset
from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.ipvs import (
    Ipvs,
    del_real,
    del_server,
    load_scheduler,
    new_real,
    new_server,
    set_real,
    set_server,
    set_timeouts,
)
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.process import Spawner
from netsim.kernel.rtnl import Rtnl, del_address, del_link, new_address, new_dummy
from netsim.kernel.rtnl_read import Link
from netsim.kernel.rtnl_socket import BatchError
from netsim.kernel.rtnl_wire import Message
from netsim.kernel.sysctl import write_sysctls
from netsim.model.errors import FeatureMissing, KernelError
from netsim.ruleset.iptables import parse_save
from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, Timeouts, VirtualServer
from proxy.config import FamilyView, ProxyConfig
from proxy.dialect import Plan
from proxy.ipvs import rules, sets
from proxy.ipvs.intact import choose_sample, describe_missing, describe_missing_reals
from proxy.ipvs.plan import DUMMY, Existing, IpvsPlan, NodeState, Operation, choose_local_ips
from proxy.ipvs.sysctls import plan_sysctls

log = logging.getLogger(__name__)

# Upstream's, too (CanUseIPVSProxier): a virtual server for a moment, at an address of TEST-NET-2, shows that the
# kernel has the scheduler.
_TRIAL = ServerKey("tcp", "198.51.100.0", 20000)
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
        self._preparing = asyncio.Lock()
        self._states: dict[int, NodeState] = {}  # by family: what was written
        self._checked: dict[int, int] = {}  # by family: how many virtual servers were looked into so far
        self._events: AddressEvents | None = None
        self._followers: dict[int, Callable[[], None]] = {}
        self._unsure: set[int] = set()  # families whose addresses may not be those that were written any more
        self._dummy_index = 0
        self.leaving: set[Leaving] = set()  # real servers at weight 0 that still have connections

    async def read(self, family: int) -> Existing:
        """What is there. Makes the dummy when there is none; sets the sysctls when first called.

        Raises FeatureMissing where the kernel has no IPVS or no dummy devices.
        """
        async with self._preparing:  # both families at once would see each other's trial
            if not self._prepared:
                await run_in(self._netns, self._prepare)
                self._prepared = True
            await run_in(self._netns, self._ensure_dummy)
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
        if plan.remove_dummy:
            self._states.pop(plan.family, None)
        else:
            self._states[plan.family] = plan.state
        if plan.rules and not plan.remove_dummy:
            await self._iptables.restore_async(plan.rules.encode(), family=plan.family)
        if plan.sets_after:
            await self._ipset.restore(plan.sets_after)

    async def is_intact(self, view: FamilyView) -> bool:
        """Whether rules, virtual servers, addresses and entries of sets are there; looks after real servers on their
        way out.

        Of virtual servers and entries only the number is seen, and of `intact.SAMPLE` virtual servers at a time whether
        they have all their real servers.
        """
        await run_in(self._netns, self.end_leaving)
        try:
            if state := self._states.get(view.family):
                entries = sets.choose_counts(await self._ipset.count_entries(), view.family)
                missing = await run_in(self._netns, self._find_missing, state, entries, view.family)
                if missing:
                    log.info("%s: gone: %s", self._netns.name, missing)
                    return False
            await self._iptables.restore_async(rules.check_text(view).encode(), family=view.family)
        except KernelError as error:
            log.info("%s: %s", self._netns.name, error)
            return False
        return True

    # --- the node's addresses ---

    def follow(self, family: int, changed: Callable[[], None]) -> None:
        """See `proxy.dialect.AddressFollower`. Raises KernelError."""
        if self._events is None:
            self._events = AddressEvents(self._netns)
            self._unsure.update(_FAMILIES)  # nobody heard what was before
            asyncio.get_running_loop().add_reader(self._events, self._hear)
        self._followers[family] = changed

    def unfollow(self, family: int) -> None:
        """See `proxy.dialect.AddressFollower`."""
        self._followers.pop(family, None)
        if not self._followers and self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def has_moved(self, view: FamilyView) -> bool:
        """See `proxy.dialect.AddressFollower`. Costs a look at a socket, unless that had something to tell."""
        self._hear()
        state = self._states.get(view.family)
        if state is None or view.family not in self._unsure:
            return False
        if choose_local_ips(view, self._read_addresses(view.family)[1]) != state.local_ips:
            return True
        self._unsure.discard(view.family)
        return False

    def _hear(self) -> None:
        if self._events is not None and self._events.drain(but=self._dummy_index):
            self._unsure.update(_FAMILIES)
            for changed in self._followers.values():
                changed()

    # --- in worker threads ---

    def _prepare(self) -> None:
        load_scheduler(self._config.ipvs_scheduler)
        with Ipvs(self._netns) as ipvs:  # loads the module, or says that there is none
            self._try_scheduler(ipvs)
            if self._config.ipvs_timeouts.given:
                timeouts = self._config.ipvs_timeouts
                ipvs.run([set_timeouts(Timeouts(int(timeouts.tcp_s), int(timeouts.tcp_fin_s), int(timeouts.udp_s)))])
        write_sysctls(self._netns, plan_sysctls(self._config, os.uname().release))

    def _try_scheduler(self, ipvs: Ipvs) -> None:
        scheduler = self._config.ipvs_scheduler
        try:
            ipvs.run([new_server(_TRIAL, VirtualServer(scheduler)), del_server(_TRIAL)])
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            what = f'the kernel has no IPVS scheduler "{scheduler}" (CONFIG_IP_VS_{scheduler.upper()})'
            raise FeatureMissing("ipvs", what, where=self._netns.name, hint=f"modprobe ip_vs_{scheduler}") from None

    def _ensure_dummy(self) -> Link:
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
            dummy = rtnl.link(DUMMY)
        if dummy is None:
            raise KernelError(f"{DUMMY} is gone", errno=errno.ENODEV, where=self._netns.name)
        self._dummy_index = dummy.ifindex
        return dummy

    def _find_missing(self, state: NodeState, entries: Mapping[str, int], family: int) -> str:
        on_dummy, _ = self._read_addresses(family)
        if on_dummy is None:
            return DUMMY
        missing = describe_missing(state, on_dummy, entries)
        with Ipvs(self._netns) as ipvs:
            expected = sum(len(written.servers) for written in self._states.values())
            if (count := ipvs.count_servers()) < expected:
                return f"{expected - count} virtual servers"
            start = self._checked.get(family, 0)
            sample = choose_sample(state, start)
            self._checked[family] = start + len(sample)
            for key in sample:
                missing = missing or describe_missing_reals(state, key, _find_reals(ipvs, key))
        return missing

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
                try:
                    self._run(ipvs, plan.operations)
                except BatchError as error:
                    if any(number not in (errno.ESRCH, errno.EEXIST) for _, number, _ in error.failures):
                        raise
                    # Somebody took virtual servers away since they were read.
                    ipvs.run(_write_all(plan.state), ignore=(errno.EEXIST,))
        self._apply_addresses(plan)
        self.end_leaving()

    def _apply_addresses(self, plan: IpvsPlan) -> None:
        if not (plan.new_addresses or plan.old_addresses or plan.remove_dummy):
            return
        with Rtnl(self._netns) as rtnl:
            dummy = rtnl.link(DUMMY)
            if plan.remove_dummy:
                self._prepared = False
                try:
                    rtnl.batch([del_link(DUMMY)] if dummy is not None else [])
                except BatchError as error:
                    if error.errno != errno.ENODEV:  # the other family was first
                        raise
                return
            length, new, old = 32 if plan.family == 4 else 128, plan.new_addresses, plan.old_addresses
            if dummy is None:  # somebody took it away since it was read
                dummy = self._ensure_dummy()
                new, old = tuple(item for item in plan.state.uses if isinstance(item, str)), ()
            messages = [new_address(f"{ip}/{length}", dummy.ifindex) for ip in new]
            messages += [del_address(f"{ip}/{length}", dummy.ifindex) for ip in old]
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
                states = _find_reals(ipvs, key) or {}
                done += [(key, real) for real in reals if real not in states or states[real].idle]
            ipvs.run([del_real(key, real) for key, real in done], ignore=(errno.ENOENT, errno.ESRCH))
        self.leaving.difference_update(done)


def _find_reals(ipvs: Ipvs, key: ServerKey) -> dict[RealServer, RealState] | None:
    """The real servers; None where the virtual server went, and its real servers with it."""
    try:
        return ipvs.reals(key)
    except KernelError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT):
            raise
        return None


def _write_all(state: NodeState) -> list[Message]:
    messages = []
    for key, server in state.servers.items():
        messages += [new_server(key, server.virtual), *(new_real(key, real) for real in server.reals)]
    return messages


def _message(operation: Operation) -> Message:
    key, virtual, real = operation.key, operation.virtual, operation.real
    if operation.verb == "ensure" and real is not None:
        return new_real(key, real)
    if virtual is not None:
        return new_server(key, virtual) if operation.verb == "new" else set_server(key, virtual)
    return del_server(key)
