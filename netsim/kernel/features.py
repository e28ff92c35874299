"""What this machine's kernel and tools can do, and what netsim can't do without each.

The table is data; the looking is done by `feature_probe`, in a process of its own inside throw-away
namespaces, so that nothing is left and no thread of this process is moved.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from netsim.model.errors import FeatureMissing

_TIMEOUT_S = 60.0  # a busy machine under software emulation needs more than 20


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing a machine may lack.

    name:     the word for it in messages, in ``netsim check``, in tests and in NETSIM_REQUIRE.
    what:     what it is.
    option:   the kernel option or the package that brings it.
    costs:    what there is not without it.
    hint:     what to do where it is missing.
    required: nothing works without it.
    """

    name: str
    what: str
    option: str
    costs: str
    hint: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class FeatureState:
    """What was found. ``detail``: a version where present, else why not, in the words of the kernel or the
    tool.
    """

    feature: Feature
    present: bool
    detail: str = ""

    @property
    def name(self) -> str:
        return self.feature.name

    @property
    def required(self) -> bool:
        return self.feature.required

    @property
    def costs(self) -> str:
        return self.feature.costs

    @property
    def hint(self) -> str:
        return self.feature.hint


_ROOT = "run as root, or let ordinary users make user namespaces; in a container: --privileged"
_IPTABLES = "apt install iptables; on a kernel without these modules use --proxy-mode nftables"

