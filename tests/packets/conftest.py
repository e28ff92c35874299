"""Every packet test runs in both pod networks, unless its marker names one."""

from typing import Any

import pytest

POD_NETWORKS = ("routes", "vxlan")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "netsim_options" not in metafunc.fixturenames:
        return
    named = [m.kwargs["pod_network"] for m in metafunc.definition.iter_markers("netsim") if "pod_network" in m.kwargs]
    metafunc.parametrize("pod_network", named[:1] or POD_NETWORKS)


@pytest.fixture
def pod_network() -> str:
    raise AssertionError("parametrized above")


@pytest.fixture
def netsim_options(pod_network: str, netsim_options: dict[str, Any]) -> dict[str, Any]:
    return {**netsim_options, "pod_network": pod_network}
