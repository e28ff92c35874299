"""The connections that IPVS balances in a namespace: /proc/net/ip_vs_conn, as `ipvsadm -Lnc` reads it.

Source: net/netfilter/ipvs/ip_vs_conn.c (ip_vs_conn_seq_show).
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netsim.kernel.netns import Netns
from netsim.kernel.procnet import read_proc_net


@dataclass(frozen=True, slots=True)
class Connection:
    """Whose packets to ``virtual`` go to ``real``; addresses with their ports."""

    protocol: str  # TCP, UDP, SCTP
    client: tuple[str, int]
    virtual: tuple[str, int]
    real: tuple[str, int]
    state: str
    expires_s: int

    def __str__(self) -> str:
        """As ipvsadm -Lnc."""
        ends = " ".join(_render(*end) for end in (self.client, self.virtual, self.real))
        return f"{self.protocol:<3} {self.expires_s // 60:02}:{self.expires_s % 60:02}  {self.state:<11} {ends}"


def read_connections(ns: Netns) -> list[Connection]:
    """All there are; none on a kernel without IPVS, or without its module. Raises KernelError."""
    return list(parse_connections((read_proc_net(ns, "ip_vs_conn") or "").splitlines()))


def parse_connections(lines: Iterable[str]) -> Iterator[Connection]:
    """The file's lines, its heading too."""
    for line in lines:
        words = line.split()
        if len(words) < 9 or words[0] == "Pro":
            continue
        ends = [(_address(words[at]), int(words[at + 1], 16)) for at in (1, 3, 5)]
        yield Connection(words[0], ends[0], ends[1], ends[2], words[7], int(words[8]))


def _address(text: str) -> str:
    """IPv4 as eight hexadecimal digits, IPv6 in its long form, possibly in brackets."""
    if ":" in text:
        return str(ipaddress.IPv6Address(text.strip("[]")))
    return str(ipaddress.IPv4Address(int(text, 16)))


def _render(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
