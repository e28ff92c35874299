"""Faults in the running cluster: where their places are plugged in, and what they do to pods and nodes."""

from typing import Any

from netsim.cluster.site import Site
from netsim.controllers.nodelifecycle import NodeLifecycleController
from netsim.faults.manager import Faults, Socket
from netsim.kernel.netns import Netns
from netsim.model.clock import Clock
from netsim.model.errors import NetsimError, UsageError
from netsim.model.names import EXTERNAL, FABRIC_EXTERNAL, node_link
from netsim.model.where import Where


class Faulting:
    """The control operation "fault", and `netsim.faults.manager.FaultTarget`."""

    def __init__(self, site: Site, nodes: NodeLifecycleController, fabric: Netns, clock: Clock) -> None:
        self._site = site
        self._nodes = nodes
        self._fabric = fabric
        self.faults = Faults(self, fabric, site.config.families, clock)

    async def answer(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """``add``, ``list``, ``undo`` (``ids``, all without) or ``undo-kind``. Raises NetsimError."""
        match action:
            case "add":
                return await self.faults.add(request)
            case "list":
                return self.faults.describe()
            case "undo":
                return {"undone": await self.faults.undo(request.get("ids"), if_there=bool(request.get("ifThere")))}
            case "undo-kind":
                return {"undone": await self.faults.undo_kind(request["kind"], request["places"])}
            case _:
                raise UsageError(f'unknown action "{action}"', hint="client and cluster process differ in version")

    def find_socket(self, where: Where) -> Socket:
        """Where a place is plugged in. Raises NetsimError: no such place, no network, or only its node's."""
        netns = self._site.netns_at(where)
        if where.kind == "node":
            return Socket(netns, self._fabric, node_link(where.name))
        if where.kind == "host":
            return Socket(netns, self._fabric, FABRIC_EXTERNAL if where.name == EXTERNAL else "")
        node = self._site.kubelet.node_of(where.namespace, where.name)
        if node.netns is netns:
            raise NetsimError(
                "the pod has its node's network (hostNetwork)", where=str(where), hint=f"name node/{node.name}"
            )
        return Socket(netns, node.netns)

    async def kill_pod(self, where: Where, container: str | None, number: int) -> list[str]:
        """Raises ApiError, UsageError, NetsimError when nothing of it runs."""
        self._site.netns_at(where)  # says more clearly what is wrong than a missing container does
        names = self._site.kubelet.signal_pod(where.namespace, where.name, container, number)
        if not names:
            hint = f"netsim describe pod {where.name} -n {where.namespace}"
            raise NetsimError("no container runs", where=str(where), hint=hint)
        return names

    async def stop_node(self, name: str) -> None:
        self._site.kubelet.stop_node(name)
        self._nodes.check(name)

    async def start_node(self, name: str) -> None:
        await self._site.kubelet.start_node(name)
        self._nodes.check(name)
