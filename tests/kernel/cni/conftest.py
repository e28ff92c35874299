"""The place where the plugin works."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.cni.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "data")
    yield place
    place.close()
