"""ADD: address, bridge, veth, what is inside the container, masquerading, port mappings, limits.

A failing step takes back all before it, so that nothing is left for the DEL that the runtime sends anyway.
"""

from collections.abc import Callable
from typing import NamedTuple

from cni import bandwidth, bridge, resolv
from cni.attachment import Attachment
from cni.config import NetConf
from cni.detach import delete_link, forget_neighbours, release
from cni.firewall import Firewall
from cni.ipam.allocator import Choice, choose_addresses
from cni.ipam.store import Store
from cni.results import host_link, merge, own_ips, way_in
from cni.types import ALREADY_ATTACHED, IP, KERNEL_REFUSED, NO_ADDRESS, CniError, Interface, Result, Route
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl, new_neighbour
from netsim.kernel.rtnl_read import Link
from netsim.kernel.rtnl_socket import BatchError
from netsim.model.errors import KernelError


class Undo:
    """What takes back the steps done so far, last first."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def add(self, step: Callable[[], None]) -> None:
        self._steps.append(step)

    def run(self, cause: BaseException) -> None:
        """Runs every step; one that fails is noted on the error that led here."""
        while self._steps:
            try:
                self._steps.pop()()
            except (CniError, KernelError) as error:
                cause.add_note(f"undoing: {error.message}")

    def clear(self) -> None:
        self._steps.clear()


class Place(NamedTuple):
    """Where an ADD works: what is asked for, the container's namespace, the node, and what takes it all back."""

    attachment: Attachment
    conf: NetConf
    netns: Netns
    node: Rtnl
    firewall: Firewall
    undo: Undo


def attach(place: Place) -> Result:
    """Makes the interface. Raises CniError, KernelError."""
    conf, ifname = place.conf, place.attachment.ifname
    with Rtnl(place.netns) as pod:
        if pod.link(ifname) is not None:
            raise CniError(ALREADY_ATTACHED, f'interface "{ifname}" exists already in {place.netns.name}')
        choices = _reserve(place.attachment, conf, place.undo)
        link = bridge.ensure_bridge(place.node, conf)
        gateways = bridge.plan_gateways(choices) if conf.is_gateway else []
        bridge.ensure_gateways(place.node, link, gateways, force=conf.force_address)
        mac = bridge.mac_for(conf, choices)
        host_mac = _make_veth(place, link.ifindex, mac)
        inside_mac, routes = _set_up_container(place, pod, link, choices)
        if conf.static_neighbours and conf.is_gateway:
            _introduce(place, pod, choices, link, inside_mac)
    cidrs = [c.cidr for c in choices]
    if conf.ip_masq and cidrs:
        addresses = [c.partition("/")[0] for c in cidrs]
        place.undo.add(lambda: place.firewall.unmasquerade(conf.name, addresses))
        place.firewall.masquerade(place.attachment, cidrs)
    made = Result(
        interfaces=(
            Interface(link.name, link.mac, mtu=link.mtu),
            Interface(place.attachment.veth, host_mac, mtu=conf.mtu),
            Interface(ifname, inside_mac, place.netns.name, conf.mtu),
        ),
        ips=tuple(IP(c.cidr, str(c.gateway), 2) for c in choices),
        routes=routes,
        dns=conf.dns or resolv.read_resolv_conf(conf.ipam.resolv_conf if conf.ipam else ""),
    )
    return merge(conf.previous, made) if conf.previous else made


def _make_veth(place: Place, bridge_index: int, mac: str) -> str:
    """The MAC of the node's end. Raises CniError in words that say what to do."""
    host_mac = bridge.random_mac()
    messages = bridge.plan_veth(place.attachment, place.conf, bridge_index, place.netns.fd, mac, host_mac)

    def remove() -> None:
        delete_link(place.node, place.attachment.veth)

    try:
        place.node.batch(messages)
    except BatchError as error:
        if error.failures[0][0] != 0:  # there is a pair, but what followed failed
            place.undo.add(remove)
        raise bridge.veth_error(error, place.attachment, place.conf) from None
    place.undo.add(remove)
    return host_mac


