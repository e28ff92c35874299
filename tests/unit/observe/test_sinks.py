"""Where captures go: files that are valid however they end, lines, JSON."""

import json
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netsim.model.errors import NetsimError
from netsim.observe.crossing import Crossing, Interface
from netsim.observe.pcapng import whole_blocks
from netsim.observe.sinks import FileSink, LineSink, Unfinished, render_json, render_line
from tests.unit.observe.test_pcapng import read_with_scapy

INTERFACE = Interface(0, "pod/default/web", "eth0", "default_web")
TCP = bytes.fromhex(
    "0a580af400010a580af4000208004500002800010000400666bb0af400020a6000019c40005000000007000000005002200000000000"
)


def crossing(data: bytes = TCP, *, length: int = 0, outgoing: bool = True) -> Crossing:
    return Crossing(1_700_000_000_123_456_789, INTERFACE, outgoing, data, length or len(data))


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """write(2) fails with EFBIG there, after it has written what fits: as ENOSPC of a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def open_sink(path: Path) -> FileSink:
    sink = FileSink(str(path), application="netsim", snaplen=262144)
    sink.add_interface(INTERFACE)
    return sink


@pytest.mark.parametrize("size", [1000, 1001, 1050, 1103])
def test_a_file_on_a_full_disk_ends_with_its_last_whole_block(tmp_path: Path, size: int) -> None:
    path = tmp_path / "full.pcapng"
    sink = open_sink(path)
    with no_file_larger_than(size):
        with pytest.raises(Unfinished, match="File too large") as caught:
            sink.write([crossing()] * 100)
        content = path.read_bytes()
    sink.close()
    assert 0 < caught.value.taken == len(read_with_scapy(content))
    assert size - 100 < len(content) <= size
    assert whole_blocks(content, len(content)) == len(content)


def test_an_earlier_file_is_replaced_and_a_wrong_path_told(tmp_path: Path) -> None:
    path = tmp_path / "way.pcapng"
    path.write_bytes(b"x" * 10_000)
    open_sink(path).close()
    assert path.read_bytes()[:4] == struct.pack("<I", 0x0A0D0D0A)
    assert len(path.read_bytes()) < 1000
    with pytest.raises(NetsimError, match="cannot write: Is a directory"):
        open_sink(tmp_path)
    with pytest.raises(NetsimError, match="nowhere/x: cannot write: No such file or directory"):
        open_sink(tmp_path / "nowhere" / "x")
    with pytest.raises(NetsimError, match="/dev/full: cannot write: No space left on device"):
        open_sink(Path("/dev/full"))


def test_a_line_says_when_where_and_what() -> None:
    line = render_line(crossing())
    assert line.split("  ", 1)[0].endswith(".123456789")
    assert "  pod/default/web:eth0  out  10.244.0.2:40000 > 10.96.0.1:80 tcp SYN seq 7, ttl 64, 54 bytes" in line


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (
            "ffffffffffff0a580af40002080600010800060400010a580af400020af400020000000000000af40001",
            "ARP who has 10.244.0.1? tell 10.244.0.2",
        ),
        (
            "0a580af400020a580af40001080600010800060400020a580af400010af400010a580af400020af40002",
            "ARP 10.244.0.1 is at 0a:58:0a:f4:00:01",
        ),
        ("ffffffffffff0a580af4000288b5", "0a:58:0a:f4:00:02 > ff:ff:ff:ff:ff:ff type 0x88b5, 14 bytes"),
        ("ffff", "frame of 2 bytes, cut"),
        ("", "frame of 0 bytes, cut"),
    ],
)
def test_what_is_not_ip_is_named(frame: str, words: str) -> None:
    assert render_line(crossing(bytes.fromhex(frame))).endswith(f"out  {words}")


def test_no_cut_of_a_frame_breaks_a_line() -> None:
    for end in range(len(TCP)):
        assert render_line(crossing(TCP[:end], length=len(TCP)))
        assert json.loads(render_json(crossing(TCP[:end], length=len(TCP))))["length"] == 54


def test_json_has_what_scripts_ask_for() -> None:
    assert json.loads(render_json(crossing(outgoing=False))) == {
        "timeNs": 1_700_000_000_123_456_789,
        "place": "pod/default/web",
        "interface": "eth0",
        "direction": "in",
        "length": 54,
        "summary": "10.244.0.2:40000 > 10.96.0.1:80 tcp SYN seq 7, ttl 64, 54 bytes",
        "protocol": "tcp",
        "source": "10.244.0.2",
        "destination": "10.96.0.1",
        "sourcePort": 40000,
        "destinationPort": 80,
        "ttl": 64,
        "note": "SYN",
        "vni": None,
    }


def test_lines_go_out_at_once_and_a_reader_that_is_gone_is_an_error() -> None:
    reading, writing = os.pipe()
    sink = LineSink(render_json, writing)
    sink.write([crossing(), crossing()])
    assert os.read(reading, 65536).count(b"\n") == 2
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        sink.write([crossing()])
    os.close(writing)
