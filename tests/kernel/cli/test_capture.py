"""netsim capture and Cluster.capture: files that tcpdump and scapy read, live lines, every way to end, bad input."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from netsim.cluster.handle import Cluster, attach
from netsim.model.errors import NetsimError, UsageError
from netsim.testing.waiting import wait_until
from tests.kernel.cli.conftest import TIMEOUT_S, Netsim

pytestmark = pytest.mark.needs("root", "packet")

SUMMARY = "dropped by the kernel"


@contextmanager
def capturing(program: Netsim, *argv: str, **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """A capture that sees by the time the block begins."""
    with program.start("capture", *argv, **options) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("capturing at "), said + process.stderr.read()
            yield process
        finally:
            process.kill()


def interrupt(process: "subprocess.Popen[str]") -> tuple[str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    return out, err


def ask_web(program: Netsim) -> None:
    program("exec", "pod/client", "--", "curl", "-s", "--max-time", "5", "http://web")


def read_with_scapy(path: Path) -> list[Any]:
    import scapy.layers.inet  # over a second; what it knows when it reads  # noqa: F401
    from scapy.utils import PcapNgReader

    with PcapNgReader(str(path)) as reader:
        return list(reader)


@pytest.fixture
def cluster(deployed: Netsim, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("NETSIM_STATE_DIR", str(deployed.state_dir))
    cluster = attach("cli")
    yield cluster
    cluster.close()


@pytest.mark.needs("command:tcpdump")
def test_a_request_in_one_file_with_every_crossing_in_order(deployed: Netsim, tmp_path: Path) -> None:
    path = tmp_path / "way.pcapng"
    places = ("node/node-2", "pod/client", "fabric", "node/node-1")
    with capturing(deployed, *places, "-w", str(path), "tcp port 80") as process:
        ask_web(deployed)
        _, err = interrupt(process)
    packets = read_with_scapy(path)
    syns = [p for p in packets if p["TCP"].flags == "S"]
    [first, second, *_] = syns
    assert (first.sniffed_on, first.direction) == ("pod/default/client:eth0", 2)
    assert (second.sniffed_on.split(":")[0], second.direction) == (f"node/{node_of_client(deployed)}", 1)
    assert len({syn["TCP"].seq for syn in syns}) == 1
    times = [packet.time for packet in packets]
    assert times == sorted(times)
    assert len(set(map(str, times))) > len(times) / 2  # nanoseconds, not microseconds
    listed = subprocess.run(["tcpdump", "-nr", str(path)], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == len(packets)
    assert f"{len(packets)} packets in " in err
    assert "0 dropped by the kernel" in err


def test_a_full_disk_ends_it_with_what_is_in_the_file(deployed: Netsim, tmp_path: Path) -> None:
    path = tmp_path / "way.pcapng"
    places = ("pod/client", "node/node-1", "node/node-2", "fabric")
    small = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (8000, 8000))  # as on a disk with no more room
    with capturing(deployed, *places, "-w", str(path), "tcp port 80", preexec_fn=small) as process:
        for _ in range(3):
            ask_web(deployed)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    count = len(read_with_scapy(path))
    assert count > 0
    assert f"\n{count} packets in " in f"\n{err}"
    assert f"error: {path}: cannot write: File too large\nnext: what is there is valid: {count} packets\n" in err


def node_of_client(program: Netsim) -> str:
    return str(program.json("get", "pod", "client")["spec"]["nodeName"])


def test_live_lines_and_json(deployed: Netsim) -> None:
    with capturing(deployed, "pod/client", "tcp port 80") as process:
        ask_web(deployed)
        out, _ = interrupt(process)
    first = out.splitlines()[0]
    assert "pod/default/client:eth0" in first
    assert " out " in first
    assert "tcp SYN" in first
    with capturing(deployed, "pod/client:eth0", "-o", "json", "--count", "2", "tcp", "port", "80") as process:
        ask_web(deployed)
        out, err = process.communicate(timeout=TIMEOUT_S)
    syn, answer = map(json.loads, out.splitlines())
    assert (syn["direction"], syn["note"], answer["direction"], answer["note"]) == ("out", "SYN", "in", "SYN,ACK")
    assert 0 < answer["timeNs"] - syn["timeNs"] < 1e9
    assert err.startswith("2 packets")


def test_a_pipe_that_is_read_live_and_closed(deployed: Netsim) -> None:
    reading, writing = os.pipe()
    with capturing(deployed, "pod/client", "-w", "-", "tcp port 80", stdout=writing) as process:
        os.close(writing)
        ask_web(deployed)
        head = b""
        while b"curl/" not in head:  # the request itself: nothing is held back until the end
            head += os.read(reading, 65536)
        os.close(reading)  # without another packet: it ends by itself
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "reader gone" in err


def test_a_pod_that_ends_is_noted(deployed: Netsim, tmp_path: Path) -> None:
    manifest = tmp_path / "short.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: short}\n"
        "spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: nginx}]}\n"
    )
    deployed("apply", "-f", str(manifest))
    node = deployed.json("get", "pod", "short")["spec"]["nodeName"]
    with capturing(deployed, "pod/short", f"node/{node}") as process:
        deployed("delete", "pod", "short")
        assert process.stderr is not None
        assert process.stderr.readline() == "pod/default/short has ended: eth0 is gone\n"
        _, err = interrupt(process)
    assert SUMMARY in err


def test_a_pod_that_comes_is_seen_at_its_node(deployed: Netsim, tmp_path: Path) -> None:
    path = tmp_path / "all.pcapng"
    manifest = tmp_path / "late.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\n"
        "spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: nginx}]}\n"
    )
    with capturing(deployed, "--all", "-w", str(path), "icmp") as process:
        deployed("apply", "-f", str(manifest))
        address = deployed.json("get", "pod", "late")["status"]["podIP"]
        deployed("exec", "pod/client", "--", "ping", "-c", "1", "-W", "5", address)
        _, err = interrupt(process)
    deployed("delete", "pod", "late")
    node = [line.split()[0] for line in err.splitlines() if line.startswith("node/")]
    assert len(node) == 2
    arrivals = [p for p in read_with_scapy(path) if p["IP"].dst == address and p.direction == 2]
    assert arrivals[-1].sniffed_on.startswith("node/")
    assert ":veth" in arrivals[-1].sniffed_on


def test_a_capture_ends_with_its_cluster(netsim: Netsim, tmp_path: Path) -> None:
    other = Netsim(tmp_path / "other")
    other("up", "gone", "--nodes", "1")
    with capturing(other, "node/node-1", "-w", str(tmp_path / "x.pcapng")) as process:
        other("down", "gone")
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "the cluster has ended" in err


def count_packet_sockets(program: Netsim, where: str) -> int:
    return len(program("exec", where, "--", "cat", "/proc/net/packet").stdout.splitlines()) - 1  # its header


def test_after_kill_9_what_was_written_is_read_and_nothing_is_left(deployed: Netsim, tmp_path: Path) -> None:
    path = tmp_path / "way.pcapng"
    with capturing(deployed, "pod/client", "fabric", "-w", str(path), "tcp port 80") as process:
        assert count_packet_sockets(deployed, "pod/client") > 0
        ask_web(deployed)
        wait_until("it is written", lambda: path.stat().st_size > 2000)
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
    assert read_with_scapy(path)[0]["TCP"].flags == "S"
    wait_until("its sockets are gone", lambda: count_packet_sockets(deployed, "pod/client") == 0)


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("pod/nope",), 1, 'pods "nope" not found\nnext: netsim get pods -A'),
        (("node/nope",), 1, 'there is no node "nope"\nnext: nodes: node-1, node-2'),
        (("pod/client:eth9",), 1, 'pod/default/client: there is no interface "eth9"\nnext: interfaces: lo, eth0'),
        (("pods/client",), 2, '"pods/client" is no place'),
        ((), 2, "a capture needs a place\nnext: pod/NAME"),
        (("tcp", "port", "80"), 2, "a capture needs a place"),
        (("pod/client", "tcp prt 80"), 2, 'packet filter "tcp prt 80": can\'t parse filter expression: syntax error'),
        (("pod/client", "-w", "/nope/x.pcapng"), 1, "/nope/x.pcapng: cannot write: No such file or directory"),
        (("pod/client", "-w", "/dev/full"), 1, "/dev/full: cannot write: No space left on device"),
        (("--all", "pod/client"), 2, "--all is every place there is"),
        (("pod/client", "--count", "0"), 2, "--count"),
    ],
)
def test_what_can_not_be_is_told_before_anything_starts(
    deployed: Netsim, argv: tuple[str, ...], status: int, words: str
) -> None:
    done = deployed("capture", *argv, status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_in_python(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "way.pcapng"
    with cluster.capture(["pod/client", "fabric"], file=path, filter="icmp") as capture:
        cluster.exec("pod/client", ["ping", "-c", "1", "-W", "5", "203.0.113.2"], check=True)
    places = [(crossing.place, crossing.direction) for crossing in capture.frames]
    assert places == [
        ("pod/default/client", "out"),
        ("fabric", "in"),
        ("fabric", "in"),
        ("fabric", "out"),
        ("fabric", "in"),
        ("fabric", "out"),
        ("fabric", "out"),
        ("pod/default/client", "in"),
    ]
    assert capture.totals is not None
    assert capture.totals.packets == len(read_with_scapy(path)) == 8
    with pytest.raises(UsageError, match="syntax error"):
        cluster.capture("pod/client", filter="tcp prt")
    with pytest.raises(NetsimError, match="not found"), cluster.capture("pod/nope"):
        pass
