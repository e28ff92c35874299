"""The rules that frames meet: nftables' families bridge and netdev, and the hook ingress of inet. Pure.

netdev: ingress comes after taps and before a bridge takes the frame (__netif_receive_skb_core), egress before the
queueing discipline and taps (__dev_queue_xmit), at each device that a packet crosses; with VXLAN at the tunnel's, where
the packet is the inner one, and at the one below.
bridge: prerouting, then input or forward, or else output, then postrouting. br_netfilter is called there like a chain,
of priority 0 in prerouting and forward and the last in postrouting, and inside it are the rules of ip, ip6 and inet. A
chain of priority 0 comes before it if it was made after the place's first bridge, which is taken for granted.

Sources: net/core/dev.c, include/linux/netfilter_netdev.h, net/netfilter/nft_chain_filter.c, net/bridge/br_input.c,
br_forward.c, br_netfilter_hooks.c, include/uapi/linux/netfilter_bridge.h.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from netsim.observe.explain.context import Answer, Asking, Chances
from netsim.observe.explain.nft_chain import NftChainWalk
from netsim.observe.explain.packet import Travel
from netsim.observe.explain.state import Link, Place
from netsim.observe.nft_listing import NftChain, NftTable
from netsim.observe.path import Hop, RuleHit

if TYPE_CHECKING:
    from netsim.observe.explain.journey import Journey

FrameHook = Literal["ingress", "egress", "prerouting", "input", "forward", "output", "postrouting"]
Part = Literal["all", "before", "behind"]  # of br_netfilter

_BRNF = 0  # NF_BR_PRI_BRNF


class Ports(NamedTuple):
    """The devices by which a frame came and leaves, as its hook knows them: names, "" for none."""

    came_by: str = ""
    leaves_by: str = ""


@dataclass(frozen=True, slots=True)
class _Bound:
    """A base chain. ``order``: as `netsim.observe.explain.filters.Item` has it."""

    table: NftTable
    chain: NftChain
    order: int

    def is_at(self, device: str) -> bool:
        return any(
            device.startswith(name[:-1]) if name.endswith("*") else device == name for name in self.chain.devices
        )


@dataclass(frozen=True, slots=True)
class Filtered:
    """A frame after a hook: the rules that it met, and the answer where that was its end."""

    packet: Travel
    end: Answer | None = None
    hits: tuple[RuleHit, ...] = field(default_factory=tuple)


def filter_frame(
    place: Place, chances: Chances, hook: FrameHook, packet: Travel, ports: Ports, part: Part = "all"
) -> Filtered:
    """What the rules of one hook say. ``part`` of those of a bridge."""
    chains = _chains_of(place).get(hook, ())
    if not chains:
        return Filtered(packet)
    layer: Literal["bridge", "netdev"] = "netdev" if hook in ("ingress", "egress") else "bridge"
    asking = Asking(place, packet, hook, chances, ports.came_by, ports.leaves_by, layer=layer)
    answer = _ask_all(asking, chains, part)
    return Filtered(asking.packet, answer, tuple(asking.hits))


def _ask_all(asking: Asking, chains: Iterable[_Bound], part: Part) -> Answer | None:
    for one in chains:
        if asking.layer == "netdev":
            if not one.is_at(asking.interface_in or asking.interface_out):
                continue
            if one.table.family == "inet" and asking.packet.is_arp:
                continue  # nft_do_chain_inet_ingress: IP alone
        elif (part == "before" and one.chain.priority > _BRNF) or (part == "behind" and one.chain.priority <= _BRNF):
            continue
        answer = NftChainWalk(one.table, asking).walk(one.chain)
        if answer.verdict in ("drop", "reject"):
            return answer
    return None


def _chains_of(place: Place) -> dict[str, list[_Bound]]:
    """Base chains by hook, in the kernel's order."""
    found: dict[str, list[_Bound]] | None = place.decisions.get("frames")
    if found is not None:
        return found
    found = place.decisions["frames"] = {}
    for order, (table, chain) in enumerate((t, c) for t in place.rules.nft.values() for c in t.chains.values()):
        wanted = table.family in ("bridge", "netdev") or (table.family == "inet" and chain.hook == "ingress")
        if wanted and chain.hook and "dormant" not in table.flags:
            found.setdefault(chain.hook, []).append(_Bound(table, chain, order))
    for chains in found.values():
        chains.sort(key=lambda one: (one.chain.priority, -one.order))
    return found


# --- on a journey ----------------------------------------------------------------------------------------------------


def pass_frame(
    journey: "Journey", place: Place, hook: FrameHook, packet: Travel, ports: Ports, part: Part = "all"
) -> Travel:
    """The frame after a hook's rules. Raises Lost."""
    found = filter_frame(place, journey.chances, hook, packet, ports, part)
    if found.hits:
        journey.hops.append(Hop(place.name, journey.leg, "hook", found.packet.shown(), hook=hook, rules=found.hits))
    if found.end is not None:
        by = place.by_name.get(ports.came_by)
        journey.refuse(place, found.packet, found.end, by=by)
    return found.packet


def come_in(journey: "Journey", place: Place, link: Link, packet: Travel) -> Travel:
    """A frame comes in by a link, of whatever kind. Raises Lost."""
    journey.cross(place, link, "in", packet)
    return pass_frame(journey, place, "ingress", packet, Ports(came_by=link.name))


def go_out(journey: "Journey", place: Place, link: Link, packet: Travel) -> Travel:
    """A frame leaves by a link, as far as its queueing discipline. Raises Lost."""
    packet = pass_frame(journey, place, "egress", packet, Ports(leaves_by=link.name))
    journey.cross(place, link, "out", packet)
    return packet
