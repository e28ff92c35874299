"""The state of places, read from the kernel when a packet of the model first comes there. Blocking."""

import os
import socket
from collections.abc import Iterable, Mapping

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kernel.rtnl_state import Dumped, StateChannel
from netsim.kernel.sock_diag import read_listeners
from netsim.model.errors import NetsimError
from netsim.observe.explain import state
from netsim.observe.rules.model import Rules
from netsim.observe.rules.read import read_rules

# include/uapi/linux/if_link.h and others: attributes that only whoever explains wants
_IFLA_CARRIER, _IFLA_QDISC = 33, 6
_BRPORT_STATE = 1
_BR_NF_CALL = {36: 4, 37: 6}
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 15, 17
_RTA_MULTIPATH, _RTA_VIA = 9, 18
_ROUTE_KINDS = (
    "unspec",
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
)
_RTNH_DEAD, _RTNH_LINKDOWN = 1, 16
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 4, 6, 10
_FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 15, 16, 17
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_FIB_RULE_INVERT = 2
_NUD = {
    1: "incomplete",
    2: "reachable",
    4: "stale",
    8: "delay",
    16: "probe",
    32: "failed",
    64: "noarp",
    128: "permanent",
}
_NTF_PROXY, _NTF_SELF = 8, 2
_NDA_VLAN, _NDA_MASTER = 5, 9
_IFA_F_SECONDARY, _IFA_F_DADFAILED, _IFA_F_TENTATIVE, _IFA_F_OPTIMISTIC = 1, 8, 0x40, 4
_UNMODELLED = ("arp",)  # families of nft
_SYSCTLS = (
    "ipv4.ip_forward",
    "ipv6.conf.all.forwarding",
    "ipv4.conf.all.rp_filter",
    "ipv4.conf.all.forwarding",
    "ipv4.conf.all.src_valid_mark",
    "ipv4.conf.all.route_localnet",
    "ipv4.conf.all.accept_local",
    "ipv4.icmp_echo_ignore_all",
    "ipv6.icmp.echo_ignore_all",
    "ipv4.ip_default_ttl",
    "bridge.bridge-nf-call-iptables",
    "bridge.bridge-nf-call-ip6tables",
    "netfilter.nf_conntrack_count",
    "netfilter.nf_conntrack_max",
    "ipv4.vs.conntrack",
    "ipv4.vs.expire_nodest_conn",
)
_INTERFACE_SYSCTLS = {
    4: ("rp_filter", "forwarding", "route_localnet", "accept_local", "arp_ignore"),
    6: ("forwarding", "disable_ipv6", "hop_limit"),
}


class KernelWorld:
    """`netsim.observe.explain.state.World` over namespaces by place."""

    def __init__(self, places: Mapping[str, Netns], spawner: Spawner) -> None:
        self._places = places
        self._spawner = spawner
        self._read: dict[str, state.Place] = {}
        self._peers: dict[str, Mapping[int, tuple[int, int]]] = {}  # place -> link -> (its peer's nsid, its index)
        self._nsids: dict[str, dict[int, str]] = {}

    def place(self, name: str) -> state.Place:
        """Raises KernelError."""
        if name not in self._read:
            self._read[name], self._peers[name] = read_place(name, self._places[name], self._spawner)
        return self._read[name]

    def peer(self, place: str, index: int) -> tuple[str, int] | None:
        self.place(place)
        found = self._peers[place].get(index)
        if found is None:
            return None
        nsid, other = found
        if nsid < 0:
            return place, other
        name = self._name_of(place, nsid)
        return (name, other) if name is not None else None

    def _name_of(self, place: str, nsid: int) -> str | None:
        """Namespaces have numbers, and every namespace its own ones: each known place is asked for."""
        if place not in self._nsids:
            with StateChannel(self._places[place]) as channel:
                numbers = {channel.nsid_of(ns): name for name, ns in self._places.items() if name != place}
            self._nsids[place] = numbers
        return self._nsids[place].get(nsid)


def read_place(name: str, ns: Netns, spawner: Spawner) -> tuple[state.Place, Mapping[int, tuple[int, int]]]:
    """A place, and the peers of its veths. Raises KernelError; what only some questions need and can't be read is a
    note.
    """
    notes: list[str] = []
    with StateChannel(ns) as channel:
        links = channel.dump_links()
        has_ipv6 = os.path.exists("/proc/sys/net/ipv6")
        families = (socket.AF_INET, socket.AF_INET6) if has_ipv6 else (socket.AF_INET,)
        found = state.Place(
            name,
            links=[parse_link(item) for item in links],
            addresses=[a for item in channel.dump_addresses() if (a := parse_address(item)) is not None],
            routes=[parse_route(item) for family in families for item in channel.dump_routes(family)],
            policy=[parse_rule(item) for family in families for item in channel.dump_rules(family)],
            neighbours=[n for item in channel.dump_neighbours() if (n := parse_neighbour(item)) is not None],
            forwarding=[f for item in channel.dump_forwarding() if (f := parse_forwarding(item)) is not None],
        )
    found.sysctls = read_sysctls(ns, [link.name for link in found.links])
    found.flows = found.sysctl("netfilter.nf_conntrack_count")
    found.flows_max = found.sysctl("netfilter.nf_conntrack_max")
    found.rules = read_rules(ns, spawner)
    notes += found.rules.notes
    unmodelled = [f"{family} {name}" for family, name in found.rules.nft if family in _UNMODELLED]
    notes += [f"the rules of nft table {table} are not modelled" for table in unmodelled]
    try:
        found.listeners = [state.Listener(*one) for one in read_listeners(ns)]
    except NetsimError as error:
        notes.append(f"listening sockets: {error.message}")
    found.recent = _read_recent(ns, found.rules)
    found.notes = notes
    peers = {
        item.header[2]: (_signed(item, wire.IFLA_LINK_NETNSID, -1), _number(item, wire.IFLA_LINK))
        for item in links
        if wire.IFLA_LINK in item.attributes
    }
    return found, peers


