"""Every packet test runs in both pod networks and in every proxy mode, unless its marker names one of them.

A test that is about neither says so by naming both; a mode that this machine's kernel lacks is left to tests/vm.
"""

from typing import Any

import pytest

from netsim.model.config import POD_NETWORKS, PROXY_MODES
from tests.features import missing_feature

MODE_NEEDS = {"iptables": ("iptables-nft",), "nftables": ("nft",), "ipvs": ("ipvs", "dummy")}
MODES_HERE = tuple(mode for mode in PROXY_MODES if all(missing_feature(name) is None for name in MODE_NEEDS[mode]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "netsim_options" not in metafunc.fixturenames:
        return
    markers = list(metafunc.definition.iter_markers("netsim"))
    for option, every in (("proxy_mode", MODES_HERE), ("pod_network", POD_NETWORKS)):
        named = [marker.kwargs[option] for marker in markers if option in marker.kwargs]
        metafunc.parametrize(option, named[:1] or every)


@pytest.fixture
def pod_network() -> str:
    raise AssertionError("parametrized above")


@pytest.fixture
def proxy_mode() -> str:
    raise AssertionError("parametrized above")


@pytest.fixture
def netsim_options(proxy_mode: str, pod_network: str, netsim_options: dict[str, Any]) -> dict[str, Any]:
    return {**netsim_options, "proxy_mode": proxy_mode, "pod_network": pod_network}
