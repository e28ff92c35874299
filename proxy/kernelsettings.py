"""The sysctls a proxy wants, whatever its mode: the connection tracker's.

Source: kubernetes cmd/kube-proxy/app/server_linux.go (setupConntrack), conntrack.go.
"""

import logging
import os

from netsim.kernel.netns import Netns
from netsim.kernel.sysctl import read_sysctl, write_sysctl
from netsim.model.errors import FeatureMissing, KernelError
from proxy.config import ProxyConfig

log = logging.getLogger(__name__)

ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
_PREFIX = "net.netfilter.nf_conntrack_"
TCP_BE_LIBERAL = f"{_PREFIX}tcp_be_liberal"


def plan_settings(config: ProxyConfig, processors: int) -> dict[str, int]:
    """The sysctls to set and their values."""
    conntrack = config.conntrack
    timeouts = {
        "tcp_timeout_established": conntrack.tcp_established_s,
        "tcp_timeout_close_wait": conntrack.tcp_close_wait_s,
        "udp_timeout": conntrack.udp_s,
        "udp_timeout_stream": conntrack.udp_stream_s,
    }
    settings = {_PREFIX + name: int(seconds) for name, seconds in timeouts.items() if seconds > 0}
    if config.tcp_be_liberal:
        settings[TCP_BE_LIBERAL] = 1
    if conntrack.max_per_core > 0:
        settings[f"{_PREFIX}max"] = max(conntrack.max_per_core * processors, conntrack.min)
    return settings


def ensure_settings(netns: Netns, config: ProxyConfig) -> None:
    """Set them where the kernel lets us; what it refuses is logged.

    Only the machine's first namespace may size the connection table, and a container may write none of them: the rules
    work all the same.
    """
    for name, value in plan_settings(config, os.cpu_count() or 1).items():
        try:
            if name == f"{_PREFIX}max" and int(read_sysctl(netns, name)) == value:
                continue
            write_sysctl(netns, name, value)
        except (FeatureMissing, KernelError) as error:
            log.info("%s: %s", netns.name, error)


def forget_settings(netns: Netns) -> None:
    """Undo what only iptables mode wants.

    NodePorts on 127.0.0.1 need route_localnet, and its guard against neighbours (CVE-2020-8558) went with the rules.
    """
    try:
        write_sysctl(netns, ROUTE_LOCALNET, 0)
    except (FeatureMissing, KernelError) as error:
        log.info("%s: %s", netns.name, error)
