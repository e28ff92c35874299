"""The networks of a cluster, one for each address family, and which families there are. Pure.

A cluster has one family or two, and a tuple for each of its networks in the families' order: the first is the primary
one, as in upstream's dual-stack flags ("a,b"). So code that works on a network loops over a tuple, and there is no
second path for IPv6 (KEP-563, IPv4/IPv6 dual-stack).
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from netsim.model.errors import InputError

Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]
Families = tuple[int, ...]  # 4 and 6, the primary one first

IP_FAMILIES: dict[str, Families] = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
FAMILY_NAMES = {4: "IPv4", 6: "IPv6"}  # as ipFamilies of a Service and addressType of an EndpointSlice say it

# By the keys of the topology file. The external networks are documentation's (RFC 5737, RFC 3849), the IPv6 networks
# inside unique local ones (RFC 4193).
DEFAULTS: dict[str, dict[int, Network]] = {
    "nodeCIDR": {4: IPv4Network("172.18.0.0/16"), 6: IPv6Network("fd00:172:18::/64")},
    "podCIDR": {4: IPv4Network("10.244.0.0/16"), 6: IPv6Network("fd00:10:244::/56")},
    "serviceCIDR": {4: IPv4Network("10.96.0.0/12"), 6: IPv6Network("fd00:10:96::/112")},
    "externalCIDR": {4: IPv4Network("203.0.113.0/24"), 6: IPv6Network("2001:db8:113::/64")},
}
DEFAULT_MASKS = {4: 24, 6: 64}  # upstream's --node-cidr-mask-size-ipv4 and -ipv6


def families_of(networks: Networks) -> Families:
    """The families of networks, in their order."""
    return tuple(network.version for network in networks)


def name_families(families: Families) -> str:
    """``ipv4``, ``ipv6`` or ``dual``."""
    return next(name for name, known in IP_FAMILIES.items() if set(known) == set(families))


def _split(value: Any) -> Sequence[Any]:
    """The parts of ``a,b``, of a list, or of a single value."""
    return value if isinstance(value, list) else str(value).split(",")


def parse_networks(key: str, value: Any, where: str = "") -> Networks:
    """One network, or one of each family: ``10.1.0.0/16,fd01::/56`` or a list. Raises InputError naming the key."""
    try:
        networks = tuple(ip_network(str(part).strip()) for part in _split(value))
    except ValueError as error:
        raise InputError(f"{key}: {error}", where=where) from error
    if not networks or len(set(families_of(networks))) < len(networks):
        raise InputError(f"{key}: {value!r} must be one network, or one of IPv4 and one of IPv6", where=where)
    return networks


def parse_masks(key: str, value: Any, families: Families, where: str = "") -> tuple[int, ...]:
    """A prefix length for each family: a number, ``24,64`` or a list. Raises InputError naming the key."""
    parts = _split(value)
    if isinstance(value, bool) or not all(str(part).strip().isdecimal() for part in parts):
        raise InputError(f"{key}: must be a number, or one for each address family, not {value!r}", where=where)
    if len(parts) != len(families):
        names = " and ".join(FAMILY_NAMES[family] for family in families)
        raise InputError(
            f"{key}: {value} is {len(parts)} of the {len(families)} numbers that {names} need",
            where=where,
            hint=f"write {','.join(str(DEFAULT_MASKS[family]) for family in families)}, or leave it out",
        )
    return tuple(int(part) for part in parts)


def choose_families(asked: str | None, given: Mapping[str, Networks], where: str = "") -> Families:
    """The cluster's families from ``ipFamily`` and the networks that were given, by their keys.

    Without ipFamily the networks say it, and without networks it is IPv4. Which family is the primary one is said by
    networks given in pairs. Raises InputError where one contradicts the other.
    """
    if asked is not None and asked not in IP_FAMILIES:
        raise InputError(f'ipFamily: "{asked}" is not one of {", ".join(IP_FAMILIES)}', where=where)
    orders = {families_of(networks): key for key, networks in given.items() if len(networks) == 2}
    if len(orders) == 2:
        raise InputError(
            f"{' and '.join(orders.values())}: the families are in different orders",
            where=where,
            hint="the first network of each pair is of the primary family",
        )
    sets = {frozenset(families_of(networks)): key for key, networks in given.items()}
    if asked is None and len(sets) > 1:
        words = "; ".join(f"{key} is {_join(families)}" for families, key in sets.items())
        raise InputError(
            f"networks of different address families: {words}",
            where=where,
            hint="with ipFamily: dual what is not given has its default; or give all networks in the same families",
        )
    wanted = IP_FAMILIES[asked] if asked is not None else tuple(sorted(next(iter(sets), frozenset((4,)))))
    for families, key in sets.items():
        if not families <= set(wanted):
            raise InputError(
                f"{key}: {', '.join(map(str, given[key]))} is {_join(families)}, but ipFamily is {asked}",
                where=where,
                hint=f"give networks of {_join(frozenset(wanted))}, or leave {key} out for the default",
            )
    return next(iter(orders), wanted)


def _join(families: frozenset[int]) -> str:
    return " and ".join(FAMILY_NAMES[family] for family in sorted(families))


def complete_networks(key: str, given: Networks, families: Families) -> Networks:
    """``given`` in the families' order, with the default where there is none of a family."""
    by_family = DEFAULTS[key] | {network.version: network for network in given}
    return tuple(by_family[family] for family in families)
