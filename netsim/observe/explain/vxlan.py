"""Frames into a VXLAN device and out of it. Pure.

Source: drivers/net/vxlan/vxlan_core.c (vxlan_xmit, vxlan_rcv), RFC 7348.
"""

from typing import TYPE_CHECKING

from netsim.observe.explain.packet import CLIENT_PORT, Travel
from netsim.observe.explain.state import Link, Place
from netsim.observe.path import Hop

if TYPE_CHECKING:
    from netsim.observe.explain.journey import Arrival, Journey

_OVERHEAD_BYTES = {4: 50, 6: 70}  # outer IP, UDP and VXLAN headers, and the inner frame's


def encapsulate(journey: "Journey", place: Place, link: Link, packet: Travel) -> "Arrival":
    """The forwarding database says which node has the MAC address. Raises Lost."""
    entries = [f for f in place.forwarding if f.index == link.index and f.remote]
    entry = next((f for f in entries if f.mac == packet.destination_mac), None)
    entry = entry or next((f for f in entries if f.mac == "00:00:00:00:00:00"), None)
    if entry is None:
        cause = f"{link.name} knows no node for {packet.destination_mac} (bridge fdb show dev {link.name})"
        journey.lose("dropped", place, packet, cause)
    outer = Travel(
        source=link.local,
        destination=entry.remote,
        protocol="udp",
        source_port=CLIENT_PORT,
        destination_port=link.port,
        note="VXLAN",
        mark=packet.mark,
        length=packet.length + _OVERHEAD_BYTES[6 if ":" in entry.remote else 4],
        payload=packet,
        vni=link.vni,
    )
    journey.hops.append(
        Hop(place.name, journey.leg, "rewrite", outer.shown(), rewrite="encapsulate", before=packet.shown())
    )
    return journey.send(place, outer)


def take_out(journey: "Journey", place: Place, packet: Travel) -> "Arrival":
    """What came in a tunnel's packet that is for this place. Raises Lost."""
    tunnel = _find_tunnel(place, packet)
    if tunnel is None or packet.payload is None:
        cause = f"no VXLAN device takes network {packet.vni} at UDP port {packet.destination_port}"
        journey.lose("dropped", place, packet, cause, hint="ip -d link show type vxlan")
    inner = packet.payload
    journey.hops.append(
        Hop(place.name, journey.leg, "rewrite", inner.shown(), rewrite="decapsulate", before=packet.shown())
    )
    return journey.receive(place, tunnel, inner)


def _find_tunnel(place: Place, packet: Travel) -> Link | None:
    if packet.protocol != "udp":
        return None
    for link in place.links:
        if link.kind == "vxlan" and (link.port, link.vni) == (packet.destination_port, packet.vni) and link.up:
            return link
    return None
