from collections.abc import Iterator

import pytest

from netsim.kernel.process import Spawner
from tests.kernel.observe.line import Line, make_line


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner.start() as made:
        yield made


@pytest.fixture
def line(spawner: Spawner) -> Iterator[Line]:
    with make_line(spawner) as made:
        yield made
