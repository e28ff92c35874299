"""pcapng as others read it: scapy gets back what was written, and every cut between blocks is a valid file."""

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.observe.pcapng import interface_block, packet_block, section_header, statistics_block, whole_blocks

HEADER = section_header(application="netsim 1.2", system="Linux 6.18")
INTERFACES = [
    interface_block("pod/default/web:eth0", description="eth0 in default_web", mac="0a:58:0a:f4:00:02", snaplen=262144),
    interface_block("node/node-1:cni0", filter="tcp port 80", snaplen=262144),
]


def read_with_scapy(content: bytes) -> list[tuple[bytes, Any]]:
    from scapy.utils import RawPcapNgReader  # over a second

    with RawPcapNgReader(io.BytesIO(content)) as reader:
        return list(reader)


packets = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2**62),
        st.binary(min_size=1, max_size=100),
        st.integers(0, 2**31),
        st.booleans(),
    ),
    max_size=8,
)


@given(packets)
def test_scapy_reads_back_what_was_written(given_packets: list[tuple[int, int, bytes, int, bool]]) -> None:
    content = HEADER + b"".join(INTERFACES)
    content += b"".join(
        packet_block(number, time_ns, data, len(data) + extra, outgoing)
        for number, time_ns, data, extra, outgoing in given_packets
    )
    read = read_with_scapy(content)
    assert len(read) == len(given_packets)
    for (data, metadata), (number, time_ns, wanted, extra, outgoing) in zip(read, given_packets, strict=True):
        assert data == wanted
        assert metadata.wirelen == len(wanted) + extra
        assert metadata.tsresol == 1_000_000_000
        assert (metadata.tshigh << 32) + metadata.tslow == time_ns
        assert metadata.ifname == (b"pod/default/web:eth0", b"node/node-1:cni0")[number]
        assert metadata.direction == (2 if outgoing else 1)


def walk(content: bytes) -> list[tuple[int, bytes]]:
    """Type and body of each block, whose length must stand at both ends (section 3.1)."""
    found = []
    while content:
        kind, length = struct.unpack_from("<II", content)
        assert length % 4 == 0
        assert struct.unpack_from("<I", content, length - 4) == (length,)
        found.append((kind, content[8 : length - 4]))
        content = content[length:]
    return found


def options_of(body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while True:
        code, length = struct.unpack_from("<HH", body)
        if code == 0:
            assert (length, body[4:]) == (0, b"")
            return found
        found[code] = body[4 : 4 + length]
        body = body[4 + (length + 3) // 4 * 4 :]


def test_metadata_is_where_the_specification_has_it() -> None:
    (kind, section), (first_kind, first), (_, second) = walk(HEADER + b"".join(INTERFACES))
    assert kind == 0x0A0D0D0A
    assert section[:16] == struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    assert options_of(section[16:]) == {3: b"Linux 6.18", 4: b"netsim 1.2"}
    assert first_kind == 1
    assert struct.unpack_from("<HHI", first) == (1, 0, 262144)
    assert options_of(first[8:]) == {
        2: b"pod/default/web:eth0",
        3: b"eth0 in default_web",
        6: bytes.fromhex("0a580af40002"),
        9: b"\x09",
    }
    assert options_of(second[8:])[11] == b"\0tcp port 80"


def test_statistics_carry_times_and_counts() -> None:
    block = statistics_block(1, started_ns=5, ended_ns=(7 << 32) + 9, received=3, dropped=2)
    [(kind, body)] = walk(block)
    assert kind == 5
    assert struct.unpack_from("<III", body) == (1, 7, 9)
    assert options_of(body[12:]) == {
        2: struct.pack("<II", 0, 5),
        3: struct.pack("<II", 7, 9),
        4: struct.pack("<Q", 3),
        5: struct.pack("<Q", 2),
    }


def test_a_cut_anywhere_leaves_whole_blocks() -> None:
    blocks = [HEADER, *INTERFACES, packet_block(0, 1, b"abc", 3, True), packet_block(1, 2, b"de", 2, False)]
    content = b"".join(blocks)
    ends = [sum(map(len, blocks[:count])) for count in range(len(blocks) + 1)]
    for cut in range(len(content) + 1):
        assert whole_blocks(content, cut) == max(end for end in ends if end <= cut)


@pytest.mark.parametrize("mac", ["", "00:00:00:00", "0a:58:0a:f4:00:02:00:00"])
def test_what_is_no_mac_of_ethernet_is_left_out(mac: str) -> None:
    [(_, body)] = walk(interface_block("lo", mac=mac, snaplen=1))
    assert 6 not in options_of(body[8:])
