"""Which health-check node ports a node must have, and what each answers.

A load balancer asks the node itself whether it has endpoints of a Service with externalTrafficPolicy Local.
Source: kubernetes pkg/proxy/healthcheck/service_health.go, endpointschangetracker.go (LocalReadyEndpoints).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxy.health.proxyhealth import JSON_HEADERS, Answer
from proxy.servicemap import Change, Entry, ServiceKey, ServicePortName


@dataclass(frozen=True, slots=True)
class Check:
    """One Service's health check on one node: its port, and how many distinct ready endpoints the node has."""

    port: int
    endpoints: int


@dataclass(slots=True)
class CheckedServices:
    """The services that have a healthCheckNodePort, kept from the map's changes: most clusters have few or none."""

    _entries: dict[ServiceKey, dict[ServicePortName, Entry]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def note(self, changes: Mapping[ServicePortName, Change]) -> None:
        """Work in changes of the service map."""
        for name, change in changes.items():
            key = (name.namespace, name.name)
            if change.new is not None and change.new.service.health_check_node_port:
                self._entries.setdefault(key, {})[name] = change.new
            elif key in self._entries:
                self._entries[key].pop(name, None)
                if not self._entries[key]:
                    del self._entries[key]

    def checks(self, node: str) -> dict[ServiceKey, Check]:
        """What ``node`` must answer."""
        return {key: _check(entries.values(), node) for key, entries in self._entries.items()}


def _check(entries: Iterable[Entry], node: str) -> Check:
    port = 0
    local: set[str] = set()
    for entry in entries:
        port = entry.service.health_check_node_port
        local.update(e.ip for e in entry.endpoints if e.ready and e.node == node)  # terminating ones do not count
    return Check(port, len(local))


def answer_check(key: ServiceKey, check: Check, proxy_healthy: bool) -> Answer:
    """200 when the node has endpoints and its rules are up to date, else 503."""
    namespace, name = key
    body = {
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": check.endpoints,
        "serviceProxyHealthy": proxy_healthy,
    }
    headers = JSON_HEADERS | {"X-Load-Balancing-Endpoint-Weight": str(check.endpoints)}
    status = 200 if check.endpoints and proxy_healthy else 503
    return Answer(status, json.dumps(body, indent="\t").encode(), headers)
