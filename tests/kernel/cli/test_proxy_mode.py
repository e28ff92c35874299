"""``netsim proxy-mode``: what it shows, what it changes, what it refuses."""

import pytest

from netsim.model.config import PROXY_MODES
from tests.features import missing_feature
from tests.kernel.cli.conftest import Netsim

pytestmark = pytest.mark.needs("root")


def mode_of(netsim: Netsim) -> str:
    """As status, ``netsim list`` and the proxy of a node have it, which must agree."""
    listed = {item["name"]: item["proxyMode"] for item in netsim.json("list")}["cli"]
    told = netsim.json("status", "cli")["proxyMode"]
    served = netsim("exec", "--cluster", "cli", "node/node-1", "--", "curl", "-s", "http://127.0.0.1:10249/proxyMode")
    assert listed == told == served.stdout
    return told


def test_it_shows_the_mode(netsim: Netsim) -> None:
    assert netsim("proxy-mode", "--cluster", "cli").stdout == "iptables\n"
    assert netsim.json("proxy-mode", "--cluster", "cli") == {"proxyMode": "iptables", "before": "iptables"}
    assert netsim("proxy-mode", "iptables", "--cluster", "cli").stdout == "proxy mode is iptables already\n"
    assert mode_of(netsim) == "iptables"


@pytest.mark.needs("command:dig")
@pytest.mark.skipif("nftables" not in PROXY_MODES, reason="nftables is no mode of clusters yet")
def test_it_changes_the_mode_and_back(netsim: Netsim) -> None:
    done = netsim("proxy-mode", "nftables", "--cluster", "cli")
    try:
        assert done.stdout.startswith("proxy mode is nftables now, was iptables (")
        assert mode_of(netsim) == "nftables"
        question = ("dig", "+short", "@10.96.0.10", "kubernetes.default.svc.cluster.local")
        assert netsim("exec", "--cluster", "cli", "node/node-1", "--", *question).stdout == "10.96.0.1\n"
    finally:
        back = netsim.json("proxy-mode", "iptables", "--cluster", "cli")
    assert back == {"proxyMode": "iptables", "before": "nftables"}
    assert mode_of(netsim) == "iptables"


def test_a_mode_the_kernel_cannot_have_is_refused_and_nothing_changes(netsim: Netsim) -> None:
    if missing_feature("ipvs") is None:
        pytest.skip("this kernel has IPVS")
    done = netsim("proxy-mode", "ipvs", "--cluster", "cli", status=1)
    assert "IPVS" in done.stderr
    assert "Traceback" not in done.stderr
    assert mode_of(netsim) == "iptables"


def test_a_mode_there_is_not_is_wrong_usage(netsim: Netsim) -> None:
    done = netsim("proxy-mode", "userspace", "--cluster", "cli", status=2)
    assert "'userspace' is not one of" in done.stderr
