"""Kernel modules that nothing loads by itself.

Most features load their module when they are first asked for (a link kind, a netlink family, an iptables match).
br_netfilter has no such name: a machine with Debian's kernel has it only after somebody ran ``modprobe br_netfilter``,
which is what Kubernetes' own installation guide makes people do.
"""

import os
import subprocess

_TOOLS = ("/sbin/modprobe", "/usr/sbin/modprobe")
_TIMEOUT_S = 30.0


def load_module(name: str) -> bool:
    """Try to load a module, as root of the machine only; whether ``modprobe`` says it is there now. Never raises.

    A user namespace's root may not load modules, and a kernel without modules has no ``modprobe`` to call: what is
    missing then is told by whoever needs it. Vforks once (3 ms); not for hot paths.
    """
    tool = next((path for path in _TOOLS if os.access(path, os.X_OK)), None)
    if tool is None or os.geteuid() != 0:
        return False
    try:
        done = subprocess.run([tool, "--quiet", name], check=False, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
