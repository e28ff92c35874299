"""Where a probe was lost, and by what, when no rule says it. Pure but for the Reader.

The kernel's own drop reason is the best witness, but it is heard only where the drop happened while the prober's thread
was sending. So everything that can be asked of the kernel afterwards is asked as well: links, settings, routes,
neighbours.
"""

import re

from netsim.observe.blame_source import blame_martian, blame_reverse_path
from netsim.observe.case import Case
from netsim.observe.lookup import DEV, REVERSE_PATH, ask_route, header_of
from netsim.observe.path import FABRIC, Hop, Packet, Verdict, look_at
from netsim.observe.reasons import describe_reason, name_reason

_DEAD_NEIGHBOURS = ("FAILED", "INCOMPLETE")
_NO_WAY = ("unreachable", "prohibit", "blackhole", "throw")
_VIA = re.compile(r"\bvia (?:inet6? )?(\S+)")
_MAC = re.compile(r"\blink/ether (\S+)")
_MASTER = re.compile(r"\bmaster (\S+)")
_MTU = re.compile(r"\bmtu (\d+)")
_VLAN_BYTES = 4  # that much more a link takes in (is_skb_forwardable, net/core/dev.c)
_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def blame_silence(case: Case) -> Verdict:
    """The verdict on a probe that nothing answered, and that no rule dropped."""
    end = case.end
    if not case.passed:
        return _blame_start(case)
    if end.leg == "back" and end.place == case.question.source and _is_incoming(case, end.place):
        return _blame_answer(case)
    if _is_incoming(case, end.place):
        return _blame_arrival(case)
    return _blame_departure(case)


def blame_route(case: Case, place: str, packet: Packet) -> Verdict | None:
    """No route, one that leads nowhere, or a next hop that does not answer; None if all of that is well."""
    came_by = _last_interface(case, place, "in") if place != case.question.source else ""
    return _blame_way(case, place, header_of(packet), came_by)


def _blame_way(case: Case, place: str, header: Packet, came_by: str) -> Verdict | None:
    route = ask_route(case, place, header.source, header.destination, came_by)
    if route == REVERSE_PATH:
        return blame_reverse_path(case, place, came_by)
    look = look_at(place, f"ip route get {header.destination}")
    if not route:
        return Verdict("no route", place, f"no route to {header.destination}", look)
    if route.split()[0] in _NO_WAY:
        return Verdict("no route", place, f"route: {route}", look)
    device, gateway = DEV.search(route), _VIA.search(route)
    if route.startswith("local ") or device is None or device[1] == "lo":
        return None
    next_hop = gateway[1] if gateway else header.destination
    entry = case.reader.neighbour(place, next_hop, device[1])
    if entry.endswith(_DEAD_NEIGHBOURS):
        cause = f"no neighbour answers for {next_hop} on {device[1]} (its entry is {entry.split()[-1]})"
        cause += ", which has no carrier" if _has_no_carrier(case, place, device[1]) else ""
        return Verdict("no route", place, cause, look_at(place, "ip neighbour"))
    return None


def blame_size(case: Case, place: str) -> Verdict:
    """Too large for the next link, and not to be cut into pieces."""
    packet = case.at(place)
    came_by = _last_interface(case, place, "in") if place != case.question.source else ""
    header = header_of(packet)
    route = ask_route(case, place, header.source, header.destination, came_by)
    device = DEV.search(route)
    mtu = _MTU.search(case.reader.link(place, device[1])) if device else None
    size = f"{packet.length} bytes are" if packet.length else "it is"
    told = _told_mtu(case)
    if told and (mtu is None or int(mtu[1]) != told):  # what rewrote it and sent it elsewhere was not seen doing so
        cause = f"{size} more than {told}, the MTU of the link it was to leave by"
    else:
        cause = f"{size} more than the MTU" + (f" of {device[1]}, {mtu[1]}" if device and mtu else "")
    return Verdict("dropped", place, cause, look_at(place, "ip link"))


def _told_mtu(case: Case) -> int:
    """What the ICMP error that came back says of the next link; 0 where none did."""
    back = case.journey.back[0] if case.journey.back else None
    seen = [*back.ins, *back.outs] if back is not None else []
    return seen[0].decoded.mtu if seen else 0


