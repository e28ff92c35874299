"""WHERE in the running cluster: its namespaces, processes in them, and what they look like now."""

import os
from typing import TYPE_CHECKING, Any

from netsim.cluster.explaining import explain_ways, service_rules
from netsim.kernel.dump import dump_namespace
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.process import Process, ProcessSpec
from netsim.kernel.rtnl import Rtnl
from netsim.model.config import PROXY_MODES
from netsim.model.errors import NetsimError, UsageError
from netsim.model.names import EXTERNAL
from netsim.model.where import Where
from netsim.observe.rules.render import dump_rules

if TYPE_CHECKING:
    from netsim.cluster.runtime import Runtime

SHELL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Places:
    """The control server's target (`netsim.cluster.control.ControlTarget`)."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    def status(self) -> dict[str, Any]:
        """What ``netsim status`` shows."""
        runtime = self._runtime
        return {
            "name": runtime.config.name,
            "pid": runtime.machine_pid,
            "apiServer": runtime.api_url,
            "kubeconfig": str(runtime.kubeconfig),
            "proxyMode": runtime.proxy.mode,
            "podNetwork": runtime.config.pod_network,
            "ipFamily": runtime.config.ip_family,
            "nodes": runtime.describe_nodes(),
        }

    def netns_at(self, where: Where) -> Netns:
        """Raises NetsimError if there is no such place, or the pod has no network (yet)."""
        if where.kind == "pod":
            found = self._runtime.kubelet.netns_of(where.namespace, where.name)
            if found is None:
                self._runtime.check_pod_exists(where)
                raise NetsimError(
                    "the pod has no network namespace: it is not running",
                    where=str(where),
                    hint=f"netsim describe pod {where.name} -n {where.namespace}",
                )
            return found
        if where.kind == "node" and where.name not in self._runtime.node_names():
            names = ", ".join(self._runtime.node_names())
            raise NetsimError(f'there is no node "{where.name}"', hint=f"nodes: {names}")
        if where.kind == "host" and where.name != EXTERNAL:
            raise NetsimError(f'there is no host "{where.name}"', hint=f"host/{EXTERNAL} is always there")
        return self._runtime.namespaces.need(where.netns)

    async def start_process(
        self, where: Where | None, argv: list[str], fds: list[int], options: dict[str, Any]
    ) -> Process:
        """Run a command at a place; in a pod, in one of its containers."""
        env, tty = dict(options.get("env") or {}), bool(options.get("tty"))
        stdin, stdout, stderr = fds
        if where is not None and where.kind == "pod":
            self.netns_at(where)  # says more clearly what is wrong than a missing container does
            return await self._runtime.kubelet.exec(
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
        return await self._runtime.spawner.spawn(spec, stdin=stdin, stdout=stdout, stderr=stderr)

    async def barrier(self, timeout_s: float) -> None:
        await self._runtime.barrier.wait(timeout_s)

    async def set_proxy_mode(self, mode: str) -> None:
        """Have every node's rules written in another mode; status and status.json say so. Raises NetsimError."""
        if mode not in PROXY_MODES:
            raise UsageError(f'there is no proxy mode "{mode}"', hint=f"one of {', '.join(PROXY_MODES)}")
        await self._runtime.proxy.switch_mode(mode)
        self._runtime.save_status(self.status())

    async def explain(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What would become of packets, as ``netsim explain`` has it."""
        return await explain_ways(self._runtime, self, requests)

    async def rules(self, service: str, node: str | None) -> dict[str, Any]:
        """What serves a Service, as ``netsim rules`` has it."""
        return dump_rules(await service_rules(self._runtime, self, service, node))

    async def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        """One probe's path, as ``netsim trace -o json`` has it."""
        from netsim.cluster.tracing import trace  # what it needs is loaded by the first trace, not by every start

        return await trace(self._runtime, self, request)

    async def change_faults(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """Make, list or undo faults."""
        return await self._runtime.faulting.answer(action, request)

    async def dump(self, places: list[Where]) -> str:
        """Kernel state of these places, one after the other."""
        texts = []
        for where in places:
            text = await dump_namespace(self.netns_at(where), self._runtime.spawner)
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
