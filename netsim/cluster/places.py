"""WHERE in the running cluster: its namespaces, processes in them, and what they look like now."""

import os
from typing import Any

from netsim.cluster.barrier import Barrier
from netsim.cluster.explaining import explain_ways, service_rules
from netsim.cluster.faulting import Faulting
from netsim.cluster.site import Site
from netsim.cluster.status import Status
from netsim.kernel.dump import dump_namespace
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.process import Process, ProcessSpec
from netsim.kernel.rtnl import Rtnl
from netsim.model.config import PROXY_MODES
from netsim.model.errors import UsageError
from netsim.model.where import Where
from netsim.observe.rules.render import dump_rules
from proxy.component import ProxyComponent

SHELL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Places:
    """The control server's target (`netsim.cluster.control.ControlTarget`)."""

    def __init__(self, site: Site, proxy: ProxyComponent, barrier: Barrier, faulting: Faulting, status: Status) -> None:
        self._site = site
        self._proxy = proxy
        self._barrier = barrier
        self._faulting = faulting
        self._status = status

    def status(self) -> dict[str, Any]:
        """What ``netsim status`` shows."""
        return self._status.read()

    def netns_at(self, where: Where) -> Netns:
        """Raises NetsimError if there is no such place, or the pod has no network (yet)."""
        return self._site.netns_at(where)

    async def start_process(
        self, where: Where | None, argv: list[str], fds: list[int], options: dict[str, Any]
    ) -> Process:
        """Run a command at a place; in a pod, in one of its containers."""
        env, tty = dict(options.get("env") or {}), bool(options.get("tty"))
        stdin, stdout, stderr = fds
        if where is not None and where.kind == "pod":
            self.netns_at(where)  # says more clearly what is wrong than a missing container does
            return await self._site.kubelet.exec(
                where.namespace,
                where.name,
                options.get("container"),
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                tty=tty,
            )
        netns = None if where is None else self.netns_at(where)
        home = {"PATH": SHELL_PATH, "HOME": os.environ.get("HOME", "/"), "TERM": os.environ.get("TERM", "dumb")}
        spec = ProcessSpec(argv=tuple(argv), env=home | env, netns=netns, controlling_tty=tty)
        return await self._site.spawner.spawn(spec, stdin=stdin, stdout=stdout, stderr=stderr)

    async def barrier(self, timeout_s: float) -> None:
        await self._barrier.wait(timeout_s)

    async def set_proxy_mode(self, mode: str) -> None:
        """Have every node's rules written in another mode; status and status.json say so. Raises NetsimError."""
        if mode not in PROXY_MODES:
            raise UsageError(f'there is no proxy mode "{mode}"', hint=f"one of {', '.join(PROXY_MODES)}")
        await self._proxy.switch_mode(mode)
        self._status.save()

    async def explain(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What would become of packets, as ``netsim explain`` has it."""
        return await explain_ways(self._site, requests)

    async def rules(self, service: str, node: str | None) -> dict[str, Any]:
        """What serves a Service, as ``netsim rules`` has it."""
        return dump_rules(await service_rules(self._site, service, node))

    async def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        """One probe's path, as ``netsim trace -o json`` has it."""
        from netsim.cluster.tracing import trace  # what it needs is loaded by the first trace, not by every start

        return await trace(self._site, request)

    async def change_faults(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """Make, list or undo faults."""
        return await self._faulting.answer(action, request)

    async def dump(self, places: list[Where]) -> str:
        """Kernel state of these places, one after the other."""
        texts = []
        for where in places:
            text = await dump_namespace(self.netns_at(where), self._site.spawner)
            texts.append(f"===== {where}\n{text}")
        return "\n".join(texts)

    async def read_interfaces(self, where: Where) -> list[dict[str, Any]]:
        return await run_in(self.netns_at(where), _read_interfaces)


def _read_interfaces() -> list[dict[str, Any]]:
    with Rtnl() as rtnl:
        addresses = rtnl.addresses()
        return [
            {
                "name": link.name,
                "index": link.ifindex,
                "mac": link.mac,
                "mtu": link.mtu,
                "addresses": [address.cidr for address in addresses if address.ifindex == link.ifindex],
            }
            for link in rtnl.links()
        ]
