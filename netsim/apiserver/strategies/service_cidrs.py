"""ServiceCIDRs: the one that says what the topology's service network is.

Source: kubernetes ``pkg/apis/networking/validation/validation.go`` (ValidateServiceCIDR), apimachinery
``pkg/util/validation/ip.go`` (IsValidCIDR), ``pkg/controlplane/controller/defaultservicecidr`` and
``pkg/printers/internalversion/printers.go``; KEP-1880.
"""

import re
from ipaddress import ip_network
from typing import Any

from netsim.apiserver.ages import age
from netsim.apiserver.causes import Causes, quote
from netsim.apiserver.refusals import forbidden
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy, Undo, nothing_to_undo

DEFAULT_NAME = "kubernetes"
_WHY = "the service network is serviceCIDR of the cluster's topology, and stays as long as the cluster runs"
_FORM = re.compile(r"[^/%]+/[0-9]+")  # ip_network also takes an address alone, and a netmask


class ServiceCIDRStrategy(Strategy):
    """ClusterIPs come from the topology's ranges: an object that promised others would not be true, and is refused."""

    columns = (NAME, Column("CIDRs"), AGE)

    def prepare_create(self, obj: Object) -> None:
        metadata = obj["metadata"]
        obj["status"] = {}
        if metadata.get("name") == DEFAULT_NAME:
            ready = {
                "type": "Ready",
                "status": "True",
                "reason": "",
                "message": "Kubernetes default Service CIDR is ready",
                "lastTransitionTime": metadata["creationTimestamp"],
            }
            obj["status"] = {"conditions": [ready]}

    def validate(self, obj: Object, causes: Causes) -> None:
        cidrs = (obj.get("spec") or {}).get("cidrs") or []
        shown = f"networking.ServiceCIDRSpec{{CIDRs:[]string{{{', '.join(map(quote, cidrs))}}}}}"
        if not cidrs:
            causes.required("spec.cidrs", "at least one CIDR required")
        elif len(cidrs) > 2:
            causes.invalid_go("spec.cidrs", shown, "may only hold up to 2 values")
        elif len(cidrs) == 2 and {_version(cidr) for cidr in cidrs} != {4, 6}:
            words = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
            causes.invalid_go("spec.cidrs", shown, words)
        else:
            for index, cidr in enumerate(cidrs):
                if bad := _complain(cidr):
                    causes.invalid(f"spec.cidrs[{index}]", cidr, bad)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        cidrs = (new.get("spec") or {}).get("cidrs")
        if cidrs != old["spec"]["cidrs"]:
            causes.invalid("spec.cidrs", cidrs, "field is immutable")

    def allocate(self, new: Object, old: Object | None, causes: Causes) -> Undo:
        if old is None and new["metadata"]["name"] != DEFAULT_NAME:
            raise forbidden(self.kind, new["metadata"]["name"], _WHY)
        return nothing_to_undo

    def may_delete(self, obj: Object) -> None:
        raise forbidden(self.kind, obj["metadata"]["name"], _WHY)

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata = obj["metadata"]
        return [metadata["name"], ",".join(obj["spec"]["cidrs"]), age(metadata.get("creationTimestamp"), now_s)]


def _version(cidr: str) -> int | None:
    """The address family of what may be a network."""
    try:
        return ip_network(cidr, strict=False).version if _FORM.fullmatch(cidr) else None
    except ValueError:
        return None


def _complain(cidr: str) -> str:
    """Upstream's complaint about a network, or an empty string."""
    if _version(cidr) is None:
        return "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    network = ip_network(cidr, strict=False)
    return "" if str(network) == cidr else f'must be in canonical form ("{network}")'
