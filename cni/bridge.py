"""The bridge, its gateway addresses, the veth pair, and what is set up inside the container.

A pod's path costs one batch of messages in the node and one in the pod. MAC addresses are derived from the pod's
address (0a:58 and its last four bytes), so that an address which is handed out again needs no gratuitous ARP: whoever
remembers the old holder remembers the right MAC. The reference has the kernel announce each pod to the whole bridge
(arp_notify), which with 1,000 ports is 1,000,000 packets.
"""

import errno
import os
import socket
import time
from collections.abc import Mapping, Sequence

from cni.attachment import Attachment
from cni.config import NetConf
from cni.ipam.allocator import Choice
from cni.ipam.ranges import Addr
from cni.types import ALREADY_ATTACHED, INVALID_CONFIG, KERNEL_REFUSED, CniError, Route
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import (
    Rtnl,
    del_address,
    new_address,
    new_bridge,
    new_route,
    new_veth,
    set_bridge_port,
    set_link,
)
from netsim.kernel.rtnl_read import Link
from netsim.kernel.rtnl_socket import BatchError
from netsim.kernel.rtnl_wire import IF_OPER_UNKNOWN, Message, parse_cidr, render_mac
from netsim.model.errors import KernelError

BRIDGE_MAX_PORTS = 1023  # BR_MAX_PORTS - 1, net/bridge/br_private.h: ports are numbered in 10 bits, from 1
_FORWARDING = {
    socket.AF_INET: "/proc/sys/net/ipv4/ip_forward",
    socket.AF_INET6: "/proc/sys/net/ipv6/conf/all/forwarding",
}
# The kernel's linkwatch works events off once a second at the latest (net/core/link_watch.c), but has to wait for the
# rtnl lock, which fifty other ADDs and DELs may hold before it.
_SETTLE_S = 10.0
_SETTLE_POLL_S = 0.0002


def random_mac() -> str:
    """A locally administered unicast MAC."""
    first, *rest = os.urandom(6)
    return render_mac(bytes([first & 0xFC | 0x02, *rest]))


def address_mac(address: Addr) -> str:
    """The MAC of the pod with this address; the prefix is the one Kubernetes plugins have used for that since 2016."""
    return render_mac(b"\x0a\x58" + (address.number & 0xFFFFFFFF).to_bytes(4, "big"))


def ensure_bridge(node: Rtnl, conf: NetConf) -> Link:
    """The network's bridge, made if need be: up, its MAC for ever. CniError if the name is something else's."""
    link = node.link(conf.bridge)
    if link is None:
        try:
            node.batch([new_bridge(conf.bridge, mac=random_mac(), mtu=conf.mtu)])
        except KernelError as error:
            if error.errno != errno.EEXIST:  # another ADD was first
                raise
        _set_up_ipv6(conf)
        link = node.link(conf.bridge)
    if link is None or link.kind != "bridge":
        raise CniError(INVALID_CONFIG, f'"{conf.bridge}" already exists but is not a bridge')
    changes = []
    if not link.up:
        changes.append(set_link(link.ifindex, up=True))
    if conf.promisc and not link.promisc:
        changes.append(set_link(link.ifindex, promisc=True))
    if changes:
        node.batch(changes)
    return link


def _set_up_ipv6(conf: NetConf) -> None:
    """What a new bridge needs to be a router; its first port, which gives it a carrier, comes later."""
    settings = {"accept_ra": "0"}  # its routes are ours
    if not conf.enable_dad:
        # For the second or two in which its link-local address is tentative, the bridge cannot ask for neighbours on
        # behalf of others (ndisc_solicit, net/ipv6/ndisc.c), and the first connections to a mapped port are lost.
        settings["accept_dad"] = "0"
    for name, value in settings.items():
        write_sysctl_here(f"/proc/sys/net/ipv6/conf/{conf.bridge}/{name}", value, needed=False)


def plan_gateways(choices: Sequence[Choice]) -> list[str]:
    """The gateway addresses that belong on the bridge, as CIDRs, without repetition."""
    return list(dict.fromkeys(c.range.cidr(c.gateway.number) for c in choices))


def ensure_gateways(node: Rtnl, bridge: Link, cidrs: Sequence[str], *, force: bool) -> None:
    """The bridge has these addresses and the node forwards. CniError if it has another one and ``force`` is not set.

    An IPv6 address may stand beside others whose subnets do not overlap with it; an IPv4 address stands alone.
    """
    if not cidrs:
        return
    families = {parse_cidr(c)[0] for c in cidrs}
    present = {a.cidr: a.family for a in node.addresses(index=bridge.ifindex) if a.family in families}
    changes: list[Message] = []
    for cidr in cidrs:
        if cidr in present:
            continue
        for other in present:
            if other in cidrs or not _in_the_way(cidr, other):
                continue
            if not force:
                words = f'"{bridge.name}" already has an IP address different from {cidr}'
                raise CniError(INVALID_CONFIG, words, f"it has {other}; forceAddress replaces it")
            changes.append(del_address(other, bridge.ifindex))
        changes.append(new_address(cidr, bridge.ifindex))
    if changes:
        if socket.AF_INET6 in families:
            write_sysctl_here(f"/proc/sys/net/ipv6/conf/{bridge.name}/disable_ipv6", "0")
        # Without a MAC of its own a bridge made by somebody else changes it as ports come and go.
        changes.append(set_link(bridge.ifindex, mac=bridge.mac))
        _batch_unless_there(node, changes)
    for family in families:
        write_sysctl_here(_FORWARDING[socket.AddressFamily(family)], "1")


