"""Clusters shared by the tests of one session: started on first demand, one for each set of options."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from netsim.cluster.handle import Cluster, up


class ClusterPool:
    """Starting a cluster takes half a second, a namespace in a running one a few milliseconds: so tests share
    clusters.
    """

    def __init__(self, state_dir: Path, prefix: str) -> None:
        self._state_dir = state_dir
        self._prefix = prefix
        self._shared: dict[str, Cluster] = {}
        self._started = 0
        self._namespaces = 0

    def shared(self, options: Mapping[str, Any]) -> Cluster:
        """The session's cluster with these options of ``netsim.up``."""
        key = json.dumps(options, sort_keys=True, default=str)
        cluster = self._shared.get(key)
        if cluster is None:
            cluster = self._shared[key] = self.start(options)
        return cluster

    def forget(self, cluster: Cluster) -> None:
        """Hand this cluster to no further test (one of them may have broken it)."""
        for key, known in list(self._shared.items()):
            if known is cluster:
                del self._shared[key]
                cluster.down()

    def start(self, options: Mapping[str, Any]) -> Cluster:
        """A cluster for the caller alone, who takes it down. It dies with this process in any case."""
        self._started += 1
        arguments = {"state_dir": self._state_dir, **options}
        return up(f"{self._prefix}-{self._started}", **arguments)

    @contextmanager
    def namespace(self, cluster: Cluster) -> Iterator[str]:
        """A new, empty namespace; deleted with all that is in it, without waiting."""
        self._namespaces += 1
        name = f"test-{self._namespaces}"
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            yield name
        finally:
            cluster.delete("Namespace", name, wait=False)

    def close(self) -> None:
        """Take all shared clusters down."""
        while self._shared:
            self._shared.popitem()[1].down()
