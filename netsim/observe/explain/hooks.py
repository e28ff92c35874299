"""What happens to a packet at one of netfilter's hooks: connection tracking, translation, filters, by priority. Pure.

Sources: include/uapi/linux/netfilter_ipv4.h (priorities), net/netfilter/core.c, nf_nat_core.c, nf_conntrack_core.c.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from netsim.observe.explain.context import Answer, Asking, Chances, Nat
from netsim.observe.explain.filters import Filters, Item, sort_filters
from netsim.observe.explain.packet import RANDOM_PORTS, Flow, Travel, translate
from netsim.observe.explain.routing import choose_source
from netsim.observe.explain.state import Place
from netsim.observe.path import RuleHit

Hook = Literal["prerouting", "input", "forward", "output", "postrouting"]

# enum nf_ip_hook_priorities
_CONNTRACK, _NAT_DST, _NAT_SRC = -200, -100, 100
_NAT_KIND: dict[str, Literal["dnat", "snat"]] = {
    "prerouting": "dnat",
    "output": "dnat",
    "input": "snat",
    "postrouting": "snat",
}
_NAT_PRIORITY = {"prerouting": _NAT_DST, "output": _NAT_DST, "input": _NAT_SRC, "postrouting": _NAT_SRC}


@dataclass(slots=True)
class Stay:
    """What a packet carries from hook to hook of one namespace: its connection, as the kernel's sk_buff does."""

    flow: Flow | None = None
    state: str = ""  # "": not looked up yet
    reply: bool = False
    stolen: bool = False  # IPVS has taken it, and sends it on


@dataclass(slots=True)
class Passage:
    """What came of a hook: the packet after it, the rules it met, and the translation, if there was one."""

    packet: Travel
    answer: Answer
    hits: tuple[RuleHit, ...] = ()
    rewrite: str = ""  # dnat, snat, un-dnat, un-snat
    before: Travel | None = None
    new_flow: str = ""  # the entry, where this packet made it and it is confirmed now


