"""What a cluster is asked to be: the topology and its addresses, from flags and a YAML file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations
from typing import Any

from netsim.model.errors import InputError
from netsim.model.names import RESERVED_NAMESPACES

Network = IPv4Network | IPv6Network

PROXY_MODES = ("iptables", "ipvs")
POD_NETWORKS = ("routes", "vxlan")
MAX_NODES = 1000  # a bridge has 1,023 ports (BR_MAX_PORTS, net/bridge/br_private.h); the fabric is one bridge
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
    node_cidr: Network = IPv4Network("172.18.0.0/16")
    pod_cidr: Network = IPv4Network("10.244.0.0/16")
    pod_cidr_mask: int = 24  # prefix length of each node's share of pod_cidr
    service_cidr: Network = IPv4Network("10.96.0.0/12")
    external_cidr: Network = IPv4Network("203.0.113.0/24")
    dns_domain: str = "cluster.local"
    dns: bool = True  # run cluster DNS at service_cidr's tenth address
    node_port_range: tuple[int, int] = (30000, 32767)  # both ends included
    mtu: int = 1500
    cni: Mapping[str, Any] | None = None  # a CNI conflist; None is netsim's own

    @property
    def dns_ip(self) -> str:
        return str(self.service_cidr[10])

    @property
    def api_service_ip(self) -> str:
        """The address of default/kubernetes: the service network's first."""
        return str(self.service_cidr[1])


def make_nodes(count: int) -> tuple[NodeConfig, ...]:
    """``node-1`` to ``node-COUNT``."""
    return tuple(NodeConfig(f"node-{index}") for index in range(1, count + 1))


# The topology file's keys and the fields they set. Unknown keys are errors.
_NETWORKS = {
    "nodeCIDR": "node_cidr",
    "podCIDR": "pod_cidr",
    "serviceCIDR": "service_cidr",
    "externalCIDR": "external_cidr",
}
_PLAIN: dict[str, tuple[str, type]] = {
    "name": ("name", str),
    "proxyMode": ("proxy_mode", str),
    "podNetwork": ("pod_network", str),
    "podCIDRMask": ("pod_cidr_mask", int),
    "dnsDomain": ("dns_domain", str),
    "dns": ("dns", bool),
    "mtu": ("mtu", int),
    "cni": ("cni", dict),
}
CONFIG_KEYS = (*_PLAIN, *_NETWORKS, "nodes", "nodePortRange")


def parse_config(document: Mapping[str, Any], where: str = "") -> ClusterConfig:
    """A topology document (the content of ``up --config FILE``) as a checked ClusterConfig.

    Raises InputError naming the field.
    """
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key in _NETWORKS:
            values[_NETWORKS[key]] = _parse_network(key, value, where)
        elif key in _PLAIN:
            name, wanted = _PLAIN[key]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise InputError(f"{key}: must be {wanted.__name__}, not {value!r}", where=where)
            values[name] = value
        elif key == "nodes":
            values["nodes"] = _parse_nodes(value, where)
        elif key == "nodePortRange":
            values["node_port_range"] = _parse_port_range(value, where)
        else:
            raise InputError(f'unknown field "{key}"', where=where, hint=f"known fields: {', '.join(CONFIG_KEYS)}")
    return check_config(ClusterConfig(**values), where)


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
    if not 576 <= config.mtu <= 65535:
        raise fail(f"mtu: {config.mtu} is not in 576-65535")
    _check_nodes(config, fail)
    _check_networks(config, fail)
    return config


def _check_nodes(config: ClusterConfig, fail: Any) -> None:
    seen: set[str] = set()
    if len(config.nodes) > MAX_NODES:
        raise fail(f"nodes: {len(config.nodes)} are more than {MAX_NODES}, the most one fabric bridge can hold")
    for node in config.nodes:
        if not all(_DNS_LABEL.fullmatch(label) for label in node.name.split(".")) or len(node.name) > 253:
            raise fail(f'nodes: "{node.name}" must be a DNS name')
        if node.name in RESERVED_NAMESPACES:
            raise fail(f'nodes: the name "{node.name}" is taken by netsim itself', "choose another name")
        if node.name in seen:
            raise fail(f'nodes: "{node.name}" is there twice')
        seen.add(node.name)


def _check_networks(config: ClusterConfig, fail: Any) -> None:
    networks = {key: getattr(config, name) for key, name in _NETWORKS.items()}
    for (key_a, a), (key_b, b) in combinations(networks.items(), 2):
        if a.version == b.version and a.overlaps(b):
            raise fail(f"{key_b}: {b} overlaps {key_a} {a}", "choose networks that do not share an address")
    if not config.pod_cidr.prefixlen <= config.pod_cidr_mask <= config.pod_cidr.max_prefixlen - 2:
        raise fail(f"podCIDRMask: /{config.pod_cidr_mask} does not fit into podCIDR {config.pod_cidr}")
    shares = 1 << (config.pod_cidr_mask - config.pod_cidr.prefixlen)
    if shares < len(config.nodes):
        raise fail(
            f"podCIDR: {config.pod_cidr} has room for {shares} nodes with a /{config.pod_cidr_mask} each, "
            f"{len(config.nodes)} are asked for",
            "give a larger podCIDR or a longer podCIDRMask",
        )
    if config.node_cidr.num_addresses - 3 < len(config.nodes):
        raise fail(f"nodeCIDR: {config.node_cidr} is too small for {len(config.nodes)} nodes and the router")
    if config.service_cidr.num_addresses < 16:
        raise fail(f"serviceCIDR: {config.service_cidr} is too small", "a /28 at least")
    if config.external_cidr.num_addresses < 4:
        raise fail(f"externalCIDR: {config.external_cidr} is too small", "a /30 at least")


def _parse_network(key: str, value: Any, where: str) -> Network:
    try:
        network = ip_network(str(value))
    except ValueError as error:
        raise InputError(f"{key}: {error}", where=where) from error
    if network.version != 4:
        raise InputError(f"{key}: {value} is IPv6; only IPv4 networks are supported", where=where)
    return network


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


def _parse_port_range(value: Any, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", str(value))
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise InputError(f"nodePortRange: {value!r} is no range", where=where, hint="write it as 30000-32767")
    return first, last
