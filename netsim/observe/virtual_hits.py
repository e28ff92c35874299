"""The virtual server of IPVS that sent a packet on, as a rule that it met. Pure."""

from collections.abc import Iterable

from netsim.observe.path import Packet, RuleHit, join_end
from netsim.ruleset.ipvs import ServerKey


def find_virtual_hit(connections: Iterable[str], before: Packet, after: Packet) -> RuleHit | None:
    """The connection, as ``ipvsadm -Lnc`` prints it, that explains a change of destination."""
    client = join_end(before.source, before.source_port)
    virtual = join_end(before.destination, before.destination_port)
    real = join_end(after.destination, after.destination_port)
    for line in connections:
        words = line.split()
        if words[0].lower() == before.protocol and words[-3:] == [client, virtual, real]:
            family = "ip6" if ":" in before.destination else "ip"
            key = ServerKey(before.protocol, before.destination, before.destination_port)
            return RuleHit(family, "", "", str(key), "dnat", backend="ipvs", element=real)
    return None
