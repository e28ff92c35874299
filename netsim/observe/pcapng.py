"""pcapng: the blocks of a capture file. Pure: values in, bytes out.

One section, little-endian, times in nanoseconds. Each block is whole in itself, so a file that ends after any of them
is a valid one. Source: draft-ietf-opsawg-pcapng (sections 4.1 to 4.6), which Wireshark, tcpdump and scapy read.
"""

import struct

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101  # begins with the IP header
NAME_LENGTH_BYTES = 8  # type and length, at the start of every block

_SECTION_HEADER, _INTERFACE, _STATISTICS, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPT_COMMENT, _SHB_HARDWARE, _SHB_OS, _SHB_USERAPPL = 1, 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_MACADDR, _IF_TSRESOL, _IF_FILTER, _IF_OS = 2, 3, 6, 9, 11, 12
_ISB_STARTTIME, _ISB_ENDTIME, _ISB_IFRECV, _ISB_IFDROP = 2, 3, 4, 5
_NANOSECONDS = 9  # if_tsresol: 10 to the power of -9

_HEAD = struct.Struct("<II")
_WORD = struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_PACKET = struct.Struct("<IIIIIII")  # type, block length, interface, time high, time low, captured, on the wire
# Options at the end of a packet block: epb_flags with its direction (4.3.1: 1 inbound, 2 outbound), opt_endofopt
_INBOUND = struct.pack("<HHIHH", 2, 4, 1, 0, 0)
_OUTBOUND = struct.pack("<HHIHH", 2, 4, 2, 0, 0)
# What a packet block has around its data: header (28), those options (12), its length again (4)
_AROUND_BYTES = _PACKET.size + len(_INBOUND) + 4
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def section_header(*, application: str, system: str, comment: str = "") -> bytes:
    """The first block of a file. ``application`` wrote it, on ``system`` (name and version of its kernel)."""
    options = [(_SHB_OS, system.encode()), (_SHB_USERAPPL, application.encode())]
    if comment:
        options.insert(0, (_OPT_COMMENT, comment.encode()))
    # Version 1.0, length of the section not told: -1
    return _block(_SECTION_HEADER, struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1) + _options(options))


def interface_block(
    name: str,
    *,
    description: str = "",
    mac: str = "",
    filter: str = "",
    snaplen: int,
    linktype: int = LINKTYPE_ETHERNET,
) -> bytes:
    """An interface; packets name it by its number, which counts these blocks from 0. ``mac`` as ``0a:58:...``."""
    options = [(_IF_NAME, name.encode())]
    if description:
        options.append((_IF_DESCRIPTION, description.encode()))
    if mac.count(":") == 5:
        options.append((_IF_MACADDR, bytes.fromhex(mac.replace(":", ""))))
    options.append((_IF_TSRESOL, bytes([_NANOSECONDS])))
    if filter:
        options.append((_IF_FILTER, b"\0" + filter.encode()))  # 0: a libpcap filter string
    return _block(_INTERFACE, struct.pack("<HHI", linktype, 0, snaplen) + _options(options))


def packet_block(interface: int, time_ns: int, data: bytes, length: int, outgoing: bool) -> bytes:
    """A packet at an interface. ``length`` is that on the wire, ``data`` may be less. The hot path."""
    kept = len(data)
    padding = _PADDING[kept & 3]
    total = _AROUND_BYTES + kept + len(padding)
    head = _PACKET.pack(_ENHANCED_PACKET, total, interface, time_ns >> 32, time_ns & 0xFFFFFFFF, kept, length)
    return b"".join((head, data, padding, _OUTBOUND if outgoing else _INBOUND, _WORD.pack(total)))


def statistics_block(
    interface: int, *, started_ns: int, ended_ns: int, received: int, dropped: int | None = None
) -> bytes:
    """What an interface had. ``dropped``: by the kernel for want of room; None where that is not known of it alone."""
    options = [
        (_ISB_STARTTIME, _time(started_ns)),
        (_ISB_ENDTIME, _time(ended_ns)),
        (_ISB_IFRECV, struct.pack("<Q", received)),
    ]
    if dropped is not None:
        options.append((_ISB_IFDROP, struct.pack("<Q", dropped)))
    return _block(_STATISTICS, _WORD.pack(interface) + _time(ended_ns) + _options(options))


def whole_blocks(data: bytes, end: int) -> int:
    """How many of the first ``end`` bytes of ``data``, which is blocks, are whole blocks."""
    position = 0
    while position + NAME_LENGTH_BYTES <= len(data):
        after = position + int(_WORD.unpack_from(data, position + 4)[0])
        if after > end:
            break
        position = after
    return position


def _time(time_ns: int) -> bytes:
    """A time as two words, the high one first."""
    return _HEAD.pack(time_ns >> 32, time_ns & 0xFFFFFFFF)


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return _HEAD.pack(kind, total) + body + _WORD.pack(total)


def _options(options: list[tuple[int, bytes]]) -> bytes:
    parts = [_OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3] for code, value in options]
    return b"".join(parts) + _OPTION.pack(0, 0)
