"""What a result says about links: which addresses are the container's, which link of the node leads to it."""

from cni.attachment import Attachment
from cni.config import NetConf
from cni.types import INVALID_CONFIG, IP, CniError, Interface, Result
from netsim.kernel.rtnl import Rtnl
from netsim.kernel.rtnl_read import Link


def merge(previous: Result, made: Result) -> Result:
    """What earlier plugins of the chain made, then ours."""
    offset = len(previous.interfaces)
    ips = tuple(ip._replace(interface=None if ip.interface is None else ip.interface + offset) for ip in made.ips)
    return Result(
        previous.interfaces + made.interfaces,
        previous.ips + ips,
        previous.routes + made.routes,
        made.dns or previous.dns,
    )


def own_interface(result: Result, ifname: str) -> Interface | None:
    """The interface of this name that is in a container."""
    return next((i for i in result.interfaces if i.name == ifname and i.sandbox), None)


def own_ips(result: Result, ifname: str) -> list[IP]:
    """The addresses on the container's interface; those without an index count as its own."""
    found = []
    for ip in result.ips:
        if ip.interface is None:
            found.append(ip)
        elif 0 <= ip.interface < len(result.interfaces):
            interface = result.interfaces[ip.interface]
            if interface.name == ifname and interface.sandbox:
                found.append(ip)
    return found


def way_in(result: Result, conf: NetConf) -> str:
    """The node's link that packets to the container leave by: the bridge, or for ptp its own veth."""
    if not conf.chained:
        return conf.bridge
    return next((i.name for i in result.interfaces if not i.sandbox), conf.bridge)


def host_link(node: Rtnl, pod: Rtnl, result: Result, attachment: Attachment) -> Link:
    """The node's end of the container's veth. CniError if there is none, or the result does not know it."""
    if not result.interfaces:
        raise CniError(INVALID_CONFIG, "bandwidth: the result has no interfaces")
    inside = pod.link(attachment.ifname)
    if inside is None or inside.kind != "veth":
        raise CniError(INVALID_CONFIG, f'bandwidth: "{attachment.ifname}" is no veth of the container')
    host = node.link(inside.peer_index)
    if host is None or host.kind != "veth" or host.peer_index != inside.ifindex:
        raise CniError(INVALID_CONFIG, f'bandwidth: the other end of "{attachment.ifname}" is not in this namespace')
    if not any(i.name == host.name and not i.sandbox for i in result.interfaces):
        raise CniError(INVALID_CONFIG, f'bandwidth: the other end, "{host.name}", is not in the result')
    return host
