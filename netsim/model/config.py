"""What a cluster is asked to be: the topology and its addresses, from flags and a YAML file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from netsim.model.errors import InputError
from netsim.model.names import RESERVED_NAMESPACES
from netsim.model.networks import (
    DEFAULT_MASKS,
    DEFAULTS,
    Families,
    Network,
    Networks,
    choose_families,
    complete_networks,
    families_of,
    name_families,
    parse_masks,
    parse_networks,
)

PROXY_MODES = ("iptables", "nftables", "ipvs")
POD_NETWORKS = ("routes", "vxlan")
# Of the proxy mode ipvs: those of Linux (net/netfilter/ipvs), of which a kernel may lack some.
IPVS_SCHEDULERS = (
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf", "twos"
)  # fmt: skip
MAX_NODES = 1000  # a bridge has 1,023 ports (BR_MAX_PORTS, net/bridge/br_private.h); the fabric is one bridge
MIN_MTU_BYTES = {4: 576, 6: 1280}  # RFC 791, RFC 8200; below that the kernel switches the family off on a link
VXLAN_OVERHEAD_BYTES = {4: 50, 6: 70}  # outer IP 20 or 40 + UDP 8 + VXLAN 8 + inner Ethernet 14
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node of the topology file."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    max_pods: int = 110  # upstream's default, pkg/kubelet/apis/config/v1beta1/defaults.go


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One cluster. Every field has the default that the documentation names."""

    name: str = "netsim"
    nodes: tuple[NodeConfig, ...] = ()
    proxy_mode: str = "iptables"
    pod_network: str = "routes"
    ipvs_scheduler: str = "rr"
    ipvs_strict_arp: bool = False  # nodes answer ARP only for addresses of the link that was asked
    # One network for each address family, the primary family first; the same families in all four.
    node_cidrs: Networks = (DEFAULTS["nodeCIDR"][4],)
    pod_cidrs: Networks = (DEFAULTS["podCIDR"][4],)
    pod_cidr_masks: tuple[int, ...] = (24,)  # prefix lengths of each node's shares of pod_cidrs
    service_cidrs: Networks = (DEFAULTS["serviceCIDR"][4],)
    external_cidrs: Networks = (DEFAULTS["externalCIDR"][4],)
    dns_domain: str = "cluster.local"
    dns: bool = True  # run cluster DNS at the tenth address of each service network
    node_port_range: tuple[int, int] = (30000, 32767)  # both ends included
    mtu: int = 1500
    node_monitor_grace_s: int = 40  # a kubelet silent for so long: its node's conditions are Unknown
    cni: Mapping[str, Any] | None = None  # a CNI conflist; None is netsim's own

    @property
    def families(self) -> Families:
        """4 and 6, as far as the cluster has them, the primary one first."""
        return families_of(self.pod_cidrs)

    @property
    def ip_family(self) -> str:
        """``ipv4``, ``ipv6`` or ``dual``."""
        return name_families(self.families)

    @property
    def dns_ips(self) -> tuple[str, ...]:
        """The addresses of cluster DNS, one for each family."""
        return tuple(str(network[10]) for network in self.service_cidrs)

    @property
    def api_service_ip(self) -> str:
        """The address of default/kubernetes, which has one family as upstream: the primary service network's first."""
        return str(self.service_cidrs[0][1])

    @property
    def vxlan_family(self) -> int:
        """The family that carries pods' packets in VXLAN: IPv4 where there is IPv4, for its smaller header."""
        return min(self.families)

    @property
    def pod_mtu(self) -> int:
        """The MTU of pods' eth0: the fabric's, less VXLAN's headers where packets are wrapped."""
        return self.mtu - (VXLAN_OVERHEAD_BYTES[self.vxlan_family] if self.pod_network == "vxlan" else 0)


def make_nodes(count: int) -> tuple[NodeConfig, ...]:
    """``node-1`` to ``node-COUNT``."""
    return tuple(NodeConfig(f"node-{index}") for index in range(1, count + 1))


