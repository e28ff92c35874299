"""The kernel's own cost of a network, by `ip -batch` in a sandbox that is thrown away."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The sandbox has its own /run/netns, as `ip netns` needs it; everything goes when its init ends.
SANDBOX = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c")
SCRIPT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/netns && sysctl -qw net.ipv6.conf.default.disable_ipv6=1
ip -batch "$1" || exit 1
start=$(date +%s.%N)
ip -batch "$2" || exit 1
end=$(date +%s.%N)
echo "spent $start $end"
"""


def ip_batch_s(lines: list[str], *, before: list[str] | None = None) -> float:
    """Seconds that `ip -batch` takes for ``lines`` in a fresh sandbox; entering it and ``before`` are not counted."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, content in (("before", before or []), ("lines", lines)):
            files.append(f"{folder}/{name}")
            Path(files[-1]).write_text("\n".join(content))
        done = subprocess.run([*SANDBOX, SCRIPT, "sh", *files], capture_output=True, text=True, check=False)
    spent = re.search(r"^spent (\S+) (\S+)$", done.stdout, re.M)
    if done.returncode != 0 or spent is None:
        sys.exit(f"the floor could not be measured: {done.stderr}")
    return float(spent[2]) - float(spent[1])


def make_nodes(nodes: int) -> list[str]:
    """`ip` lines for that many nodes: a namespace on the fabric's bridge each, and a bridge for its pods."""
    lines = ["link add fabric0 type bridge", "link set fabric0 up"]
    for node in range(nodes):
        lines += [
            f"netns add n{node}",
            f"link add fn{node} type veth peer name eth0 netns n{node}",
            f"link set fn{node} master fabric0 up",
            f"link add b{node} type bridge",
            f"link set b{node} up",
        ]
    return lines


def make_pods(nodes: int, pods: int) -> list[str]:
    """`ip` lines for that many pods on those nodes: a namespace and a veth pair on the node's bridge each."""
    lines = []
    for pod in range(pods):
        lines += [
            f"netns add p{pod}",
            f"link add v{pod} type veth peer name eth0 netns p{pod}",
            f"link set v{pod} master b{pod % nodes} up",
        ]
    return lines
