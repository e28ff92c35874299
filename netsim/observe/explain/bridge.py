"""Frames in a Linux bridge, and netfilter's rules for what is bridged: of frames, and of packets (br_netfilter). Pure.

Sources: net/bridge/br_input.c, br_forward.c, br_fdb.c, br_netfilter_hooks.c.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from netsim.observe.explain.frames import Ports, come_in, pass_frame
from netsim.observe.explain.hooks import Stay
from netsim.observe.explain.neighbours import ports_of
from netsim.observe.explain.packet import Travel
from netsim.observe.explain.routing import look_up
from netsim.observe.explain.state import Link, Place

if TYPE_CHECKING:
    from netsim.observe.explain.journey import Arrival, Journey

_SYSCTL = {4: "bridge.bridge-nf-call-iptables", 6: "bridge.bridge-nf-call-ip6tables"}


def enter_by_port(journey: "Journey", place: Place, port: Link, packet: Travel) -> "Arrival":
    """A frame comes in by a port of a bridge. Raises Lost."""
    bridge, stay = place.by_index[port.master], Stay()
    if port.port_state not in (2, 3):
        journey.lose(
            "dropped", place, packet, f"the bridge port {port.name} does not forward (state {port.port_state})"
        )
    if not bridge.up:
        journey.lose("dropped", place, packet, f"{bridge.name} is down")
    if bridge.vlan_filtering:
        journey.chances.note(f"{place.name} {bridge.name}: its VLANs are not modelled")
    filtered = _is_filtered(place, bridge, packet.family)
    came = Ports(came_by=port.name)
    packet = pass_frame(journey, place, "prerouting", packet, came, "before" if filtered else "all")
    if filtered:
        before = packet
        packet = journey.pass_hook(place, "prerouting", packet, stay, interface_in=bridge.name, ports=(port.name, ""))
        packet = _prerouted(journey, place, port, packet, packet.destination != before.destination)
    if _is_own(place, bridge, packet.destination_mac):
        packet = pass_frame(journey, place, "input", packet, came)
        packet = come_in(journey, place, bridge, packet)
        return journey.receive_ip(place, bridge, packet, stay, prerouted=filtered)
    return _send_to_port(journey, place, bridge, port, packet, stay, filtered=filtered)


def leave_by_bridge(journey: "Journey", place: Place, bridge: Link, packet: Travel, stay: Stay) -> "Arrival":
    """The place itself sends a frame by its bridge. br_netfilter has no say: what is routed has passed its hooks.
    Raises Lost.
    """
    return _send_to_port(journey, place, bridge, None, packet, stay, filtered=False)


def send_by_port(journey: "Journey", place: Place, port: Link, packet: Travel, stay: Stay) -> "Arrival":
    """The place itself sends a frame by a port of a bridge. Raises Lost."""
    leaves = Ports(leaves_by=port.name)
    packet = pass_frame(journey, place, "output", packet, leaves)
    packet = pass_frame(journey, place, "postrouting", packet, leaves)
    return journey.transmit(place, port, packet, stay)


def _prerouted(journey: "Journey", place: Place, port: Link, packet: Travel, translated: bool) -> Travel:
    """br_nf_pre_routing_finish: what is left of the frame's prerouting. Where the destination was translated: to a
    neighbour on the same bridge it is bridged on, all else goes up to the routes.
    """
    bridge, next_hop = place.by_index[port.master], ""
    if translated:
        decision = look_up(place, packet.destination, source=packet.source, mark=packet.mark, interface_in=bridge.name)
        if decision.kind == "unicast" and any(hop.index == bridge.index for hop in decision.hops):
            next_hop = decision.hop.via or packet.destination
        else:
            packet = replace(packet, destination_mac=bridge.mac)
    packet = pass_frame(journey, place, "prerouting", packet, Ports(came_by=port.name), "behind")
    if not next_hop:
        return packet
    mac, why = journey.resolve(place, bridge, next_hop)
    if not mac:
        journey.lose("dropped", place, packet, why)
    return replace(packet, destination_mac=mac)


def _send_to_port(
    journey: "Journey", place: Place, bridge: Link, came_by: Link | None, packet: Travel, stay: Stay, *, filtered: bool
) -> "Arrival":
    """To the port that has the MAC address, or else to all: then only the one that is meant takes it."""
    port = _find_port(journey, place, bridge, packet)
    if came_by is not None:
        if port.index == came_by.index and not port.hairpin:
            cause = f"{bridge.name}: it would leave by the port it came by, and {port.name} has no hairpin mode"
            journey.lose("dropped", place, packet, cause, hint=f"bridge link set dev {port.name} hairpin on")
        if port.isolated and came_by.isolated:
            journey.lose(
                "dropped", place, packet, f"{came_by.name} and {port.name} are isolated ports of {bridge.name}"
            )
    if came_by is None:
        return send_by_port(journey, place, port, packet, stay)
    ports, leaves = Ports(came_by.name, port.name), Ports(leaves_by=port.name)
    packet = pass_frame(journey, place, "forward", packet, ports, "before" if filtered else "all")
    if filtered:
        packet = journey.pass_hook(
            place, "forward", packet, stay, interface_in=bridge.name, interface_out=bridge.name, ports=ports
        )
        packet = pass_frame(journey, place, "forward", packet, ports, "behind")
    packet = pass_frame(journey, place, "postrouting", packet, leaves)
    if filtered:
        packet = journey.pass_hook(
            place, "postrouting", packet, stay, interface_out=bridge.name, next_hop=packet.destination, ports=ports
        )
    return journey.transmit(place, port, packet, stay)


def _find_port(journey: "Journey", place: Place, bridge: Link, packet: Travel) -> Link:
    mac = packet.destination_mac
    for entry in place.forwarding:
        if entry.master == bridge.index and entry.mac == mac and not entry.own:
            port = place.by_index.get(entry.index)
            if port is not None:
                return port
    # Not yet learned: the one behind which it is. The port that it came by is one too, for a bridge learns before it
    # decides where to (br_handle_frame_finish).
    for port in ports_of(place, bridge):
        peer = journey.world.peer(place.name, port.index)
        if peer is None:
            continue
        far = journey.world.place(peer[0]).by_index[peer[1]]
        if far.mac == mac or (far.master and _knows(journey, peer[0], far, mac)):
            return port
    _lose_at_dead_port(journey, place, bridge, packet)
    journey.lose_frame(place, packet, f"nobody on {bridge.name} has the MAC address {mac}: a stale neighbour entry?")


def _lose_at_dead_port(journey: "Journey", place: Place, bridge: Link, packet: Travel) -> None:
    """If the address is right, but behind a port that does not forward. Raises Lost then."""
    for port in place.links:
        peer = journey.world.peer(place.name, port.index) if port.master == bridge.index else None
        if peer is None:
            continue
        other = journey.world.place(peer[0]).by_index[peer[1]]
        if other.mac == packet.destination_mac:
            cause = f"no port that is up leads to {other.mac}, which is {other.name} of {peer[0]}"
            cause += "; it has no carrier" if not (port.up and other.up) else ""
            journey.lose("dropped", place, packet, cause, hint="bridge link")


def _knows(journey: "Journey", name: str, link: Link, mac: str) -> bool:
    """Whether behind a port that is itself bridged on the other side somebody has the address."""
    other = journey.world.place(name)
    return any(entry.mac == mac and entry.master == link.master for entry in other.forwarding)


def _is_own(place: Place, bridge: Link, mac: str) -> bool:
    if mac == bridge.mac:
        return True
    return any(entry.own and entry.mac == mac and entry.master == bridge.index for entry in place.forwarding)


def _is_filtered(place: Place, bridge: Link, family: int) -> bool:
    return bool(place.sysctl(_SYSCTL[family])) or family in bridge.nf_call
