"""The pytest plugin. Installed with netsim, so it is there in every pytest run; it costs nothing until a fixture is
used.

    @pytest.mark.netsim(nodes=2, pod_network="vxlan", manifests=["web.yaml"])
    def test_web(cluster, namespace, packets, traffic): ...

Fixtures:
    cluster           a cluster with the options of the ``netsim`` marker, shared by all tests with the same options
    namespace         a namespace of this test's own in ``cluster``, into which the marker's ``manifests`` are applied
    packets           send and sniff in ``cluster``, with scapy (netsim.testing.packets.Packets)
    traffic           TCP, HTTP and UDP in ``cluster`` (netsim.testing.traffic.Traffic)
    netsim_options    the marker's options, for tests to override
    netsim_cluster    a factory of clusters that belong to this test alone: ``netsim_cluster(nodes=1)``
    netsim_clusters   the session's pool (netsim.testing.pool.ClusterPool), for fixtures of wider scope

The marker may stand on a function, a class or a module; its options are those of ``netsim.up``: nodes (default 3),
proxy_mode, pod_network, ip_family, config; ``manifests`` (files, relative to the test's own, or objects); and
``fresh=True`` for a cluster that no other test sees. Clusters come down at the end of the session, or with the test
process, however it ends.

When a test fails, the report gets the rules with counters, routes, neighbours and connections of its clusters' nodes.
"""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Late imports throughout: a pytest run that has nothing to do with netsim loads none of it, and one that sniffs no
# packet does not wait for scapy (1.1 s).
if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster
    from netsim.testing.packets import Packets
    from netsim.testing.pool import ClusterPool
    from netsim.testing.traffic import Traffic

CLUSTERS_OF_TEST = pytest.StashKey[list["Cluster"]]()
DEFAULT_NODES = 3
DUMP_MAX_NODES = 5
DUMP_MAX_ENDED_CONNECTIONS = 30
DUMP_MAX_CHARACTERS = 200_000


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "netsim(nodes=3, proxy_mode=..., pod_network=..., ip_family=..., config=..., manifests=[...], fresh=False): "
        "the cluster that the fixtures 'cluster' and 'namespace' give this test",
    )


@pytest.fixture
def netsim_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of all ``netsim`` markers on the test, its class and its module; the nearest wins.

    A fixture, so that tests may override it, for instance to run in every pod network:

        @pytest.fixture(params=["routes", "vxlan"])
        def netsim_options(request, netsim_options):
            return {**netsim_options, "pod_network": request.param}
    """
    options: dict[str, Any] = {"nodes": DEFAULT_NODES}
    for marker in reversed(list(request.node.iter_markers("netsim"))):
        if marker.args:
            raise pytest.UsageError("@pytest.mark.netsim takes named options only")
        options.update(marker.kwargs)
    known = {"nodes", "proxy_mode", "pod_network", "ip_family", "config", "manifests", "fresh"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise pytest.UsageError(
            f"@pytest.mark.netsim: unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    return options


def _concerns(request: pytest.FixtureRequest, cluster: "Cluster") -> None:
    """Remember the cluster for the report of a failure."""
    request.node.stash.setdefault(CLUSTERS_OF_TEST, []).append(cluster)


@pytest.fixture(scope="session")
def netsim_clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ClusterPool"]:
    """The session's clusters, their state below pytest's temporary directory."""
    from netsim.testing.pool import ClusterPool

    pool = ClusterPool(tmp_path_factory.mktemp("netsim"), "test")
    yield pool
    pool.close()


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, netsim_options: dict[str, Any], netsim_clusters: "ClusterPool"
) -> Iterator["Cluster"]:
    """The cluster that the ``netsim`` marker asks for."""
    options = {key: value for key, value in netsim_options.items() if key != "manifests"}
    if options.pop("fresh", False):
        with netsim_clusters.start(options) as own:
            _concerns(request, own)
            yield own
        return
    shared = netsim_clusters.shared(options)
    _concerns(request, shared)
    yield shared


@pytest.fixture
def namespace(
    request: pytest.FixtureRequest,
    netsim_options: dict[str, Any],
    cluster: "Cluster",
    netsim_clusters: "ClusterPool",
) -> Iterator[str]:
    """A namespace of the test's own, with the marker's manifests applied and ready."""
    with netsim_clusters.namespace(cluster) as name:
        for manifest in netsim_options.get("manifests", ()):
            source = manifest
            if isinstance(manifest, str | Path):
                source = request.path.parent / manifest
            cluster.apply(source, namespace=name)
        yield name


@pytest.fixture
def netsim_cluster(
    request: pytest.FixtureRequest, netsim_clusters: "ClusterPool"
) -> Iterator[Callable[..., "Cluster"]]:
    """Start clusters of the test's own: ``netsim_cluster(nodes=2, ...)``, options as ``netsim.up`` has them."""
    own: list[Cluster] = []

    def start(**options: Any) -> "Cluster":
        cluster = netsim_clusters.start(options)
        own.append(cluster)
        _concerns(request, cluster)
        return cluster

    yield start
    for cluster in reversed(own):
        cluster.down()


@pytest.fixture
def packets(cluster: "Cluster") -> "Packets":
    """Send and sniff in ``cluster``."""
    from netsim.testing.packets import Packets

    return Packets(cluster)


@pytest.fixture
def traffic(cluster: "Cluster") -> "Traffic":
    """Ordinary connections in ``cluster``."""
    from netsim.testing.traffic import Traffic

    return Traffic(cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the kernel held when a test failed."""
    report = yield
    if report.failed and report.when in ("setup", "call"):
        for cluster in item.stash.get(CLUSTERS_OF_TEST, []):
            report.sections.append((f"netsim cluster {cluster.name}", _dump(cluster)))
    return report


def _dump(cluster: "Cluster") -> str:
    from netsim.model.errors import NetsimError

    try:
        nodes = [node["name"] for node in cluster.status()["nodes"]][:DUMP_MAX_NODES]
        text = cluster.dump(*(f"node/{name}" for name in nodes), "host/external")
    except (NetsimError, OSError) as error:  # the failure being reported may be that the cluster is gone
        return f"no dump: {error}"
    text = _without_most_ended_connections(text)
    if len(text) > DUMP_MAX_CHARACTERS:
        return f"{text[:DUMP_MAX_CHARACTERS]}\n... {len(text) - DUMP_MAX_CHARACTERS} more characters"
    return text


def _without_most_ended_connections(text: str) -> str:
    """A client that connected a thousand times leaves a thousand TIME_WAIT entries, which would bury the rules."""
    kept, ended = [], 0
    for line in text.splitlines():
        ended += " TIME_WAIT " in line
        if " TIME_WAIT " not in line or ended <= DUMP_MAX_ENDED_CONNECTIONS:
            kept.append(line)
    if ended > DUMP_MAX_ENDED_CONNECTIONS:
        kept.append(f"... {ended - DUMP_MAX_ENDED_CONNECTIONS} more connections in TIME_WAIT")
    return "\n".join(kept)
