"""What a Cluster handle offers about rules and predicted paths."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from netsim.cluster.control_client import ControlClient
from netsim.model.errors import UsageError
from netsim.model.target import parse_service, parse_target
from netsim.model.where import parse_where

if TYPE_CHECKING:  # every command imports this module, and few need the model of a kernel
    from netsim.observe.explain.predict import Explanation
    from netsim.observe.rules.model import ServiceRules

_FAMILIES: dict[str | None, int | None] = {None: None, "ipv4": 4, "ipv6": 6}


class Asked(NamedTuple):
    """One question of `Explaining.explain_all`; the fields are the arguments of `Explaining.explain`."""

    from_: str
    to: str
    protocol: Literal["tcp", "udp", "icmp"] | None = None
    ip_family: Literal["ipv4", "ipv6"] | None = None
    size_bytes: int = 0


class Explaining:
    """Part of `netsim.cluster.handle.Cluster`."""

    _control: ControlClient

    def rules(self, service: str, *, node: str | None = None) -> "ServiceRules":
        """The rules, map elements and virtual servers that serve one Service, on a node or on all of them.

        service: ``svc/[NAMESPACE/]NAME``. Read from the kernel, which knows nothing of Services: found by the Service's
        addresses and ports. Raises ApiError if there is no such Service, NetsimError if no such node.
        """
        from netsim.observe.rules.render import load_rules

        target = parse_service(service)
        return load_rules(self._control.ask("rules", service=str(target), node=node))

    def explain(
        self,
        from_: str,
        to: str,
        *,
        protocol: Literal["tcp", "udp", "icmp"] | None = None,
        ip_family: Literal["ipv4", "ipv6"] | None = None,
        size_bytes: int = 0,
    ) -> "Explanation":
        """Predict a packet's way there and back, and what becomes of it, without sending it.

        From the kernel's state, read now: links, addresses, routes, neighbours, rules, listening sockets. Where chance
        decides (which endpoint), every way is told with its probability; ``.path`` is the likeliest. Arguments and
        errors are those of `trace`; that the packet would be lost is no error.
        """
        return self.explain_all([Asked(from_, to, protocol, ip_family, size_bytes)])[0]

    def explain_all(self, asked: Iterable[Asked]) -> "list[Explanation]":
        """As `explain`, of many packets: the kernel's state is read once for all of them."""
        from netsim.observe.explain.answer import load_explanation

        return [
            load_explanation(item) for item in self._control.ask("explain", requests=_requests(asked))["explanations"]
        ]


def _requests(asked: Iterable[Asked]) -> list[dict[str, Any]]:
    requests = []
    for one in asked:
        parse_where(one.from_)
        parse_target(one.to)
        if one.ip_family not in _FAMILIES:
            raise UsageError(f'ip_family: "{one.ip_family}" is not one of ipv4, ipv6')
        family = _FAMILIES[one.ip_family]
        requests.append(
            {
                "from": one.from_,
                "to": one.to,
                "protocol": one.protocol,
                "family": family,
                "size": one.size_bytes,
            }
        )
    return requests
