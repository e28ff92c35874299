"""What a place answers to a packet that it has taken in: the kernel's own answers, and listening sockets'. Pure."""

from netsim.observe.explain.journey import Arrival, Journey
from netsim.observe.explain.packet import Travel, answer_to, error_about
from netsim.observe.explain.state import Link, Listener


def answer(journey: Journey, arrival: Arrival) -> tuple[Travel, bool]:
    """What the place sends back, and whether that is an answer (not a refusal)."""
    place, packet = arrival.place, arrival.packet
    if packet.protocol in ("icmp", "icmpv6"):
        silent = place.sysctl("ipv4.icmp_echo_ignore_all" if packet.family == 4 else "ipv6.icmp.echo_ignore_all")
        if silent:
            journey.lose("no reply", place, packet, "it answers no ping (icmp_echo_ignore_all is 1)")
        return answer_to(packet, "echo reply"), True
    listening = any(_takes(one, packet, arrival.link) for one in place.listeners)
    if packet.protocol == "tcp":
        return answer_to(packet, "SYN,ACK" if listening else "RST,ACK"), listening
    if listening:
        return answer_to(packet, ""), True
    return error_about(packet, packet.destination, "port unreachable"), False


def _takes(one: Listener, packet: Travel, link: Link) -> bool:
    """Whether a socket is asked by a packet (inet_lookup_listener, udp4_lib_lookup)."""
    if one.protocol != packet.protocol or one.port != packet.destination_port or one.index not in (0, link.index):
        return False
    if one.address == "::":
        return packet.family == 6 or not one.v6only
    if one.address == "0.0.0.0":
        return packet.family == 4
    return one.address in (packet.destination, f"::ffff:{packet.destination}")
