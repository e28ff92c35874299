"""Tests of what most machines' kernels lack. scripts/vm runs them on Debian's kernel, all in one boot:

    scripts/vm -- .venv/bin/pytest tests/vm

On a kernel that has a feature its tests run right there; on others they are skipped, naming the feature.
"""

import os
import subprocess
from collections.abc import Iterator

import pytest

from netsim.cluster.handle import Cluster
from netsim.kernel.process import Spawner
from netsim.model.config import PROXY_MODES
from netsim.testing.plugin import CLUSTERS_OF_TEST
from netsim.testing.pool import ClusterPool

# Under software emulation a Python that netsim starts needs half a minute to come up.
PATIENCE_S = 120.0
# Loaded ahead, so that the fixture that compares the machine before and after does not see sysctls and devices appear
# which come with a module, and not from netsim. The options are those with which no device is made in passing.
_MODULES = (
    ("br_netfilter",),
    ("nf_conntrack_netlink",),
    ("dummy", "numdummies=0"),
    ("ifb", "numifbs=0"),
    ("ip_vs",),
    ("ip_vs_lblc",),  # two schedulers that bring sysctls
    ("ip_vs_lblcr",),
    ("sctp",),
    ("vxlan",),
    ("sch_netem",),
    ("xt_recent",),
    ("ip6_tables",),
)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("NETSIM_IN_VM"):
        for module in _MODULES:
            subprocess.run(["/sbin/modprobe", *module], check=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``proxy_mode`` runs once in each."""
    if "proxy_mode" in metafunc.fixturenames:
        named = [m.kwargs["proxy_mode"] for m in metafunc.definition.iter_markers("netsim") if "proxy_mode" in m.kwargs]
        metafunc.parametrize("proxy_mode", named[:1] or PROXY_MODES, scope="session")


@pytest.fixture(scope="session")
def shared_cluster(netsim_clusters: ClusterPool) -> Cluster:
    """One for all tests: another mode takes a second, another cluster half a minute. Two nodes are near and far."""
    return netsim_clusters.shared({"nodes": 2, "ip_family": "dual", "proxy_mode": "ipvs"})


@pytest.fixture
def cluster(request: pytest.FixtureRequest, shared_cluster: Cluster, proxy_mode: str) -> Cluster:
    """That one, in the mode of the test."""
    request.node.stash.setdefault(CLUSTERS_OF_TEST, []).append(shared_cluster)
    set_mode(shared_cluster, proxy_mode)
    return shared_cluster


def set_mode(cluster: Cluster, mode: str) -> None:
    if cluster.status()["proxyMode"] != mode:
        cluster.set_proxy_mode(mode)


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner.start() as made:
        yield made
