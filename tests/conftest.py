"""What all tests share: features that a test needs, and the proof that a session leaves the machine as it was."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from netsim.testing.waiting import wait_until
from tests.features import missing_feature
from tests.machine import SESSION_VARIABLE, differences, processes_of_session, read_machine

REQUIRED = frozenset(filter(None, os.environ.get("NETSIM_REQUIRE", "").split(",")))

# A busy machine, or one emulated in software, is no reason to fail.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*features): skip, naming the feature, where this machine lacks it")


NEED_ROOT = (Path(__file__).parent / "kernel", Path(__file__).parent / "packets")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if any(folder in item.path.parents for folder in NEED_ROOT):
        check_feature("root")
    for marker in item.iter_markers("needs"):
        for feature in marker.args:
            check_feature(feature)


def check_feature(feature: str) -> None:
    """Skip the test that runs, naming ``feature``, where this machine lacks it; fail where NETSIM_REQUIRE names it."""
    why = missing_feature(feature)
    if why is None:
        return
    if feature in REQUIRED or "all" in REQUIRED:
        pytest.fail(f"{feature} is in NETSIM_REQUIRE, but: {why}", pytrace=False)
    pytest.skip(f"{feature}: {why}")


@pytest.fixture
def require_feature() -> Callable[[str], None]:
    """``require_feature("vxlan")`` in a test, where a marker ``needs`` can't say it."""
    return check_feature


@pytest.fixture(scope="session", autouse=True)
def machine_is_left_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the session's last test if links, rules, routes, mounts, sysctls or processes are not as before."""
    session = uuid.uuid4().hex
    os.environ[SESSION_VARIABLE] = session
    # Clusters of tests that say nothing else stand apart from those a person has running on this machine.
    os.environ["NETSIM_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    os.environ.pop("NETSIM_CLUSTER", None)
    before = read_machine()
    yield
    # The kernel takes a dead process's namespaces down in its own time; processes must be gone within seconds.
    wait_until("all processes of the tests have ended", lambda: not processes_of_session(session), timeout_s=5.0)
    left = differences(before, read_machine())
    del os.environ[SESSION_VARIABLE]
    if left:
        pytest.fail("the tests changed the machine:\n" + "\n".join(left), pytrace=False)
