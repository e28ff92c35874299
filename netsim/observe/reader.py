"""The kernel's answers to what comes up while evidence is made sense of (`netsim.observe.evidence.Reader`)."""

import errno
import socket
from collections.abc import Mapping

from netsim.kernel.ipvs import Ipvs
from netsim.kernel.netns import Netns
from netsim.kernel.procnet import read_proc_net
from netsim.kernel.route_get import read_neighbour, read_route
from netsim.kernel.rtnl import Rtnl
from netsim.kernel.sysctl import read_sysctl
from netsim.model.errors import FeatureMissing, KernelError, UsageError
from netsim.ruleset.ipvs import ServerKey

_IFF_RUNNING = 0x40  # include/uapi/linux/if.h: the link has its other end


class KernelReader:
    """Asks the kernel each time. Blocking; may be used by several threads."""

    def __init__(self, places: Mapping[str, Netns]) -> None:
        self._places = places

    def route(self, place: str, source: str, destination: str, *, interface_in: str = "", mark: int = 0) -> str:
        """The route the kernel would take now, as `ip route get fibmatch` prints it; "" if there is none.

        Raises KernelError: with errno EXDEV where it does not believe the source address on that interface (rp_filter).
        """
        return read_route(self._at(place), source, destination, interface_in=interface_in, mark=mark)

    def addresses(self, place: str) -> Mapping[str, str]:
        """Every local address of the place, and its interface. Raises KernelError."""
        with Rtnl(self._at(place)) as rtnl:
            names = {link.ifindex: link.name for link in rtnl.links()}
            return {one.address: names.get(one.ifindex, f"if{one.ifindex}") for one in rtnl.addresses()}

    def neighbour(self, place: str, address: str, interface: str) -> str:
        """The neighbour entry, as `ip neigh` prints it; "" if there is none. Raises KernelError."""
        return read_neighbour(self._at(place), address, interface)

    def forwarding(self, place: str, mac: str) -> Mapping[str, str]:
        """The interfaces by which forwarding databases send frames for a link address, each with the address that a
        VXLAN device sends to, "" of a bridge's port. Raises KernelError.
        """
        with Rtnl(self._at(place)) as rtnl:
            names = {link.ifindex: link.name for link in rtnl.links()}
            entries = rtnl.neighbours(family=socket.AF_BRIDGE)
        return {names.get(one.ifindex, f"if{one.ifindex}"): one.address for one in entries if one.mac == mac}

    def link(self, place: str, interface: str) -> str:
        """The interface in the words of `ip link`, "" if there is none. Raises KernelError."""
        with Rtnl(self._at(place)) as rtnl:
            links = rtnl.links()
        names = {link.ifindex: link.name for link in links}
        found = next((link for link in links if link.name == interface), None)
        if found is None:
            return ""
        peer = f"@if{found.peer_index}" if found.peer_index else ""
        parts = [
            f"{found.ifindex}: {interface}{peer}",
            found.kind,
            f"mtu {found.mtu}",
            f"link/ether {found.mac}" if found.mac else "",
        ]
        parts.append(f"master {names.get(found.master, found.master)}" if found.master else "")
        parts.append(f"hairpin {'on' if found.hairpin else 'off'}" if found.master else "")
        if not found.up:
            parts.append("state DOWN")
        elif not found.flags & _IFF_RUNNING:
            parts.append("NO-CARRIER")
        return " ".join(part for part in parts if part)

    def holder(self, mac: str) -> tuple[str, str] | None:
        """The place and interface whose link address it is; a bridge's port is none. Raises KernelError."""
        for place, netns in self._places.items():
            with Rtnl(netns) as rtnl:
                found = next((link.name for link in rtnl.links() if link.mac == mac and not link.master), "")
            if found:
                return place, found
        return None

    def setting(self, place: str, name: str) -> str:
        """A sysctl; "" if there is none."""
        try:
            return read_sysctl(self._at(place), name)
        except (KernelError, FeatureMissing):
            return ""

    def idle_server(self, place: str, protocol: str, address: str, port: int) -> str:
        """The virtual server of IPVS at an address ("-t 10.96.1.2:80") where it has no destination to send to; "" if it
        has one, and if there is no such server. Raises KernelError.
        """
        ns = self._at(place)
        if read_proc_net(ns, "ip_vs") is None:
            return ""  # asking by netlink would load the module
        key = ServerKey(protocol, address, port)
        with Ipvs(ns) as ipvs:
            try:
                reals = ipvs.reals(key)
            except KernelError as error:
                if error.errno == errno.ESRCH:
                    return ""
                raise
        return "" if any(state.weight > 0 for state in reals.values()) else str(key)

    def _at(self, place: str) -> Netns:
        try:
            return self._places[place]
        except KeyError:
            raise UsageError(f"{place} is not among the places to look at") from None
