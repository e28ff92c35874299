"""The node network, as data: the fabric, the nodes, and the pod network between them.

A packet's way between pods of two nodes (``routes``): pod eth0, node's cni0, node's eth0, fabric0, the other node's
eth0, cni0, pod: two routers, so its TTL is 62. With ``vxlan`` each node routes it into vxlan0, which carries it in
UDP.

Per node of N this costs one veth pair, a bridge, N-1 routes and neighbour entries, and (vxlan) N-1 forwarding entries.
Neighbours among nodes are permanent entries, since all namespaces of a machine share one table of learned ones, of
1,024 (gc_thresh3, net/core/neighbour.c): 100 nodes that talk to 1,000 pods would need twice that and wait for its
collector. That limit is the machine's, which netsim does not touch; permanent entries don't count against it. VXLAN
entries are static, as flannel has them; flooding and learning were not chosen, since a fabric has no multicast to lean
on.

Every plan runs over the cluster's address families, the primary one first; MAC addresses are derived from the primary
address. One VXLAN device carries both families (flannel has one for each): what it wraps is an Ethernet frame.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from netsim.model.config import ClusterConfig
from netsim.model.names import (
    EXTERNAL,
    FABRIC,
    FABRIC_BRIDGE,
    FABRIC_EXTERNAL,
    NODE_TABLE,
    POD_BRIDGE,
    VXLAN_LINK,
    node_link,
)
from netsim.ruleset.netplan import (
    Address,
    Bridge,
    ForwardingEntry,
    Neighbour,
    NftRules,
    Operation,
    Plan,
    Route,
    Sysctl,
    Up,
    Veth,
    Vxlan,
)

VXLAN_VNI = 1  # flannel's, pkg/backend/vxlan/vxlan.go
VXLAN_PORT = 8472  # Linux' own default, which flannel keeps; IANA's is 4789 (RFC 7348)


@dataclass(frozen=True, slots=True)
class NodeNet:
    """One node as the network sees it, in each family; ``pod_cidrs`` is empty until they are allocated."""

    name: str
    addresses: tuple[str, ...]  # on the fabric, without prefix length
    pod_cidrs: tuple[str, ...] = ()

    def address(self, family: int) -> str:
        """The fabric address of a family. Raises StopIteration when it has none."""
        return next(address for address in self.addresses if family_of(address) == family)


def family_of(address: str) -> int:
    """4 or 6, of an address or CIDR in text."""
    return 6 if ":" in address else 4


def choose_node_addresses(config: ClusterConfig) -> dict[str, tuple[str, ...]]:
    """Each node's fabric addresses: the router has the first one, nodes follow in order."""
    return {
        node.name: tuple(str(network[index + 2]) for network in config.node_cidrs)
        for index, node in enumerate(config.nodes)
    }


def derive_mac(address: str, prefix: int = 0x0A58) -> str:
    """A MAC that is derived from an IP address, as Kubernetes' bridges do: 0a:58 and the (last) four bytes."""
    digits = f"{prefix:04x}{int(ip_address(address)) & 0xFFFFFFFF:08x}"
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


# What makes a namespace a router of a family.
FORWARDING = {4: ("net.ipv4.ip_forward", "1"), 6: ("net.ipv6.conf.all.forwarding", "1")}


def plan_fabric(config: ClusterConfig) -> Plan:
    """The fabric's bridge and router, and the external host behind it."""
    nodes, outside = config.node_cidrs, config.external_cidrs
    return (
        *(Sysctl(FABRIC, *FORWARDING[family]) for family in config.families),
        Up(FABRIC, "lo"),
        Bridge(FABRIC, FABRIC_BRIDGE, derive_mac(str(nodes[0][1])), config.mtu),
        *(Address(FABRIC, FABRIC_BRIDGE, f"{network[1]}/{network.prefixlen}") for network in nodes),
        Veth(FABRIC, FABRIC_EXTERNAL, EXTERNAL, "eth0", derive_mac(str(outside[0][2])), config.mtu),
        *(Address(FABRIC, FABRIC_EXTERNAL, f"{network[1]}/{network.prefixlen}") for network in outside),
        Up(EXTERNAL, "eth0"),
        *(Address(EXTERNAL, "eth0", f"{network[2]}/{network.prefixlen}") for network in outside),
        *(Route(EXTERNAL, "default", via=str(network[1])) for network in outside),
    )


def plan_nodes(config: ClusterConfig, nodes: Sequence[NodeNet]) -> Plan:
    """The nodes' own part: first all legs on the fabric, then each node's forwarding, addresses and masquerading.

    In this order, since changing the namespace is what costs most when a plan is carried out.
    """
    legs = [
        Veth(FABRIC, node_link(node.name), node.name, "eth0", derive_mac(node.addresses[0]), config.mtu, FABRIC_BRIDGE)
        for node in nodes
    ]
    return (*legs, *(step for node in nodes for step in _plan_node(config, node)))


