"""A tap for few frames in many namespaces: no ring, so that opening takes microseconds and no kernel memory.

`netsim.kernel.tap.Tap` takes half a megabyte and an RCU grace period for each, which a thousand pods are too many for.
The price: room for some thousand small frames, and a frame that a bridge hands on keeps the time of its first crossing
in the namespace. Sources: packet(7); net/core/dev.c (net_timestamp_check, net_timestamp_set).
"""

import contextlib
import errno
import socket
import struct
from typing import Self

from netsim.kernel.bpf import BpfProgram, keep_all
from netsim.kernel.packets import SOL_PACKET, bind_to, find_interface, name_interface, take_losses
from netsim.kernel.rtnl_socket import SocketSource
from netsim.kernel.tap import Frame
from netsim.model.errors import KernelError

_PACKET_AUXDATA = 8
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_BUFFER_BYTES = 2 << 20
_OUTGOING = 4
_FRAME_BYTES = 65536
_ANCILLARY_BYTES = 128
_TIME = struct.Struct("=qq")
_AUXILIARY = struct.Struct("=II")  # struct tpacket_auxdata: status, length on the wire


class SmallTap:
    """The frames of all interfaces of a namespace. Not for several threads at once."""

    def __init__(self, ns: SocketSource, filter: BpfProgram) -> None:
        """Sees what ``filter`` keeps, from now on. Raises KernelError.

        The first tap of a machine gives frames the time of their reading until `stamps.await_stamps` returns.
        """
        self._dropped = 0
        self._indexes: dict[str, int] = {}
        self._where = ns.name
        try:
            # Protocol 0: it receives nothing before the filter is there.
            self._socket = ns.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise KernelError(f"packet socket: {error.strerror}", errno=error.errno or 0, where=ns.name) from error
        try:
            self._socket.setblocking(False)
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(SOL_PACKET, _PACKET_AUXDATA, 1)
            filter.attach(self._socket)
            bind_to(self._socket, 0)
        except OSError as error:
            self.close()
            raise KernelError(f"packet socket: {error.strerror}", errno=error.errno or 0, where=ns.name) from error
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Frame]:
        """The frames that came since the last call, in their order. Does not wait."""
        frames: list[Frame] = []
        while True:
            try:
                data, ancillary, _flags, address = self._socket.recvmsg(_FRAME_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return frames
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # said once, when an interface goes away
                    continue
                raise KernelError(
                    f"packet socket: {error.strerror}", errno=error.errno or 0, where=self._where
                ) from None
            time_ns, length = 0, len(data)
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                    seconds, nanoseconds = _TIME.unpack_from(value)
                    time_ns = seconds * 1_000_000_000 + nanoseconds
                elif (level, kind) == (SOL_PACKET, _PACKET_AUXDATA):
                    length = _AUXILIARY.unpack_from(value)[1]
            frames.append(Frame(self._index_of(address[0]), address[2] == _OUTGOING, time_ns, data, length))

    def dropped(self) -> int:
        """How many frames were lost so far because the buffer was full. Raises KernelError."""
        try:
            self._dropped += take_losses(self._socket)
        except OSError as error:
            raise KernelError(f"packet socket: {error.strerror}", errno=error.errno or 0, where=self._where) from None
        return self._dropped

    def stop(self) -> None:
        """See nothing more from now on; what was seen can still be read."""
        keep_all(0).attach(self._socket)

    def name_of(self, ifindex: int) -> str:
        """The name of an interface now; "" if it is gone."""
        return name_interface(self._socket, ifindex)

    def close(self) -> None:
        """May be repeated. Takes an RCU grace period."""
        self._socket.close()

    def _index_of(self, name: str) -> int:
        """0 for an interface that is gone."""
        if name not in self._indexes:
            try:
                self._indexes[name] = find_interface(self._socket, name)
            except OSError:
                return 0
        return self._indexes[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
