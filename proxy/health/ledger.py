"""What all proxies of a cluster count together: changes seen, when they were made, services with health checks."""

from collections.abc import Mapping, Sequence
from typing import Any

from netsim.model.objects import Object
from proxy.config import FamilyView
from proxy.health.counts import count_no_local, count_pending, read_trigger_s
from proxy.health.servicehealth import Check, CheckedServices
from proxy.metrics import Now
from proxy.nodesync import NodeSync
from proxy.servicemap import Change, ServiceKey, ServiceMap, ServicePortName


class Ledger:
    """Kept by the component, read by each node's health and metrics."""

    def __init__(self, maps: Mapping[int, ServiceMap], started_wall_s: float) -> None:
        self._maps = maps
        self._started_wall_s = started_wall_s
        self._checked = {family: CheckedServices() for family in maps}
        self._triggers_s: dict[int, list[float]] = {family: [] for family in maps}
        self._service_changes = self._slice_changes = 0

    def service_changed(self) -> None:
        self._service_changes += 1

    def slice_changed(self, old: Object | None, new: Object | None) -> None:
        self._slice_changes += 1
        trigger_s = read_trigger_s(old, new)
        # What happened before this proxy was there is not its delay.
        if trigger_s is not None and trigger_s >= self._started_wall_s:
            family = 6 if new is not None and new.get("addressType") == "IPv6" else 4
            if family in self._triggers_s:
                self._triggers_s[family].append(trigger_s)

    def take(self, family: int, changes: Mapping[ServicePortName, Change]) -> Sequence[float]:
        """Work in what `ServiceMap.take` said; when it had been triggered, as slices say."""
        self._checked[family].note(changes)
        triggers_s, self._triggers_s[family] = self._triggers_s[family], []
        return triggers_s

    def checks(self, family: int, node: str) -> Mapping[ServiceKey, Check]:
        """The health checks the node must answer now."""
        checked = self._checked[family]
        return checked.checks(node) if checked else {}

    def look(self, node: str, syncs: Mapping[int, NodeSync]) -> Now:
        """What a node's metrics show of this moment. ``syncs``: the node's, by family."""
        services = endpoints = 0
        rules: dict[int, Mapping[str, int]] = {}
        no_local: dict[int, Mapping[str, int]] = {}
        for family, sync in syncs.items():
            snapshot = self._maps[family].snapshot()
            changed = count_pending(sync.pending, snapshot)
            services, endpoints = services + changed[0], endpoints + changed[1]
            no_local[family] = count_no_local(snapshot, node, sync.view.node.zone)
            if sync.mode == "iptables" and sync.state is not None:
                rules[family] = _count_rules(sync.state, sync.view)
        return Now(self._service_changes, self._slice_changes, services, endpoints, rules, no_local)


def _count_rules(state: Any, view: FamilyView) -> Mapping[str, int]:
    from proxy.iptables.counts import count_owned_rules  # only where that mode is

    return count_owned_rules(state, view)
