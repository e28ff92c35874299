"""Where upstream's proxy modes differ in what becomes of a packet: one table, each line with its source.

The oracle asks this table and nothing else about modes. A line is here because upstream's code says so, never because
ours does: a cell that fails is a bug in ``proxy/`` until the source below it has been read.
"""

from dataclasses import dataclass

MODES = ("iptables", "nftables", "ipvs")


@dataclass(frozen=True)
class Difference:
    """One thing that only ``modes`` do, as ``what`` says, and the file of kubernetes/kubernetes that makes them."""

    name: str
    modes: frozenset[str]
    what: str
    source: str


def _difference(name: str, modes: str, what: str, source: str) -> Difference:
    return Difference(name, frozenset(modes.split()), what, source)


DIFFERENCES = {
    difference.name: difference
    for difference in (
        _difference(
            "own packets to an external address without endpoints pass",
            "iptables",
            "An external or load-balancer address without endpoints is refused on its way in and through, but what "
            "the node itself sends there is left alone and goes out by the routes.",
            "pkg/proxy/iptables/proxier.go, iptablesJumpChains: KUBE-EXTERNAL-SERVICES is in INPUT and FORWARD only; "
            "pkg/proxy/nftables/proxier.go: filter-output jumps to service-endpoints-check, which knows all addresses",
        ),
        _difference(
            "source ranges need endpoints",
            "iptables",
            "A source outside loadBalancerSourceRanges is refused, as everybody is, when there are no endpoints; "
            "elsewhere it is dropped.",
            "pkg/proxy/iptables/proxier.go, syncProxyRules: usesFWChain = hasEndpoints && len(LoadBalancerVIPs) > 0 && "
            "len(LoadBalancerSourceRanges) > 0",
        ),
        _difference(
            "external policy Local falls back",
            "ipvs",
            "externalTrafficPolicy Local without an endpoint on this node uses the cluster's. Source kept, so only "
            "those get an answer to whom it comes back by this node.",
            "pkg/proxy/ipvs/proxier.go, syncEndpoint, and PR #97081",
        ),
        _difference(
            "internal policy Local without an endpoint refuses",
            "ipvs",
            "internalTrafficPolicy Local without an endpoint on this node: refused, not dropped.",
            "pkg/proxy/topology.go, CategorizeEndpoints: no cluster set where UsesClusterEndpoints is false; so "
            "syncEndpoint leaves a virtual server without real servers, for which the kernel refuses (ip_vs_leave)",
        ),
        _difference(
            "policy Local is for pods and the node, too",
            "ipvs",
            "A virtual server cannot tell who asks: with externalTrafficPolicy Local pods and the node itself get the "
            "node's own endpoints, if there are any, and keep their source.",
            "pkg/proxy/ipvs/proxier.go, syncProxyRules: one virtual server for each address, onlyNodeLocalEndpoints; "
            "KUBE-NODE-PORT-LOCAL-*, KUBE-LOAD-BALANCER-LOCAL and KUBE-EXTERNAL-IP-LOCAL return before KUBE-MARK-MASQ",
        ),
        _difference(
            "service addresses are the node's own",
            "ipvs",
            "What a node sends to a service address comes from that very address, unless it is masqueraded.",
            "pkg/proxy/ipvs/proxier.go, syncService: every address is on kube-ipvs0; and KUBE-SERVICES' rule for the "
            "node's own packets to a ClusterIP: -m set --match-set KUBE-CLUSTER-IP src,dst",
        ),
        _difference(
            "only the endpoint's node masquerades a pod that meets itself",
            "ipvs",
            "Through another node's NodePort (policy Local) a pod that meets itself is masqueraded by its own node, "
            "and the answer does not come back by the other.",
            "pkg/proxy/ipvs/proxier.go, syncProxyRules: only local endpoints are entered in KUBE-LOOP-BACK",
        ),
        _difference(
            "source ranges let the node itself pass",
            "ipvs",
            "loadBalancerSourceRanges do not hold for what the node itself sends.",
            "pkg/proxy/ipvs/proxier.go, iptablesJumpChain: KUBE-PROXY-FIREWALL hangs in INPUT and FORWARD, and IPVS "
            "takes the node's own packets in LOCAL_OUT",
        ),
        _difference(
            "other ports of a ClusterIP are refused",
            "nftables ipvs",
            "A port that the Service does not have. iptables leaves such packets to the routes.",
            "pkg/proxy/nftables/proxier.go, cluster-ips-check; pkg/proxy/ipvs/proxier.go, KUBE-IPVS-FILTER, and the "
            "address is the node's own on kube-ipvs0",
        ),
        _difference(
            "unallocated service addresses are dropped",
            "nftables",
            "An address of the service network that no Service has. The others leave such packets to the routes.",
            "pkg/proxy/nftables/proxier.go, cluster-ips-check: daddr in the ServiceCIDRs, drop",
        ),
        _difference(
            "NodePorts answer on the Node's addresses alone",
            "nftables",
            "Not on the other addresses that a node has, such as its bridge's; the others answer on every local one.",
            "pkg/proxy/apis/config/v1alpha1/defaults.go: nodePortAddresses is primary in mode nftables where it is "
            "empty; pkg/proxy/nftables/proxier.go, nodeport-ips",
        ),
        _difference(
            "NodePorts answer on 127.0.0.1",
            "iptables",
            "IPv4 alone, as IPv6 has no route_localnet.",
            "pkg/proxy/iptables/proxier.go: iptables.localhostNodePorts, and the sysctl route_localnet",
        ),
        _difference(
            "NodePorts lacking endpoints are barred on every local address",
            "iptables",
            "With policy Local and endpoints on other nodes alone the number is dropped on ::1 too, where no NodePort "
            "answers.",
            "pkg/proxy/iptables/proxier.go, syncProxyRules: KUBE-EXTERNAL-SERVICES, -m addrtype --dst-type LOCAL, "
            "whatever nodePortAddresses are",
        ),
        _difference(
            "an externalIP may be a node's own address",
            "iptables nftables",
            "ipvs binds every externalIP to kube-ipvs0 on every node, so that no other node could reach that one any "
            "more: there are no such cells.",
            "pkg/proxy/ipvs/proxier.go, syncProxyRules: syncService(..., bindAddr true) for ExternalIPs",
        ),
    )
}


def differs(mode: str, name: str) -> bool:
    """Whether ``mode`` is one of those that do it. Raises KeyError for a mode or a difference that is not in here."""
    if mode not in MODES:
        raise KeyError(mode)
    return mode in DIFFERENCES[name].modes
