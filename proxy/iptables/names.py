"""Names of kube-proxy's chains, and the jumps to them.

Source: kubernetes pkg/proxy/iptables/proxier.go (chain constants, portProtoHash, iptablesJumpChains).
"""

import base64
import hashlib
from functools import lru_cache
from typing import NamedTuple

SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODEPORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
FORWARD = "KUBE-FORWARD"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
FIREWALL = "KUBE-FIREWALL"  # shared with the kubelet: holds the anti-martian rule alone
CANARY = "KUBE-PROXY-CANARY"
KUBELET_CANARY = "KUBE-KUBELET-CANARY"

INVALID_COUNTER = "ct_state_invalid_dropped_pkts"  # nfacct's, where the kernel has that
LOCALHOST_COUNTER = "localhost_nps_accepted_pkts"
PROBE = "KUBE-PROXY-PROBE"
COUNTERS = (INVALID_COUNTER, LOCALHOST_COUNTER)

CLUSTER_PREFIX = "KUBE-SVC-"
LOCAL_PREFIX = "KUBE-SVL-"
FIREWALL_PREFIX = "KUBE-FW-"
EXTERNAL_PREFIX = "KUBE-EXT-"
ENDPOINT_PREFIX = "KUBE-SEP-"
SERVICE_PREFIXES = (CLUSTER_PREFIX, LOCAL_PREFIX, FIREWALL_PREFIX, EXTERNAL_PREFIX, ENDPOINT_PREFIX)

CANARY_TABLES = ("mangle", "nat", "filter")
FILTER_CHAINS = (SERVICES, EXTERNAL_SERVICES, FORWARD, NODEPORTS, PROXY_FIREWALL)
NAT_CHAINS = (SERVICES, NODEPORTS, POSTROUTING, MARK_MASQ)


class Jump(NamedTuple):
    """A rule in a built-in chain that leads to one of ours."""

    table: str
    chain: str
    target: str
    spec: str


def _jump(table: str, target: str, chain: str, comment: str, match: str = "") -> Jump:
    words = [match, f'-m comment --comment "{comment}"' if comment else "", f"-j {target}"]
    return Jump(table, chain, target, " ".join(word for word in words if word))


_NEW = "-m conntrack --ctstate NEW"
# In this order each is put in front, so the last one of a chain ends up first.
JUMPS = (
    _jump("filter", EXTERNAL_SERVICES, "INPUT", "kubernetes externally-visible service portals", _NEW),
    _jump("filter", EXTERNAL_SERVICES, "FORWARD", "kubernetes externally-visible service portals", _NEW),
    _jump("filter", NODEPORTS, "INPUT", "kubernetes health check service ports"),
    _jump("filter", SERVICES, "FORWARD", "kubernetes service portals", _NEW),
    _jump("filter", SERVICES, "OUTPUT", "kubernetes service portals", _NEW),
    _jump("filter", FORWARD, "FORWARD", "kubernetes forwarding rules"),
    _jump("filter", PROXY_FIREWALL, "INPUT", "kubernetes load balancer firewall", _NEW),
    _jump("filter", PROXY_FIREWALL, "OUTPUT", "kubernetes load balancer firewall", _NEW),
    _jump("filter", PROXY_FIREWALL, "FORWARD", "kubernetes load balancer firewall", _NEW),
    _jump("nat", SERVICES, "OUTPUT", "kubernetes service portals"),
    _jump("nat", SERVICES, "PREROUTING", "kubernetes service portals"),
    _jump("nat", POSTROUTING, "POSTROUTING", "kubernetes postrouting rules"),
    _jump("filter", FIREWALL, "INPUT", ""),
    _jump("filter", FIREWALL, "OUTPUT", ""),
)


@lru_cache(maxsize=1 << 17)
def hash16(text: str) -> str:
    """The first 16 characters of base32(sha256(text)): chain names hold at most 28 bytes."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode()


def service_hash(name: str, protocol: str) -> str:
    """The suffix of a service port's chains. ``name`` is ``ns/name:port``, ``protocol`` in lower case."""
    return hash16(name + protocol)


def endpoint_chain(name: str, protocol: str, endpoint: str) -> str:
    """The chain of one endpoint (``ip:port``) of a service port."""
    return ENDPOINT_PREFIX + hash16(name + protocol + endpoint)


def is_service_chain(chain: str) -> bool:
    """Whether a chain of table nat belongs to one service port."""
    return chain.startswith(SERVICE_PREFIXES)
