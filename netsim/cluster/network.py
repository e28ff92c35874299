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
"""

from collections.abc import Iterable
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
VXLAN_OVERHEAD_BYTES = 50  # outer IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14


@dataclass(frozen=True, slots=True)
class NodeNet:
    """One node as the network sees it. ``pod_cidr`` is "" until it is allocated."""

    name: str
    address: str  # on the fabric, without prefix length
    pod_cidr: str = ""


def pod_mtu(config: ClusterConfig) -> int:
    """The MTU of pods' eth0: the fabric's, less VXLAN's header where packets are wrapped."""
    return config.mtu - (VXLAN_OVERHEAD_BYTES if config.pod_network == "vxlan" else 0)


def choose_node_addresses(config: ClusterConfig) -> dict[str, str]:
    """Each node's fabric address: the router has the first one, nodes follow in order."""
    return {node.name: str(config.node_cidr[index + 2]) for index, node in enumerate(config.nodes)}


def derive_mac(address: str, prefix: int = 0x0A58) -> str:
    """A MAC that is derived from an IPv4 address, as Kubernetes' bridges do (0a:58 and the address)."""
    digits = f"{prefix:04x}{int(ip_address(address)) & 0xFFFFFFFF:08x}"
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def plan_fabric(config: ClusterConfig) -> Plan:
    """The fabric's bridge and router, and the external host behind it."""
    nodes, outside = config.node_cidr, config.external_cidr
    return (
        Sysctl(FABRIC, "net.ipv4.ip_forward", "1"),
        Bridge(FABRIC, FABRIC_BRIDGE, derive_mac(str(nodes[1])), config.mtu),
        Address(FABRIC, FABRIC_BRIDGE, f"{nodes[1]}/{nodes.prefixlen}"),
        Veth(FABRIC, FABRIC_EXTERNAL, EXTERNAL, "eth0", derive_mac(str(outside[2])), config.mtu),
        Address(FABRIC, FABRIC_EXTERNAL, f"{outside[1]}/{outside.prefixlen}"),
        Up(EXTERNAL, "eth0"),
        Address(EXTERNAL, "eth0", f"{outside[2]}/{outside.prefixlen}"),
        Route(EXTERNAL, "default", via=str(outside[1])),
    )


def plan_node(config: ClusterConfig, node: NodeNet) -> Plan:
    """A node's own part: its leg on the fabric, forwarding, and masquerading of what leaves the cluster."""
    return (
        *(Sysctl(node.name, key, value) for key, value in NODE_SYSCTLS),
        Veth(
            FABRIC,
            node_link(node.name),
            node.name,
            "eth0",
            derive_mac(node.address),
            config.mtu,
            FABRIC_BRIDGE,
        ),
        Up(node.name, "eth0"),
        Address(node.name, "eth0", f"{node.address}/{config.node_cidr.prefixlen}"),
        Route(node.name, "default", via=str(config.node_cidr[1])),
        NftRules(node.name, render_masquerade(config)),
    )


NODE_SYSCTLS = (
    ("net.ipv4.ip_forward", "1"),
    # Bridged packets go through iptables too, or a reply between two pods of one node would skip the un-NAT.
    ("net.bridge.bridge-nf-call-iptables", "1"),
    # Off, as kind and most distributions' node images have it: a reply may leave by another link than the request came.
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
)


def render_masquerade(config: ClusterConfig) -> str:
    """nft commands: pod traffic to anything but pods and nodes takes the node's address. Pod to pod never does.

    One rule for the whole node and not one for each pod (the reference bridge plugin's ipMasq), so a pod costs no rule.
    """
    return (
        f"table ip {NODE_TABLE} {{\n"
        f"  chain postrouting {{\n"
        f"    type nat hook postrouting priority srcnat; policy accept;\n"
        f"    ip saddr {config.pod_cidr} ip daddr != {{ {config.pod_cidr}, {config.node_cidr}, 224.0.0.0/4 }}"
        f' masquerade fully-random comment "pod traffic that leaves the cluster"\n'
        f"  }}\n"
        f"}}\n"
    )


def plan_pod_bridge(config: ClusterConfig, node: NodeNet) -> Plan:
    """cni0 with the pod CIDR's first address, and in vxlan mode the node's VXLAN device."""
    network = ip_network(node.pod_cidr)
    gateway = str(network[1])
    plan: list[Operation] = [
        Bridge(node.name, POD_BRIDGE, derive_mac(gateway), pod_mtu(config)),
        Address(node.name, POD_BRIDGE, f"{gateway}/{network.prefixlen}"),
    ]
    if config.pod_network == "vxlan":
        plan += [
            Vxlan(
                node.name,
                VXLAN_LINK,
                _vxlan_mac(node),
                VXLAN_VNI,
                VXLAN_PORT,
                node.address,
                "eth0",
                pod_mtu(config),
            ),
            # The device's own address is the pod CIDR's network address, /32, as flannel does: it is the source of
            # packets that the node itself sends to remote pods.
            Address(node.name, VXLAN_LINK, f"{network[0]}/32"),
        ]
    return tuple(plan)


def plan_peers(config: ClusterConfig, node: NodeNet, peers: Iterable[NodeNet]) -> Plan:
    """How ``node`` reaches the pod CIDRs of ``peers``."""
    plan: list[Operation] = []
    for peer in peers:
        if config.pod_network == "vxlan":
            gateway = str(ip_network(peer.pod_cidr)[0])
            plan += [
                Neighbour(node.name, VXLAN_LINK, gateway, _vxlan_mac(peer)),
                ForwardingEntry(node.name, VXLAN_LINK, _vxlan_mac(peer), peer.address),
                Route(node.name, peer.pod_cidr, via=gateway, link=VXLAN_LINK, onlink=True),
            ]
        else:
            plan += [
                Neighbour(node.name, "eth0", peer.address, derive_mac(peer.address)),
                Route(node.name, peer.pod_cidr, via=peer.address),
            ]
    return tuple(plan)


def _vxlan_mac(node: NodeNet) -> str:
    return derive_mac(node.address, 0x0A59)