# The topology file's keys and the fields they set. Unknown keys are errors.
_NETWORKS = {
    "nodeCIDR": "node_cidrs",
    "podCIDR": "pod_cidrs",
    "serviceCIDR": "service_cidrs",
    "externalCIDR": "external_cidrs",
}
_PLAIN: dict[str, tuple[str, type]] = {
    "name": ("name", str),
    "proxyMode": ("proxy_mode", str),
    "podNetwork": ("pod_network", str),
    "dnsDomain": ("dns_domain", str),
    "dns": ("dns", bool),
    "mtu": ("mtu", int),
    "nodeMonitorGracePeriodSeconds": ("node_monitor_grace_s", int),
    "cni": ("cni", dict),
}
CONFIG_KEYS = (*_PLAIN, "ipFamily", *_NETWORKS, "podCIDRMask", "nodes", "nodePortRange", "ipvs")
# Below "ipvs": KubeProxyConfiguration's names (kube-proxy/config/v1alpha1/types.go, KubeProxyIPVSConfiguration).
_IPVS: dict[str, tuple[str, type]] = {"scheduler": ("ipvs_scheduler", str), "strictARP": ("ipvs_strict_arp", bool)}


def parse_config(document: Mapping[str, Any], where: str = "") -> ClusterConfig:
    """A topology document (the content of ``up --config FILE``) as a checked ClusterConfig.

    Raises InputError naming the field.
    """
    values: dict[str, Any] = _parse_addresses(document, where)
    for key, value in document.items():
        if key in ("ipFamily", "podCIDRMask", *_NETWORKS):
            continue
        if key in _PLAIN:
            name, wanted = _PLAIN[key]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise InputError(f"{key}: must be {wanted.__name__}, not {value!r}", where=where)
            values[name] = value
        elif key == "nodes":
            values["nodes"] = _parse_nodes(value, where)
        elif key == "nodePortRange":
            values["node_port_range"] = _parse_port_range(value, where)
        elif key == "ipvs":
            values |= _parse_ipvs(value, where)
        else:
            raise InputError(f'unknown field "{key}"', where=where, hint=f"known fields: {', '.join(CONFIG_KEYS)}")
    return check_config(ClusterConfig(**values), where)


