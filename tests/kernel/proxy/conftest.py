from collections.abc import Iterator

import pytest

from netsim.kernel.process import Spawner
from tests.kernel.proxy.node import RealNode, real_node


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner.start() as made:
        yield made


@pytest.fixture
def node(spawner: Spawner) -> Iterator[RealNode]:
    with real_node(spawner) as made:
        yield made
