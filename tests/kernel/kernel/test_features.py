"""Looking at what the machine can do: true, quick, and nothing is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netsim.kernel.features import FEATURES, probe_features
from netsim.kernel.netns import Netns


def machine() -> tuple[str, list[str], int]:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return Path("/proc/self/mounts").read_text(), links.splitlines(), len(os.listdir("/proc/self/fd"))


@pytest.mark.needs("command:ip")
def test_every_feature_is_looked_at_and_nothing_is_left() -> None:
    before = machine()
    states = probe_features()
    assert machine() == before
    assert list(states) == [feature.name for feature in FEATURES]
    for state in states.values():
        assert "not probed" not in state.detail, state.name
        assert state.present or state.detail, state.name


@pytest.mark.needs("root", "netns", "veth", "dummy", "command:ip")
def test_a_link_kind_that_is_there_can_be_made(ns: Netns) -> None:
    with ns.entered():
        subprocess.run(["ip", "link", "add", "d0", "type", "dummy"], check=True)


@pytest.mark.needs("root", "netns", "command:ip")
@pytest.mark.parametrize("kind", ["veth", "bridge", "vxlan", "dummy", "ifb"])
def test_what_is_said_of_links_is_what_ip_finds(ns: Netns, kind: str) -> None:
    extra = ["id", "1", "dstport", "4789"] if kind == "vxlan" else []
    with ns.entered():
        done = subprocess.run(["ip", "link", "add", "x0", "type", kind, *extra], capture_output=True, check=False)
    assert (done.returncode == 0) == probe_features()[kind].present


@pytest.mark.needs("root", "userns", "command:unshare")
def test_without_namespaces_each_says_why() -> None:
    # A user namespace without room for more namespaces below it.
    program = "\n".join(
        [
            "import json, pathlib",
            "pathlib.Path('/proc/sys/user/max_net_namespaces').write_text('0')",
            "from netsim.kernel.features import probe_features",
            "states = probe_features()",
            "print(json.dumps([[s.name, s.present, s.detail] for s in states.values()]))",
        ]
    )
    done = subprocess.run(["unshare", "-Ur", sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert '["netns", false, "cannot make namespaces: No space left on device"]' in done.stdout
    assert '["veth", false, "not probed: what it needs is missing"]' in done.stdout
