"""Where a capture goes: a pcapng file or pipe, lines on a terminal, JSON lines, a list."""

import json
import os
import stat
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from netsim.model.errors import NetsimError
from netsim.observe.crossing import Crossing, Interface
from netsim.observe.decode import decode_frame
from netsim.observe.frame_line import describe_frame
from netsim.observe.pcapng import interface_block, packet_block, section_header, statistics_block, whole_blocks

_WRITE_BYTES = 1 << 20  # at most so much is lost of what was captured when a disk is full
STDOUT = 1


class Unfinished(OSError):
    """A write that failed after the first ``taken`` crossings, which are where they should be."""

    taken = 0


class Sink(Protocol):
    """Takes crossings, by time. Its methods raise OSError as write(2) does; `Unfinished` where they know how far."""

    def add_interface(self, interface: Interface) -> None:
        """An interface that crossings may name from now on."""
        ...

    def write(self, crossings: Sequence[Crossing]) -> None:
        """Hand them on at once."""
        ...

    def finish(self, interfaces: Sequence[Interface], started_ns: int, ended_ns: int) -> None:
        """No more will come."""
        ...

    def fileno(self) -> int | None:
        """A descriptor to be watched for its reader's end; None: there is nothing to be watched."""
        ...

    def close(self) -> None: ...


class FileSink:
    """A pcapng file, or a pipe; ``-`` is standard output. What is there is whole blocks, whenever it ends."""

    def __init__(self, path: str, *, application: str, snaplen: int, filter: str = "") -> None:
        """Opens it and replaces what was there. Raises NetsimError."""
        self._path, self._snaplen, self._filter = path, snaplen, filter
        self._written = 0
        name = "standard output" if path == "-" else path
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.dup(STDOUT) if path == "-" else os.open(path, flags, 0o644)
        except OSError as error:
            raise NetsimError(f"cannot write: {error.strerror}", where=name) from error
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode) and path != "-"
        system = os.uname()
        try:
            self._put(section_header(application=application, system=f"{system.sysname} {system.release}"))
        except OSError as error:
            self.close()
            if isinstance(error, BrokenPipeError):
                raise
            raise NetsimError(f"cannot write: {error.strerror}", where=name) from error

    def add_interface(self, interface: Interface) -> None:
        self._put(
            interface_block(
                str(interface),
                description=f"{interface.name} in network namespace {interface.netns}",
                mac=interface.mac,
                filter=self._filter,
                snaplen=self._snaplen,
                linktype=interface.linktype,
            )
        )

    def write(self, crossings: Sequence[Crossing]) -> None:
        before = self._written
        try:
            self._write(crossings)
        except OSError as error:
            if not self._regular:
                raise
            unfinished = Unfinished(error.errno, error.strerror)
            unfinished.taken = self._count(crossings, self._written - before)
            raise unfinished from error

    def _write(self, crossings: Sequence[Crossing]) -> None:
        blocks: list[bytes] = []
        size = 0
        for time_ns, interface, outgoing, data, length in crossings:
            block = packet_block(interface.number, time_ns, data, length, outgoing)
            blocks.append(block)
            size += len(block)
            if size >= _WRITE_BYTES:
                self._put(b"".join(blocks))
                blocks, size = [], 0
        if blocks:
            self._put(b"".join(blocks))

    def _count(self, crossings: Sequence[Crossing], size: int) -> int:
        """How many of them make so many bytes."""
        count = 0
        for time_ns, interface, outgoing, data, length in crossings:
            size -= len(packet_block(interface.number, time_ns, data, length, outgoing))
            if size < 0:
                break
            count += 1
        return count

    def finish(self, interfaces: Sequence[Interface], started_ns: int, ended_ns: int) -> None:
        self._put(
            b"".join(
                statistics_block(one.number, started_ns=started_ns, ended_ns=ended_ns, received=one.packets)
                for one in interfaces
            )
        )

    def fileno(self) -> int | None:
        return None if self._regular else self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put(self, blocks: bytes) -> None:
        """Write whole blocks. What a disk that is full has taken of a block is taken back."""
        done = 0
        try:
            while done < len(blocks):
                done += os.write(self._fd, memoryview(blocks)[done:])
        except OSError:
            if self._regular:
                self._written += whole_blocks(blocks, done)
                os.ftruncate(self._fd, self._written)
            raise
        self._written += done


class LineSink:
    """One line for each crossing on a descriptor, standard output unless told."""

    def __init__(self, render: Callable[[Crossing], str], fd: int = STDOUT) -> None:
        self._render, self._fd = render, fd

    def add_interface(self, interface: Interface) -> None:
        """Lines name it when it is seen."""

    def write(self, crossings: Sequence[Crossing]) -> None:
        # os.write: what a broken pipe did not take must not be tried again when Python ends.
        text = memoryview("".join(f"{self._render(crossing)}\n" for crossing in crossings).encode())
        while text:
            text = text[os.write(self._fd, text) :]

    def finish(self, interfaces: Sequence[Interface], started_ns: int, ended_ns: int) -> None:
        """Nothing is left to say."""

    def fileno(self) -> int | None:
        return self._fd

    def close(self) -> None:
        """The descriptor is the caller's."""


class ListSink:
    """Keeps them for the program that captures."""

    def __init__(self) -> None:
        self.crossings: list[Crossing] = []

    def add_interface(self, interface: Interface) -> None:
        """Crossings name it."""

    def write(self, crossings: Sequence[Crossing]) -> None:
        self.crossings += crossings

    def finish(self, interfaces: Sequence[Interface], started_ns: int, ended_ns: int) -> None:
        """Nothing is left to do."""

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing is held."""


class TeeSink:
    """Several at once, in turn."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def add_interface(self, interface: Interface) -> None:
        for sink in self._sinks:
            sink.add_interface(interface)

    def write(self, crossings: Sequence[Crossing]) -> None:
        for sink in self._sinks:
            sink.write(crossings)

    def finish(self, interfaces: Sequence[Interface], started_ns: int, ended_ns: int) -> None:
        for sink in self._sinks:
            sink.finish(interfaces, started_ns, ended_ns)

    def fileno(self) -> int | None:
        return next((fd for sink in self._sinks if (fd := sink.fileno()) is not None), None)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def render_line(crossing: Crossing, width: int = 0) -> str:
    """Time of day, place and interface, direction, and what the frame is."""
    seconds, nanoseconds = divmod(crossing.time_ns, 1_000_000_000)
    time = f"{datetime.fromtimestamp(seconds):%H:%M:%S}.{nanoseconds:09d}"
    where = str(crossing.interface).ljust(width)
    return f"{time}  {where}  {crossing.direction:3}  {describe_frame(crossing.data, crossing.length)}"


def render_json(crossing: Crossing) -> str:
    """One JSON object; docs/capture.md says what is in it."""
    decoded = decode_frame(crossing.data)
    found: dict[str, object] = {
        "timeNs": crossing.time_ns,
        "place": crossing.place,
        "interface": crossing.interface.name,
        "direction": crossing.direction,
        "length": crossing.length,
        "summary": describe_frame(crossing.data, crossing.length),
    }
    if decoded is not None:
        packet = decoded.packet
        found |= {"protocol": packet.protocol, "source": packet.source, "destination": packet.destination}
        if packet.protocol in ("tcp", "udp", "sctp"):
            found |= {"sourcePort": packet.source_port, "destinationPort": packet.destination_port}
        found |= {"ttl": packet.ttl, "note": packet.note, "vni": packet.vni}
    return json.dumps(found)
