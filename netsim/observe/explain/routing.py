"""Which way a namespace's routes send a packet, and from what address. Pure.

Sources: net/ipv4/fib_rules.c, fib_trie.c, fib_frontend.c, devinet.c, net/ipv6/route.c, addrconf.c.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from netsim.observe.explain.state import Address, NextHop, Place, PolicyRule, Route

_SCOPE_HOST = 254


@dataclass(frozen=True, slots=True)
class Decision:
    """``kind``: unicast, local, or why not: "none", unreachable, prohibit, blackhole, ... ``text``: the entry, as
    ``ip route`` prints it. ``hops``: where there are several, one is picked by the packet's hash.
    """

    kind: str
    text: str
    hops: tuple[NextHop, ...] = ()
    source: str = ""

    @property
    def hop(self) -> NextHop:
        return self.hops[0]


NOWHERE = Decision("none", "")


@lru_cache(maxsize=4096)
def network(cidr: str) -> IPv4Network | IPv6Network:
    return ip_network(cidr, strict=False)


@lru_cache(maxsize=65536)
def contains(cidr: str, address: str) -> bool:
    """Whether an address is in a network; False for another family's."""
    if (":" in cidr) != (":" in address):
        return False
    return ip_address(address) in network(cidr)


def look_up(
    place: Place, destination: str, *, source: str = "", mark: int = 0, interface_in: str = "lo", interface_out: int = 0
) -> Decision:
    """The route the kernel takes. ``interface_in``: "lo" for what the namespace itself sends (as the kernel has it)."""
    key = destination, source, mark, interface_in, interface_out
    found = place.decisions.get(key)
    if found is None:
        found = place.decisions[key] = _look_up(place, *key)
    return found


def _look_up(place: Place, destination: str, source: str, mark: int, interface_in: str, interface_out: int) -> Decision:
    family = 6 if ":" in destination else 4
    rules = sorted((rule for rule in place.policy if rule.family == family), key=lambda rule: rule.priority)
    skip_to = -1
    for rule in rules:
        if rule.priority < skip_to or not _applies(place, rule, destination, source, mark, interface_in, interface_out):
            continue
        if rule.action == "goto":
            skip_to = rule.goto
        elif rule.action == "lookup":
            found = _look_up_table(place, rule.table, destination, interface_out)
            if found is not None:
                return replace(found, kind="local") if found.kind == "anycast" else found  # taken in like its own
        elif rule.action in ("blackhole", "unreachable", "prohibit"):
            return Decision(rule.action, f"rule {rule.priority}: {rule.action}")
    return NOWHERE


def _applies(
    place: Place, rule: PolicyRule, destination: str, source: str, mark: int, interface_in: str, interface_out: int
) -> bool:
    matches = (
        (not rule.source or (bool(source) and contains(rule.source, source)))
        and (not rule.destination or contains(rule.destination, destination))
        and (not rule.interface_in or rule.interface_in == interface_in)
        and (not rule.interface_out or rule.interface_out == place.link_name(interface_out))
        and (rule.mark ^ mark) & rule.mask == 0
    )
    return matches != rule.inverted


def _look_up_table(place: Place, table: int, destination: str, interface_out: int) -> Decision | None:
    """The longest prefix, then the lowest metric; None where the table says nothing (or "throw")."""
    best: Route | None = None
    for route in place.routes:
        if route.table != table or not contains(route.destination, destination):
            continue
        if not _is_usable(place, route, interface_out):
            continue
        if best is None or _rank(route) > _rank(best):
            best = route
    if best is None or best.kind == "throw":
        return None
    hops = tuple(
        hop
        for hop in best.hops
        if not hop.dead and (not interface_out or best.kind == "local" or hop.index == interface_out)
    )
    return Decision(best.kind, render_route(place, best), hops, best.source)


def _rank(route: Route) -> tuple[int, int, bool]:
    """What is a host's own address and at the same time a network's anycast address is first of all its own."""
    return network(route.destination).prefixlen, -route.priority, route.kind != "anycast"


def _is_usable(place: Place, route: Route, interface_out: int) -> bool:
    if not route.hops:
        return route.kind not in ("unicast", "local")
    if route.kind in ("local", "broadcast", "anycast", "multicast"):
        return True
    return any(
        not hop.dead
        and (link := place.by_index.get(hop.index)) is not None
        and link.up
        and (not interface_out or hop.index == interface_out)
        for hop in route.hops
    )


