"""What nftables' expressions come to for one packet: payload, meta, ct, fib, sets and maps. Pure.

Values are strings and numbers as libnftables-json(5) writes them, so that elements compare as they stand.
Source: libnftables-json(5), nft(8), net/netfilter/nft_{payload,meta,ct,fib,numgen}.c.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from netsim.observe.explain.context import Asking
from netsim.observe.explain.packet import BROADCAST, Travel
from netsim.observe.explain.routing import address_type, contains, look_up
from netsim.observe.nft_listing import NftSet, NftTable


class Unknown(Exception):
    """The model does not know what this comes to. Its words name the expression."""


class NoMatch(Exception):
    """The expression has no value for this packet, so its rule does not match: the port of a ping, for one."""


_DRAWS = frozenset({"numgen", "jhash", "symhash"})
_L4 = {"icmpv6": "ipv6-icmp"}
_ECHO = {"echo request": "echo-request", "echo reply": "echo-reply"}


def evaluate(expression: Any, asking: Asking, table: NftTable) -> Any:
    """The value of an expression. Raises NoMatch, Unknown."""
    if not isinstance(expression, Mapping):
        return expression
    kind, inner = next(iter(expression.items()))
    match kind:
        case "payload":
            return _payload(inner, asking)
        case "meta":
            return _meta(inner["key"], asking)
        case "ct":
            return _ct(inner, asking)
        case "fib":
            return _fib(inner, asking)
        case "concat":
            return tuple(evaluate(part, asking, table) for part in inner)
        case "numgen" | "jhash" | "symhash":
            return _draw(inner, asking)
        case "map":
            found = look_up_element(table, inner["data"], evaluate(inner["key"], asking, table))
            if found is None:
                raise NoMatch
            return plain(found[1])
        case "&" | "|" | "^" | "<<" | ">>":
            return _calculate(kind, [evaluate(part, asking, table) for part in inner])
        case "prefix" | "range" | "set":
            return expression
    raise Unknown(f"nft expression {kind}")


def plain(value: Any) -> Any:
    """A map's value: a concatenation as a tuple."""
    return tuple(value["concat"]) if isinstance(value, Mapping) and "concat" in value else value


def _draw(inner: Mapping[str, Any], asking: Asking) -> int:
    """A number by chance. A hash of the packet is chance, too, to whoever does not know its port."""
    most = int(inner["mod"])
    return int(inner.get("offset", 0)) + asking.chances.choose([1 / most] * most)


def _calculate(kind: str, values: list[Any]) -> int:
    if not all(isinstance(value, int) for value in values):
        raise Unknown(f"nft arithmetic on {values}")
    result = values[0]
    for value in values[1:]:
        match kind:
            case "&":
                result &= value
            case "|":
                result |= value
            case "^":
                result ^= value
            case "<<":
                result <<= value
            case _:
                result >>= value
    return int(result)


def _payload(inner: Mapping[str, Any], asking: Asking) -> Any:  # noqa: PLR0912 - a case for each header
    if "field" not in inner:
        raise Unknown(f"nft raw payload {inner}")
    packet, protocol, name = asking.packet, inner["protocol"], inner["field"]
    if protocol in ("ether", "arp"):
        return _frame_payload(protocol, name, packet)
    if packet.is_arp:
        raise NoMatch
    if protocol in ("ip", "ip6"):
        if (protocol == "ip6") != (packet.family == 6):
            raise NoMatch
        match name:
            case "saddr":
                return packet.source
            case "daddr":
                return packet.destination
            case "protocol" | "nexthdr":
                return _L4.get(packet.protocol, packet.protocol)
            case "ttl" | "hoplimit":
                return packet.ttl
            case "length":
                return packet.length
    elif protocol in ("tcp", "udp", "th", "sctp", "dccp", "udplite"):
        if protocol not in ("th", packet.protocol):
            raise NoMatch
        if packet.protocol.startswith("icmp"):
            raise NoMatch
        match name:
            case "dport":
                return packet.destination_port
            case "sport":
                return packet.source_port
            case "flags" if packet.protocol == "tcp":
                return sum(_TCP_FLAGS[flag.lower()] for flag in packet.note.split(",") if flag.lower() in _TCP_FLAGS)
    elif protocol in ("icmp", "icmpv6"):
        if protocol != packet.protocol:
            raise NoMatch
        if name == "type":
            return _ECHO.get(
                packet.note, packet.note.replace(" ", "-") if not packet.is_error else "destination-unreachable"
            )
    raise Unknown(f"nft {protocol} {name}")


def _frame_payload(protocol: str, name: str, packet: Travel) -> Any:
    if protocol == "ether":
        known = {"saddr": packet.source_mac, "daddr": packet.destination_mac, "type": packet.ether_type}
    elif packet.is_arp:
        asked = "00:00:00:00:00:00" if packet.note == "request" else packet.destination_mac
        known = {"operation": packet.note, "saddr ether": packet.source_mac, "daddr ether": asked}
        known |= {"saddr ip": packet.source, "daddr ip": packet.destination}
    else:
        raise NoMatch
    if name not in known:
        raise Unknown(f"nft {protocol} {name}")
    return known[name]


_TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}


def _meta(key: str, asking: Asking) -> Any:
    packet = asking.packet
    match key:
        case "l4proto":
            if packet.is_arp:
                raise NoMatch
            return _L4.get(packet.protocol, packet.protocol)
        case "mark":
            return packet.mark
        case "iifname" | "iif":
            return asking.interface_in
        case "oifname" | "oif":
            return asking.interface_out
        case "nfproto":
            return "ipv6" if packet.family == 6 else "ipv4"
        case "protocol":
            return packet.ether_type
        case "length":
            return packet.length
        case "iiftype" | "oiftype":
            name = asking.interface_in if key == "iiftype" else asking.interface_out
            return "loopback" if name == "lo" else "ether"
        case "iifkind" | "oifkind":
            name = asking.interface_in if key == "iifkind" else asking.interface_out
            link = asking.place.by_name.get(name)
            return link.kind if link else ""
        case "ibrname" | "obrname":
            return _bridge_of(asking, asking.interface_in if key == "ibrname" else asking.interface_out)
        case "pkttype" if (asking.layer, asking.hook) != ("netdev", "egress"):
            return _packet_type(asking)
    raise Unknown(f"nft meta {key}")


def _bridge_of(asking: Asking, port: str) -> str:
    """nft_meta_bridge.c: "" of what is no port."""
    link = asking.place.by_name.get(port)
    return asking.place.link_name(link.master) if link is not None and link.master else ""


def _packet_type(asking: Asking) -> str:
    """skb->pkt_type: whom a frame that came in is for, by its link address (eth_type_trans, br_handle_frame)."""
    mac, place = asking.packet.destination_mac, asking.place
    link = place.by_name.get(asking.interface_in)
    if mac and int(mac[:2], 16) & 1:
        return "broadcast" if mac == BROADCAST else "multicast"
    if asking.layer == "ip" or link is None or not mac or link.name == "lo":
        return "host"  # br_netfilter makes it so, too (setup_pre_routing)
    master = place.by_index.get(link.master)
    bridged = asking.layer == "bridge" and master is not None and mac == master.mac
    return "host" if mac == link.mac or bridged else "other"


def _ct(inner: Mapping[str, Any], asking: Asking) -> Any:  # noqa: PLR0912 - a case for each key
    flow, key = asking.flow, inner["key"]
    if asking.layer != "ip":
        raise Unknown(f"nft ct {key} in family {asking.layer}")
    if key == "state":
        return asking.state or "invalid"
    if flow is None:
        raise NoMatch
    if "dir" in inner:
        one = flow.original if inner["dir"] == "original" else flow.reply
        match key:
            case "saddr" | "ip saddr" | "ip6 saddr":
                return one.source
            case "daddr" | "ip daddr" | "ip6 daddr":
                return one.destination
            case "proto-src":
                return one.source_port
            case "proto-dst":
                return one.destination_port
            case "protocol":
                return one.protocol
    match key:
        case "status":
            words = [("dnat", flow.dnat), ("snat", flow.snat), ("seen-reply", flow.seen_reply)]
            return [word for word, on in [*words, ("confirmed", flow.confirmed)] if on]
        case "mark":
            return flow.mark
        case "direction":
            return "reply" if asking.reply else "original"
        case "protocol":
            return flow.original.protocol
        case "zone":
            return 0
    raise Unknown(f"nft ct {key}")


def _fib(inner: Mapping[str, Any], asking: Asking) -> Any:
    packet, flags = asking.packet, inner["flags"]
    if packet.is_arp or asking.layer == "bridge":
        raise Unknown("nft fib of a frame")
    flags = [flags] if isinstance(flags, str) else list(flags)
    address = packet.source if "saddr" in flags else packet.destination
    if inner["result"] == "type":
        return address_type(asking.place, address)
    other = packet.destination if "saddr" in flags else packet.source
    mark = packet.mark if "mark" in flags else 0
    found = look_up(asking.place, address, source=other, mark=mark, interface_in=asking.interface_in)
    if not found.hops:
        return 0 if inner["result"] == "oif" else ""
    name = asking.place.link_name(found.hop.index)
    if "iif" in flags and name != asking.interface_in:
        return 0 if inner["result"] == "oif" else ""
    return name if inner["result"] in ("oif", "oifname") else True


# --- comparing -------------------------------------------------------------------------------------------------------


def share_of_draw(left: Any, operator: str, wanted: Any) -> float | None:
    """How likely a number by chance is one that is wanted (of ``numgen random mod 100 < 30`` 0.3); None for what is no
    such comparison. It makes one choice of two, where each number would be a way of its own.
    """
    if not isinstance(left, Mapping) or not _DRAWS & left.keys():
        return None
    inner, spans = next(iter(left.values())), _spans(wanted)
    if spans is None:
        return None
    low, count = int(inner.get("offset", 0)), int(inner["mod"])
    if operator in ("<", "<=", ">", ">="):
        last = spans[0][0] - (operator in ("<", ">="))  # the last number of those below
        spans = [(low, last)]
    within = sum(max(0, min(last, low + count - 1) - max(first, low) + 1) for first, last in spans)
    share = within / count
    return 1 - share if operator in ("!=", ">", ">=") else share


