"""Shares of a network, each given once: the pod CIDRs of nodes.

Source: kubernetes ``pkg/controller/nodeipam/ipam/cidrset/cidr_set.go``.
"""

from ipaddress import ip_network

from netsim.model.errors import NetsimError
from netsim.model.networks import Network


class CidrsExhausted(NetsimError):
    """No share of the network is left."""


class CidrAllocator:
    """Divides ``network`` into shares with the prefix length ``mask``; gives the lowest free one, going round.

    Raises NetsimError if ``mask`` does not fit.
    """

    def __init__(self, network: Network, mask: int) -> None:
        if not network.prefixlen <= mask <= network.max_prefixlen:
            raise NetsimError(f"shares of /{mask} do not fit into {network}")
        self.network = network
        self.mask = mask
        self.count = 1 << (mask - network.prefixlen)
        self._size = 1 << (network.max_prefixlen - mask)
        self._base = int(network.network_address)
        self._used: set[int] = set()
        self._next = 0

    def _share(self, index: int) -> Network:
        address = type(self.network.network_address)(self._base + index * self._size)
        return ip_network(f"{address}/{self.mask}")

    def _indexes(self, cidr: Network | str) -> range:
        """The shares a CIDR touches: part of one, one, or several."""
        wanted = ip_network(cidr) if isinstance(cidr, str) else cidr
        if wanted.version != self.network.version or not self.network.overlaps(wanted):
            raise NetsimError(f"CIDR {wanted} is out of the range of cluster CIDR {self.network}")
        first = max(0, (int(wanted.network_address) - self._base) // self._size)
        last = min(self.count - 1, (int(wanted.broadcast_address) - self._base) // self._size)
        return range(first, last + 1)

    def allocate(self) -> Network:
        """A share nobody has. Raises CidrsExhausted in upstream's words."""
        if len(self._used) >= self.count:
            raise CidrsExhausted(
                "CIDR allocation failed; there are no remaining CIDRs left to allocate in the accepted range",
                where=str(self.network),
                hint=f"all {self.count} shares of /{self.mask} are taken: a larger podCIDR or a longer podCIDRMask",
            )
        index = self._next
        while index in self._used:
            index = (index + 1) % self.count
        self._used.add(index)
        self._next = (index + 1) % self.count
        return self._share(index)

    def occupy(self, cidr: Network | str) -> None:
        """Mark what a node already has, so that nobody else gets it. May be repeated. Raises NetsimError."""
        self._used.update(self._indexes(cidr))

    def release(self, cidr: Network | str) -> None:
        """Give a share back; nothing happens if it was free. Raises NetsimError."""
        self._used.difference_update(self._indexes(cidr))
