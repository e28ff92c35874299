"""The kernel layer where nobody is root: these very tests again, in a user namespace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = "NETSIM_TEST_IN_USERNS"


@pytest.mark.slow
@pytest.mark.needs("netns", "userns", "command:unshare")
@pytest.mark.skipif(INSIDE in os.environ, reason="this is the inner run")
def test_all_of_it_in_a_user_namespace() -> None:
    namespaces = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    done = subprocess.run(
        ["unshare", *namespaces, *pytest_run],
        env={**os.environ, INSIDE: "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
