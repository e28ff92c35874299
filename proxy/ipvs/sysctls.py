"""The sysctls that the ipvs mode wants. Source: kubernetes pkg/proxy/ipvs/proxier.go, NewProxier."""

import re

from proxy.config import ProxyConfig

CONN_REUSE = "net.ipv4.vs.conn_reuse_mode"
# Kernels whose conn_reuse_mode 1 costs a second for each connection whose port comes round again (kubernetes #93297):
# from the one that has the sysctl to the one that is right (pkg/util/kernel/constants.go).
_REUSE_FROM, _REUSE_UNTIL = (4, 1), (5, 9)


def parse_release(release: str) -> tuple[int, int]:
    """``6.1.0-18-amd64``: (6, 1); what is no such thing: (0, 0)."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def plan_sysctls(config: ProxyConfig, release: str) -> dict[str, int]:
    """What to set on a kernel of ``release`` (``uname -r``)."""
    sysctls = {
        "net.ipv4.vs.conntrack": 1,  # or netfilter could not masquerade what IPVS translated
        "net.ipv4.vs.expire_nodest_conn": 1,
        "net.ipv4.vs.expire_quiescent_template": 1,  # affinity must not hold on to a server at weight 0
        "net.ipv4.ip_forward": 1,
    }
    if _REUSE_FROM <= parse_release(release) < _REUSE_UNTIL:
        sysctls[CONN_REUSE] = 0
    if config.ipvs_strict_arp:  # no ARP answer on one link for an address on another: those on kube-ipvs0
        sysctls |= {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
    return sysctls