class Tracker:
    """The connections of every place in one run of the model, and what hooks do with them."""

    def __init__(self, chances: Chances, filters: dict[tuple[str, int], Filters]) -> None:
        """``filters``: rules by place and family, sorted when first asked for; shared by many runs."""
        self._chances = chances
        self._flows: dict[str, list[Flow]] = {}
        self._filters = filters
        self._random = iter(RANDOM_PORTS)

    def filters(self, place: Place, family: int) -> Filters:
        """The rules of a place; made once."""
        key = place.name, family
        if key not in self._filters:
            self._filters[key] = sort_filters(place, family)
        return self._filters[key]

    def pass_hook(
        self,
        place: Place,
        hook: Hook,
        packet: Travel,
        stay: Stay,
        *,
        interface_in: str = "",
        interface_out: str = "",
        next_hop: str = "",
        ports: tuple[str, str] = ("", ""),
    ) -> Passage:
        """Take a packet through a hook. ``next_hop``: what it is sent to, for masquerading; ``ports``: of a bridge."""
        filters = self.filters(place, packet.family)
        asking = Asking(
            place, packet, hook, self._chances, interface_in, interface_out, port_in=ports[0], port_out=ports[1]
        )
        asking.flow, asking.state, asking.reply = stay.flow, stay.state, stay.reply
        items = filters.at(hook)
        early = [item for item in items if item.priority < _CONNTRACK] if hook in ("prerouting", "output") else []
        answer = self._ask_all(early, asking)
        if answer is None and filters.tracks and hook in ("prerouting", "output") and not stay.state:
            answer = self._track(place, asking)
            stay.flow, stay.state, stay.reply = asking.flow, asking.state, asking.reply
        if answer is not None:
            return Passage(asking.packet, answer, tuple(asking.hits))
        return self._ask_late(asking, [item for item in items if item not in early], next_hop)

    def _ask_late(self, asking: Asking, items: Sequence[Item], next_hop: str) -> Passage:
        """Filters before translation, translation, filters behind it; and the flow is confirmed at the end."""
        priority = _NAT_PRIORITY.get(asking.hook)
        filters = [item for item in items if not item.is_nat]
        rewrite, before, came = "", None, asking.packet
        answer = self._ask_all([i for i in filters if priority is None or i.priority <= priority], asking)
        if answer is None and priority is not None:
            rewrite, before = self._translate(asking, [item for item in items if item.is_nat], next_hop)
            answer = self._ask_all([item for item in filters if item.priority > priority], asking)
        if answer is not None and answer.verdict == "stolen":
            rewrite, before = "dnat", came
        if answer is not None:
            return Passage(asking.packet, answer, tuple(asking.hits), rewrite, before)
        new = ""
        if asking.flow is not None and asking.hook in ("postrouting", "input") and not asking.flow.confirmed:
            asking.flow.confirmed = True
            new = str(asking.flow)
        return Passage(asking.packet, Answer(), tuple(asking.hits), rewrite, before, new)

    def _ask_all(self, items: Sequence[Item], asking: Asking) -> Answer | None:
        """The answer that ends it, if there is one."""
        for item in items:
            answer = item.run(asking)
            if answer.verdict in ("drop", "reject", "stolen"):
                return answer
        return None

    # --- connection tracking ---

    def _find(self, place: Place, packet: Travel) -> tuple[Flow, bool] | None:
        """A confirmed flow that the packet belongs to, and whether it goes against its direction."""
        key = packet.inner.inverted() if packet.inner is not None else packet.key()
        for flow in self._flows.get(place.name, ()):
            if flow.confirmed and key in (flow.original, flow.reply):
                # An echo request to oneself looks the same both ways.
                return flow, key != flow.original or packet.note == "echo reply"
        return None

    def _track(self, place: Place, asking: Asking) -> Answer | None:
        """What nf_conntrack_in does; an answer where it drops the packet."""
        packet = asking.packet
        if packet.untracked:
            asking.state = "untracked"
            return None
        found = self._find(place, packet)
        if found is not None:
            asking.flow, asking.reply = found
            if packet.is_error:
                asking.state = "related"
                return None
            asking.flow.seen_reply = asking.flow.seen_reply or asking.reply
            asking.state = "established" if asking.flow.seen_reply else "new"
            return None
        # None of these can begin a connection (tcp_new, nf_conntrack_proto_tcp.c; icmp_new, ..._icmp.c).
        if packet.is_error or packet.note in ("echo reply", "SYN,ACK", "RST,ACK", "RST"):
            asking.state = "invalid"
            return None
        if place.flows_max and place.flows >= place.flows_max:
            words = f"nf_conntrack: table full ({place.flows} of {place.flows_max} entries), dropping packet"
            return Answer("drop", RuleHit(_words(packet.family), "", "", words, "drop"))
        asking.flow, asking.state = Flow(packet.key(), packet.key().inverted()), "new"
        self._flows.setdefault(place.name, []).append(asking.flow)
        return None

    # --- translation ---

    def _translate(self, asking: Asking, items: Sequence[Item], next_hop: str) -> tuple[str, Travel | None]:
        """nf_nat_inet_fn: the first packet of a flow asks the rules, all others get what was decided."""
        flow, hook = asking.flow, asking.hook
        if flow is None or asking.state in ("untracked", "invalid"):
            return "", None
        kind = _NAT_KIND[hook]
        if asking.state == "new" and not flow.confirmed and kind not in flow.done:
            for item in items:
                answer = item.run(asking)
                if answer.nat is not None:
                    self._set_up(asking, flow, kind, answer.nat, next_hop)
                if kind in flow.done or answer.verdict:
                    break
            flow.done.add(kind)
        before = asking.packet
        wanted = self._wanted(flow, kind, asking.reply, before)
        if wanted is None:
            return "", None
        asking.packet = translate(before, kind, *wanted)
        if asking.packet == before:  # done already: by IPVS, or on the way out to itself
            return "", None
        un = {"dnat": "un-snat", "snat": "un-dnat"}[kind]
        return (un if asking.reply else kind), before

    def _wanted(self, flow: Flow, kind: str, reply: bool, packet: Travel) -> tuple[str, int] | None:
        """The address and port that a packet gets; None where nothing changes."""
        if reply:
            if (kind == "dnat" and not flow.snat) or (kind == "snat" and not flow.dnat):
                return None
            one = flow.original
            return (one.source, one.source_port) if kind == "dnat" else (one.destination, one.destination_port)
        if (kind == "dnat" and not flow.dnat) or (kind == "snat" and not flow.snat):
            return None
        one = flow.reply
        return (one.source, one.source_port) if kind == "dnat" else (one.destination, one.destination_port)

    def _set_up(self, asking: Asking, flow: Flow, kind: str, nat: Nat, next_hop: str) -> None:
        """nf_nat_setup_info: what an answer will have to look like."""
        packet = asking.packet
        if (nat.kind in ("dnat", "redirect")) != (kind == "dnat"):
            return
        flow.done.add(kind)
        if kind == "dnat":
            address = nat.address or packet.destination
            if nat.kind == "redirect":
                address = self._redirect_address(asking)
            port = nat.port or packet.destination_port
            if (address, port) == (packet.destination, packet.destination_port):
                return
            flow.reply = flow.reply._replace(source=address, source_port=port)
            flow.dnat = True
            return
        address = nat.address
        if nat.kind == "masquerade":
            link = asking.place.by_name.get(asking.interface_out)
            address = choose_source(asking.place, link.index, next_hop or packet.destination) if link else packet.source
        port = nat.port or packet.source_port
        if nat.random and not packet.protocol.startswith("icmp"):
            port = next(self._random)
        elif address != packet.source:
            port = self._free_port(asking.place, flow, address, port)
        flow.reply = flow.reply._replace(destination=address, destination_port=port)
        flow.snat = (address, port) != (packet.source, packet.source_port)

    def _free_port(self, place: Place, flow: Flow, address: str, port: int) -> int:
        """The port it has, unless another flow would then have the same answers."""
        wanted = flow.reply._replace(destination=address, destination_port=port)
        clash = any(other is not flow and other.reply == wanted for other in self._flows.get(place.name, ()))
        return next(self._random) if clash else port

    def _redirect_address(self, asking: Asking) -> str:
        if asking.hook == "output":
            return "::1" if asking.packet.family == 6 else "127.0.0.1"
        link = asking.place.by_name.get(asking.interface_in)
        return choose_source(asking.place, link.index, asking.packet.source) if link else asking.packet.destination


def _words(family: int) -> str:
    return "ip6" if family == 6 else "ip"