FEATURES: tuple[Feature, ...] = (
    Feature("netns", "network namespaces", "CONFIG_NET_NS", "no cluster at all", _ROOT, True),
    Feature("mount", "mount namespaces", "CONFIG_NAMESPACES", "no cluster at all", _ROOT, True),
    Feature("pidns", "PID namespaces with their own /proc", "CONFIG_PID_NS", "no cluster at all", _ROOT, True),
    Feature(
        "userns",
        "user namespaces",
        "CONFIG_USER_NS",
        "no clusters without root",
        "run netsim as root, or: sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 (Debian), "
        "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)",
    ),
    Feature("veth", "virtual Ethernet pairs", "CONFIG_VETH", "no cluster at all", "modprobe veth", True),
    Feature("bridge", "bridges", "CONFIG_BRIDGE", "no cluster at all", "modprobe bridge", True),
    Feature(
        "br_netfilter",
        "netfilter on bridges",
        "CONFIG_BRIDGE_NETFILTER",
        "no Services between pods of one node",
        "modprobe br_netfilter",
        True,
    ),
    Feature(
        "packet",
        "raw packet sockets",
        "CONFIG_PACKET",
        "no packets sent or sniffed by tests, no capture",
        "modprobe af_packet",
    ),
    Feature("libpcap", "libpcap", "libpcap0.8", "no filters of a capture", "apt install libpcap0.8"),
    Feature(
        "conntrack",
        "connection tracking over netlink",
        "CONFIG_NF_CT_NETLINK",
        "no Services",
        "modprobe nf_conntrack_netlink",
        True,
    ),
    Feature(
        "nft",
        "nf_tables, and libnftables",
        "CONFIG_NF_TABLES",
        "no masquerading of pods on their way out, no proxy mode nftables",
        "apt install libnftables1; modprobe nf_tables",
        True,
    ),
    Feature(
        "iptables-nft",
        "iptables over nf_tables, with what kube-proxy's rules use",
        "CONFIG_NFT_COMPAT",
        "no proxy mode iptables, unless iptables-legacy is there",
        _IPTABLES,
    ),
    Feature(
        "iptables-legacy",
        "the older iptables, with what kube-proxy's rules use",
        "CONFIG_IP_NF_IPTABLES_LEGACY",
        "no proxy mode iptables, unless iptables-nft is there",
        _IPTABLES,
    ),
    Feature("ipset", "sets of addresses", "CONFIG_IP_SET", "no proxy mode ipvs", "apt install ipset; modprobe ip_set"),
    Feature(
        "ipvs",
        "the kernel's load balancer",
        "CONFIG_IP_VS",
        "no proxy mode ipvs",
        "modprobe ip_vs; other proxy modes need it not",
    ),
    Feature("dummy", "dummy interfaces", "CONFIG_DUMMY", "no proxy mode ipvs", "modprobe dummy"),
    Feature(
        "vxlan",
        "VXLAN tunnels",
        "CONFIG_VXLAN",
        "no --pod-network vxlan",
        "modprobe vxlan; --pod-network routes needs it not",
    ),
    Feature("ipv6", "IPv6", "CONFIG_IPV6", "no IPv6, no dual stack", "boot without ipv6.disable=1"),
    Feature(
        "overlay",
        "overlay file systems",
        "CONFIG_OVERLAY_FS",
        "containers can write to /tmp and /run only, and mount volumes only at paths the machine has",
        "modprobe overlay",
    ),
    Feature(
        "tbf", "token bucket filter", "CONFIG_NET_SCH_TBF", "no bandwidth limits for what pods send", "modprobe sch_tbf"
    ),
    Feature(
        "ifb",
        "intermediate functional block",
        "CONFIG_IFB",
        "no bandwidth limits for what pods receive",
        "modprobe ifb",
    ),
    Feature(
        "netem",
        "network emulation",
        "CONFIG_NET_SCH_NETEM",
        "no faults delay, duplicate, corrupt and reorder",
        "modprobe sch_netem",
    ),
    Feature("sctp", "SCTP", "CONFIG_IP_SCTP", "no ports with protocol SCTP", "modprobe sctp"),
    Feature(
        "nft_trace",
        "rule tracing of nf_tables",
        "CONFIG_NF_TABLES",
        "no rules in netsim trace",
        "apt install libnftables1; modprobe nf_tables",
    ),
    Feature(
        "drop_reasons",
        "drop reasons in tracefs",
        "CONFIG_TRACEPOINTS",
        "no reason for a drop in netsim trace",
        "run as root, with tracefs",
    ),
    Feature(
        "command:ip", "the command ip", "iproute2", "no links and routes in the dump on failure", "apt install iproute2"
    ),
    Feature(
        "command:nft", "the command nft", "nftables", "no looking at rules in netsim shell", "apt install nftables"
    ),
    Feature(
        "command:iptables-restore",
        "the command iptables-restore",
        "iptables",
        "no proxy mode iptables",
        "apt install iptables",
    ),
    Feature(
        "command:conntrack",
        "the command conntrack",
        "conntrack",
        "no looking at flows in netsim shell",
        "apt install conntrack",
    ),
    Feature("command:curl", "the command curl", "curl", "no curl in pods", "apt install curl"),
)

_BY_NAME = {feature.name: feature for feature in FEATURES}


def probe_features() -> dict[str, FeatureState]:
    """Look at the machine now; by name, in the table's order. Takes some 150 ms, leaves nothing, needs no
    root.
    """
    environment = {
        **os.environ,
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LC_ALL": "C",
    }
    done = subprocess.run(
        [sys.executable, "-m", "netsim.kernel.feature_probe"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=_TIMEOUT_S,
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        found = {}
    else:
        why = "not probed: what it needs is missing"
    states = {}
    for feature in FEATURES:
        present, detail = found.get(feature.name, (False, why))
        states[feature.name] = FeatureState(feature, present, detail)
    return states


def read_features() -> list[FeatureState]:
    """As `probe_features`, as a list in the table's order."""
    return list(probe_features().values())


def find_feature(name: str) -> Feature:
    """The feature of that name. Raises KeyError."""
    return _BY_NAME[name]


def missing(state: FeatureState) -> FeatureMissing:
    """The error for somebody who needs what is not there."""
    feature = state.feature
    return FeatureMissing(
        feature.name,
        f"{feature.what} ({feature.option}) missing: {state.detail}; without it: {feature.costs}",
        hint=feature.hint,
    )
