"""What a proxy is told: upstream's options, and where it runs.

Source: kubernetes pkg/proxy/apis/config/v1alpha1/defaults.go, pkg/proxy/util/localdetector.go, nodeport_addresses.go.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from netsim.model import marks
from netsim.model.config import IPVS_SCHEDULERS, PROXY_MODES, ClusterConfig
from netsim.model.errors import InputError
from proxy.addresses import (
    choose_cidrs,
    choose_ips,
    contains,
    is_loopback,
    is_zero_prefix,
    parse_cidr,
    parse_ip,
)

DETECT_LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
# Of nodePortAddresses, beside CIDRs; pkg/proxy/util/nodeport_addresses.go. What ``primary`` means depends on the node.
NODE_PORT_KEYWORDS: dict[str, tuple[str, ...]] = {
    "primary": (),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "all": ("0.0.0.0/0", "::/0"),
}
_INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}").fullmatch  # dev_valid_name, net/core/dev.c
IPVS_TIMEOUT_MAX_S = 0x7FFFFFFF // 1000  # INT_MAX jiffies with the fastest clock (ip_vs_set_timeout, ip_vs_ctl.c)
SYNC_PERIOD_S = 30.0  # upstream's syncPeriod
FULL_SYNC_PERIOD_S = 3600.0  # pkg/proxy/util.FullSyncPeriod
LARGE_CLUSTER_ENDPOINTS = 1000  # above this, no comments on what there is one of for each endpoint


@dataclass(frozen=True, slots=True)
class ConntrackConfig:
    """Upstream's conntrack settings; 0 leaves what the kernel has."""

    max_per_core: int = 0  # upstream: 32768. nf_conntrack_max is the machine's, so only the program sets it
    min: int = 131072
    tcp_established_s: float = 86400.0
    tcp_close_wait_s: float = 3600.0
    udp_s: float = 0.0
    udp_stream_s: float = 0.0


@dataclass(frozen=True, slots=True)
class IpvsTimeouts:
    """How long IPVS remembers idle connections; 0 leaves what the kernel has (900 s, 120 s, 300 s)."""

    tcp_s: float = 0.0
    tcp_fin_s: float = 0.0  # after a FIN
    udp_s: float = 0.0

    @property
    def given(self) -> bool:
        return self.tcp_s > 0 or self.tcp_fin_s > 0 or self.udp_s > 0


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """One proxy's options. Field names are upstream's, in our spelling."""

    mode: str = "iptables"
    families: tuple[int, ...] = (4,)
    masquerade_bit: int = marks.MASQUERADE.bit_length() - 1
    masquerade_all: bool = False
    detect_local_mode: str = "ClusterCIDR"
    cluster_cidrs: tuple[str, ...] = ()
    bridge_interface: str = ""  # of detect_local_mode BridgeInterface
    interface_name_prefix: str = ""  # of detect_local_mode InterfaceNamePrefix
    node_port_addresses: tuple[str, ...] = ()  # CIDRs, keywords; none: every local address (nftables: the node's own)
    service_cidrs: tuple[str, ...] = ()  # what is in none of its services is dropped (nftables)
    localhost_node_ports: bool = True  # IPv4 only; needs the sysctl route_localnet
    tcp_be_liberal: bool = False  # nf_conntrack_tcp_be_liberal is set: do not drop INVALID
    min_sync_period_s: float = 0.0  # least time from the end of one sync to the start of the next
    sync_period_s: float = SYNC_PERIOD_S  # retry after failure, check for flushed rules
    full_sync_period_s: float = FULL_SYNC_PERIOD_S
    large_cluster_endpoints: int = LARGE_CLUSTER_ENDPOINTS
    ipvs_scheduler: str = "rr"
    ipvs_strict_arp: bool = False  # do not answer ARP for addresses of kube-ipvs0 on other links
    ipvs_exclude_cidrs: tuple[str, ...] = ()  # virtual servers of somebody else's, to be left alone
    ipvs_timeouts: IpvsTimeouts = IpvsTimeouts()
    healthz_bind_address: str = "0.0.0.0:10256"  # IP:port in the node's namespace; "": not served
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False  # a port that is taken ends the proxy
    conntrack: ConntrackConfig = ConntrackConfig()

    @property
    def masquerade_mark(self) -> str:
        """``0x4000``: upstream's ``%#08x`` of the bit's value is six hex digits."""
        return f"0x{1 << self.masquerade_bit:x}"


