"""Sharing out a network in equal parts: each node's pod CIDR.

Source of the behaviour: kubernetes ``pkg/controller/nodeipam/ipam/cidrset/cidr_set.go``.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network

from netsim.model.errors import NetsimError

Network = IPv4Network | IPv6Network


class CidrsExhausted(NetsimError):
    """Every part of the network is taken."""


class CidrAllocator:
    """Parts of ``network``, each with a prefix of length ``mask``, in order. IPv4 and IPv6 alike."""

    def __init__(self, network: Network, mask: int) -> None:
        if not network.prefixlen <= mask <= network.max_prefixlen:
            raise NetsimError(f"a /{mask} is no part of {network}")
        self.network = network
        self.mask = mask
        self.capacity = 1 << (mask - network.prefixlen)
        self._step = 1 << (network.max_prefixlen - mask)
        self._first = int(network.network_address)
        self._taken: set[int] = set()
        self._next = 0

    def __len__(self) -> int:
        """How many are taken."""
        return len(self._taken)

    def allocate(self) -> Network:
        """The next free part, after the one given out last, so that a released one rests as long as it can.

        Raises CidrsExhausted.
        """
        if len(self._taken) >= self.capacity:
            raise CidrsExhausted(
                f"CIDR allocation failed; there are no remaining CIDRs left to allocate in {self.network}: "
                f"all {self.capacity} of /{self.mask} are taken",
                hint="a larger podCIDR, or a longer podCIDRMask",
            )
        while self._next in self._taken:
            self._next = (self._next + 1) % self.capacity
        index = self._next
        self._taken.add(index)
        self._next = (index + 1) % self.capacity
        return self._part(index)

    def occupy(self, cidr: Network | str) -> None:
        """Take every part that ``cidr`` touches. Raises NetsimError when it lies outside the network."""
        self._taken.update(self._indexes(cidr))

    def release(self, cidr: Network | str) -> None:
        """Give back what ``cidr`` touches; what was free stays so."""
        self._taken.difference_update(self._indexes(cidr))

    def is_taken(self, cidr: Network | str) -> bool:
        """Whether any part that ``cidr`` touches is taken."""
        return not self._taken.isdisjoint(self._indexes(cidr))

    def _part(self, index: int) -> Network:
        address = self._first + index * self._step
        kind = IPv4Network if self.network.version == 4 else IPv6Network
        return kind((address, self.mask))

    def _indexes(self, cidr: Network | str) -> range:
        try:
            part = ip_network(str(cidr))
        except ValueError as error:
            raise NetsimError(f"{cidr} is no network: {error}") from error
        if part.version != self.network.version or not part.overlaps(self.network):
            raise NetsimError(f"{part} is not in {self.network}")
        first = max(int(part.network_address), self._first)
        last = min(int(part.broadcast_address), int(self.network.broadcast_address))
        return range((first - self._first) // self._step, (last - self._first) // self._step + 1)
