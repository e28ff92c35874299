"""The pytest plugin costs nothing in a run that does not use it, and says what a marker got wrong."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]


def test_loading_the_plugin_loads_neither_scapy_nor_a_cluster() -> None:
    program = (
        "import sys, netsim.testing.plugin\n"
        "heavy = {'scapy', 'netsim.cluster.handle', 'pyroute2', 'aiohttp', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("netsim(node=2)", "@pytest.mark.netsim: unknown option 'node'"),
        ("netsim(2)", "@pytest.mark.netsim takes named options only"),
    ],
)
def test_a_wrong_marker_is_named(pytester: pytest.Pytester, marker: str, message: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_it(cluster): pass\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{message}*"])
