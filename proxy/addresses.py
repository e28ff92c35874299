"""IP addresses and networks as API objects carry them: parsed sloppily, sorted by family.

Source: kubernetes k8s.io/utils/net ParseIPSloppy (Go before 1.17 took leading zeros for decimal, and stored objects
still have them), pkg/proxy/util/utils.go.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_NUMBER = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_NORMAL = re.compile(
    rf"(?:{_NUMBER}\.){{3}}{_NUMBER}"
).fullmatch  # nearly all are so; not socket's: this module is pure


@lru_cache(maxsize=65536)
def parse_ip(text: str) -> str | None:
    """The normal form of an address, or None if it is none: ``001.002.003.004`` is 1.2.3.4, ``::ffff:1.2.3.4`` too."""
    if ":" not in text:
        if _NORMAL(text):
            return text
        parts = text.split(".")
        if len(parts) != 4 or not all(p.isascii() and p.isdigit() for p in parts):
            return None
        numbers = [int(part) for part in parts]
        return ".".join(map(str, numbers)) if max(numbers) < 256 else None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def family_of(address: str) -> int:
    """4 or 6, of an address or a network in normal form."""
    return 6 if ":" in address else 4


def parse_cidr(text: str) -> str | None:
    """The normal form of a network, host bits cleared and spaces trimmed, or None if it is none."""
    base, slash, length = text.strip().partition("/")
    address = parse_ip(base)
    if address is None or not slash:
        return None
    try:
        return str(ip_network(f"{address}/{length}", strict=False))
    except ValueError:
        return None


def choose_ips(values: Sequence[str], family: int) -> tuple[str, ...]:
    """The addresses of one family, in their order; what is no address or of the other family is dropped."""
    if not values:  # most lists of most Services
        return ()
    parsed = [parse_ip(value) for value in values]
    return tuple([ip for ip in parsed if ip is not None and (6 if ":" in ip else 4) == family])


def choose_cidrs(values: Iterable[str], family: int) -> tuple[str, ...]:
    """The networks of one family, in their order; the others are dropped."""
    if not values:
        return ()
    parsed = (parse_cidr(value) for value in values)
    return tuple(cidr for cidr in parsed if cidr is not None and family_of(cidr) == family)


def contains(cidr: str, address: str) -> bool:
    """Whether an address lies in a network, both in normal form and of one family."""
    return ip_address(address) in ip_network(cidr)


def is_zero_prefix(cidr: str) -> bool:
    """0.0.0.0/0 and its kin: every address of the family."""
    return cidr.endswith("/0")


def is_loopback(address: str) -> bool:
    """127.0.0.0/8 and ::1."""
    parsed: IPv4Address | IPv6Address = ip_address(address)
    return parsed.is_loopback


def join_port(address: str, port: int) -> str:
    """``10.0.0.1:80``, ``[fd00::1]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
