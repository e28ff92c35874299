"""The kernel's drop reasons in plain words. Pure.

Source: include/net/dropreason-core.h. A reason that is not here is shown by its own name.
"""

REASONS = {
    "BPF_CGROUP_EGRESS": "an eBPF program of a cgroup dropped it",
    "DEV_READY": "the interface on the other side is down",
    "FRAG_REASM_TIMEOUT": "fragments of it were missing",
    "IP_CSUM": "its IP checksum is wrong",
    "IP_INADDRERRORS": "it is not for this host, and forwarding is off",
    "IP_INHDR": "its IP header is wrong",
    "IP_INNOROUTES": "there is no route to its destination",
    "IP_INVALID_DEST": "its destination is no address to send to",
    "IP_INVALID_SOURCE": "its source is no address to come from",
    "IP_LOCALNET": "an address of the loopback network came over a link",
    "IP_LOCAL_SOURCE": "its source is an address of this host itself",
    "IP_NOPROTO": "nobody here takes its protocol",
    "IP_OUTNOROUTES": "there is no route to its destination",
    "IP_RPFILTER": "reverse path filter: an answer to its source would leave by another interface",
    "IPV6DISABLED": "IPv6 is off on the interface",
    "NEIGH_CREATEFAIL": "no entry for the neighbour could be made",
    "NEIGH_DEAD": "the neighbour's entry is being removed",
    "NEIGH_FAILED": "the neighbour does not answer",
    "NEIGH_HH_FILLFAIL": "the neighbour's link address is not known",
    "NEIGH_QUEUEFULL": "too many packets wait for the neighbour's link address",
    "NETFILTER_DROP": "netfilter dropped it",
    "NO_SOCKET": "no socket takes it",
    "NO_TX_TARGET": "the bridge has no port that is up to send it to",
    "OTHERHOST": "the frame is addressed to another host's link address",
    "PKT_TOO_BIG": "it is larger than the MTU",
    "QDISC_DROP": "the queue of the interface is full, or a filter there dropped it",
    "SOCKET_BACKLOG": "the socket's backlog is full",
    "SOCKET_FILTER": "a filter of the socket dropped it",
    "SOCKET_RCVBUFF": "the socket's buffer is full",
    "TCP_ABORT_ON_DATA": "the connection was aborted",
    "TCP_CSUM": "its TCP checksum is wrong",
    "TCP_LISTEN_OVERFLOW": "the listener's queue of new connections is full",
    "TCP_MINTTL": "its TTL is below the least the socket takes",
    "TC_EGRESS": "a traffic control filter dropped it",
    "TC_INGRESS": "a traffic control filter dropped it",
    "UDP_CSUM": "its UDP checksum is wrong",
    "UNHANDLED_PROTO": "nobody here takes its protocol",
    "UNICAST_IN_L2_MULTICAST": "a packet for one host came in a frame for many",
    "VXLAN_ENTRY_EXISTS": "its link address belongs to another tunnel",
    "VXLAN_INVALID_HDR": "its VXLAN header is wrong",
    "VXLAN_NO_REMOTE": "VXLAN has no forwarding entry for its link address, so it knows no node to send it to",
    "VXLAN_VNI_NOT_FOUND": "no VXLAN device here has its network identifier",
    "XDP": "an XDP program dropped it",
}

# Freed and not lost, or nothing that says why.
UNTELLING = frozenset({"NOT_SPECIFIED", "CONSUMED", "NOT_DROPPED_YET", "SKB_CONSUMED", "TCP_OLD_ACK", ""})


def name_reason(reason: str) -> str:
    """Without the kernel's prefixes."""
    return reason.removeprefix("SKB_").removeprefix("DROP_REASON_").removeprefix("SKB_DROP_REASON_")


def describe_reason(reason: str, function: str) -> str:
    """``words (REASON in function)``."""
    name = name_reason(reason)
    place = f" in {function.partition('+')[0]}" if function else ""
    if name == "NO_TX_TARGET" and function.startswith("vxlan"):
        words = REASONS["VXLAN_NO_REMOTE"]
    else:
        words = REASONS.get(name, "")
    return f"{words} ({name}{place})" if words else f"the kernel's drop reason is {name}{place}"
