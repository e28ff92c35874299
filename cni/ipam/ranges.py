"""Address ranges: what may be handed out. Pure arithmetic on (family, number).

Source: the keys and rules of containernetworking/plugins host-local (plugins/ipam/host-local/backend/allocator).
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from cni.types import INVALID_CONFIG, CniError

T = TypeVar("T")

WIDTH_BITS = {socket.AF_INET: 32, socket.AF_INET6: 128}


class Addr(NamedTuple):
    """An address as a number of its family; ``str`` writes it out."""

    family: int
    number: int

    def __str__(self) -> str:
        packed = self.number.to_bytes(WIDTH_BITS[socket.AddressFamily(self.family)] // 8, "big")
        return socket.inet_ntop(self.family, packed)


class Range(NamedTuple):
    """Addresses ``start`` to ``end``, both included, of one subnet, without its gateway."""

    family: int
    network: int
    prefix: int
    start: int
    end: int
    gateway: int

    @property
    def subnet(self) -> str:
        """``10.244.1.0/24``."""
        return f"{Addr(self.family, self.network)}/{self.prefix}"

    def __str__(self) -> str:
        return f"{Addr(self.family, self.start)}-{Addr(self.family, self.end)}"

    def contains(self, address: Addr) -> bool:
        """Whether the address lies between start and end; the gateway does too, if it does."""
        return address.family == self.family and self.start <= address.number <= self.end

    def cidr(self, number: int) -> str:
        """An address of this range with the subnet's prefix length, as a result carries it."""
        return f"{Addr(self.family, number)}/{self.prefix}"

    def overlaps(self, other: "Range") -> bool:
        """Whether some address is in both; a range may be empty (its bounds are never handed out)."""
        return self.family == other.family and max(self.start, other.start) <= min(self.end, other.end)


RangeSet = tuple[Range, ...]


def render_set(ranges: Sequence[Range]) -> str:
    """``10.244.1.1-10.244.1.254,10.244.2.1-10.244.2.254``, as host-local names a set in its errors."""
    return ",".join(str(r) for r in ranges)


def parse_addr(text: object, what: str) -> Addr:
    """An IPv4 or IPv6 address; CniError naming ``what`` for anything else."""
    if isinstance(text, str):
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        try:
            packed = socket.inet_pton(family, text)
        except (OSError, ValueError):
            pass
        else:
            if packed[:12] == b"\0" * 10 + b"\xff\xff" and len(packed) == 16:
                return Addr(socket.AF_INET, int.from_bytes(packed[12:], "big"))  # ::ffff:10.0.0.1 is 10.0.0.1
            return Addr(family, int.from_bytes(packed, "big"))
    raise CniError(INVALID_CONFIG, f"{what}: {text!r} is no IP address")


def parse_subnet(text: object, what: str) -> tuple[Addr, int]:
    """(network address, prefix length) of a CIDR without host bits; CniError naming ``what``."""
    address, slash, length = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not slash or not length.isdecimal():
        raise CniError(INVALID_CONFIG, f"{what}: {text!r} is no subnet in CIDR notation")
    network = parse_addr(address, what)
    width = WIDTH_BITS[socket.AddressFamily(network.family)]
    prefix = int(length)
    if prefix > width:
        raise CniError(INVALID_CONFIG, f"{what}: {text!r}: the prefix is longer than the address")
    if network.number & ((1 << (width - prefix)) - 1):
        raise CniError(INVALID_CONFIG, f"{what}: {text!r} has host bits set")
    return network, prefix


def parse_range(body: Mapping[str, Any], what: str = "range") -> Range:
    """One range: ``subnet``, ``rangeStart``, ``rangeEnd``, ``gateway``. CniError if it cannot be.

    Left out: the gateway is the first address; the range is all but the network address and, IPv4, the broadcast
    address.
    """
    network, prefix = parse_subnet(body.get("subnet"), what)
    family, first = network
    width = WIDTH_BITS[socket.AddressFamily(family)]
    if prefix > width - 2:
        raise CniError(INVALID_CONFIG, f"{what}: Network {body['subnet']} too small to allocate from")
    last = first | ((1 << (width - prefix)) - 1)

    def inside(key: str, default: int) -> int:
        value = body.get(key)
        if value in (None, ""):
            return default
        address = parse_addr(value, f"{what}: {key}")
        if address.family != family or not first <= address.number <= last:
            raise CniError(INVALID_CONFIG, f"{what}: {key} {address} not in network {body['subnet']}")
        return address.number

    gateway = inside("gateway", first + 1)
    start = inside("rangeStart", first + 1)
    end = inside("rangeEnd", last - 1 if family == socket.AF_INET else last)
    if start > end:
        words = f"{Addr(family, start)} comes after {Addr(family, end)}"
        raise CniError(INVALID_CONFIG, f"{what}: rangeStart {words}")
    # Even if somebody writes the network's or the broadcast address as a bound, they are never handed out.
    usable_end = min(end, last - 1) if family == socket.AF_INET else end
    return Range(family, first, prefix, max(start, first + 1), usable_end, gateway)


def check_sets(sets: Sequence[RangeSet]) -> None:
    """CniError if a set is empty, mixes families, or any two ranges overlap."""
    for index, ranges in enumerate(sets):
        if not ranges:
            raise CniError(INVALID_CONFIG, f"invalid range set {index}: empty range set")
        if len({r.family for r in ranges}) > 1:
            raise CniError(INVALID_CONFIG, f"invalid range set {index}: mixed address families")
        for a, b in _pairs(ranges):
            if a.overlaps(b):
                raise CniError(INVALID_CONFIG, f"invalid range set {index}: subnets {a} and {b} overlap")
    for (i, one), (j, other) in _pairs(list(enumerate(sets))):
        if any(a.overlaps(b) for a in one for b in other):
            raise CniError(INVALID_CONFIG, f"range set {i} overlaps with {j}")


def _pairs(items: Sequence[T]) -> Iterator[tuple[T, T]]:
    for index, one in enumerate(items):
        for other in items[index + 1 :]:
            yield one, other
