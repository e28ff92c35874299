"""Which packets of the rule trace are the probe's: others may be traced at the same time, by whomever. Pure.

The trace shows 20 bytes from the transport header on. That holds what TCP is known by; of UDP and VXLAN it holds
addresses and ports, which are the probe's if they are those of a frame that is.
"""

from collections.abc import Iterable

from netsim.observe.decode import Decoded, decode_frame, decode_network
from netsim.observe.evidence import Sighting
from netsim.observe.path import Packet
from netsim.observe.signature import Signature

_ICMP = ("icmp", "icmpv6")
End = tuple[str, str, int]  # protocol, address, port (of an echo its identifier)


class Own:
    """Tells the probe's packets, its answers and the errors about it from all others."""

    def __init__(self, signature: Signature, sightings: Iterable[Sighting], asked: End, source_port: int) -> None:
        """``sightings``: frames that are the probe's. ``asked``: where it was sent, from ``source_port``."""
        self._patterns = signature.patterns
        self._asked = asked
        self._source_port = source_port
        self._ends: set[End] = set()
        self._clients: set[End] = set()  # the probe's socket, which nobody else has; also as translation made it look
        for sighting in sightings:
            decoded = decode_frame(sighting.frame)
            for one in _layers(decoded) if decoded else ():
                self._ends.update(_ends(one))
            if decoded is not None and not decoded.is_error:
                self._clients = self._clients or {_ends(decoded.packet)[0]}

    def has(self, packet: bytes) -> bool:
        """``packet`` from its IP header on, as the rule trace gives it."""
        if any(pattern.matches(packet) for pattern in self._patterns):
            return True
        decoded = decode_network(packet)
        if decoded is None:
            return False
        source, destination = _ends(decoded.packet)
        if destination == self._asked and source[2] == self._source_port:
            self._clients.add(source)  # as it was before its own kernel translated it, or would not send it
        known = source in self._clients or destination in self._clients
        return known or (source in self._ends and destination in self._ends)


def _layers(decoded: Decoded) -> list[Packet]:
    """The packet, and the one it travels in."""
    outer = decoded.packet.outer
    return [decoded.packet, *([outer] if outer else [])]


def _ends(packet: Packet) -> tuple[End, End]:
    return (
        (packet.protocol, packet.source, packet.source_port),
        (packet.protocol, packet.destination, packet.destination_port),
    )
