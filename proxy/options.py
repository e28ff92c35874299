"""The command line of ``netsim-proxy``: upstream's flag names where upstream has the flag.

Source: kubernetes cmd/kube-proxy/app/options.go.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from netsim.model.errors import UsageError
from proxy.addresses import choose_cidrs, family_of, parse_cidr, parse_ip
from proxy.config import DETECT_LOCAL_MODES, IPVS_SCHEDULERS, ProxyConfig, check_proxy_config
from proxy.modes import MODES

_MODES_TO_COME = tuple(mode for mode in ("nftables", "ipvs") if mode not in MODES)
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
UPSTREAM_MIN_SYNC_PERIOD = "1s"
UPSTREAM_SYNC_PERIOD = "30s"


@dataclass(frozen=True, slots=True)
class Options:
    """What the program was asked to do."""

    config: ProxyConfig
    kubeconfig: str
    node_name: str
    node_ip: str  # "": the Node object says it
    cleanup: bool
    verbose: bool


def parse_duration(text: str) -> float:
    """Go's notation (``1m30s``, ``500ms``, ``0``) in seconds. Raises UsageError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smh])", text)
    if text != "0" and (not parts or "".join(number + unit for number, unit in parts) != text):
        raise UsageError(f'"{text}" is no duration', hint="such as 30s, 1m30s, 500ms")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="netsim-proxy", description="A kube-proxy: writes the rules of Services into this network namespace."
    )
    add = parser.add_argument
    add("--kubeconfig", default="", metavar="FILE", help="how to reach the API server")
    add("--node-name", "--hostname-override", default="", metavar="NAME", help="the Node that this namespace is")
    add("--bind-address", default="0.0.0.0", metavar="IP", help="the node's address; 0.0.0.0: as the Node object says")
    add("--proxy-mode", default="iptables", metavar="MODE", help=f"one of {', '.join(MODES)}")
    add("--cluster-cidr", default="", metavar="CIDR", help="the pods' networks, one for each family")
    add("--detect-local-mode", default="ClusterCIDR", metavar="MODE", help=", ".join(DETECT_LOCAL_MODES))
    add("--pod-bridge-interface", default="", metavar="NAME", help="with --detect-local-mode BridgeInterface")
    add("--pod-interface-name-prefix", default="", metavar="PREFIX", help="with InterfaceNamePrefix")
    add("--masquerade-all", action="store_true", help="masquerade all traffic to ClusterIPs")
    add("--iptables-masquerade-bit", type=int, default=14, metavar="BIT", help="of the packet mark (14)")
    add("--iptables-min-sync-period", default=UPSTREAM_MIN_SYNC_PERIOD, metavar="TIME", help="from sync to sync (1s)")
    add("--iptables-sync-period", default=UPSTREAM_SYNC_PERIOD, metavar="TIME", help="retry, and check (30s)")
    add(
        "--iptables-localhost-nodeports",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="NodePorts on 127.0.0.1 (IPv4)",
    )
    add("--ipvs-scheduler", default="rr", metavar="NAME", help=", ".join(IPVS_SCHEDULERS))
    add("--ipvs-strict-arp", action="store_true", help="no ARP answers for addresses of kube-ipvs0 on other links")
    add("--nodeport-addresses", default="", metavar="CIDRS", help="where NodePorts answer; none: everywhere")
    add("--cleanup", action="store_true", help="remove all rules that a proxy ever wrote here, and exit")
    add("-v", "--verbose", action="store_true", help="say what is done")
    return parser


def parse_options(argv: Sequence[str]) -> Options:
    """Raises UsageError, InputError; SystemExit for --help and unknown flags."""
    args = make_parser().parse_args(argv)
    if args.proxy_mode in _MODES_TO_COME:
        hint = f"--proxy-mode {next(iter(MODES))}"
        raise UsageError(f"--proxy-mode {args.proxy_mode}: this proxy does not have that mode yet", hint=hint)
    if not args.cleanup and not (args.kubeconfig and args.node_name):
        raise UsageError("--kubeconfig and --node-name are needed", hint="netsim-proxy --help")
    cluster_cidrs = tuple(filter(None, args.cluster_cidr.split(",")))
    for cidr in cluster_cidrs:
        if parse_cidr(cidr) is None:
            raise UsageError(f'--cluster-cidr: "{cidr}" is no CIDR', hint="such as 10.244.0.0/16")
    bind = parse_ip(args.bind_address)
    if bind is None:
        raise UsageError(f'--bind-address: "{args.bind_address}" is no address')
    config = ProxyConfig(
        mode=args.proxy_mode,
        families=_families(cluster_cidrs, bind),
        masquerade_bit=args.iptables_masquerade_bit,
        masquerade_all=args.masquerade_all,
        detect_local_mode=args.detect_local_mode,
        cluster_cidrs=cluster_cidrs,
        bridge_interface=args.pod_bridge_interface,
        interface_name_prefix=args.pod_interface_name_prefix,
        node_port_addresses=tuple(filter(None, args.nodeport_addresses.split(","))),
        ipvs_scheduler=args.ipvs_scheduler or "rr",
        ipvs_strict_arp=args.ipvs_strict_arp,
        localhost_node_ports=args.iptables_localhost_nodeports,
        min_sync_period_s=parse_duration(args.iptables_min_sync_period),
        sync_period_s=parse_duration(args.iptables_sync_period),
    )
    node_ip = "" if bind in ("0.0.0.0", "::") else bind
    return Options(check_proxy_config(config), args.kubeconfig, args.node_name, node_ip, args.cleanup, args.verbose)


def _families(cluster_cidrs: tuple[str, ...], bind: str) -> tuple[int, ...]:
    """The families of --cluster-cidr, or that of --bind-address."""
    families = tuple(family for family in (4, 6) if choose_cidrs(cluster_cidrs, family))
    return families or (family_of(bind),)