def make_proxy_config(config: ClusterConfig) -> ProxyConfig:
    """The proxies' options in a cluster that netsim made."""
    ipv6 = config.families[0] == 6
    # Each sync is a process on each node: with many nodes, changes that trickle in are collected a while, so that
    # the proxies leave the machine to the pods. Three nodes never wait.
    pause_s = min(1.0, 0.01 * max(0, len(config.nodes) - 10))
    return ProxyConfig(
        mode=config.proxy_mode,
        families=config.families,
        cluster_cidrs=tuple(map(str, config.pod_cidrs)),
        service_cidrs=tuple(map(str, config.service_cidrs)),
        min_sync_period_s=pause_s,
        ipvs_scheduler=config.ipvs_scheduler,
        ipvs_strict_arp=config.ipvs_strict_arp,
        healthz_bind_address=f"{'[::]' if ipv6 else '0.0.0.0'}:10256",
        metrics_bind_address=f"{'[::1]' if ipv6 else '127.0.0.1'}:10249",
    )


def check_proxy_config(config: ProxyConfig) -> ProxyConfig:
    """``config``, or InputError in upstream's words (pkg/proxy/apis/config/validation/validation.go)."""
    if config.mode not in PROXY_MODES:
        raise InputError(f'mode: "{config.mode}" is no proxy mode', hint=f"use one of: {', '.join(PROXY_MODES)}")
    _check_detector(config)
    if config.ipvs_scheduler not in IPVS_SCHEDULERS:
        raise InputError(
            f'ipvs.scheduler: "{config.ipvs_scheduler}" is none', hint=f"one of {', '.join(IPVS_SCHEDULERS)}"
        )
    if not 0 <= config.masquerade_bit <= 31:
        raise InputError(f"masqueradeBit: {config.masquerade_bit} is not in [0, 31]")
    addresses = tuple(text for text in config.node_port_addresses if text not in NODE_PORT_KEYWORDS)
    for field_name, cidrs in (
        ("clusterCIDR", config.cluster_cidrs),
        ("nodePortAddresses", addresses),
        ("ipvs.excludeCIDRs", config.ipvs_exclude_cidrs),
    ):
        for cidr in cidrs:
            if parse_cidr(cidr) is None:
                raise InputError(f'{field_name}: "{cidr}" is no CIDR', hint="such as 10.244.0.0/16")
    for bind in filter(None, (config.healthz_bind_address, config.metrics_bind_address)):
        split_address(bind)
    timeouts = config.ipvs_timeouts
    for name, seconds in (("tcp", timeouts.tcp_s), ("tcpFin", timeouts.tcp_fin_s), ("udp", timeouts.udp_s)):
        if not 0 <= seconds <= IPVS_TIMEOUT_MAX_S:
            raise InputError(f"ipvs.{name}Timeout: {seconds:.0f} s is not in [0, {IPVS_TIMEOUT_MAX_S}]")
    _check_conntrack(config.conntrack)
    if config.min_sync_period_s < 0 or config.sync_period_s <= 0:
        raise InputError("syncPeriod must be greater than 0, minSyncPeriod not less than 0")
    return config


def _check_detector(config: ProxyConfig) -> None:
    mode = config.detect_local_mode
    if mode not in DETECT_LOCAL_MODES:
        raise InputError(f'detectLocalMode: "{mode}" is none', hint=f"one of {', '.join(DETECT_LOCAL_MODES)}")
    interface = {
        "BridgeInterface": ("bridgeInterface", config.bridge_interface),
        "InterfaceNamePrefix": ("interfaceNamePrefix", config.interface_name_prefix),
    }.get(mode)
    if interface is not None and not _INTERFACE_NAME(interface[1]):
        # Nobody would be a pod: what comes to ClusterIPs from outside would not be masqueraded, without a word.
        raise InputError(
            f'detectLocal.{interface[0]}: "{interface[1]}" is no name of an interface', hint="such as cni0"
        )


def _check_conntrack(conntrack: ConntrackConfig) -> None:
    for name, value in (
        ("maxPerCore", conntrack.max_per_core),
        ("min", conntrack.min),
        ("tcpEstablishedTimeout", conntrack.tcp_established_s),
        ("tcpCloseWaitTimeout", conntrack.tcp_close_wait_s),
        ("udpTimeout", conntrack.udp_s),
        ("udpStreamTimeout", conntrack.udp_stream_s),
    ):
        if value < 0:
            raise InputError(f"conntrack.{name}: must be greater than or equal to 0")