def read_sysctls(ns: Netns, interfaces: Iterable[str]) -> dict[str, str]:
    """Those that decide about packets; what this kernel lacks is left out."""
    names = list(_SYSCTLS)
    for interface in interfaces:
        for version, keys in _INTERFACE_SYSCTLS.items():
            names += [f"ipv{version}.conf.{interface}.{key}" for key in keys]
    found = {}
    with ns.entered():
        for name in names:
            if name.startswith(("ipv4.conf.", "ipv6.conf.")):
                family, _, rest = name.partition(".conf.")
                interface, _, key = rest.rpartition(".")
                path = f"/proc/sys/net/{family}/conf/{interface}/{key}"
            else:
                path = f"/proc/sys/net/{name.replace('.', '/')}"
            try:
                with open(path) as file:
                    found[name] = file.read().strip()
            except OSError:
                continue
    return found


def _read_recent(ns: Netns, rules: Rules) -> dict[str, frozenset[str]]:
    """The lists of the match "recent" that rules ask, with the addresses on them. Source: net/netfilter/xt_recent.c."""
    names = {
        condition.value
        for tables in rules.iptables.values()
        for chains in tables.values()
        for chain in chains.values()
        for rule in chain.rules
        if " recent " in rule.text
        for condition in rule.values("--name")
    }
    found = {}
    with ns.entered():
        for name in names:
            try:
                with open(f"/proc/thread-self/net/xt_recent/{name}") as file:
                    found[name] = frozenset(line.split()[0].removeprefix("src=") for line in file if line.strip())
            except OSError:
                continue
    return found


# --- from attributes to words ----------------------------------------------------------------------------------------


def _number(item: Dumped, kind: int) -> int:
    return int.from_bytes(item.attributes.get(kind, b""), "little")


def _signed(item: Dumped, kind: int, default: int) -> int:
    value = item.attributes.get(kind)
    return default if value is None else int.from_bytes(value, "little", signed=True)


def _text(value: bytes | None) -> str:
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")


def _ip(value: bytes | None) -> str:
    return wire.render_ip(value) if value is not None and len(value) in (4, 16) else ""


def _mac(value: bytes | None) -> str:
    return wire.render_mac(value) if value else ""


def parse_link(item: Dumped) -> state.Link:
    """A link with what its kind and its master say of it."""
    _, _, index, flags, _ = item.header
    known = item.attributes
    info = wire.parse_attributes(known.get(wire.IFLA_LINKINFO, b""))
    kind = _text(info.get(wire.IFLA_INFO_KIND))
    data = wire.parse_attributes(info.get(wire.IFLA_INFO_DATA, b"")) if kind in ("bridge", "vxlan") else {}
    is_port = _text(info.get(wire.IFLA_INFO_SLAVE_KIND)) == "bridge"
    port = wire.parse_attributes(info.get(wire.IFLA_INFO_SLAVE_DATA, b"")) if is_port else {}
    vxlan = data if kind == "vxlan" else {}
    bridge = data if kind == "bridge" else {}
    return state.Link(
        index=index,
        name=_text(known.get(wire.IFLA_IFNAME)),
        kind=kind,
        mac=_mac(known.get(wire.IFLA_ADDRESS)),
        mtu=_number(item, wire.IFLA_MTU),
        up=bool(flags & wire.IFF_UP),
        carrier=bool(_number(item, _IFLA_CARRIER)),
        master=_number(item, wire.IFLA_MASTER) if is_port else 0,
        hairpin=port.get(wire.IFLA_BRPORT_MODE) == b"\1",
        isolated=port.get(wire.IFLA_BRPORT_ISOLATED) == b"\1",
        port_state=int.from_bytes(port.get(_BRPORT_STATE, b"\3"), "little"),
        nf_call=frozenset(version for call, version in _BR_NF_CALL.items() if bridge.get(call) == b"\1"),
        vlan_filtering=bridge.get(wire.IFLA_BR_VLAN_FILTERING) == b"\1",
        vni=int.from_bytes(vxlan.get(_VXLAN_ID, b""), "little"),
        port=int.from_bytes(vxlan.get(_VXLAN_PORT, b""), "big"),
        local=_ip(vxlan.get(_VXLAN_LOCAL)) or _ip(vxlan.get(_VXLAN_LOCAL6)),
        qdisc=_text(known.get(_IFLA_QDISC)),
    )


