"""What the kernel holds in every namespace of a cluster, as text: what faults must leave as it was."""

import json
import re
import tempfile
from typing import Any

from netsim.cluster.handle import Cluster

_SCRIPT = """
for ns in fabric $(ls /run/netns | grep -v '^fabric$'); do
  if [ $ns = fabric ]; then in=; else in="ip netns exec $ns"; fi
  echo "== $ns"
  $in ip -d -j link; echo; $in ip -j address; echo; $in ip -4 -j route show table all; echo
  $in ip -6 -j route show table all; echo; $in ip -j neigh show nud permanent; echo
  echo "-- tc"; $in tc qdisc show; $in tc filter show 2>/dev/null
  echo "-- nft"; $in nft list ruleset
done
"""
# What changes by itself, or says when something last happened.
_VOLATILE = {"stats", "stats64", "txqlen", "valid_life_time", "preferred_life_time", "expires", "used"}


def run_in_sandbox(cluster: Cluster, script: str) -> str:
    """The output of a shell script in the sandbox's own namespaces. Raises AssertionError when it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as null:
        status = cluster.exec_stream(
            None, ["sh", "-c", script], stdin=null.fileno(), stdout=out.fileno(), stderr=out.fileno()
        )
        out.seek(0)
        text = out.read().decode()
    assert status == 0, text
    return text


def read_kernel(cluster: Cluster) -> dict[str, list[str]]:
    """For each namespace its links, addresses, routes, permanent neighbours, qdiscs, filters and rules."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in run_in_sandbox(cluster, _SCRIPT).splitlines():
        if line.startswith("== "):
            name = line[3:]
            found[name] = []
        elif line.startswith("["):
            found[name] += sorted(json.dumps(_stable(item), sort_keys=True) for item in json.loads(line))
        elif line.strip():
            found[name].append(re.sub(r"refcnt \d+|counter packets \d+ bytes \d+|expires \w+", "", line).rstrip())
    return found


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _stable(item) for key, item in value.items() if key not in _VOLATILE and not key.endswith("_timer")
        }
    if isinstance(value, list):
        return [_stable(item) for item in value]
    return value


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """One line for each thing that is not as it was."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, []), after.get(name, [])
        lines += [f"{name} - {line}" for line in old if line not in new]
        lines += [f"{name} + {line}" for line in new if line not in old]
    return lines
