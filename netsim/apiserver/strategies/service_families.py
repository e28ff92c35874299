"""Address families of Services: which ones a Service has, and how they may change.

Source: kubernetes ``pkg/registry/core/service/storage/alloc.go`` (initIPFamilyFields) and
``pkg/apis/core/validation/validation.go`` (ValidateServiceClusterIPsRelatedFields, validateUpgradeDowngrade...);
KEP-563.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from netsim.apiserver.causes import Causes
from netsim.apiserver.strategies.service_rules import is_headless, needs_cluster_ip
from netsim.model.networks import FAMILY_NAMES

Object = dict[str, Any]

SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
_FAMILIES = tuple(FAMILY_NAMES.values())
_BAD_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_POLICY, _IPS = "spec.ipFamilyPolicy", "spec.clusterIPs"


def go_strings(values: Any, kind: str = "string") -> str:
    """A list of strings as Go prints it."""
    return f"[]{kind}{{" + ", ".join(f'"{value}"' for value in values) + "}"


def is_ip(text: str) -> bool:
    """Whether a text is an address of either family."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def family_of(ip: str) -> str:
    """``IPv4`` or ``IPv6``."""
    return FAMILY_NAMES[6 if ":" in ip else 4]


# --- what a spec may say -------------------------------------------------------------------------