def _blame_start(case: Case) -> Verdict:
    source = case.question.source
    # The packet as rules of its own left it.
    found = blame_route(case, source, case.end.packet) or _blame_dead_link(case, source, "")
    if found is not None:
        return found
    dropped = _blame_drop(case, source)
    return dropped or Verdict("dropped", source, "no interface of it sent anything, and no rule says why")


def _blame_answer(case: Case) -> Verdict:
    """The answer came to the source, and yet the probe's socket did not get it."""
    source, packet = case.question.source, case.end.packet
    wanted, first = case.question, case.there[0].packet
    dropped = _blame_drop(case, source)
    if packet.source != wanted.address or packet.source_port not in (wanted.port, first.destination_port):
        cause = (
            f"the answer came from {packet.source} port {packet.source_port}, not from {wanted.address} port "
            f"{wanted.port}: nobody on its way back translated its source again"
        )
        nodes = list(dict.fromkeys(hop.place for hop in case.there if hop.rewrite == "dnat"))
        if nodes and all(case.reader.setting(node, _bridge_setting(packet)) == "0" for node in nodes):
            cause += f"; {_bridge_setting(packet)} is 0 on {', '.join(nodes)}, so bridged answers pass no rules"
        return Verdict("dropped", source, cause, f"sysctl {_bridge_setting(packet)} on the node should be 1")
    return dropped or Verdict("dropped", source, "the answer came, and no socket took it")


def _blame_arrival(case: Case) -> Verdict:
    """It was last seen coming into a place."""
    end = case.end
    place, header = end.place, header_of(end.packet)
    came_by = _last_interface(case, place, "in")
    misled = _blame_link_address(case, place, came_by) or blame_martian(case, place, came_by)
    if misled is not None:
        return misled
    if header.destination in case.reader.addresses(place):
        return _blame_delivery(case, place, came_by)
    hairpin = _blame_hairpin(case, place, came_by)
    if hairpin is not None:
        return hairpin
    dropped = _blame_drop(case, place)
    name = _FORWARDING[6 if ":" in header.destination else 4]
    if case.reader.setting(place, name) == "0":
        return Verdict("dropped", place, f"{name} is 0: it does not forward", look_at(place, f"sysctl -w {name}=1"))
    return (
        _blame_fabric(case, place, came_by)
        or blame_reverse_path(case, place, came_by)
        or _blame_dead_link(case, place, came_by)
        or blame_route(case, place, case.end.packet)
        or _blame_conntrack(case, place)
        or dropped
        or Verdict("no reply", place, f"it came by {came_by} and did not go on; nothing says why")
    )


def _blame_fabric(case: Case, place: str, came_by: str) -> Verdict | None:
    """Between nodes the fabric is a bridge, and routes nothing: a frame for another link address needs a port."""
    master, mac = _MASTER.search(case.reader.link(place, came_by)), _last_mac(case)
    if place != FABRIC or master is None or not mac:
        return None
    own = _MAC.search(case.reader.link(place, master[1]))
    if own is None or own[1] == mac:
        return None
    links = {port: case.reader.link(place, port) for port in case.reader.forwarding(place, mac)}
    up = [port for port, words in links.items() if "NO-CARRIER" not in words and "state DOWN" not in words]
    cause, look = f"no port of {master[1]} that is up leads to {mac}", "bridge link"
    if up:
        cause = f"{up[0]} leads to {mac}, and nothing came there: see families netdev and bridge"
        look = "nft list ruleset"
    return _blame_drop(case, place) or Verdict("dropped", place, cause, look_at(place, look))


def _blame_dead_link(case: Case, place: str, came_by: str) -> Verdict | None:
    """Its way leads by an interface whose other end is down. Its queue drops all, if the kernel says anything of it."""
    if _drop_name(case) not in ("QDISC_DROP", ""):
        return None
    header = header_of(case.end.packet)
    device = DEV.search(ask_route(case, place, header.source, header.destination, came_by))
    if device is None or not _has_no_carrier(case, place, device[1]):
        return None
    cause = f"{device[1]} has no carrier: what it leads to is down"
    return Verdict("dropped", place, cause, look_at(place, "ip link"))


def _has_no_carrier(case: Case, place: str, interface: str) -> bool:
    link = case.reader.link(place, interface)
    return "NO-CARRIER" in link or "state DOWN" in link


