"""A spawner for all tests of the kernel layer, and throw-away namespaces."""

import os
import warnings
from collections.abc import Callable, Iterator

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner


def start_spawner() -> Spawner:
    """A spawner of its own. The tests' process has threads by then, of which Python 3.12 and later warn at a fork."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return Spawner.start()


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with start_spawner() as spawner:
        yield spawner


@pytest.fixture
def own_spawner() -> Callable[[], tuple[Spawner, int]]:
    """Makes a spawner and a process that outlives its parent in a session of its own; returns that one's pid."""

    def make() -> tuple[Spawner, int]:
        own = start_spawner()
        reading, writing = os.pipe()
        spec = ProcessSpec(("sh", "-c", "setsid sleep 63 & echo $!; wait"))
        own.spawn_blocking(spec, stdin=0, stdout=writing, stderr=2)
        os.close(writing)
        with os.fdopen(reading) as output:
            return own, int(output.readline())

    return make


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns.create("test") as ns:
        yield ns
