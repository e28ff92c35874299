"""The command line of ``netsim-proxy``: upstream's flags, as its kube-proxy understands them.

Each flag sets a field of the configuration document. As upstream, a file (``--config``) goes before flags: of the flags
then only the node's name, ``--master``, ``-v`` and what to do (``--cleanup`` and kin) count.

Source: kubernetes cmd/kube-proxy/app/options.go (AddFlags, Complete).
"""

import argparse
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from netsim import __version__
from netsim.model.config import IPVS_SCHEDULERS
from netsim.model.errors import InputError, NetsimError, UsageError
from proxy.addresses import parse_cidr, parse_ip
from proxy.config import DETECT_LOCAL_MODES, ProxyConfig
from proxy.configuration import (
    HEALTHZ_PORT,
    METRICS_PORT,
    Document,
    append_port,
    default_document,
    make_config,
    read_file,
    set_defaults,
    set_field,
)
from proxy.durations import parse_duration
from proxy.modes import MODES

log = logging.getLogger("netsim-proxy")

DEFAULT_QPS, DEFAULT_BURST = 5.0, 10  # client-go rest/config.go


@dataclass(frozen=True, slots=True)
class Options:
    """What the program was asked to do."""

    config: ProxyConfig
    document: Document  # the whole configuration
    kubeconfig: str
    master: str  # the API server's URL, instead of the kubeconfig's
    node_name: str
    node_ip: str  # "": the Node object says it
    cleanup: bool = False
    init_only: bool = False
    write_config_to: str = ""
    config_file: str = ""
    verbosity: int = 0

    @property
    def oom_score_adj(self) -> int:
        return int(self.document["oomScoreAdj"])

    @property
    def request_rate(self) -> tuple[float, int]:
        """Requests to the API server: how many a second, and how many at once; 0 is client-go's default."""
        connection = self.document["clientConnection"]
        return float(connection["qps"] or DEFAULT_QPS), int(connection["burst"] or DEFAULT_BURST)


# --- types of flags ---


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _bool(text: str) -> bool:
    """As Go's flags: ``--flag``, ``--flag=false``."""
    found = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}.get(text.lower())
    if found is None:
        raise UsageError(f'"{text}" is neither true nor false')
    return found


def _ip(text: str) -> str:
    address = parse_ip(text)
    if address is None:
        raise UsageError(f'"{text}" is no address')
    return address


def _cidrs(text: str) -> str:
    for cidr in filter(None, text.split(",")):
        if parse_cidr(cidr) is None:
            raise UsageError(f'"{cidr}" is no CIDR', hint="such as 10.244.0.0/16")
    return text


def _list(text: str) -> list[str]:
    return [item for item in text.split(",") if item]


def _gates(text: str) -> dict[str, bool]:
    pairs = (item.partition("=") for item in text.split(",") if item)
    return {name: _bool(value or "?") for name, _, value in pairs}


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f'"{text}" is no number') from None


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f'"{text}" is no number') from None