def _blame_hairpin(case: Case, place: str, came_by: str) -> Verdict | None:
    """What is to go back to where it came from needs a bridge port that sends it there.

    Where it was to go is not known of a rule that takes it from a map: then that it was to go somewhere else than
    through the forward hook must do.
    """
    header, link = header_of(case.end.packet), case.reader.link(place, came_by)
    if " master " not in link or "hairpin off" not in link:
        return None
    hooks = [hop for hop in case.there if hop.place == place and hop.kind == "hook"]
    rewritten = bool(hooks) and hooks[-1].hook == "prerouting" and any(hit.verdict == "dnat" for hit in hooks[-1].rules)
    if header.source != header.destination and not rewritten:
        return None
    cause = f"hairpin is off on {came_by}: the bridge sends nothing back out of the port by which it came"
    return Verdict("dropped", place, cause, look_at(place, f"bridge link set dev {came_by} hairpin on"))


def _blame_delivery(case: Case, place: str, came_by: str) -> Verdict:
    """It was for this place."""
    header = header_of(case.end.packet)
    reverse = blame_reverse_path(case, place, came_by)
    if reverse is not None:
        return reverse
    back = ask_route(case, place, header.destination, header.source)
    if not back or back.split()[0] in _NO_WAY:
        cause = f"no route back to {header.source}" + (f": {back}" if back else "")
        return Verdict("no route", place, cause, look_at(place, f"ip route get {header.source}"))
    full = _blame_conntrack(case, place)
    if full is not None:
        return full
    dropped = _blame_drop(case, place)
    if dropped is not None and _drop_name(case) != "NO_SOCKET":
        return dropped
    dead = _blame_way_back(case, place, back)
    if dead is not None:
        return dead
    if case.end.packet.outer is not None:
        cause = f"no VXLAN device takes network {case.end.packet.vni} at UDP port {header.destination_port}"
        return Verdict("dropped", place, cause, look_at(place, "ip -d link show type vxlan"))
    port = f" port {header.destination_port}" if case.question.protocol != "icmp" else ""
    cause = f"it arrived at {header.destination}{port}, and nothing was sent back"
    return Verdict("no reply", place, cause, look_at(place, "ss -lntu"))


def _blame_way_back(case: Case, place: str, route: str) -> Verdict | None:
    header = header_of(case.end.packet)
    device, gateway = DEV.search(route), _VIA.search(route)
    if device is None or device[1] == "lo":
        return None
    next_hop = gateway[1] if gateway else header.source
    entry = case.reader.neighbour(place, next_hop, device[1])
    if not entry.endswith(_DEAD_NEIGHBOURS):
        return None
    cause = f"the way back: no neighbour answers for {next_hop} on {device[1]} (its entry is {entry.split()[-1]})"
    return Verdict("no route", place, cause, look_at(place, "ip route"))


def _blame_departure(case: Case) -> Verdict:
    """It was last seen leaving a place."""
    place = case.end.place
    left_by = _last_interface(case, place, "out")
    dead = _blame_dead_link(case, place, "") if not left_by else None  # its hooks were seen, and no interface
    dropped = dead or _blame_drop(case, place)
    if dropped is not None:
        return dropped
    link = case.reader.link(place, left_by)
    if _has_no_carrier(case, place, left_by):
        return Verdict("dropped", place, f"{left_by} has no carrier: its other end is down", look_at(place, "ip link"))
    mac = header_of(case.end.packet).destination_mac
    large = _blame_far_size(case, place, mac)
    if large is not None:
        return large
    if "vxlan" in left_by or " vxlan " in link:
        return _blame_tunnel(case, place, left_by)
    cause = f"{left_by} sent it to {mac}, and nobody was seen to get it"
    return Verdict("dropped", place, cause, look_at(place, "ip neighbour"))


def _blame_far_size(case: Case, place: str, mac: str) -> Verdict | None:
    """Larger than what it was for takes in: a link with a smaller MTU at that end loses it without a word."""
    holder, length = case.reader.holder(mac), header_of(case.end.packet).length
    mtu = _MTU.search(case.reader.link(*holder)) if holder else None
    if not holder or mtu is None or length <= int(mtu[1]) + _VLAN_BYTES:
        return None
    cause = f"{length} bytes are more than the MTU of {holder[1]} of {holder[0]}, {mtu[1]}, which takes no more in"
    return Verdict("dropped", place, cause, look_at(holder[0], "ip link"))