def parse_address(item: Dumped) -> state.Address | None:
    """An address; None for other families."""
    family, prefix, flags, scope, index = item.header
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    flags |= _number(item, wire.IFA_FLAGS)
    address = _ip(item.attributes.get(wire.IFA_LOCAL)) or _ip(item.attributes.get(wire.IFA_ADDRESS))
    tentative = bool(flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED)) and not flags & _IFA_F_OPTIMISTIC
    is_v6 = family == socket.AF_INET6
    secondary = bool(flags & _IFA_F_SECONDARY) and not is_v6
    return state.Address(index, address, prefix, scope, secondary, tentative and is_v6)


def parse_route(item: Dumped) -> state.Route:
    """A route with its next hops."""
    family, length, _, tos, table, _, scope, kind, flags = item.header
    known = item.attributes
    anywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
    if _RTA_MULTIPATH in known:
        hops = tuple(_parse_hops(known[_RTA_MULTIPATH]))
    elif wire.RTA_OIF in known:
        via = _ip(known.get(wire.RTA_GATEWAY)) or _ip(known.get(_RTA_VIA, b"")[2:])
        hops = (state.NextHop(_number(item, wire.RTA_OIF), via, dead=bool(flags & _RTNH_DEAD)),)
    else:
        hops = ()
    metrics = wire.parse_attributes(known.get(wire.RTA_METRICS, b""))
    return state.Route(
        destination=f"{_ip(known.get(wire.RTA_DST)) or anywhere}/{length}",
        kind=_ROUTE_KINDS[kind] if kind < len(_ROUTE_KINDS) else "throw",
        table=_number(item, wire.RTA_TABLE) or table,
        hops=hops,
        source=_ip(known.get(wire.RTA_PREFSRC)),
        priority=_number(item, wire.RTA_PRIORITY),
        scope=scope,
        tos=tos,
        mtu=int.from_bytes(metrics.get(wire.RTAX_MTU, b""), "little"),
    )


def _parse_hops(data: bytes) -> Iterable[state.NextHop]:
    """struct rtnexthop: length, flags, hops (weight less one), index; then attributes."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        if length < 8:
            return
        flags, weight = data[at + 2], data[at + 3] + 1
        index = int.from_bytes(data[at + 4 : at + 8], "little")
        known = wire.parse_attributes(data[at + 8 : at + length])
        via = _ip(known.get(wire.RTA_GATEWAY)) or _ip(known.get(_RTA_VIA, b"")[2:])
        yield state.NextHop(index, via, weight, bool(flags & _RTNH_DEAD))
        at += (length + 3) & ~3


def parse_rule(item: Dumped) -> state.PolicyRule:
    """A rule of ``ip rule``."""
    family, to_length, from_length, _, table, _, _, action, flags = item.header
    known = item.attributes
    source, destination = _ip(known.get(_FRA_SRC)), _ip(known.get(_FRA_DST))
    return state.PolicyRule(
        priority=_number(item, _FRA_PRIORITY),
        family=6 if family == socket.AF_INET6 else 4,
        action=_ACTIONS.get(action, f"action {action}"),
        table=_number(item, _FRA_TABLE) or table,
        source=f"{source}/{from_length}" if source else "",
        destination=f"{destination}/{to_length}" if destination else "",
        interface_in=_text(known.get(_FRA_IIFNAME)),
        interface_out=_text(known.get(_FRA_OIFNAME)),
        mark=_number(item, _FRA_FWMARK),
        mask=_number(item, _FRA_FWMASK),
        inverted=bool(flags & _FIB_RULE_INVERT),
        goto=_number(item, _FRA_GOTO),
    )


def parse_neighbour(item: Dumped) -> state.Neighbour | None:
    """A neighbour of IPv4 or IPv6; None for others."""
    family, index, number, flags, _ = item.header
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = _ip(item.attributes.get(wire.NDA_DST))
    mac = _mac(item.attributes.get(wire.NDA_LLADDR))
    return state.Neighbour(index, address, mac, _NUD.get(number, "none"), bool(flags & _NTF_PROXY))


def parse_forwarding(item: Dumped) -> state.Forwarding | None:
    """An entry for a unicast address of a bridge or a VXLAN device; None for what devices themselves listen to."""
    _, index, number, flags, _ = item.header
    known = item.attributes
    mac = _mac(known.get(wire.NDA_LLADDR))
    master = _number(item, _NDA_MASTER)
    remote = _ip(known.get(wire.NDA_DST))
    if not mac or (not master and not remote) or (int(mac[:2], 16) & 1 and mac != "00:00:00:00:00:00"):
        return None
    own = bool(master) and number == wire.NUD_PERMANENT and not flags & _NTF_SELF
    vlan = int.from_bytes(known.get(_NDA_VLAN, b""), "little")
    return state.Forwarding(index, mac, master, remote, own, vlan)