def _plan_node(config: ClusterConfig, node: NodeNet) -> Plan:
    return (
        *(Sysctl(node.name, *setting) for family in config.families for setting in NODE_SYSCTLS[family]),
        NftRules(node.name, render_masquerade(config)),
        Up(node.name, "eth0"),
        *(
            Address(node.name, "eth0", f"{address}/{network.prefixlen}")
            for address, network in zip(node.addresses, config.node_cidrs, strict=True)
        ),
        *(Route(node.name, "default", via=str(network[1])) for network in config.node_cidrs),
    )


NODE_SYSCTLS = {
    4: (
        FORWARDING[4],
        # Bridged packets go through iptables too, or a reply between two pods of one node would skip the un-NAT.
        ("net.bridge.bridge-nf-call-iptables", "1"),
        # Off, as kind and most distributions' node images have it: a reply may leave by another link than the request
        # came.
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
    ),
    6: (FORWARDING[6], ("net.bridge.bridge-nf-call-ip6tables", "1")),  # IPv6 knows no rp_filter
}
_TABLE_FAMILY = {4: "ip", 6: "ip6"}
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def render_masquerade(config: ClusterConfig) -> str:
    """nft commands: pod traffic to anything but pods and nodes takes the node's address. Pod to pod never does.

    One rule for the whole node and not one for each pod (the reference bridge plugin's ipMasq), so a pod costs no rule.
    """
    tables = []
    for family, pods, nodes in zip(config.families, config.pod_cidrs, config.node_cidrs, strict=True):
        ip = _TABLE_FAMILY[family]
        tables.append(
            f"table {ip} {NODE_TABLE} {{\n"
            f"  chain postrouting {{\n"
            f"    type nat hook postrouting priority srcnat; policy accept;\n"
            f"    {ip} saddr {pods} {ip} daddr != {{ {pods}, {nodes}, {_MULTICAST[family]} }}"
            f' masquerade fully-random comment "pod traffic that leaves the cluster"\n'
            f"  }}\n"
            f"}}\n"
        )
    return "".join(tables)


def plan_pod_bridge(config: ClusterConfig, node: NodeNet) -> Plan:
    """cni0 with the first address of each pod CIDR, and in vxlan mode the node's VXLAN device."""
    networks = [ip_network(cidr) for cidr in node.pod_cidrs]
    plan: list[Operation] = [
        Bridge(node.name, POD_BRIDGE, derive_mac(str(networks[0][1])), config.pod_mtu),
        *(Address(node.name, POD_BRIDGE, f"{network[1]}/{network.prefixlen}") for network in networks),
    ]
    if config.pod_network == "vxlan":
        plan += [
            Vxlan(
                node.name,
                VXLAN_LINK,
                _vxlan_mac(node),
                VXLAN_VNI,
                VXLAN_PORT,
                node.address(config.vxlan_family),
                "eth0",
                config.pod_mtu,
            ),
            # The device's own address is the pod CIDR's network address, /32 or /128, as flannel does: it is the source
            # of packets that the node itself sends to remote pods.
            *(Address(node.name, VXLAN_LINK, f"{network[0]}/{network.max_prefixlen}") for network in networks),
        ]
    return tuple(plan)


def plan_peers(config: ClusterConfig, node: NodeNet, peers: Iterable[NodeNet]) -> Plan:
    """How ``node`` reaches the pod CIDRs of ``peers``."""
    plan: list[Operation] = []
    for peer in peers:
        plan += _plan_vxlan_peer(config, node, peer) if config.pod_network == "vxlan" else _plan_routed_peer(node, peer)
    return tuple(plan)


def _plan_vxlan_peer(config: ClusterConfig, node: NodeNet, peer: NodeNet) -> Sequence[Operation]:
    mac = _vxlan_mac(peer)
    gateways = {cidr: str(ip_network(cidr)[0]) for cidr in peer.pod_cidrs}
    return (
        *(Neighbour(node.name, VXLAN_LINK, gateway, mac) for gateway in gateways.values()),
        ForwardingEntry(node.name, VXLAN_LINK, mac, peer.address(config.vxlan_family)),
        *(Route(node.name, cidr, gateway, VXLAN_LINK, onlink=True) for cidr, gateway in gateways.items()),
    )


def _plan_routed_peer(node: NodeNet, peer: NodeNet) -> Sequence[Operation]:
    mac = derive_mac(peer.addresses[0])
    return (
        *(Neighbour(node.name, "eth0", address, mac) for address in peer.addresses),
        *(Route(node.name, cidr, via=peer.address(family_of(cidr))) for cidr in peer.pod_cidrs),
    )


def _vxlan_mac(node: NodeNet) -> str:
    return derive_mac(node.addresses[0], 0x0A59)
