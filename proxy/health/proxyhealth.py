"""Is the proxy keeping up, and should load balancers use its node? What /healthz and /livez answer.

Source: kubernetes pkg/proxy/healthcheck/proxy_health.go, KEP-3836.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from netsim.model.objects import Object

TO_BE_DELETED_TAINT = "ToBeDeletedByClusterAutoscaler"
NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
_FAMILIES = {4: "IPv4", 6: "IPv6"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


JSON_HEADERS = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


def is_eligible(node: Object | None) -> bool:
    """Whether load balancers may send traffic to a Node: it is not being deleted, nor about to be.

    A Node nobody has seen yet is.
    """
    if node is None:
        return True
    if node["metadata"].get("deletionTimestamp"):
        return False
    return all(taint.get("key") != TO_BE_DELETED_TAINT for taint in (node.get("spec") or {}).get("taints") or ())


class Moment(NamedTuple):
    """Now, by both clocks: answers tell the time of day, and waiting is measured by the one that nobody sets."""

    wall_s: float  # since the Unix epoch
    monotonic_s: float


class ProxyHealth:
    """One node's proxy. Ill when a change has been waiting for ``timeout_s`` (twice the sync period) in any family."""

    def __init__(self, families: tuple[int, ...], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._updated_wall_s: dict[int, float | None] = dict.fromkeys(families)
        self._queued_s: dict[int, float] = {}
        self.node_eligible = True

    def queued(self, family: int, now: Moment) -> None:
        """A change waits to be written; the oldest one counts."""
        self._queued_s.setdefault(family, now.monotonic_s)

    def updated(self, family: int, now: Moment) -> None:
        """All there was has been written."""
        self._queued_s.pop(family, None)
        self._updated_wall_s[family] = now.wall_s

    def _family_is_healthy(self, family: int, now: Moment) -> bool:
        return now.monotonic_s - self._queued_s.get(family, now.monotonic_s) < self._timeout_s

    def is_healthy(self, now: Moment) -> bool:
        """Whether the proxy keeps up; the node's eligibility does not matter."""
        return all(self._family_is_healthy(family, now) for family in self._updated_wall_s)

    def healthz(self, now: Moment) -> Answer:
        """For load balancers: 503 also when the node is on its way out."""
        return self._answer(now, self.node_eligible, {"nodeEligible": self.node_eligible})

    def livez(self, now: Moment) -> Answer:
        """For whoever restarts a proxy that hangs: the node does not matter."""
        return self._answer(now, True, {})

    def _answer(self, now: Moment, eligible: bool, said: dict[str, Any]) -> Answer:
        healthy = self.is_healthy(now)
        updates = [at for at in self._updated_wall_s.values() if at is not None]
        # While all is well lastUpdated is now, though nothing may have changed for hours: what readers of older
        # releases rely on, says upstream.
        last = now.wall_s if healthy else max(updates, default=None)
        body = {
            "lastUpdated": format_time(last),
            "currentTime": format_time(now.wall_s),
            **said,
            "healthy": healthy,
            "status": {
                _FAMILIES[family]: {
                    "lastUpdated": format_time(at),
                    "healthy": self._family_is_healthy(family, now),
                }
                for family, at in self._updated_wall_s.items()
            },
        }
        return Answer(200 if healthy and eligible else 503, json.dumps(body).encode(), JSON_HEADERS)


def format_time(wall_s: float | None) -> str:
    """RFC 3339 in UTC with microseconds; Go's zero time for never."""
    if wall_s is None:
        return NEVER
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