def _blame_tunnel(case: Case, place: str, left_by: str) -> Verdict:
    """It was last seen going into a tunnel, which sends a packet of its own."""
    mac = case.end.packet.destination_mac
    ends = [case.reader.forwarding(place, one).get(left_by, "") for one in (mac, "00:00:00:00:00:00")]
    end = next(filter(None, ends), "")
    if not end:
        look = look_at(place, f"bridge fdb show dev {left_by}")
        return Verdict("dropped", place, f"{left_by} has no forwarding entry for {mac}", look)
    cause = f"{left_by} was to send it to {end}, and no interface sent that"
    return _blame_way(case, place, Packet("", end, "udp"), "") or Verdict("dropped", place, cause)


def _blame_link_address(case: Case, place: str, interface: str) -> Verdict | None:
    """The frame was for another host's link address: the sender's neighbour entry is wrong."""
    mac = (case.end.packet.outer or case.end.packet).destination_mac or _last_mac(case)
    link = case.reader.link(place, interface)
    own = _MAC.search(link)
    if not mac or own is None or own[1] == mac or " master " in link or int(mac[:2], 16) & 1:
        return None
    routes = [hop for hop in (*case.there, *case.back) if hop.kind == "route" and hop.place != place]
    sender = routes[-1] if routes else None
    if sender is None:
        return None
    device, gateway = DEV.search(sender.route), _VIA.search(sender.route)
    next_hop = gateway[1] if gateway else header_of(sender.packet).destination
    holder = case.reader.holder(mac)
    # A link that goes down takes its IPv6 addresses with it.
    if holder and (next_hop in case.reader.addresses(holder[0]) or _has_no_carrier(case, *holder)):
        return _blame_port(case, place, mac, holder)
    entry = case.reader.neighbour(sender.place, next_hop, device[1] if device else "")
    cause = f"the frame was for {mac}, which is not the link address of {place} ({own[1]}): neighbour entry {entry!r}"
    return Verdict("dropped", sender.place, cause, look_at(sender.place, f"ip neighbour show {next_hop}"))


def _blame_port(case: Case, heard_at: str, mac: str, holder: tuple[str, str]) -> Verdict:
    """The link address was right: a bridge that had not learned it sent to all, and only its holder did not hear it."""
    left = [hop for hop in case.passed if hop.direction == "out" and hop.place != heard_at]
    bridge = left[-1].place if left else heard_at
    large = _blame_far_size(case, bridge, mac)
    if large is not None:
        return large
    place, interface = holder
    cause = f"no port that is up leads to {mac}, which is {interface} of {place}"
    cause += "; it has no carrier" if _has_no_carrier(case, place, interface) else ""
    return Verdict("dropped", bridge, cause, look_at(bridge, "bridge link"))


def _blame_conntrack(case: Case, place: str) -> Verdict | None:
    count, limit = (
        case.reader.setting(place, f"net.netfilter.nf_conntrack_{name}").strip() for name in ("count", "max")
    )
    if not (count.isdigit() and limit.isdigit() and int(limit) and int(count) >= int(limit)):
        return None
    cause = f"the connection tracking table is full ({count} of {limit})"
    return Verdict("dropped", place, cause, look_at(place, "sysctl net.netfilter.nf_conntrack_max"))


def _blame_drop(case: Case, place: str) -> Verdict | None:
    drop = case.drop_after_end()
    if drop is None:
        return None
    cause, look = describe_reason(drop.reason, drop.function), ""
    if name_reason(drop.reason) == "NETFILTER_DROP":
        cause += ", and no traced rule says so: see families netdev and bridge"  # where a trace may have been reset
        look = look_at(place, "nft list ruleset")
    return Verdict("dropped", place, cause, look)


def _drop_name(case: Case) -> str:
    drop = case.drop_after_end()
    return name_reason(drop.reason) if drop is not None else ""


def _is_incoming(case: Case, place: str) -> bool:
    """Whether it stayed in ``place``: what was last seen there is not its leaving."""
    last = case.passed[-1] if case.passed else None
    return last is not None and last.place == place and last.direction == "in"


def _last_interface(case: Case, place: str, direction: str) -> str:
    found = [hop for hop in case.passed if hop.place == place and hop.direction == direction]
    return found[-1].interface if found else ""


def _last_mac(case: Case) -> str:
    last: Hop | None = case.passed[-1] if case.passed else None
    return header_of(last.packet).destination_mac if last is not None else ""


def _bridge_setting(packet: Packet) -> str:
    return f"net.bridge.bridge-nf-call-{'ip6tables' if ':' in packet.source else 'iptables'}"
