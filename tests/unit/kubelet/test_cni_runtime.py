"""The chain, with plugins that run in this process; programs are in tests/kernel/kubelet."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cni.types import IP, NO_ADDRESS, CniError, Request, Result
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.kubelet.cni_config import parse_conflist
from netsim.kubelet.cni_runtime import Attachment, CniRuntime

NETWORK = parse_conflist(
    {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "netsim-cni", "n": 1}, {"type": "netsim-cni", "n": 2}]}
)
ATTACHMENT = Attachment("abc", "/proc/1/fd/9", "IgnoreUnknown=1", {})


class Plugin:
    """Answers, or raises ``failure`` in the second plugin's ADD."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, int, bool]] = []
        self.together: list[str] = []

    def add(self, request: Request) -> Result:
        self._note(request)
        if self.failure is not None and request.config["n"] == 2:
            raise self.failure
        return Result(ips=(IP(f"10.0.0.{request.config['n']}/24"),))

    def delete(self, request: Request) -> None:
        self._note(request)

    def delete_links(self, attachments: Sequence[tuple[str, str, str]]) -> None:
        self.together = [container for _, container, _ in attachments]

    def check(self, request: Request) -> None:
        self._note(request)

    def _note(self, request: Request) -> None:
        self.calls.append((request.command, request.config["n"], "prevResult" in request.config))


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    with Spawner.start() as spawner:
        yield spawner


@pytest.fixture
def here() -> Iterator[Netns]:
    with Netns.current() as here:
        yield here


def test_order_previous_results_and_cache(spawner: Spawner, here: Netns, tmp_path: Path) -> None:
    plugin = Plugin()
    runtime = CniRuntime(spawner, tmp_path, lambda: plugin)
    result = runtime.add(here, NETWORK, ATTACHMENT)
    assert result["ips"] == [{"address": "10.0.0.2/24"}]
    (cached,) = (tmp_path / "results").iterdir()
    assert cached.name == "net-abc-eth0"
    assert cached.stat().st_mode & 0o777 == 0o600
    assert json.loads(cached.read_text())["result"] == result
    runtime.check(here, NETWORK, ATTACHMENT)
    runtime.delete(here, NETWORK, ATTACHMENT)
    assert plugin.calls == [
        ("ADD", 1, False),
        ("ADD", 2, True),
        ("CHECK", 1, True),
        ("CHECK", 2, True),
        ("DEL", 2, True),
        ("DEL", 1, True),
    ]
    assert not cached.exists()


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (CniError(NO_ADDRESS, "none left", "in 10.0.0.0/30"), NO_ADDRESS, 'name="net" failed (add): none left'),
        (AttributeError("a fault"), 999, "AttributeError('a fault')"),
    ],
    ids=["typed", "unforeseen"],
)
def test_a_failed_add_keeps_its_code_and_is_undone(
    spawner: Spawner, here: Netns, tmp_path: Path, failure: Exception, code: int, words: str
) -> None:
    plugin = Plugin(failure)
    with pytest.raises(CniError) as caught:
        CniRuntime(spawner, tmp_path, lambda: plugin).add(here, NETWORK, ATTACHMENT)
    assert caught.value.code == code
    assert words in caught.value.message
    assert [call[:2] for call in plugin.calls] == [("ADD", 1), ("ADD", 2), ("DEL", 2), ("DEL", 1)]
    assert list((tmp_path / "results").iterdir()) == []


def test_a_damaged_cache_stops_check_but_not_delete(spawner: Spawner, here: Netns, tmp_path: Path) -> None:
    plugin = Plugin()
    runtime = CniRuntime(spawner, tmp_path, lambda: plugin)
    runtime.add(here, NETWORK, ATTACHMENT)
    (cached,) = (tmp_path / "results").iterdir()
    cached.write_text("{broken")
    with pytest.raises(CniError, match="no cached result"):
        runtime.check(here, NETWORK, ATTACHMENT)
    runtime.delete(here, NETWORK, ATTACHMENT)
    assert not cached.exists()


def test_links_of_several_go_together_where_all_plugins_are_ours(spawner: Spawner, here: Netns, tmp_path: Path) -> None:
    plugin = Plugin()
    runtime = CniRuntime(spawner, tmp_path, lambda: plugin, cni_path=str(tmp_path))
    foreign = parse_conflist(
        {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "netsim-cni", "n": 1}, {"type": "alien"}]}
    )
    attached = [
        (network, Attachment(name, "", "", {})) for network, name in ((NETWORK, "a"), (foreign, "b"), (NETWORK, "c"))
    ]
    failures = runtime.delete_all(here, attached)
    assert plugin.together == ["a", "c"]
    assert [str(failure) for failure in failures if failure] == [str(failures[1])]
    assert 'failed to find plugin "alien"' in str(failures[1])
    assert len(plugin.calls) == 4