def _parse_addresses(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys that belong together: ipFamily, the networks, and nodes' shares of the pod networks."""
    asked = document.get("ipFamily")
    given = {key: parse_networks(key, document[key], where) for key in _NETWORKS if key in document}
    families = choose_families(None if asked is None else str(asked), given, where)
    values: dict[str, Any] = {
        name: complete_networks(key, given.get(key, ()), families) for key, name in _NETWORKS.items()
    }
    if "podCIDRMask" in document:
        values["pod_cidr_masks"] = parse_masks("podCIDRMask", document["podCIDRMask"], families, where)
    else:
        values["pod_cidr_masks"] = tuple(DEFAULT_MASKS[family] for family in families)
    return values


def check_config(config: ClusterConfig, where: str = "") -> ClusterConfig:
    """``config``, or InputError: bad names, networks that overlap or are too small for the nodes."""

    def fail(text: str, hint: str = "") -> InputError:
        return InputError(text, where=where, hint=hint)

    if not _DNS_LABEL.fullmatch(config.name):
        raise fail(f'name: "{config.name}" must be a DNS label', "lower-case letters, digits and '-', at most 63")
    if config.proxy_mode not in PROXY_MODES:
        raise fail(f'proxyMode: "{config.proxy_mode}" is not one of {", ".join(PROXY_MODES)}')
    if config.pod_network not in POD_NETWORKS:
        raise fail(f'podNetwork: "{config.pod_network}" is not one of {", ".join(POD_NETWORKS)}')
    if config.ipvs_scheduler not in IPVS_SCHEDULERS:
        raise fail(f'ipvs.scheduler: "{config.ipvs_scheduler}" is not one of {", ".join(IPVS_SCHEDULERS)}')
    if not MIN_MTU_BYTES[4] <= config.mtu <= 65535:
        raise fail(f"mtu: {config.mtu} is not in {MIN_MTU_BYTES[4]}-65535")
    if config.node_monitor_grace_s < 1:
        raise fail(f"nodeMonitorGracePeriodSeconds: {config.node_monitor_grace_s} is not a positive number")
    least = max(MIN_MTU_BYTES[family] for family in config.families)
    if config.pod_mtu < least:
        raise fail(f"mtu: {config.mtu} leaves pods {config.pod_mtu} bytes; {config.ip_family} needs {least}")
    _check_nodes(config, fail)
    _check_networks(config, fail)
    return config


def _check_nodes(config: ClusterConfig, fail: Any) -> None:
    seen: set[str] = set()
    if len(config.nodes) > MAX_NODES:
        raise fail(
            f"nodes: {len(config.nodes)} are more than {MAX_NODES}, the most one fabric bridge can hold",
            f"ask for {MAX_NODES} or fewer",
        )
    for node in config.nodes:
        if not all(_DNS_LABEL.fullmatch(label) for label in node.name.split(".")) or len(node.name) > 253:
            raise fail(f'nodes: "{node.name}" must be a DNS name')
        if node.name in RESERVED_NAMESPACES:
            raise fail(f'nodes: the name "{node.name}" is taken by netsim itself', "choose another name")
        if node.name in seen:
            raise fail(f'nodes: "{node.name}" is there twice')
        seen.add(node.name)


def _check_networks(config: ClusterConfig, fail: Any) -> None:
    networks = [(key, network) for key, name in _NETWORKS.items() for network in getattr(config, name)]
    for (key_a, a), (key_b, b) in combinations(networks, 2):
        if a.version == b.version and a.overlaps(b):
            raise fail(f"{key_b}: {b} overlaps {key_a} {a}", "choose networks that do not share an address")
    for network, mask in zip(config.pod_cidrs, config.pod_cidr_masks, strict=True):
        _check_shares(network, mask, len(config.nodes), fail)
    for key, least, words in (
        ("nodeCIDR", len(config.nodes) + 3, f"for {len(config.nodes)} nodes and the router"),
        ("serviceCIDR", 16, ""),
        ("externalCIDR", 4, ""),
    ):
        for network in getattr(config, _NETWORKS[key]):
            if network.num_addresses < least:
                length = network.max_prefixlen - (least - 1).bit_length()
                raise fail(f"{key}: {network} is too small {words}".rstrip(), f"a /{length} at least")


def _check_shares(network: Network, mask: int, nodes: int, fail: Any) -> None:
    if not network.prefixlen <= mask <= network.max_prefixlen - 2:
        raise fail(f"podCIDRMask: /{mask} does not fit into podCIDR {network}")
    shares = 1 << (mask - network.prefixlen)
    if shares < nodes:
        raise fail(
            f"podCIDR: {network} has room for {shares} nodes with a /{mask} each, {nodes} are asked for",
            "give a larger podCIDR or a longer podCIDRMask",
        )


def _parse_nodes(value: Any, where: str) -> tuple[NodeConfig, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise InputError(f"nodes: {value} is not a positive number", where=where)
        return make_nodes(value)
    if not isinstance(value, list) or not value:
        raise InputError("nodes: must be a number or a list", where=where)
    nodes = []
    for index, item in enumerate(value):
        field_path = f"nodes[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InputError(f"{field_path}: must be an object with a name", where=where)
        unknown = set(item) - {"name", "labels", "taints", "maxPods"}
        if unknown:
            raise InputError(f'{field_path}: unknown field "{min(unknown)}"', where=where)
        max_pods = item.get("maxPods", 110)
        if not isinstance(max_pods, int) or max_pods < 0:
            raise InputError(f"{field_path}.maxPods: must be a number", where=where)
        labels = {str(k): str(v) for k, v in (item.get("labels") or {}).items()}
        nodes.append(NodeConfig(item["name"], labels, tuple(item.get("taints") or ()), max_pods))
    return tuple(nodes)


def _parse_ipvs(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("ipvs: must be a mapping", where=where, hint=f"of {', '.join(_IPVS)}")
    values: dict[str, Any] = {}
    for key, item in value.items():
        if key not in _IPVS:
            raise InputError(f'unknown field "ipvs.{key}"', where=where, hint=f"known fields: {', '.join(_IPVS)}")
        name, wanted = _IPVS[key]
        if not isinstance(item, wanted):
            raise InputError(f"ipvs.{key}: must be {wanted.__name__}, not {item!r}", where=where)
        values[name] = item
    return values


def _parse_port_range(value: Any, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", str(value))
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise InputError(f"nodePortRange: {value!r} is no range", where=where, hint="write it as 30000-32767")
    return first, last
