"""One spawner for all tests, a responder for each, and worlds to make pods in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netsim.kernel.process import Spawner
from netsim.kubelet.responder import Responder
from tests.kernel.kubelet.world import World

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with Spawner.start() as spawner:
        yield spawner


@pytest.fixture
def responder() -> Iterator[Responder]:
    responder = Responder.start()
    yield responder
    responder.close()


@pytest.fixture
def make_world(spawner: Spawner, responder: Responder, tmp_path: Path) -> MakeWorld:
    """Worlds that differ from the usual one: ``make_world(config=...)``."""

    def make(**settings: Any) -> World:
        return World(spawner, responder, tmp_path, **settings)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
