"""Nodes.

Source: kubernetes ``pkg/registry/core/node/strategy.go``, ``pkg/apis/core/validation/validation.go`` (ValidateNode) and
``pkg/printers/internalversion/printers.go``.
"""

from ipaddress import ip_network
from typing import Any

from netsim.apiserver.ages import NONE, UNKNOWN, age
from netsim.apiserver.causes import Causes
from netsim.apiserver.names import label_value, qualified_name
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy
from netsim.apiserver.strategies.service_families import go_strings
from netsim.model.objects import get_condition

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_ROLE_PREFIX = "node-role.kubernetes.io/"


class NodeStrategy(Strategy):
    """A node's agent creates it together with its status."""

    selectable = frozenset({"spec.unschedulable"})
    columns = (
        NAME,
        Column("Status"),
        Column("Roles"),
        AGE,
        Column("Version"),
        Column("Internal-IP", priority=1),
        Column("External-IP", priority=1),
        Column("OS-Image", priority=1),
        Column("Kernel-Version", priority=1),
        Column("Container-Runtime", priority=1),
    )

    def prepare_create(self, obj: Object) -> None:
        obj.setdefault("spec", {})
        obj.setdefault("status", {})

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec.get("podCIDR") and not spec.get("podCIDRs"):
            spec["podCIDRs"] = [spec["podCIDR"]]

    def validate(self, obj: Object, causes: Causes) -> None:
        spec = obj["spec"]
        cidrs = spec.get("podCIDRs") or ()
        if len({":" in cidr for cidr in cidrs}) < len(cidrs):
            causes.invalid_go(
                "spec.podCIDRs", go_strings(cidrs), "may specify no more than one CIDR for each IP family"
            )
        for index, cidr in enumerate(cidrs):
            if not _is_network(cidr):
                causes.invalid(
                    f"spec.podCIDRs[{index}]", cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
                )
        seen: set[tuple[str, str]] = set()
        for index, taint in enumerate(spec.get("taints") or ()):
            path = f"spec.taints[{index}]"
            key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
            if bad := qualified_name(key):
                causes.invalid(f"{path}.key", key, bad)
            if bad := label_value(value):
                causes.invalid(f"{path}.value", value, bad)
            if not effect:
                causes.required(f"{path}.effect")
            elif effect not in _EFFECTS:
                causes.not_supported(f"{path}.effect", effect, _EFFECTS)
            if (key, effect) in seen:
                causes.duplicate(path, taint)
            seen.add((key, effect))

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        had, has = old["spec"].get("podCIDRs"), new["spec"].get("podCIDRs")
        if had and had != has:
            causes.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata, status, spec = obj["metadata"], obj.get("status", {}), obj.get("spec", {})
        info = status.get("nodeInfo", {})
        roles = [key.removeprefix(_ROLE_PREFIX) for key in metadata.get("labels") or () if key.startswith(_ROLE_PREFIX)]
        addresses: dict[str, str] = {}
        for item in status.get("addresses") or ():
            addresses.setdefault(item.get("type", ""), item.get("address", ""))
        return [
            metadata["name"],
            _status(obj, spec),
            ",".join(sorted(filter(None, roles))) or NONE,
            age(metadata.get("creationTimestamp"), now_s),
            info.get("kubeletVersion", ""),
            addresses.get("InternalIP", NONE),
            addresses.get("ExternalIP", NONE),
            info.get("osImage") or UNKNOWN,
            info.get("kernelVersion") or UNKNOWN,
            info.get("containerRuntimeVersion") or UNKNOWN,
        ]


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return "/" in text


def _status(obj: Object, spec: Object) -> str:
    ready = get_condition(obj, "Ready")
    words = ["Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"]
    if spec.get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)