# flag, the document's field, type, help
_Flag = tuple[str, str, Callable[[str], Any], str]
_FLAGS: tuple[_Flag, ...] = (
    ("kubeconfig", "clientConnection.kubeconfig", str, "how to reach the API server"),
    ("bind-address", "bindAddress", _ip, "the node's address; 0.0.0.0 or ::, as the Node object says"),
    ("proxy-mode", "mode", str, f"one of {', '.join(MODES)} (iptables)"),
    ("cluster-cidr", "clusterCIDR", _cidrs, "the pods' networks, one for each family"),
    ("detect-local-mode", "detectLocalMode", str, ", ".join(DETECT_LOCAL_MODES)),
    ("pod-bridge-interface", "detectLocal.bridgeInterface", str, "with --detect-local-mode BridgeInterface"),
    ("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", str, "with InterfaceNamePrefix"),
    ("nodeport-addresses", "nodePortAddresses", _list, "CIDRs, primary, localhost or all; none: everywhere"),
    ("healthz-bind-address", "healthzBindAddress", str, "/healthz and /livez (0.0.0.0:10256); empty: nowhere"),
    ("metrics-bind-address", "metricsBindAddress", str, "/metrics, /proxyMode, /configz (127.0.0.1:10249)"),
    ("bind-address-hard-fail", "bindAddressHardFail", _bool, "end when one of those ports is taken"),
    ("masquerade-all", "iptables.masqueradeAll", _bool, "masquerade all traffic to ClusterIPs"),
    ("iptables-masquerade-bit", "iptables.masqueradeBit", _number, "of the packet mark (14)"),
    ("iptables-localhost-nodeports", "iptables.localhostNodePorts", _bool, "NodePorts on 127.0.0.1 (IPv4)"),
    ("iptables-min-sync-period", "iptables.minSyncPeriod", _duration, "from sync to sync (1s)"),
    ("iptables-sync-period", "iptables.syncPeriod", _duration, "retry, and check (30s)"),
    ("ipvs-min-sync-period", "ipvs.minSyncPeriod", _duration, "the same in ipvs mode (0s)"),
    ("ipvs-sync-period", "ipvs.syncPeriod", _duration, "the same in ipvs mode (30s)"),
    ("ipvs-scheduler", "ipvs.scheduler", str, ", ".join(IPVS_SCHEDULERS)),
    ("ipvs-strict-arp", "ipvs.strictARP", _bool, "no ARP answers for addresses of kube-ipvs0 on other links"),
    ("ipvs-exclude-cidrs", "ipvs.excludeCIDRs", _list, "virtual servers to leave alone"),
    ("ipvs-tcp-timeout", "ipvs.tcpTimeout", _duration, "of idle connections; 0 leaves the kernel's"),
    ("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", _duration, "after a FIN"),
    ("ipvs-udp-timeout", "ipvs.udpTimeout", _duration, "of UDP"),
    ("conntrack-max-per-core", "conntrack.maxPerCore", _number, "size of the connection table (32768); 0: as it is"),
    ("conntrack-min", "conntrack.min", _number, "its least size (131072)"),
    ("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", _duration, "24h; 0: as it is"),
    ("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", _duration, "1h; 0: as it is"),
    ("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", _bool, "take out-of-window TCP packets"),
    ("conntrack-udp-timeout", "conntrack.udpTimeout", _duration, "of unanswered UDP; 0: as it is"),
    ("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", _duration, "of answered UDP; 0: as it is"),
    ("oom-score-adj", "oomScoreAdj", _number, "of this process (-999)"),
    ("config-sync-period", "configSyncPeriod", _duration, "taken, and not needed: watches bring changes"),
    ("kube-api-content-type", "clientConnection.contentType", str, "taken, and not needed: JSON is spoken"),
    ("kube-api-qps", "clientConnection.qps", _rate, "requests to the API server a second (5); below 0: no limit"),
    ("kube-api-burst", "clientConnection.burst", _number, "how many at once (10)"),
    ("profiling", "enableProfiling", _bool, "taken; there is no profile"),
    ("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", str, "taken; no metric is hidden"),
    ("feature-gates", "featureGates", _gates, "taken; there are no gates"),
)
# Of logging and of machines this proxy does not run on: upstream's command lines work as they are.
_IGNORED = (
    "vmodule",
    "log-flush-frequency",
    "logging-format",
    "log-text-split-stream",
    "log-text-info-buffer-size",
    "log-json-split-stream",
    "log-json-info-buffer-size",
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="netsim-proxy",
        description="A kube-proxy: writes the rules of Services into this network namespace.",
        allow_abbrev=False,
        argument_default=None,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"netsim-proxy {__version__}")
    add("--config", default="", metavar="FILE", help="a KubeProxyConfiguration; goes before flags")
    add("--write-config-to", default="", metavar="FILE", help="write the configuration with all defaults, and exit")
    add("--node-name", "--hostname-override", metavar="NAME", help="the Node this namespace is (the host's name)")
    add("--master", default="", metavar="URL", help="the API server, instead of the kubeconfig's")
    for name, _, kind, text in _FLAGS:
        more: dict[str, Any] = {"nargs": "?", "const": "true"} if kind is _bool else {}
        add(f"--{name}", metavar="BOOL" if kind is _bool else "VALUE", help=text, **more)
    add("--healthz-port", metavar="PORT", help="deprecated; 0: no health server")
    add("--metrics-port", metavar="PORT", help="deprecated; 0: no metrics server")
    add("--cleanup", nargs="?", const="true", metavar="BOOL", help="remove all rules a proxy ever wrote here, and exit")
    add("--init-only", nargs="?", const="true", metavar="BOOL", help="do what needs full privileges, and exit")
    add("-v", "--v", "--verbose", nargs="?", const="2", default="0", metavar="LEVEL", help="say what is done")
    for name in _IGNORED:
        add(f"--{name}", help=argparse.SUPPRESS)
    return parser


