"""A spawner for all tests of the kernel layer, and throw-away namespaces."""

from collections.abc import Iterator

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner.start() as spawner:
        yield spawner


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns.create("test") as ns:
        yield ns