def expand_node_ports(config: ProxyConfig, node_ips: tuple[str, ...]) -> ProxyConfig:
    """``config`` for one node: the keywords of nodePortAddresses become networks.

    ``primary``: the node's first address of each family; ``localhost``; ``all``.
    """
    if not any(text in NODE_PORT_KEYWORDS for text in config.node_port_addresses):
        return config
    first = [next(iter(choose_ips(node_ips, family)), "") for family in config.families]
    meanings = NODE_PORT_KEYWORDS | {"primary": tuple(f"{ip}/{128 if ':' in ip else 32}" for ip in first if ip)}
    networks = (network for text in config.node_port_addresses for network in meanings.get(text, (text,)))
    return replace(config, node_port_addresses=tuple(dict.fromkeys(networks)))


def serves_loopback(config: ProxyConfig) -> bool:
    """Whether NodePorts answer on 127.0.0.1 in iptables mode: only if nodePortAddresses leaves loopback in.

    The sysctl that opens the way there and the rule that keeps neighbours out of it go together (CVE-2020-8558).
    """
    asked = config.node_port_addresses
    cidrs = choose_cidrs([cidr for text in asked for cidr in NODE_PORT_KEYWORDS.get(text, (text,))], 4)
    return config.localhost_node_ports and (not asked or any(contains(cidr, "127.0.0.1") for cidr in cidrs))


def split_address(text: str) -> tuple[str, int]:
    """``0.0.0.0:10256``, ``[::]:10256``: address and port. Raises InputError."""
    host, _, port = text.rpartition(":")
    address = parse_ip(host.strip("[]"))
    if address is None or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f'"{text}" is no IP:port', hint="such as 0.0.0.0:10256 or [::]:10256")
    return address, int(port)


@dataclass(frozen=True, slots=True)
class NodeView:
    """What planning knows of the node it plans for."""

    name: str
    ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    zone: str = ""

    def ip(self, family: int) -> str:
        """The node's address in a family, or "" when it has none."""
        return next(iter(choose_ips(self.ips, family)), "")


@dataclass(frozen=True, slots=True)
class FamilyView:
    """A node and its proxy's options as one address family sees them; what rules are made from."""

    config: ProxyConfig
    node: NodeView
    family: int
    local: str = field(init=False, default="")  # rule words that match traffic from this cluster's pods; "": unknown
    not_local: str = field(init=False, default="")

    def __post_init__(self) -> None:
        local, not_local = detect_local(self.config, self.node, self.family)
        object.__setattr__(self, "local", local)
        object.__setattr__(self, "not_local", not_local)

    @property
    def localhost_node_ports(self) -> bool:
        """NodePorts on 127.0.0.1: IPv4 alone has them."""
        return self.family == 4 and serves_loopback(self.config)

    def node_port_ips(self) -> tuple[str, ...] | None:
        """The addresses NodePorts answer on, or None for every local address.

        nodePortAddresses is matched against the Node's addresses and loopback, not against the interfaces.
        """
        cidrs = choose_cidrs(self.config.node_port_addresses, self.family)
        if not self.config.node_port_addresses or any(map(is_zero_prefix, cidrs)):
            return None
        candidates = (*choose_ips(self.node.ips, self.family), "127.0.0.1" if self.family == 4 else "::1")
        chosen = (ip for ip in candidates if any(contains(cidr, ip) for cidr in cidrs))
        return tuple(ip for ip in chosen if not is_loopback(ip) or self.localhost_node_ports)


def describe_gaps(view: FamilyView) -> list[str]:
    """What the options do not say for a family, and what follows from that, as upstream warns of it."""
    gaps = []
    if view.config.detect_local_mode == "ClusterCIDR" and not view.local:
        follows = "what comes to ClusterIPs from outside is not masqueraded, and policy Local holds for pods too"
        gaps.append(f"clusterCIDR has no network of this family, so nobody is known as a pod: {follows}")
    ips = view.node_port_ips()
    # Only iptables mode can have them on 127.0.0.1.
    if ips is not None and not any(view.config.mode == "iptables" or not is_loopback(ip) for ip in ips):
        gaps.append("nodePortAddresses has no address that NodePorts can answer on: they answer nowhere")
    return gaps


def detect_local(config: ProxyConfig, node: NodeView, family: int) -> tuple[str, str]:
    """Rule words for "from a pod of this cluster" and "not from one"; both "" when there is no way to tell."""
    if config.detect_local_mode == "BridgeInterface":
        return _pair("-i", config.bridge_interface)
    if config.detect_local_mode == "InterfaceNamePrefix":
        return _pair("-i", f"{config.interface_name_prefix}+" if config.interface_name_prefix else "")
    cidrs: Sequence[str] = node.pod_cidrs if config.detect_local_mode == "NodeCIDR" else config.cluster_cidrs
    return _pair("-s", next(iter(choose_cidrs(cidrs, family)), ""))


def _pair(option: str, value: str) -> tuple[str, str]:
    return (f"{option} {value}", f"! {option} {value}") if value else ("", "")
