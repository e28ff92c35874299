import asyncio
import errno
import os
from dataclasses import replace
from typing import Any, cast

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.model.config import PROXY_MODES
from proxy.main import _take_over
from proxy.modes import MODES
from proxy.options import parse_options
from tests.unit.proxy.cluster import running


def test_what_a_cluster_offers_is_what_the_proxy_has() -> None:
    assert tuple(MODES) == PROXY_MODES


def test_each_mode_says_its_name() -> None:
    assert {name: mode.make_dialect().name for name, mode in MODES.items()} == {name: name for name in MODES}


def test_what_another_mode_left_and_cannot_be_removed_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rules of the proxy's own mode are in place, and whoever has no descriptors left may have some later."""
    tried = []

    async def refuse(_netns: Netns, _spawner: Spawner) -> bool:
        tried.append(True)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for name, mode in MODES.items():
        monkeypatch.setitem(MODES, name, replace(mode, clean_up=refuse))

    async def run() -> None:
        options = parse_options(["--kubeconfig", "/nonexistent", "--node-name", "node-1"])
        async with running() as cluster:
            await _take_over(cluster.proxy, options, cast(Any, None), cluster.clock)

    asyncio.run(run())
    assert len(tried) == len(MODES) - 1
    assert os.strerror(errno.EMFILE) in caplog.text