def _spans(wanted: Any) -> list[tuple[int, int]] | None:
    """Numbers, ranges and sets of them, as ranges with both ends."""
    if isinstance(wanted, int):
        return [(wanted, wanted)]
    if isinstance(wanted, Mapping) and "range" in wanted and all(isinstance(one, int) for one in wanted["range"]):
        return [(wanted["range"][0], wanted["range"][1])]
    if isinstance(wanted, Mapping) and "set" in wanted:
        parts = [_spans(one) for one in _listed(wanted["set"])]
        return None if None in parts else [span for part in parts if part is not None for span in part]
    return None


def matches(value: Any, operator: str, wanted: Any, table: NftTable) -> bool:
    """``left OPERATOR right``. Raises Unknown."""
    if isinstance(value, list) or (operator == "in" and not isinstance(wanted, Mapping)) or isinstance(wanted, list):
        return _share_bits(value, wanted, operator)
    if operator in ("==", "in", "!="):
        return is_in(value, wanted, table) == (operator != "!=")
    if not isinstance(value, int) or not isinstance(wanted, int):
        raise Unknown(f"nft comparison {operator} of {value}")
    return {"<": value < wanted, ">": value > wanted, "<=": value <= wanted, ">=": value >= wanted}[operator]


def _share_bits(value: Any, wanted: Any, operator: str) -> bool:
    """Bit masks: states, statuses, TCP flags. Any bit in common is a match, but for ==, where all are compared."""
    if isinstance(wanted, Mapping) and "set" in wanted:
        wanted = wanted["set"]
    have = set(value) if isinstance(value, list) else {value}
    want = set(wanted) if isinstance(wanted, list) else {wanted}
    if isinstance(value, int):  # TCP flags
        bits = sum(_TCP_FLAGS.get(flag, flag if isinstance(flag, int) else 0) for flag in want)
        same = value == bits if operator in ("==", "!=") else bool(value & bits)
        return same == (operator != "!=")
    return bool(have & want) == (operator != "!=")


def is_in(value: Any, wanted: Any, table: NftTable) -> bool:
    """Whether a value is one, or in a prefix, range, set, or named set."""
    if isinstance(wanted, str) and wanted.startswith("@"):
        return look_up_element(table, wanted, value) is not None
    if isinstance(wanted, Mapping):
        if "set" in wanted:
            return any(is_in(value, one, table) for one in _listed(wanted["set"]))
        if "elem" in wanted:
            return is_in(value, wanted["elem"]["val"], table)
        if "prefix" in wanted:
            prefix = wanted["prefix"]
            return isinstance(value, str) and contains(f"{prefix['addr']}/{prefix['len']}", value)
        if "range" in wanted:
            return _is_between(value, *wanted["range"])
        if "concat" in wanted:
            parts = wanted["concat"]
            return (
                isinstance(value, tuple)
                and len(value) == len(parts)
                and all(is_in(one, part, table) for one, part in zip(value, parts, strict=True))
            )
        raise Unknown(f"nft value {next(iter(wanted))}")
    if isinstance(wanted, str) and wanted.endswith("*") and isinstance(value, str):
        return value.startswith(wanted[:-1])
    return bool(value == wanted)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_between(value: Any, first: Any, last: Any) -> bool:
    if isinstance(value, int) and isinstance(first, int) and isinstance(last, int):
        return first <= value <= last
    try:
        low, one, high = int(ip_address(first)), ip_address(value), int(ip_address(last))
    except ValueError:
        raise Unknown(f"nft range {first}-{last}") from None
    return low <= int(one) <= high and ip_address(first).version == one.version


def look_up_element(table: NftTable, data: Any, key: Any) -> tuple[Any, Any] | None:
    """The element of a named or anonymous set or map that a key falls on: (its key, its value)."""
    if isinstance(data, Mapping):  # {a : b, ...} written in the rule
        for element in data["set"]:
            wanted, value = element if isinstance(element, list) else (element, None)
            if is_in(key, wanted, table):
                return wanted, value
        return None
    if not isinstance(data, str) or not data.startswith("@"):
        raise Unknown(f"nft map {data}")
    found = table.sets.get(data[1:])
    if found is None:
        raise Unknown(f"nft set {data}")
    return look_up_in(found, key, table)


def look_up_in(one: NftSet, key: Any, table: NftTable) -> tuple[Any, Any] | None:
    """Exact keys by a dictionary, of which a large map has thousands; prefixes and ranges one by one."""
    exact, others = one.index
    if key in exact:
        return exact[key]
    return next((element for element in others if is_in(key, element[0], table)), None)
