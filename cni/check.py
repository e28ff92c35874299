"""CHECK: whether everything ADD made is still as it was. Additions by others are fine."""

from typing import NamedTuple

from cni import bandwidth, bridge
from cni.attachment import Attachment
from cni.config import NetConf
from cni.firewall import Firewall
from cni.ipam.ranges import Range, parse_addr
from cni.ipam.store import Store
from cni.results import own_interface, own_ips
from cni.types import CHECK_FAILED, INVALID_CONFIG, CniError, Interface, Result
from netsim.kernel.rtnl import Rtnl
from netsim.kernel.rtnl_read import Link
from netsim.kernel.rtnl_wire import parse_cidr, render_ip


class Checker(NamedTuple):
    """One CHECK: what was asked for, what ADD answered, and where to look."""

    attachment: Attachment
    conf: NetConf
    previous: Result
    sandbox: str
    node: Rtnl
    pod: Rtnl
    firewall: Firewall

    def run(self) -> None:
        """CniError at the first difference."""
        inside = self._check_container()
        host = self.node.link(inside.peer_index) if inside.peer_index else None
        if host is None or host.kind != "veth" or host.peer_index != inside.ifindex:
            raise _missing(f'the node\'s end of "{inside.name}"')
        if not self.conf.chained:
            self._check_node(host)
            self._check_reservation()
            self._check_masquerade()
        ips = [ip.address for ip in own_ips(self.previous, self.attachment.ifname)]
        if self.conf.port_mappings and ips:
            self.firewall.check_ports(self.attachment, ips, self.conf.port_mappings, snat=self.conf.snat)
        bandwidth.check_limits(self.node, self.attachment, host, self.conf.bandwidth)

    def _check_container(self) -> Link:
        ifname = self.attachment.ifname
        listed = own_interface(self.previous, ifname)
        if listed is None:
            raise CniError(INVALID_CONFIG, f'prevResult lists no interface "{ifname}" in a container')
        if listed.sandbox != self.sandbox:
            words = f'sandbox in prevResult {listed.sandbox} doesn\'t match CNI_NETNS "{self.sandbox}"'
            raise CniError(INVALID_CONFIG, words)
        inside = self.pod.link(ifname)
        if inside is None:
            raise _missing(f'interface "{ifname}" in {self.sandbox}')
        if inside.kind != "veth":
            raise _differs(f'interface "{ifname}"', "a veth", inside.kind or "no virtual link")
        if not inside.up and not self.conf.disable_container_interface:
            raise _differs(f'interface "{ifname}"', "up", "down")
        _check_mac(inside, listed)
        if self.conf.mtu and not self.conf.chained and inside.mtu != self.conf.mtu:
            raise _differs(f'MTU of "{ifname}"', self.conf.mtu, inside.mtu)
        self._check_addresses(inside)
        return inside

    def _check_addresses(self, inside: Link) -> None:
        present = {a.cidr for a in self.pod.addresses(index=inside.ifindex)}
        gateways: dict[int, str] = {}
        for ip in own_ips(self.previous, self.attachment.ifname):
            if _canonical(ip.address) not in present:
                raise _missing(f'address {ip.address} on "{inside.name}"')
            if ip.gateway:
                gateways.setdefault(parse_cidr(ip.address)[0], ip.gateway)
        tables = self.pod.routes(table=0)
        for route in self.previous.routes:
            gateway = bridge.gateway_of(route, gateways)
            table = 254 if route.table is None else route.table
            dst = _canonical(route.dst)
            if not any(r.dst == dst and r.via == gateway and r.table == table for r in tables):
                raise _missing(f"route {route.dst} via {gateway or 'the link'}")

    def _check_node(self, host: Link) -> None:
        link = self.node.link(self.conf.bridge)
        if link is None or link.kind != "bridge":
            raise _missing(f'bridge "{self.conf.bridge}"')
        for found in (link, host):
            listed = next((i for i in self.previous.interfaces if i.name == found.name and not i.sandbox), None)
            if listed is None:
                raise _missing(f'"{found.name}" in prevResult')
            _check_mac(found, listed)
            if not found.up:
                raise _differs(f'"{found.name}"', "up", "down")
        if host.master != link.ifindex:
            raise _differs(f'"{host.name}"', f'a port of "{link.name}"', f"a port of if{host.master}")
        if host.hairpin != self.conf.hairpin:
            raise _differs(f'hairpin mode of "{host.name}"', self.conf.hairpin, host.hairpin)
        if self.conf.port_isolation and not host.isolated:
            raise _differs(f'isolation of "{host.name}"', True, False)
        if self.conf.promisc and not link.promisc:
            raise _differs(f'promiscuous mode of "{link.name}"', True, False)
        if self.conf.is_gateway and self.conf.ipam:
            self._check_gateways(link)

    def _check_gateways(self, link: Link) -> None:
        present = {a.address for a in self.node.addresses(index=link.ifindex)}
        for ip in own_ips(self.previous, self.attachment.ifname):
            if ip.gateway and self._is_from_range(ip.address) and ip.gateway not in present:
                raise _missing(f'gateway address {ip.gateway} on "{link.name}"')

    def _is_from_range(self, cidr: str) -> bool:
        """Whether we gave out the address: one of another plugin in the chain has another gateway."""
        address = parse_addr(cidr.partition("/")[0], "prevResult")
        ranges: list[Range] = [r for one in self.conf.ipam.sets for r in one] if self.conf.ipam else []
        return any(r.contains(address) for r in ranges)

    def _check_reservation(self) -> None:
        if self.conf.ipam is None:
            return
        with Store(self.conf.ipam.data_dir, self.attachment.network, create=False) as store:
            held = store.held(self.attachment.owner) if store.exists else []
        if not held:
            owner = f'"{self.attachment.container_id}", "{self.attachment.ifname}"'
            raise CniError(CHECK_FAILED, f"host-local: Failed to find address added by container {owner}")
        for ip in own_ips(self.previous, self.attachment.ifname):
            address = parse_addr(ip.address.partition("/")[0], "prevResult")
            if self._is_from_range(ip.address) and str(address) not in held:
                raise _missing(f"reservation of {address}")

    def _check_masquerade(self) -> None:
        if not self.conf.ip_masq:
            return
        ips = [ip.address for ip in own_ips(self.previous, self.attachment.ifname) if self._is_from_range(ip.address)]
        if ips:
            self.firewall.check_masquerade(self.attachment, ips)


def _canonical(cidr: str) -> str:
    """The CIDR as the kernel's answers are written."""
    _, packed, prefix = parse_cidr(cidr)
    return f"{render_ip(packed)}/{prefix}"


def _check_mac(found: Link, listed: Interface) -> None:
    if listed.mac and found.mac != listed.mac.lower():
        raise _differs(f'MAC of "{found.name}"', listed.mac, found.mac)


def _missing(what: str) -> CniError:
    return CniError(CHECK_FAILED, f"missing: {what}")


def _differs(what: str, expected: object, found: object) -> CniError:
    return CniError(CHECK_FAILED, f"{what}: expected {expected}, found {found}")
