"""The rules of ip6 and inet that neighbour discovery meets in the host that asks and in the one that answers. Pure.

Its messages are packets of IPv6 as others are, so a firewall that lets no ICMPv6 in cuts a host off. The tracker leaves
them alone (nf_conntrack_proto_icmpv6.c: untracked), and so does translation. ARP is not IP, and meets none of these.

Sources: net/ipv6/ndisc.c (ndisc_send_skb), net/ipv6/ip6_input.c.
"""

from netsim.observe.explain.context import Asking, Chances
from netsim.observe.explain.filters import Filters, sort_filters
from netsim.observe.explain.frames import Filtered, Ports
from netsim.observe.explain.hooks import Hook
from netsim.observe.explain.packet import Travel
from netsim.observe.explain.state import Place

LEAVING: tuple[Hook, ...] = ("output", "postrouting")
COMING: tuple[Hook, ...] = ("prerouting", "input")


def filter_discovery(place: Place, chances: Chances, hook: Hook, packet: Travel, ports: Ports) -> Filtered:
    """What the rules of one hook say of a message."""
    if packet.is_arp:
        return Filtered(packet)
    asking = Asking(place, packet, hook, chances, ports.came_by, ports.leaves_by)
    asking.state = "untracked"
    for item in _filters_of(place).at(hook):
        answer = None if item.is_nat else item.run(asking)
        if answer is not None and answer.verdict in ("drop", "reject"):
            return Filtered(asking.packet, answer, tuple(asking.hits))
    return Filtered(asking.packet, None, tuple(asking.hits))


def _filters_of(place: Place) -> Filters:
    found: Filters | None = place.decisions.get("discovery")
    if found is None:
        found = place.decisions["discovery"] = sort_filters(place, 6)
    return found
