"""How endpoints lie in EndpointSlices: the fewest writes that bring the slices in line. Pure.

Source: kubernetes ``staging/src/k8s.io/endpointslice/reconciler.go`` (reconcileByPortMapping).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netsim.controllers.plan_endpoints import (
    Group,
    GroupKey,
    identity,
    is_headless,
    parse_ports,
    render_ports,
)
from netsim.model.kinds import SERVICE
from netsim.model.objects import (
    Object,
    annotations_of,
    is_controlled_by,
    is_deleting,
    labels_of,
    make_owner_ref,
    name_of,
    namespace_of,
)

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
LAST_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
MAX_ENDPOINTS = 100  # --max-endpoints-per-slice
_OWN_LABELS = frozenset((SERVICE_NAME, MANAGED_BY, HEADLESS))


@dataclass(slots=True)
class SlicePlan:
    """The writes, in the order in which they are to be made: no endpoint is missing in between."""

    create: list[Object] = field(default_factory=list)
    update: list[Object] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)


def slice_labels(service: Object) -> dict[str, str]:
    """The Service's labels, and those by which slices are found."""
    labels = {key: value for key, value in labels_of(service).items() if key not in _OWN_LABELS}
    labels[SERVICE_NAME] = name_of(service)
    labels[MANAGED_BY] = CONTROLLER
    if is_headless(service):
        labels[HEADLESS] = ""
    return labels


def plan_slices(
    service: Object,
    groups: Mapping[GroupKey, Group],
    existing: Iterable[Object],
    trigger_time: str,
    *,
    max_endpoints: int = MAX_ENDPOINTS,
) -> SlicePlan:
    """The writes that turn ``existing`` slices of the Service into ones that hold ``groups``.

    trigger_time: RFC 3339 time of the change behind it, for the annotation; "" for none.
    """
    plan = SlicePlan()
    labels = slice_labels(service)
    by_key: dict[GroupKey, list[Object]] = {key: [] for key in groups}
    for present in sorted(existing, key=name_of):
        if is_deleting(present):
            continue
        key = (present.get("addressType") or "IPv4", parse_ports(present.get("ports")))
        if key in by_key and is_controlled_by(present, service):
            by_key[key].append(present)
        else:
            plan.delete.append(present)
    for key, group in groups.items():
        _plan_group(plan, service, labels, group, by_key[key], max_endpoints)
    if trigger_time:
        for written in (*plan.create, *plan.update):
            metadata = written["metadata"]
            annotations = {**annotations_of(written), LAST_TRIGGER: trigger_time}
            written["metadata"] = {**metadata, "annotations": annotations}
    return plan


def _plan_group(
    plan: SlicePlan,
    service: Object,
    labels: Mapping[str, str],
    group: Group,
    existing: list[Object],
    max_endpoints: int,
) -> None:
    homeless = dict(group.endpoints)
    # Each slice keeps those of its endpoints that are still wanted, in their places and as they are now.
    kept: list[tuple[Object, list[Object], bool]] = []  # slice, its endpoints, changed
    for present in existing:
        old = present.get("endpoints") or []
        new = []
        for endpoint in old:
            wanted = homeless.pop(identity(endpoint), None)
            if wanted is not None:
                new.append(wanted)
        kept.append((present, new, new != old or labels_of(present) != labels))
    # The rest goes into slices that are written anyway, then into the fullest with room, then into new ones.
    waiting = [homeless[key] for key in sorted(homeless, key=lambda k: name_of_target(homeless[k]))]
    waiting = _fill([entry for entry in kept if entry[2]], waiting, max_endpoints)
    # A remainder may share an untouched slice; whole slices' worth are never spread.
    full = len(waiting) - len(waiting) % max_endpoints
    created = [waiting[at : at + max_endpoints] for at in range(0, full, max_endpoints)]
    if rest := waiting[full:]:
        roomy = [e for e in kept if not e[2] and 0 < len(e[1]) <= max_endpoints - len(rest)]
        if roomy:
            target = max(roomy, key=lambda entry: len(entry[1]))
            kept[kept.index(target)] = (target[0], [*target[1], *rest], True)
        else:
            created.append(rest)
    _emit(plan, service, labels, group, kept, created)


def _fill(changed: list[tuple[Object, list[Object], bool]], waiting: list[Object], limit: int) -> list[Object]:
    """Put endpoints into changed slices, the fullest first; returns those left."""
    for _, endpoints, _ in sorted(changed, key=lambda entry: -len(entry[1])):
        room = limit - len(endpoints)
        if room > 0 and waiting:
            endpoints.extend(waiting[:room])
            waiting = waiting[room:]
    return waiting


def _emit(
    plan: SlicePlan,
    service: Object,
    labels: Mapping[str, str],
    group: Group,
    kept: list[tuple[Object, list[Object], bool]],
    created: list[list[Object]],
) -> None:
    placeholder = not created and not any(endpoints for _, endpoints, _ in kept)
    for present, endpoints, changed in kept:
        if not endpoints and not placeholder:
            plan.delete.append(present)
            continue
        placeholder = False  # one empty slice is enough
        if changed:
            metadata = {**present["metadata"], "labels": dict(labels)}
            plan.update.append({**present, "metadata": metadata, "endpoints": endpoints})
    if placeholder and not kept:
        created = [[]]
    plan.create.extend(_new_slice(service, labels, group, endpoints) for endpoints in created)


def _new_slice(service: Object, labels: Mapping[str, str], group: Group, endpoints: list[Object]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{name_of(service)}-",
            "namespace": namespace_of(service),
            "labels": dict(labels),
            "ownerReferences": [make_owner_ref(service, SERVICE)],
        },
        "addressType": group.address_type,
        "ports": render_ports(group.ports),
        "endpoints": endpoints,
    }


def name_of_target(endpoint: Object) -> tuple[str, str]:
    """Orders new endpoints: by pod, then by address."""
    return (endpoint.get("targetRef") or {}).get("name", ""), endpoint["addresses"][0]
