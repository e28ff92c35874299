"""The parts of the kernel layer that only turn text and data into other text and data."""

import errno
import os
from pathlib import Path

import pytest

from netsim.kernel.child import exec_error, find_program
from netsim.kernel.conntrack import ASSURED, SEEN_REPLY, Flow, FlowTuple
from netsim.kernel.container import Bind, ContainerView
from netsim.kernel.features import FEATURES, FeatureState, find_feature, missing
from netsim.kernel.iptables import _offending_line
from netsim.kernel.libc import make_error
from netsim.model.errors import KernelError

RULES = b"*nat\n:ONE - [0:0]\n-A ONE -p tcp -j TWO\nCOMMIT\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("iptables-restore: line 3 failed", "line 3: -A ONE -p tcp -j TWO"),
        ("v1.8.9 (nf_tables): \nline 2: CHAIN_ADD failed (Invalid argument)", "line 2: :ONE - [0:0]"),
        ("Chain 'TWO' does not exist\nError occurred at line: 4", "line 3: -A ONE -p tcp -j TWO"),
        ("Couldn't load target `TWO':No such file\nError occurred at line: 4", "line 3: -A ONE -p tcp -j TWO"),
        ("iptables-restore: line 4 failed", "line 4: COMMIT"),
        ("line 40 failed", ""),
        ("Permission denied", ""),
    ],
)  # fmt: skip
def test_the_line_a_tool_complains_about(words: str, line: str) -> None:
    assert _offending_line(words, RULES) == line


def test_views_survive_the_wire() -> None:
    view = ContainerView((Bind("/a", "/b"), Bind("/c", "/d", True)), ("/e",), sysfs=False)
    assert ContainerView.from_wire(view.to_wire()) == view


def test_programs_are_found_as_a_shell_finds_them(tmp_path: Path) -> None:
    for folder, mode in (("one", 0o644), ("two", 0o755), ("three", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").touch(mode)
        (tmp_path / folder / "tool").chmod(mode)
    (tmp_path / "one" / "data").touch(0o644)
    (tmp_path / "two" / "directory").mkdir()
    path = {"PATH": ":".join(str(tmp_path / folder) for folder in ("one", "two", "three"))}
    assert find_program("tool", path) == str(tmp_path / "two" / "tool")
    assert find_program("./tool", path) == "./tool"
    with pytest.raises(KernelError, match="permission denied") as caught:
        find_program("data", path)
    assert caught.value.errno == errno.EACCES
    for absent in ("nothing", "directory"):
        with pytest.raises(KernelError, match=r"executable file not found in [$]PATH"):
            find_program(absent, path)
    assert os.path.basename(find_program("sh", {})) == "sh"


def test_words_of_a_failed_exec() -> None:
    assert exec_error("/x", errno.ENOEXEC).message == 'exec: "/x": exec format error'
    assert exec_error("/x", errno.ENOENT).message == 'exec: "/x": no such file or directory'


def test_errors_carry_the_kernels_words_and_number() -> None:
    error = make_error("setns", errno.EPERM, where="node-1")
    assert (str(error), error.errno) == ("node-1: setns: Operation not permitted (EPERM)", errno.EPERM)


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (
            Flow(
                protocol=6,
                original=FlowTuple("10.0.0.1", "10.96.0.1", 4000, 80),
                reply=FlowTuple("10.244.0.2", "10.0.0.1", 8080, 4000),
                mark=0x4000,
                status=SEEN_REPLY | ASSURED,
                timeout_s=86400,
                tcp_state="ESTABLISHED",
            ),
            "tcp      6 86400 ESTABLISHED src=10.0.0.1 dst=10.96.0.1 sport=4000 dport=80 "
            "src=10.244.0.2 dst=10.0.0.1 sport=8080 dport=4000 [ASSURED] mark=0x4000",
        ),
        (
            Flow(
                protocol=58,
                original=FlowTuple("fd00::1", "fd00::2", icmp_type=128, icmp_id=7),
                reply=FlowTuple("fd00::2", "fd00::1", icmp_type=129, icmp_id=7),
                timeout_s=30,
            ),
            "icmpv6   58 30 src=fd00::1 dst=fd00::2 type=128 code=0 id=7 [UNREPLIED] "
            "src=fd00::2 dst=fd00::1 type=129 code=0 id=7",
        ),
    ],
)
def test_flows_read_as_conntrack_prints_them(flow: Flow, text: str) -> None:
    assert str(flow) == text


def test_every_feature_says_what_it_costs_and_what_to_do() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    for feature in FEATURES:
        assert feature.what
        assert feature.option
        assert feature.costs
        assert feature.hint


def test_a_missing_feature_as_an_error() -> None:
    error = missing(FeatureState(find_feature("netem"), False, "No such file or directory"))
    assert error.feature == "netem"
    assert "CONFIG_NET_SCH_NETEM" in str(error)
    assert "No such file or directory" in str(error)
    assert "next: modprobe sch_netem" in str(error)
