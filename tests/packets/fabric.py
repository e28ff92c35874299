"""What the matrix does in namespaces itself: the fabric, ip, and the kernel's limits of ICMP errors."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from netsim.cluster.handle import Cluster
from netsim.kernel.netns import Netns


def open_fabric(cluster: Cluster) -> Netns:
    """The fabric, with the router between nodes and the external host: the cluster process' own namespace."""
    return Netns.open(f"/proc/{cluster.pid}/ns/net", "fabric")


def run_ip(ns: Netns, family: int, lines: Sequence[str]) -> None:
    with ns.entered():
        subprocess.run(["ip", f"-{family}", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def lift_icmp_limits(ns: Netns) -> None:
    """No limit on how many refusals a host may send: the kernel's is six at once and then one a second to each host."""
    with ns.entered():
        Path("/proc/sys/net/ipv4/icmp_ratemask").write_text("0")
        ipv6 = Path("/proc/sys/net/ipv6/icmp/ratemask")
        if ipv6.exists():
            ipv6.write_text("0")  # a type that there is not; the kernel takes no empty list
