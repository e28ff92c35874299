"""The MAC address a packet is sent to: what the neighbour table says, or what asking around would find. Pure.

Sources: net/core/neighbour.c, net/ipv4/arp.c (arp_process), net/ipv6/ndisc.c.
"""

from collections.abc import Iterator

from netsim.observe.explain.routing import is_local
from netsim.observe.explain.state import Link, Place, World

_KNOWN = frozenset({"permanent", "noarp", "reachable", "stale", "delay", "probe"})


def resolve(world: World, place: Place, link: Link, address: str) -> tuple[str, str]:
    """The MAC address of a next hop, or "" and why there is none."""
    key = link.index, address
    found = place.decisions.get(key)
    if found is None:
        found = place.decisions[key] = _resolve(world, place, link, address)
    return found


def _resolve(world: World, place: Place, link: Link, address: str) -> tuple[str, str]:
    for entry in place.neighbours:
        if entry.index == link.index and entry.address == address and entry.state in _KNOWN and not entry.proxy:
            return entry.mac, ""
    if link.kind == "vxlan":
        return "", f"{link.name} asks nobody for {address}, and has no neighbour entry for it"
    for other, far in reach(world, place, link):
        if (other.name, far.index) != (place.name, link.index) and _answers(other, far, address):
            return far.mac, ""
    words = "ARP" if ":" not in address else "neighbour discovery"
    return "", f"nobody on {link.name} answers {words} for {address}"


def _answers(place: Place, link: Link, address: str) -> bool:
    if ":" in address:
        return any(one.index == link.index and one.address == address for one in place.addresses)
    on_link = any(one.index == link.index and one.address == address for one in place.addresses)
    ignore = max(place.sysctl("ipv4.conf.all.arp_ignore"), place.interface_sysctl(4, link.name, "arp_ignore"))
    return on_link if ignore else is_local(place, address)


def reach(world: World, place: Place, link: Link) -> Iterator[tuple[Place, Link]]:
    """Every interface that a broadcast from a link comes to, as far as it is of a known place."""
    seen: set[tuple[str, int]] = set()
    waiting: list[tuple[Place, Link]] = []

    def out_of(where: Place, one: Link) -> None:
        if not one.up or (where.name, one.index) in seen:
            return
        seen.add((where.name, one.index))
        if one.kind == "bridge":
            waiting.extend((where, port) for port in ports_of(where, one) if (where.name, port.index) not in seen)
        elif one.kind == "veth" and (peer := world.peer(where.name, one.index)) is not None:
            other = world.place(peer[0])
            into(other, other.by_index[peer[1]])

    def into(where: Place, one: Link) -> None:
        if not one.up or (where.name, one.index) in seen:
            return
        seen.add((where.name, one.index))
        if not one.master:
            found.append((where, one))
            return
        bridge = where.by_index[one.master]
        found.append((where, bridge))
        seen.add((where.name, bridge.index))
        others = (port for port in ports_of(where, bridge) if not (port.isolated and one.isolated))
        waiting.extend((where, port) for port in others if port.index != one.index)

    found: list[tuple[Place, Link]] = []
    out_of(place, link)
    yield from found
    while waiting:
        found.clear()
        out_of(*waiting.pop(0))
        yield from list(found)


def ports_of(place: Place, bridge: Link) -> list[Link]:
    """The ports of a bridge that forward."""
    return [link for link in place.links if link.master == bridge.index and link.port_state == 3 and link.up]