def render_route(place: Place, route: Route) -> str:
    """The entry as ``ip route`` prints it, without what is not about the way."""
    words = [] if route.kind == "unicast" else [route.kind]
    prefix = network(route.destination)
    if prefix.prefixlen == 0:
        words.append("default")
    else:
        words.append(route.destination if prefix.prefixlen < prefix.max_prefixlen else route.destination.split("/")[0])
    for hop in route.hops:
        words += ["nexthop"] if len(route.hops) > 1 else []
        words += ["via", hop.via] if hop.via else []
        words += ["dev", place.link_name(hop.index)]
        words += ["weight", str(hop.weight)] if len(route.hops) > 1 else []
    if route.table not in (254, 255):
        words += ["table", str(route.table)]
    elif route.table == 255:
        words += ["table", "local"]
    words += ["src", route.source] if route.source else []
    words += ["metric", str(route.priority)] if route.priority and ":" not in route.destination else []
    return " ".join(words)


def is_local(place: Place, address: str) -> bool:
    """Whether the kernel takes an address for its own (the type of its route in the table local)."""
    return address_type(place, address) == "local"


def address_type(place: Place, address: str) -> str:
    """What ``fib saddr type`` and addrtype ask for: local, unicast, broadcast, anycast, multicast, unspec, ..."""
    found = place.decisions.get(address)
    if found is None:
        found = place.decisions[address] = _address_type(place, address)
    return found


def _address_type(place: Place, address: str) -> str:
    one = ip_address(address)
    if one.is_unspecified:
        return "unspec" if one.version == 6 else "broadcast"
    if one.is_multicast:
        return "multicast"
    found = _look_up_table(place, 255, address, 0)
    return found.kind if found is not None else "unicast"


def choose_source(place: Place, index: int, towards: str) -> str:
    """The source address of a packet that leaves by a link: inet_select_addr, and what IPv6 makes of RFC 6724 in the
    simple case. "" where there is none.
    """
    v6 = ":" in towards
    usable = [a for a in _usable(place, v6) if a.index == index]
    near = next((a for a in usable if contains(f"{a.address}/{a.prefix}", towards) and not v6), None)
    if v6:
        link_local = ip_address(towards).is_link_local
        usable = [a for a in usable if ip_address(a.address).is_link_local == link_local]
        # Rule 8, the longest common prefix; the one added last wins among equals.
        usable.sort(key=lambda a: -_common_bits(a.address, towards))
    chosen = near or next(iter(usable), None)
    if chosen is not None:
        return chosen.address
    # Any other link's address will do, as long as it is good beyond the host.
    return next((a.address for a in _usable(place, v6) if a.scope < _SCOPE_HOST), "")


def _usable(place: Place, v6: bool) -> Iterator[Address]:
    for address in place.addresses:
        if (":" in address.address) == v6 and not address.secondary and not address.tentative:
            yield address


def _common_bits(one: str, other: str) -> int:
    return 128 - (int(ip_address(one)) ^ int(ip_address(other))).bit_length()


def check_source(place: Place, source: str, destination: str, interface: str, mark: int = 0) -> str:
    """Why IPv4 refuses a source address that comes in by ``interface``; "" if it does not (fib_validate_source)."""
    one = ip_address(source)
    if one.version == 6:
        return ""
    localnet = place.interface_sysctl(4, interface, "route_localnet") or place.sysctl("ipv4.conf.all.route_localnet")
    if one.is_multicast or source == "255.255.255.255":
        return "martian source"
    if (one.is_loopback or ip_address(destination).is_loopback) and not localnet:
        return "martian: a loopback address came in from outside (route_localnet is 0)"
    link = place.by_name.get(interface)
    strict = max(place.sysctl("ipv4.conf.all.rp_filter"), place.interface_sysctl(4, interface, "rp_filter"))
    accept_local = place.interface_sysctl(4, interface, "accept_local") or place.sysctl("ipv4.conf.all.accept_local")
    if not accept_local and is_local(place, source):
        return "martian source: the address is the receiver's own"
    if not strict or one.is_unspecified:
        return ""
    use_mark = place.interface_sysctl(4, interface, "src_valid_mark") or place.sysctl("ipv4.conf.all.src_valid_mark")
    back = look_up(place, source, source=destination, mark=mark if use_mark else 0, interface_in=interface)
    if back.kind != "unicast":
        return f"reverse path filter: no route back to {source} (rp_filter={strict})"
    if strict == 1 and (link is None or all(hop.index != link.index for hop in back.hops)):
        away = place.link_name(back.hop.index)
        return f"reverse path filter: the way back to {source} is by {away}, not {interface} (rp_filter=1)"
    return ""
