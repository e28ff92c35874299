"""IPVS: a packet to a virtual server is translated and sent on, from INPUT or OUTPUT. Pure.

The way back is told as any other translation's: conntrack knows it (net.ipv4.vs.conntrack), and IPVS takes it back
where NAT would. Sources: net/netfilter/ipvs/ip_vs_core.c (ip_vs_in_hook, ip_vs_leave), ip_vs_xmit.c (ip_vs_nat_xmit).
"""

from netsim.observe.explain.context import Answer, Asking
from netsim.observe.explain.packet import translate
from netsim.observe.path import RuleHit
from netsim.ruleset.ipvs import ServerKey


def ask_virtual_servers(asking: Asking) -> Answer:
    """ "stolen" where a virtual server takes the packet; a reject where it has nowhere to send it."""
    packet, flow = asking.packet, asking.flow
    key = ServerKey(packet.protocol, packet.destination, packet.destination_port)
    virtual = asking.place.rules.ipvs.get(key)
    if virtual is None or packet.is_error or flow is None or flow.ipvs or asking.reply:
        return Answer()
    family = "ip6" if packet.family == 6 else "ip"
    reals = [(real, state.weight) for real, state in sorted(virtual.reals.items()) if state.weight > 0]
    if not reals:
        hit = RuleHit(family, "", "", f"{key} has no destination", "reject", "ipvs")
        asking.hits.append(hit)
        return Answer("reject", hit, reply="port-unreachable")
    total = sum(weight for _, weight in reals)
    # Whatever the scheduler, who does not know its state can only say how often each is picked in the long run.
    real = reals[asking.chances.choose([weight / total for _, weight in reals])][0]
    hit = RuleHit(family, "", "", f"{key} {virtual.server}", "dnat", "ipvs", element=str(real))
    asking.hits.append(hit)
    asking.packet = translate(packet, "dnat", real.address, real.port)
    flow.reply = flow.reply._replace(source=real.address, source_port=real.port)
    flow.ipvs = flow.dnat = True
    flow.done.add("dnat")
    return Answer("stolen", hit)
