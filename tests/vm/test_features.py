"""Debian's kernel has all that ``netsim check`` asks for; here each is shown to work, not only to be known."""

import subprocess

import pytest

from netsim.kernel.features import FEATURES
from tests.features import missing_feature

pytestmark = [pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp")]


@pytest.mark.parametrize("feature", [feature.name for feature in FEATURES])
def test_the_kernel_has(feature: str) -> None:
    assert missing_feature(feature) is None


def run_inside(script: str) -> str:
    """Run a bash script in a throw-away network namespace."""
    argv = ["unshare", "--net", "bash", "-ec", script]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_netem_loses_what_it_is_told_to_lose() -> None:
    said = run_inside(
        "ip link set lo up; tc qdisc add dev lo root netem loss 100%;"
        "for n in 1 2 3; do echo > /dev/udp/127.0.0.1/9; done; tc -s qdisc show dev lo"
    )
    assert "dropped 3" in said


def test_a_virtual_server_is_seen_by_ipvsadm() -> None:
    said = run_inside(
        "ip link set lo up;"  # without any address in the namespace the kernel takes 10.244.0.2 for a broadcast address
        "ipvsadm -A -t 10.96.0.1:443 -s rr; ipvsadm -a -t 10.96.0.1:443 -r 10.244.0.2:6443 -m; ipvsadm -L -n"
    )
    assert "TCP  10.96.0.1:443 rr" in said
    assert "10.244.0.2:6443" in said
