"""Keys and values of nf_tables' sets as nft prints them. Pure.

A set says of what type its keys are by nft's numbers (nftables, include/datatype.h), 6 bits for each part of a
concatenation.
"""

import socket
from collections.abc import Callable

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "ipv6-icmp", 132: "sctp"}


def _big(part: bytes) -> str:
    return str(int.from_bytes(part, "big"))


def _mark(part: bytes) -> str:
    return f"0x{int.from_bytes(part, 'little'):08x}"


def _name(part: bytes) -> str:
    return f'"{part.rstrip(bytes(1)).decode(errors="replace")}"'


def _protocol(part: bytes) -> str:
    return _PROTOCOLS.get(part[0], str(part[0]))


# nft's number: bytes, and how they read
_TYPES: dict[int, tuple[int, Callable[[bytes], str]]] = {
    7: (4, lambda part: socket.inet_ntop(socket.AF_INET, part)),
    8: (16, lambda part: socket.inet_ntop(socket.AF_INET6, part)),
    9: (6, lambda part: part.hex(":")),
    12: (1, _protocol),
    13: (2, _big),
    19: (4, _mark),
    41: (16, _name),
}


def render_value(type_number: int, value: bytes) -> str:
    """``10.96.0.10 . tcp . 80``; in hexadecimal where a part's type is none of the usual."""
    numbers: list[int] = []
    while type_number:
        numbers.insert(0, type_number & 0x3F)
        type_number >>= 6
    words, at = [], 0
    for number in numbers:
        length, render = _TYPES.get(number, (0, _big))
        part = value[at : at + length]
        if not length or len(part) < length:
            return f"0x{value.hex()}"
        words.append(render(part))
        at += (length + 3) & ~3 if len(numbers) > 1 else length
    return " . ".join(words) if words else f"0x{value.hex()}"
