"""Why the kernel dropped packets while a thread was at work: the tracepoint skb:kfree_skb, by perf_event_open(2).

What a thread sends goes through the namespaces in its own context for the most part (the softirq runs when the send
ends), so a probe's losses come up in its sender's thread. Of packets that others were freeing there, ones of other
flows can be among them. What happens in a timer (an unanswered ARP) or in another process is not seen.

perf, not the trace buffer of tracefs, which is one for the whole machine and stays after kill -9. Needs root in the
machine's first user namespace. Sources: perf_event_open(2); include/trace/events/skb.h; Documentation/trace/events.rst.
"""

import bisect
import ctypes
import mmap
import os
import platform
import re
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from netsim.kernel.libc import make_error
from netsim.model.errors import FeatureMissing, KernelError

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432  # the same on every architecture
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_FSCONFIG_CMD_CREATE = 6
_PERF_TYPE_TRACEPOINT = 2
_SAMPLE_TIME, _SAMPLE_RAW = 1 << 2, 1 << 10
_USE_CLOCKID = 1 << 25
_FLAG_CLOEXEC = 8
_RECORD_SAMPLE, _RECORD_LOST = 9, 2
_DATA_PAGES = 16
_HEAD_AT, _TAIL_AT = 1024, 1032  # struct perf_event_mmap_page: data_head, data_tail
_IP_PROTOCOLS = frozenset((0x0800, 0x86DD))
_FIELD = re.compile(r"field:.*?(\w+);\s*offset:(\d+);\s*size:(\d+);")
_REASON = re.compile(r'\{\s*(\d+),\s*"(\w+)"\s*\}')
_EVENT = "events/skb/kfree_skb"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class DropEvent:
    """``time_ns`` of CLOCK_REALTIME; ``reason`` and ``function`` are the kernel's names, "" where it tells none."""

    time_ns: int
    reason: str
    function: str


@dataclass(frozen=True, slots=True)
class _Format:
    number: int
    offsets: dict[str, tuple[int, int]]
    reasons: dict[int, str]


