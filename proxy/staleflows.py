"""Which UDP flows of the connection tracker have outlived their endpoint.

A client that goes on sending from one port keeps its entry alive for ever, so it would never see a new endpoint,
nor the first one after none. TCP is left alone: a connection to an endpoint that is going away may still end well.

Source: kubernetes pkg/proxy/conntrack/cleanup.go; issues #48370, #105657, #126130, #139628, #141371.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxy.addresses import is_loopback
from proxy.servicemap import Entry, ServicePortName


@dataclass(slots=True)
class Frontends:
    """UDP addresses of services, each with the addresses of the endpoints that may answer for it."""

    addresses: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    node_ports: dict[int, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.addresses or self.node_ports)


def plan_frontends(before: Mapping[ServicePortName, Entry | None], after: Mapping[ServicePortName, Entry]) -> Frontends:
    """The frontends of the service ports in ``before`` (their state before the change, None for new ones).

    Addresses a service has given up are in it too. Traffic policies, topology and termination do not matter here: what
    is established stays for as long as the endpoint serves, as it does with TCP.
    """
    found = Frontends()
    names = [name for name in before if name.protocol == "UDP"]
    for name in names:
        new = after.get(name)
        serving = frozenset(e.ip for e in new.endpoints if e.serving) if new else frozenset()
        _add(found, before[name], serving)
    for name in names:  # last, so that an address that went from one service to another is the new one's
        new = after.get(name)
        if new is not None:
            _add(found, new, frozenset(e.ip for e in new.endpoints if e.serving))
    return found


def _add(found: Frontends, entry: Entry | None, serving: frozenset[str]) -> None:
    if entry is None:
        return
    service = entry.service
    for ip in (service.cluster_ip, *service.external_ips, *service.load_balancer_ips):
        found.addresses[(ip, service.port)] = serving
    if service.node_port:
        found.node_ports[service.node_port] = serving


def is_stale(found: Frontends, destination: str, port: int, reply_source: str, node_ips: Iterable[str]) -> bool:
    """Whether a UDP flow to ``destination:port``, answered by ``reply_source``, must go.

    Upstream takes any flow to a port that is some NodePort, also one that passes through to a host elsewhere; here it
    must have been translated or be to the node itself.
    """
    serving = found.addresses.get((destination, port))
    if serving is None and port in found.node_ports:
        translated = reply_source != destination
        if translated or destination in node_ips or is_loopback(destination):
            serving = found.node_ports[port]
    return serving is not None and reply_source not in serving