def parse_options(argv: Sequence[str]) -> Options:
    """Raises UsageError, InputError; SystemExit for --help and unknown flags."""
    args = vars(make_parser().parse_args(argv))
    verbosity = _value("v", _number, args["v"])
    cleanup, init_only = (_value(name, _bool, args[_key(name)] or "false") for name in ("cleanup", "init-only"))
    document = _from_file(args) if args["config"] else _from_flags(args)
    node_name = args["node_name"]
    if node_name is not None and not node_name.strip():
        raise UsageError("--hostname-override: empty")
    node_name = (node_name or document["hostnameOverride"] or socket.gethostname()).strip().lower()
    try:
        config = make_config(document)
    except InputError as error:
        raise (
            _at_file(error, args["config"]) if args["config"] else UsageError(error.message, hint=error.hint)
        ) from error
    bind = parse_ip(document["bindAddress"])
    return Options(
        config=config,
        document=document,
        kubeconfig=document["clientConnection"]["kubeconfig"],
        master=args["master"],
        node_name=node_name,
        node_ip="" if bind in ("0.0.0.0", "::", None) else bind,
        cleanup=cleanup,
        init_only=init_only,
        write_config_to=args["write_config_to"],
        config_file=args["config"],
        verbosity=verbosity,
    )


_FLAG_OF = {path: name.replace("-", "_") for name, path, *_ in _FLAGS}


def _from_file(args: dict[str, Any]) -> Document:
    ignored = [f"--{name}" for name, *_ in _FLAGS if args[_key(name)] is not None]
    if ignored:  # upstream says nothing, and people wonder
        log.warning("--config is given: %s count for nothing", ", ".join(ignored))
    return set_defaults(read_file(args["config"]))


def _from_flags(args: dict[str, Any]) -> Document:
    document = default_document()
    for name, path, kind, _ in _FLAGS:
        if args[_key(name)] is not None:
            set_field(document, path, _value(name, kind, args[_key(name)]))
    if args["masquerade_all"] is not None:
        document["nftables"]["masqueradeAll"] = document["iptables"]["masqueradeAll"]
    for field in ("syncPeriod", "minSyncPeriod"):  # upstream's --iptables-sync-period is nftables mode's too
        document["nftables"][field] = document["iptables"][field]
    if ":" in document["bindAddress"]:
        for path, ours in (
            ("healthzBindAddress", f"[::]:{HEALTHZ_PORT}"),
            ("metricsBindAddress", f"[::1]:{METRICS_PORT}"),
        ):
            if args[_FLAG_OF[path]] is None:
                document[path] = ours
    for path, old, port in (
        ("healthzBindAddress", "healthz-port", HEALTHZ_PORT),
        ("metricsBindAddress", "metrics-port", METRICS_PORT),
    ):
        asked = port if args[_key(old)] is None else _value(old, _number, args[_key(old)])
        document[path] = append_port(document[path], asked) if asked and document[path] else ""
    return document


def _key(flag: str) -> str:
    return flag.replace("-", "_")


def _value(flag: str, kind: Callable[[str], Any], text: str) -> Any:
    """A flag's value. Raises UsageError that names the flag."""
    try:
        return kind(text)
    except UsageError as error:
        raise UsageError(f"--{flag}: {error.message}", hint=error.hint) from error


def _at_file(error: NetsimError, path: str) -> InputError:
    return InputError(error.message, where=path, hint=error.hint)