def validate_families(spec: Object, causes: Causes) -> None:
    """clusterIPs, ipFamilies and ipFamilyPolicy by themselves, whatever the cluster has."""
    if not needs_cluster_ip(spec):
        return
    ips, asked = spec.get("clusterIPs") or [], spec.get("ipFamilies") or []
    ip = spec.get("clusterIP", "")
    if ip and ips and ips[0] != ip:
        causes.invalid_go(_IPS, go_strings(ips), "first value must match `clusterIP`")
    elif ips and not ip:
        causes.invalid_go(_IPS, go_strings(ips), "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(asked):
        if family not in _FAMILIES:
            causes.not_supported(f"spec.ipFamilies[{index}]", family, _FAMILIES)
        if family in asked[:index]:
            causes.duplicate(f"spec.ipFamilies[{index}]", family)
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in (SINGLE, PREFER, REQUIRE):
        causes.not_supported(_POLICY, policy, (SINGLE, PREFER, REQUIRE))
    if _check_ips(ips, causes) and not is_headless(spec):
        for index, (one, family) in enumerate(zip(ips, asked, strict=False)):
            if family in _FAMILIES and family_of(one) != family:
                words = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
                causes.invalid(f"{_IPS}[{index}]", one, words)


def _check_ips(ips: Sequence[str], causes: Causes) -> bool:
    """Whether every value is an address, or the only one ``None``."""
    good = True
    for index, ip in enumerate(ips):
        if index == 0 and ip == "None":
            if len(ips) > 1:
                causes.invalid_go(_IPS, go_strings(ips), "'None' must be the first and only value")
                good = False
        elif not is_ip(ip):
            causes.invalid(f"{_IPS}[{index}]", ip, _BAD_IP)
            good = False
    if len(ips) > 2:
        causes.invalid_go(_IPS, go_strings(ips), "may only hold up to 2 values")
    if good and len(ips) > 1 and len({family_of(ip) for ip in ips}) < len(ips):
        causes.invalid_go(_IPS, go_strings(ips), "may specify no more than one IP for each IP family")
    return good


# --- what a Service gets -------------------------------------------------------------------------


def adopt_families(spec: Object, old: Object) -> None:
    """What an update leaves out stays: the policy, and the families where nothing that decides on them changed."""
    if not (needs_cluster_ip(spec) and needs_cluster_ip(old)):
        return
    if not spec.get("ipFamilyPolicy") and old.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = old["ipFamilyPolicy"]
    same = all(spec.get(field) == old.get(field) for field in ("ipFamilyPolicy", "clusterIPs", "selector"))
    if same and not spec.get("ipFamilies") and old.get("ipFamilies"):
        spec["ipFamilies"] = list(old["ipFamilies"])


def settle_families(spec: Object, old: Object | None, families: Sequence[str], causes: Causes) -> None:
    """Fill in ipFamilyPolicy and ipFamilies, and drop a ClusterIP that a change to SingleStack releases.

    ``families`` are the cluster's, the default one first. ``old`` is the spec that is replaced, if it is an update.
    """
    if not needs_cluster_ip(spec):
        return
    free = is_headless(spec) and not spec.get("selector")  # nothing is allocated or proxied: anything goes
    spec["ipFamilyPolicy"] = spec.get("ipFamilyPolicy") or (REQUIRE if free else SINGLE)
    before = old if old is not None and needs_cluster_ip(old) else None
    if before is not None and _stays_as_it_is(spec, before):
        return
    if before is not None:
        _release_second(spec, before, causes)
    if spec["ipFamilyPolicy"] == SINGLE:
        for field, words in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
            if len(spec.get(field) or ()) == 2:
                text = f"must be '{REQUIRE}' or '{PREFER}' when multiple {words} are specified"
                causes.invalid(_POLICY, spec["ipFamilyPolicy"], text)
    chosen = _infer(spec, families, causes)
    if causes:
        return
    if not free:
        _check_cluster_has(spec, chosen, families, causes)
        if causes:
            return
    if not chosen:
        chosen.append(families[0])
    if spec["ipFamilyPolicy"] != SINGLE and len(chosen) == 1 and (free or len(families) == 2):
        chosen.append(next(family for family in _FAMILIES if family != chosen[0]))
    spec["ipFamilies"] = chosen


def _stays_as_it_is(spec: Object, old: Object) -> bool:
    """A PreferDualStack Service is not up- or downgraded by the way."""
    same = all((spec.get(field) or []) == (old.get(field) or []) for field in ("clusterIPs", "ipFamilies"))
    return same and bool(spec.get("ipFamilies")) and spec["ipFamilyPolicy"] == old.get("ipFamilyPolicy") == PREFER


def _release_second(spec: Object, old: Object, causes: Causes) -> None:
    """With SingleStack the second address and family go; with another policy taking them out is an error."""
    for field, words in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        had, has = old.get(field) or [], spec.get(field) or []
        if spec["ipFamilyPolicy"] == SINGLE:
            if had == has and len(has) > 1:
                spec[field] = has[:1]
        elif has and len(has) < len(had):
            text = f"must be '{SINGLE}' to release the secondary {words}"
            causes.invalid(_POLICY, spec["ipFamilyPolicy"], text)


def _infer(spec: Object, families: Sequence[str], causes: Causes) -> list[str]:
    """The families asked for, by name or by the addresses given."""
    chosen = list(spec.get("ipFamilies") or ())
    for index, ip in enumerate(spec.get("clusterIPs") or ()):
        if ip == "None":
            break
        if index >= len(chosen):
            if family_of(ip) in families:
                chosen.append(family_of(ip))
            else:
                shown = go_strings(spec["clusterIPs"])
                causes.invalid_go(f"{_IPS}[{index}]", shown, f"{family_of(ip)} is not configured on this cluster")
    return chosen


def _check_cluster_has(spec: Object, chosen: Sequence[str], families: Sequence[str], causes: Causes) -> None:
    if spec["ipFamilyPolicy"] == REQUIRE and len(families) < 2:
        causes.invalid(_POLICY, REQUIRE, "this cluster is not configured for dual-stack services")
    for index, family in enumerate(chosen):
        if family not in families:
            causes.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")


# --- how it may change ---------------------------------------------------------------------------


def validate_family_change(new: Object, old: Object, causes: Causes) -> None:
    """The first address and family stay; a second one may come and go. Call it after `settle_families`."""
    if not (needs_cluster_ip(new) and needs_cluster_ip(old)):
        return
    was, now = is_headless(old), is_headless(new)
    if not (was and now):
        had, has = old.get("clusterIPs") or [], new.get("clusterIPs") or []
        _check_kept("clusterIPs", "clusterIP", had, has, go_strings(has), causes)
    if not was and not now:
        had, has = old.get("ipFamilies") or [], new.get("ipFamilies") or []
        _check_kept("ipFamilies", "ipFamily", had, has, go_strings(has, "core.IPFamily"), causes)


def _check_kept(field: str, word: str, had: Sequence[str], has: Sequence[str], shown: str, causes: Causes) -> None:
    if had and not has:
        causes.invalid_go(f"spec.{field}[0]", shown, f"primary {word} can not be unset")
        return
    for index, (before, after) in enumerate(zip(had, has, strict=False)):
        if before != after:
            causes.invalid_go(f"spec.{field}[{index}]", shown, "may not change once set")