class DropWatch:
    """Drops in the context of one thread, from opening to closing. Not for several threads at once."""

    def __init__(self, thread_id: int = 0) -> None:
        """``thread_id`` 0 is the calling thread. Raises FeatureMissing where that may not be looked at."""
        self._format = _read_format()
        self._ring: mmap.mmap | None = None
        self._fd = _open_event(self._format.number, thread_id)
        try:
            self._ring = mmap.mmap(self._fd, (1 + _DATA_PAGES) * mmap.PAGESIZE)
        except OSError as error:
            os.close(self._fd)
            raise FeatureMissing("drop_reasons", f"perf ring: {error.strerror}") from error
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self.lost = False

    def read(self) -> list[DropEvent]:
        """What came since the last call, of IP packets. Does not wait."""
        ring = self._ring
        if ring is None:
            return []
        head, tail = struct.unpack_from("=QQ", ring, _HEAD_AT)
        size = _DATA_PAGES * mmap.PAGESIZE
        start, length = tail % size, head - tail
        data = ring[mmap.PAGESIZE :]
        data = (data[start:] + data[:start])[:length]
        struct.pack_into("=Q", ring, _TAIL_AT, head)
        found = self._parse(data)
        _name_functions(location for _, _, location in found)
        return [DropEvent(moment, reason, _functions[location]) for moment, reason, location in found]

    def close(self) -> None:
        """May be repeated."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _parse(self, data: bytes) -> list[tuple[int, str, int]]:
        """Time, reason and address of each."""
        events: list[tuple[int, str, int]] = []
        at = 0
        while at + 8 <= len(data):
            kind, _misc, size = struct.unpack_from("=IHH", data, at)
            if size < 8:
                break
            if kind == _RECORD_SAMPLE:
                moment, _length = struct.unpack_from("=QI", data, at + 8)
                raw = data[at + 20 : at + size]
                protocol, reason, location = (self._field(raw, name) for name in ("protocol", "reason", "location"))
                if protocol in _IP_PROTOCOLS:
                    words = self._format.reasons.get(reason, str(reason))
                    events.append((moment + self._offset_ns, words, location))
            elif kind == _RECORD_LOST:
                self.lost = True
            at += size
        return events

    def _field(self, raw: bytes, name: str) -> int:
        offset, size = self._format.offsets.get(name, (0, 0))
        return int.from_bytes(raw[offset : offset + size], "little")


def _open_event(number: int, thread_id: int) -> int:
    call = _SYS_PERF_EVENT_OPEN.get(platform.machine())
    if call is None:
        raise FeatureMissing("drop_reasons", f"perf events on {platform.machine()} are not known here")
    # struct perf_event_attr, 112 bytes (PERF_ATTR_SIZE_VER5): a sample for each event, with time and raw data
    flags = _USE_CLOCKID
    attributes = struct.pack("=IIQQQQQIIQQQQIiQII", _PERF_TYPE_TRACEPOINT, 112, number, 1, _SAMPLE_TIME | _SAMPLE_RAW,
                             0, flags, 1, 0, 0, 0, 0, 0, 0, time.CLOCK_MONOTONIC, 0, 0, 0)  # fmt: skip
    buffer = ctypes.create_string_buffer(attributes, 112)
    arguments = (thread_id, -1, -1)
    fd = _libc.syscall(
        ctypes.c_long(call),
        ctypes.byref(buffer),
        *(ctypes.c_int(one) for one in arguments),
        ctypes.c_ulong(_FLAG_CLOEXEC),
    )
    if fd < 0:
        error = make_error("perf_event_open of skb:kfree_skb", ctypes.get_errno())
        raise FeatureMissing(
            "drop_reasons", error.message, hint="run as root; sysctl kernel.perf_event_paranoid below 2"
        )
    return int(fd)


_format_lock = threading.Lock()
_format: _Format | None = None


def _read_format() -> _Format:
    """Number, layout and words of the tracepoint; the same as long as the kernel runs."""
    global _format  # noqa: PLW0603 - read once
    with _format_lock:
        if _format is None:
            _format = _parse_format(_read_tracefs())
        return _format


def _parse_format(texts: tuple[str, str]) -> _Format:
    number, words = texts
    offsets = {match[1]: (int(match[2]), int(match[3])) for match in _FIELD.finditer(words)}
    return _Format(int(number), offsets, {int(match[1]): match[2] for match in _REASON.finditer(words)})


def _read_tracefs() -> tuple[str, str]:
    """The event's `id` and `format`, from a mount of tracefs that no path leads to and that ends here."""
    try:
        mount = _mount_tracefs()
    except KernelError as error:
        raise FeatureMissing("drop_reasons", error.message, hint="run as root; CONFIG_TRACEPOINTS") from error
    try:
        return _read_at(mount, f"{_EVENT}/id"), _read_at(mount, f"{_EVENT}/format")
    except OSError as error:
        raise FeatureMissing("drop_reasons", f"tracefs {_EVENT}: {error.strerror}") from error
    finally:
        os.close(mount)


def _mount_tracefs() -> int:
    context = _call("fsopen tracefs", _SYS_FSOPEN, ctypes.c_char_p(b"tracefs"), ctypes.c_uint(1))
    try:
        _call("fsconfig tracefs", _SYS_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_FSCONFIG_CMD_CREATE),
              None, None, ctypes.c_int(0))  # fmt: skip
        return _call("fsmount tracefs", _SYS_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(1), ctypes.c_uint(0))
    finally:
        os.close(context)


def _call(what: str, number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise make_error(what, ctypes.get_errno())
    return int(result)


def _read_at(directory: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd) as file:
        return file.read()


_functions: dict[int, str] = {}  # of the addresses that came up; there are a few dozen places that drop packets


def _name_functions(addresses: Iterable[int]) -> None:
    """Have `_functions` know these: ``nf_hook_slow+0x9a``, or "" where symbols are hidden (kernel.kptr_restrict).

    Takes some 80 ms, so only for addresses that are new. All symbols are not kept: they are 10 MB.
    """
    wanted = [address for address in addresses if address not in _functions]
    if not wanted:
        return
    try:
        with open("/proc/kallsyms", "rb") as file:
            lines = sorted(file.read().split(b"\n"))  # by address, as each line starts with one; nearly sorted already
    except OSError:
        lines = []
    for address in wanted:
        at = bisect.bisect_right(lines, b"%016x~" % address) - 1
        while at >= 0 and lines[at][17:18] not in (b"t", b"T"):
            at -= 1
        start, _kind, name = lines[at].split()[:3] if at >= 0 else (b"0", b"", b"")
        _functions[address] = f"{name.decode()}+{address - int(start, 16):#x}" if int(start, 16) else ""
