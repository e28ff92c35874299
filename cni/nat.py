"""The packet filter's part, as text for nft: masquerading (ipMasq) and port mappings. Pure.

One table of our own, in which a packet passes:

- new connection into the node, or from the node itself, to one of its own addresses: ``hostports`` looks protocol
  and port up in a map (with the address first, for mappings with hostIP), whose verdict is a chain for each
  attachment; that marks what must come back through the node (from the pod's own subnet or from localhost) and
  changes the destination.
- leaving: marked connections are masqueraded; then the source is looked up in a map, whose verdict is a chain for
  each network; that masquerades what goes elsewhere than the network itself or to multicast.

So a pod costs one map element (a port mapping one more, and a chain), a packet two look-ups, however many pods there
are. The reference has a rule for each pod in iptables or in one nft chain: looked at one by one, and left behind by a
DEL that finds the namespace gone.
"""

import re
from collections.abc import Iterable, Sequence

from cni.attachment import Attachment, masquerade_chain, network_digest
from cni.config import PortMapping
from cni.ipam.ranges import parse_subnet
from netsim.model.marks import PORTMAP_MASQUERADE
from netsim.model.names import CNI_TABLE

TABLE = f"inet {CNI_TABLE}"
MARK = f"0x{PORTMAP_MASQUERADE:x}"
MASQUERADE_MAPS = ("masquerade4", "masquerade6")
_IP = {"4": "ip", "6": "ip6"}
_ADDRESS = {"4": "ipv4_addr", "6": "ipv6_addr"}
_MULTICAST = {"4": "224.0.0.0/4", "6": "ff00::/8"}
PORT_MAPS = tuple(f"{kind}{f}" for f in _IP for kind in ("hostip", "hostport"))
_PORT_ELEMENT = re.compile(
    r"((?:[0-9a-f.:]+ \. )?(?:tcp|udp|sctp) \. \d+)(?: comment \"[^\"]*\")? : (?:goto|jump) (hp-[0-9a-f]+-[0-9a-f]+)"
)
_MASQUERADE_ELEMENT = re.compile(r"([0-9a-f.:]+)(?: comment \"[^\"]*\")? : (?:goto|jump) (masq-[0-9a-f]+-[0-9a-f]+)")


def family_of(address: str) -> str:
    """ "4" or "6"."""
    return "6" if ":" in address else "4"


def network_of(cidr: str) -> str:
    """``10.244.1.0/24`` of ``10.244.1.5/24``."""
    address, _, prefix = cidr.partition("/")
    width = 128 if ":" in address else 32
    packed = parse_subnet(f"{address}/{width}", cidr)[0]
    shift = width - int(prefix)
    return f"{type(packed)(packed.family, packed.number >> shift << shift)}/{prefix}"


def plan_skeleton() -> str:
    """The table with its maps and the chains that hook it in; may be applied again and again."""
    lines = [f"add table {TABLE}"]
    for family, address in _ADDRESS.items():
        lines += [
            f"add map {TABLE} masquerade{family} {{ type {address} : verdict; }}",
            f"add map {TABLE} hostport{family} {{ type inet_proto . inet_service : verdict; }}",
            f"add map {TABLE} hostip{family} {{ type {address} . inet_proto . inet_service : verdict; }}",
        ]
    for chain, hook in (
        ("postrouting", "type nat hook postrouting priority 100; policy accept;"),
        ("prerouting", "type nat hook prerouting priority -100; policy accept;"),
        ("output", "type nat hook output priority -100; policy accept;"),
        ("hostports", ""),
    ):
        lines += [f"add chain {TABLE} {chain} {{ {hook} }}", f"flush chain {TABLE} {chain}"]
    lines.append(f"add rule {TABLE} postrouting meta mark & {MARK} == {MARK} masquerade")
    lines += [f"add rule {TABLE} postrouting {ip} saddr vmap @masquerade{f}" for f, ip in _IP.items()]
    lines += [f"add rule {TABLE} {chain} fib daddr type local jump hostports" for chain in ("prerouting", "output")]
    for family, ip in _IP.items():
        port = "meta l4proto . th dport vmap"
        lines += [
            f"add rule {TABLE} hostports {ip} daddr . {port} @hostip{family}",
            f"add rule {TABLE} hostports meta nfproto ipv{family} {port} @hostport{family}",
        ]
    return "\n".join(lines) + "\n"


def plan_masquerade_elements(attachment: Attachment, cidrs: Sequence[str]) -> str:
    """One element for each address; fails where the table or the network's chain is not there yet."""
    chain = masquerade_chain(attachment.network, sorted({network_of(c) for c in cidrs}))
    return "".join(
        f"add element {TABLE} masquerade{family_of(cidr)} "
        f'{{ {cidr.partition("/")[0]} comment "{attachment.comment}" : goto {chain} }}\n'
        for cidr in cidrs
    )