def _set_up_container(place: Place, pod: Rtnl, link: Link, choices: list[Choice]) -> tuple[str, tuple[Route, ...]]:
    """(MAC, routes) of the container's end, which is up and passes packets. Raises CniError, KernelError."""
    conf, ifname = place.conf, place.attachment.ifname
    inside = pod.link(ifname)
    if inside is None:
        raise CniError(KERNEL_REFUSED, f'interface "{ifname}" disappeared from {place.netns.name}')
    cidrs = [c.cidr for c in choices]
    if any(":" in cidr for cidr in cidrs):
        bridge.enable_ipv6(place.netns, ifname)
    routes = _routes(conf, choices)
    gateways = {c.range.family: str(c.gateway) for c in reversed(choices)}
    planned = [bridge.plan_route(r, bridge.gateway_of(r, gateways), inside.ifindex) for r in routes]
    pod.batch(bridge.plan_container(inside.ifindex, conf, cidrs, planned))
    if not conf.disable_container_interface:
        bridge.wait_until_running(pod, inside.ifindex)
        bridge.wait_until_running(place.node, place.attachment.veth)
        # With its first port a bridge gets its carrier after that port; until then it drops what is sent to pods.
        bridge.wait_until_running(place.node, link.ifindex, also_unknown=True)
    return inside.mac, routes


def _introduce(place: Place, pod: Rtnl, choices: list[Choice], link: Link, inside_mac: str) -> None:
    """Permanent neighbour entries for each other on gateway and container: neither has to ask by ARP.

    Learned entries of all namespaces share one table of 1,024 (gc_thresh3, net/core/neighbour.c), which a thousand
    containers overflow; permanent ones don't count.
    """
    inside = pod.link(place.attachment.ifname)
    if inside is None:
        return
    pod.batch([new_neighbour(str(choice.gateway), link.mac, inside.ifindex) for choice in choices])
    addresses = [str(choice.address) for choice in choices]
    place.undo.add(lambda: forget_neighbours(place.node, place.conf, addresses))
    place.node.batch([new_neighbour(address, inside_mac, link.ifindex) for address in addresses])


def extend(place: Place, result: Result) -> Result:
    """What in the reference are plugins of their own, portmap and bandwidth: they work on a result."""
    conf, attachment = place.conf, place.attachment
    cidrs = [ip.address for ip in own_ips(result, attachment.ifname)]
    if conf.port_mappings and cidrs:
        place.undo.add(lambda: place.firewall.unmap_ports(attachment))
        place.firewall.map_ports(attachment, cidrs, conf.port_mappings, snat=conf.snat)
        if conf.snat and any(":" not in c for c in cidrs):
            # An answer for 127.0.0.1 would be a martian on this link otherwise.
            name = way_in(result, conf)
            bridge.write_sysctl_here(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "1")
    if conf.bandwidth.ingress_rate or conf.bandwidth.egress_rate:
        with Rtnl(place.netns) as pod:
            host = host_link(place.node, pod, result, attachment)
        place.undo.add(lambda: bandwidth.unlimit_link(place.node, attachment))
        ifb = bandwidth.limit_link(place.node, attachment, host, conf.bandwidth)
        if ifb:
            result = result._replace(interfaces=(*result.interfaces, Interface(ifb.name, ifb.mac, "", ifb.mtu)))
    return result


def _reserve(attachment: Attachment, conf: NetConf, undo: Undo) -> list[Choice]:
    ipam = conf.ipam
    if ipam is None:
        return []
    owner = attachment.owner
    with Store(ipam.data_dir, conf.name) as store:
        if store.is_attached(owner):
            words = f'container "{owner.container_id}" has an address for interface "{owner.ifname}" already'
            raise CniError(ALREADY_ATTACHED, words, f"{', '.join(store.held(owner))} in {store.path}")
        try:
            choices = choose_addresses(ipam.sets, ipam.requested, store.last_reserved, store.is_taken)
        except CniError as error:
            if error.code != NO_ADDRESS or not store.reclaim():
                raise
            choices = choose_addresses(ipam.sets, ipam.requested, store.last_reserved, store.is_taken)
        extra = {"masquerade": conf.ip_masq, "ports": bool(conf.port_mappings)}
        store.reserve(owner, [(i, c.address) for i, c in enumerate(choices)], extra)
        undo.add(lambda: release(ipam, conf.name, owner))
    return choices


def _routes(conf: NetConf, choices: list[Choice]) -> tuple[Route, ...]:
    """The configured routes, and with isDefaultGateway a default route for each family that has none."""
    routes = list(conf.ipam.routes) if conf.ipam else []
    if conf.is_default_gateway:
        for choice in choices:
            default = "::/0" if ":" in choice.cidr else "0.0.0.0/0"
            if not any(r.dst == default for r in routes):
                routes.append(Route(default, str(choice.gateway)))
    return tuple(routes)