def _in_the_way(cidr: str, other: str) -> bool:
    family, packed, prefix = parse_cidr(cidr)
    other_family, other_packed, other_prefix = parse_cidr(other)
    if family != other_family or other.startswith("fe80:"):
        return False
    if family == socket.AF_INET:
        return True
    shift = 128 - min(prefix, other_prefix)
    return int.from_bytes(packed, "big") >> shift == int.from_bytes(other_packed, "big") >> shift


def _batch_unless_there(node: Rtnl, messages: Sequence[Message]) -> None:
    """As a batch, but what is there already, or gone already, is no error: a parallel ADD was first."""
    try:
        node.batch(messages)
    except BatchError as error:
        for _, number, words in error.failures:
            if number not in (errno.EEXIST, errno.EADDRNOTAVAIL):
                raise KernelError(words, errno=number) from None


def write_sysctl_here(path: str, value: str, *, needed: bool = True) -> None:
    """A sysctl of the calling thread's namespace, written only if it differs: /proc/sys may be read-only and right."""
    try:
        with open(path, "r+b", buffering=0) as file:
            if file.read(16).strip() != value.encode():
                file.seek(0)
                file.write(value.encode())
    except OSError as error:
        if needed:
            words = f"{path}: {error.strerror}"
            raise CniError(KERNEL_REFUSED, f"cannot write sysctl {words}", f"wanted value: {value}") from None


def plan_veth(
    attachment: Attachment, conf: NetConf, bridge_index: int, netns_fd: int, mac: str, host_mac: str
) -> list[Message]:
    """The pair, the node's end up on the bridge, and what the port is to do."""
    messages = [
        new_veth(
            attachment.veth,
            peer=attachment.ifname,
            peer_netns_fd=netns_fd,
            mac=host_mac,
            peer_mac=mac,
            mtu=conf.mtu,
            master=bridge_index,
        ),
        set_link(attachment.veth, alias=attachment.alias),
    ]
    if conf.hairpin or conf.port_isolation:
        hairpin, isolated = conf.hairpin or None, conf.port_isolation or None
        messages.append(set_bridge_port(attachment.veth, hairpin=hairpin, isolated=isolated))
    return messages


def veth_error(error: BatchError, attachment: Attachment, conf: NetConf) -> CniError:
    """The kernel's refusal of a veth pair, in words that say what to do."""
    if error.errno == errno.EEXIST:
        words = f'container veth name ("{attachment.ifname}") peer provided already exists'
        return CniError(ALREADY_ATTACHED, words, error.message)
    if error.errno == errno.EXFULL:
        words = f'bridge "{conf.bridge}" is full: a Linux bridge has at most {BRIDGE_MAX_PORTS:,} ports'
        details = f"{error.message}; run the pod on another node, or give it a network with a bridge of its own"
        return CniError(KERNEL_REFUSED, words, details)
    return CniError(KERNEL_REFUSED, "cannot make the veth pair", error.message)


def plan_container(ifindex: int, conf: NetConf, cidrs: Sequence[str], routes: Sequence[Message]) -> list[Message]:
    """What happens inside: lo and the interface up, addresses, routes."""
    messages = [set_link(1, up=True)]
    if not conf.disable_container_interface:
        messages.append(set_link(ifindex, up=True))
    messages += [new_address(cidr, ifindex, nodad=not conf.enable_dad) for cidr in cidrs]
    return messages + list(routes)


def gateway_of(route: Route, gateways: Mapping[int, str]) -> str:
    """The route's own gateway, else that of the addresses of its family, else none."""
    return route.gw or gateways.get(parse_cidr(route.dst)[0], "")


def plan_route(route: Route, gateway: str, ifindex: int) -> Message:
    """A route of the result."""
    return new_route(
        route.dst,
        via=gateway,
        index=ifindex,
        mtu=route.mtu,
        advmss=route.advmss,
        priority=route.priority,
        table=254 if route.table is None else route.table,
        scope=route.scope,
    )


def enable_ipv6(netns: Netns, ifname: str) -> None:
    """Lets an interface of the container have IPv6 addresses, which a runtime may have switched off by default."""
    from netsim.kernel.sysctl import write_sysctls  # late: only IPv6 needs it, and it imports subprocess

    write_sysctls(netns, {f"net/ipv6/conf/{ifname}/disable_ipv6": 0})


def wait_until_running(rtnl: Rtnl, link: str | int, *, also_unknown: bool = False) -> None:
    """Returns when the link passes packets: the kernel gives a new link its carrier a moment later, by a worker.

    Without this the first packets of a pod are lost. ``also_unknown``: for a bridge, whose state stays unknown where it
    was up only after it had its first port; it passes packets then. CniError after ten seconds.
    """
    deadline = time.monotonic() + _SETTLE_S
    while True:
        found = rtnl.link(link)
        if found is not None and (found.running or (also_unknown and found.up and found.operstate == IF_OPER_UNKNOWN)):
            return
        if time.monotonic() > deadline:
            state = f"operational state {found.operstate}" if found else "gone"
            raise CniError(KERNEL_REFUSED, f"{found.name if found else link} has no carrier", state)
        time.sleep(_SETTLE_POLL_S)


def mac_for(conf: NetConf, choices: Sequence[Choice]) -> str:
    """The container interface's MAC: the one asked for, else derived from the first address, else the kernel's."""
    if conf.mac:
        return conf.mac
    return address_mac(choices[0].address) if choices else ""
