"""Addresses and ports that may be given once: ClusterIPs and NodePorts.

Both keep a lower band free for values that people choose, and draw from the rest in rising order, going round: a
value just released is not given again at once, and a reader can follow the order. Upstream draws at random.
Source: kubernetes ``pkg/registry/core/service/ipallocator`` and ``.../portallocator``; KEP-3070, KEP-3668 for the
bands.
"""

from netsim.model.networks import Network


class AlreadyAllocated(Exception):
    """Someone else has it."""


class NotInRange(Exception):
    """It is not this allocator's to give."""


class RangeFull(Exception):
    """Nothing is left."""


class NumberAllocator:
    """Numbers of one range, each given at most once.

    first, last: the range, both ends included. reserved: how many at its start are given only when asked for by
    number, or when nothing else is left.
    """

    def __init__(self, first: int, last: int, reserved: int) -> None:
        self.first = first
        self.last = last
        self._dynamic = first + reserved if first + reserved <= last else first
        self._next = self._dynamic
        self._used: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._used

    def free(self) -> int:
        """How many are left."""
        return self.last - self.first + 1 - len(self._used)

    def take(self, number: int) -> None:
        """Take this one. Raises NotInRange or AlreadyAllocated."""
        if not self.first <= number <= self.last:
            raise NotInRange
        if number in self._used:
            raise AlreadyAllocated
        self._used.add(number)

    def take_next(self) -> int:
        """Take any one. Raises RangeFull."""
        if not self.free():
            raise RangeFull
        number = self._scan(self._next, self.last) or self._scan(self._dynamic, self._next - 1)
        number = number or self._scan(self.first, self._dynamic - 1)
        if number is None:  # free() says otherwise
            raise RangeFull
        self._used.add(number)
        if number >= self._dynamic:
            self._next = number + 1 if number < self.last else self._dynamic
        return number

    def _scan(self, first: int, last: int) -> int | None:
        used = self._used
        return next((number for number in range(first, last + 1) if number not in used), None)

    def release(self, number: int) -> None:
        """Give it back; nothing happens if it was not taken."""
        self._used.discard(number)


def make_address_allocator(network: Network) -> NumberAllocator:
    """The addresses of a service network as numbers: all but the network's own and, for IPv4, the broadcast address."""
    first = int(network.network_address) + 1
    last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
    size = last - first + 1
    return NumberAllocator(first, last, min(max(16, size // 16), 256) if size > 16 else 0)


def make_port_allocator(first: int, last: int) -> NumberAllocator:
    """The NodePorts."""
    size = last - first + 1
    return NumberAllocator(first, last, min(max(16, size // 32), 128) if size > 16 else 0)