def plan_masquerade_chain(network: str, cidrs: Sequence[str]) -> str:
    """The chain of a network with these addresses: what leaves it gets the node's address."""
    subnets = sorted({network_of(c) for c in cidrs})
    chain = masquerade_chain(network, subnets)
    lines = [f"add chain {TABLE} {chain}", f"flush chain {TABLE} {chain}"]
    for target in (*subnets, *sorted({_MULTICAST[family_of(s)] for s in subnets})):
        lines.append(f"add rule {TABLE} {chain} {_IP[family_of(target)]} daddr {target} return")
    lines.append(f'add rule {TABLE} {chain} masquerade comment "network {network[:100]}"')
    return "\n".join(lines) + "\n"


def masquerade_prefix(network: str) -> str:
    """What the names of a network's masquerade chains begin with."""
    return f"masq-{network_digest(network)}-"


def plan_masquerade_query(address: str) -> str:
    """Asks for the element of an address; fails if there is none."""
    return f"get element {TABLE} masquerade{family_of(address)} {{ {address} }}\n"


def plan_masquerade_removal(addresses: Iterable[str]) -> str:
    """Takes the elements of these addresses away; fails if one is not there (nft 1.0.6 has no ``destroy``)."""
    return "".join(f"delete element {TABLE} masquerade{family_of(a)} {{ {a} }}\n" for a in addresses)


def parse_masquerade(text: str) -> list[tuple[str, str]]:
    """(address, chain) of every element in a listing of the masquerade maps."""
    return _MASQUERADE_ELEMENT.findall(text)


def _matching(mappings: Sequence[PortMapping], family: str) -> list[PortMapping]:
    """The mappings that concern a family: those without hostIP, and those with one of it."""
    found = []
    for one in mappings:
        wanted = one.host_ip[3:] if one.host_ip.startswith("any") else one.host_ip and family_of(one.host_ip)
        if wanted in ("", family):
            found.append(one)
    return found


def port_keys(mappings: Sequence[PortMapping], family: str) -> list[tuple[str, str]]:
    """(map, key) of every mapping of a family."""
    found = []
    for one in _matching(mappings, family):
        port = f"{one.protocol} . {one.host_port}"
        if one.host_ip and not one.host_ip.startswith("any"):
            found.append((f"hostip{family}", f"{one.host_ip} . {port}"))
        else:
            found.append((f"hostport{family}", port))
    return list(dict.fromkeys(found))


def plan_port_mappings(
    attachment: Attachment, cidrs: Sequence[str], mappings: Sequence[PortMapping], *, snat: bool
) -> str:
    """The attachment's chain and the elements that lead to it, for the first address of each family in ``cidrs``."""
    chain = attachment.port_chain
    lines = [f'add chain {TABLE} {chain} {{ comment "{attachment.comment}" ; }}', f"flush chain {TABLE} {chain}"]
    elements: list[str] = []
    for family, ip in _IP.items():
        cidr = next((c for c in cidrs if family_of(c) == family), None)
        if cidr is None:
            continue
        if snat:
            sources = [network_of(cidr)] + (["127.0.0.0/8"] if family == "4" else [])
            lines.append(
                f"add rule {TABLE} {chain} {ip} saddr {{ {', '.join(sources)} }} meta mark set meta mark | {MARK}"
            )
        address = cidr.partition("/")[0]
        for one in _matching(mappings, family):
            own = one.host_ip and not one.host_ip.startswith("any")
            match = f"{ip} daddr {one.host_ip} " if own else f"meta nfproto ipv{family} "
            target = f"[{address}]:{one.container_port}" if family == "6" else f"{address}:{one.container_port}"
            lines.append(f"add rule {TABLE} {chain} {match}{one.protocol} dport {one.host_port} dnat {ip} to {target}")
        elements += [
            f'add element {TABLE} {name} {{ {key} comment "{attachment.comment}" : goto {chain} }}'
            for name, key in port_keys(mappings, family)
        ]
    return "\n".join([*lines, *elements]) + "\n"


def parse_ports(text: str) -> list[tuple[str, str]]:
    """(key, chain) of every element in the listing of a port map."""
    return _PORT_ELEMENT.findall(text)


def plan_port_removal(elements: Iterable[tuple[str, str, str]], chains: Iterable[str]) -> str:
    """Takes elements away, then the chains they led to."""
    lines = [f"delete element {TABLE} {name} {{ {key} }}" for name, key, _ in elements]
    for chain in chains:
        lines += [f"flush chain {TABLE} {chain}", f"delete chain {TABLE} {chain}"]
    return "\n".join(lines) + "\n"
