"""IPVS as data: virtual servers, real servers, and the ``ipvsadm`` words that show them. Sources: ipvsadm(8),
include/uapi/linux/ip_vs.h.
"""

from typing import NamedTuple

FLAG_PERSISTENT = 0x0001
FLAG_SH_FALLBACK = 0x0008  # scheduler flag 1; of mh and sh
_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}


class ServerKey(NamedTuple):
    """What the kernel knows a virtual server by. ``protocol``: tcp, udp, sctp."""

    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        """``-t 10.96.0.1:443``."""
        return f"{_OPTIONS[self.protocol]} {_join(self.address, self.port)}"


class VirtualServer(NamedTuple):
    """How a virtual server picks. ``persistent_s``: seconds that a client keeps its real server; 0: no affinity."""

    scheduler: str = "rr"
    persistent_s: int = 0
    flags: int = 0  # of the scheduler; FLAG_PERSISTENT goes without saying

    def __str__(self) -> str:
        words = f"-s {self.scheduler}"
        words += f" -p {self.persistent_s}" if self.persistent_s else ""
        return words + (" -b flag-1" if self.flags & FLAG_SH_FALLBACK else "")


class RealServer(NamedTuple):
    """Where a virtual server sends to, always by address translation (masquerading, as IPVS calls it)."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"-r {_join(self.address, self.port)} -m"


class RealState(NamedTuple):
    """What the kernel says of a real server: its weight, and the connections it holds."""

    weight: int = 1
    active: int = 0
    inactive: int = 0

    @property
    def idle(self) -> bool:
        return self.active + self.inactive == 0


class Timeouts(NamedTuple):
    """Whole seconds; 0, when they are set: as it is."""

    tcp_s: int = 0
    tcp_fin_s: int = 0  # after a FIN
    udp_s: int = 0


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
