"""Taps: every frame that crosses an interface of a namespace, with the kernel's time, by a ring in shared memory.

A frame is seen where tcpdump sees it: on its way in before any netfilter hook, on its way out after all of them. What a
hook drops on the way out is therefore not seen, and a frame over a bridge is seen at the port, the bridge, and the
next port.

PACKET_MMAP with TPACKET_V3, not recvmsg with SO_TIMESTAMPNS: measured side by side it takes 1.1 us of Python for a
frame instead of 2.6, and its buffer is not limited by net.core.rmem_max, which only root of the machine may exceed.
The price: a frame becomes readable when its block is full, or ``latency_ms`` (at most twice that) later.
Sources: packet(7); Documentation/networking/packet_mmap.rst; net/packet/af_packet.c (tpacket_rcv).
"""

import ctypes
import fcntl
import mmap
import os
import socket
import struct
from typing import NamedTuple, Self

from netsim.kernel.bpf import BpfProgram, keep_all
from netsim.kernel.packets import SOL_PACKET, bind_to, find_interface, name_interface, take_losses
from netsim.kernel.rtnl_socket import SocketSource
from netsim.model.errors import KernelError

SNAPLEN_MAX = 262144  # what tcpdump and Wireshark take for "all of it"
BUFFER_BYTES = 16 * 1024 * 1024
BLOCK_BYTES = (
    128 * 1024
)  # a block holds whole frames only, and with segmentation offload one has up to 64 KiB and headers
MIN_BLOCKS = 4

_PACKET_RX_RING, _PACKET_VERSION = 5, 10
_TPACKET_V3 = 2
_TP_STATUS_USER, _TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 0x1, 0x10, 0x40
_ETH_P_8021Q = 0x8100
_ETHER_ADDRESSES_BYTES = 12
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_FRAME_BYTES = 2048  # of no effect in version 3, but checked

# struct tpacket_block_desc: version, offset_to_priv, block_status, num_pkts, offset_to_first_pkt
_BLOCK = struct.Struct("=8xIII")
_STATUS = struct.Struct("=I")
_STATUS_OFFSET = 8
# struct tpacket3_hdr, then struct sockaddr_ll: next_offset, sec, nsec, snaplen, len, status, mac, vlan_tci, vlan_tpid,
# ifindex, pkttype
_HEADER = struct.Struct("=6IH6xIH14xi2xB")
_PACKET_OUTGOING = 4

_libc = ctypes.CDLL(None, use_errno=True)


class Frame(NamedTuple):
    """One frame at one interface."""

    ifindex: int
    outgoing: bool
    time_ns: int  # CLOCK_REALTIME
    data: bytes  # from the link-layer header on, possibly cut
    length: int  # bytes on the wire


class Tap:
    """The frames of one interface of a namespace, or of all there are and will be. Not for several threads at once.

    It holds the namespace, as any socket does, until it is closed.
    """

    def __init__(
        self,
        ns: SocketSource,
        *,
        interface: str | None = None,
        filter: BpfProgram | None = None,
        snaplen: int = SNAPLEN_MAX,
        buffer_bytes: int = BUFFER_BYTES,
        latency_ms: int = 5,
    ) -> None:
        """Sees every frame from now on. ``filter`` keeps what it says, which goes before ``snaplen``.

        ``buffer_bytes`` is kernel memory that is taken now: what fits in it may come before the next `read`.
        Raises KernelError, with errno ENODEV where there is no such interface.
        """
        self.name = ns.name
        self._position = 0
        self._blocks = max(MIN_BLOCKS, buffer_bytes // BLOCK_BYTES)
        self._dropped = 0
        self._ring: mmap.mmap | None = None
        try:
            # Protocol 0: it receives nothing before the filter is there and it is bound.
            self._socket = ns.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise KernelError(f"packet socket: {error.strerror}", errno=error.errno or 0, where=ns.name) from error
        try:
            (filter or keep_all(snaplen)).attach(self._socket)
            self._make_ring(latency_ms)
            self._bind(0 if interface is None else self.index_of(interface))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """For a selector: readable when `read` has something to give (or its interface is gone)."""
        return self._socket.fileno()

    def read(self) -> list[Frame]:
        """The frames of all blocks that are ready, in the order the kernel wrote them. Does not wait."""
        frames: list[Frame] = []
        ring = self._ring
        if ring is None:
            return frames
        # A tap of one interface has an error pending when that goes down, and would be readable until it is taken.
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        for _ in range(self._blocks):  # not for ever: under load there would always be one more
            start = self._position * BLOCK_BYTES
            status, count, offset = _BLOCK.unpack_from(ring, start)
            if not status & _TP_STATUS_USER:
                break
            _read_block(ring, start + offset, count, frames)
            _STATUS.pack_into(ring, start + _STATUS_OFFSET, 0)
            self._position = (self._position + 1) % self._blocks
        return frames

    def dropped(self) -> int:
        """How many frames were lost so far because the buffer was full. Raises KernelError."""
        try:
            self._dropped += take_losses(self._socket)
        except OSError as error:
            raise self._error("statistics of the packet socket", error) from error
        return self._dropped

    def stop(self) -> None:
        """See nothing more from now on; what was seen can still be read, after twice the latency at the latest."""
        keep_all(0).attach(self._socket)

    def name_of(self, ifindex: int) -> str:
        """The name of an interface now; "" if it is gone."""
        return name_interface(self._socket, ifindex)

    def index_of(self, interface: str) -> int:
        """The index of an interface. Raises KernelError."""
        try:
            return find_interface(self._socket, interface)
        except OSError as error:
            raise self._error(f"interface {interface}", error) from error

    def is_ethernet(self, interface: str) -> bool:
        """Whether its frames have an Ethernet header, as those of lo; a tunnel's (WireGuard, tun) begin with IP."""
        try:
            answer = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, struct.pack("=16s24x", interface.encode()[:15]))
        except OSError:
            return True  # gone already; most are
        return struct.unpack_from("=H", answer, 16)[0] in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)

    def close(self) -> None:
        """Let go of the ring, the socket and thereby the namespace; may be repeated."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _make_ring(self, latency_ms: int) -> None:
        size = self._blocks * BLOCK_BYTES
        # struct tpacket_req3: block size and number, frame size and number, latency, private bytes, features
        request = struct.pack(
            "=7I", BLOCK_BYTES, self._blocks, _FRAME_BYTES, size // _FRAME_BYTES, max(1, latency_ms), 0, 0
        )
        try:
            self._socket.setsockopt(SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
            self._set_option(_PACKET_RX_RING, request)
            self._ring = mmap.mmap(self._socket.fileno(), size)
        except OSError as error:
            raise self._error(f"packet ring of {size >> 10} KiB", error) from error

    def _set_option(self, option: int, value: bytes) -> None:
        """By ctypes: the kernel waits for an RCU grace period, and socket.setsockopt would let no other thread run."""
        if _libc.setsockopt(self._socket.fileno(), SOL_PACKET, option, value, len(value)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _bind(self, ifindex: int) -> None:
        try:
            bind_to(self._socket, ifindex)
        except OSError as error:
            raise self._error("packet socket", error) from error

    def _error(self, what: str, error: OSError) -> KernelError:
        return KernelError(f"{what}: {error.strerror or error}", errno=error.errno or 0, where=self.name)


def _read_block(ring: mmap.mmap, position: int, count: int, frames: list[Frame]) -> None:
    """Append the ``count`` frames of one block. The hot path: about a microsecond for each."""
    unpack, add = _HEADER.unpack_from, frames.append
    for _ in range(count):
        step, seconds, nanoseconds, kept, length, status, mac, tci, tpid, ifindex, kind = unpack(ring, position)
        start = position + mac
        data = ring[start : start + kept]
        if status & _TP_STATUS_VLAN_VALID:
            data, length = (
                _put_tag_back(data, tpid if status & _TP_STATUS_VLAN_TPID_VALID else _ETH_P_8021Q, tci),
                length + 4,
            )
        add(Frame(ifindex, kind == _PACKET_OUTGOING, seconds * 1_000_000_000 + nanoseconds, data, length))
        position += step


def _put_tag_back(data: bytes, tpid: int, tci: int) -> bytes:
    """The frame as it is on the wire: the kernel keeps a VLAN tag beside it."""
    return data[:_ETHER_ADDRESSES_BYTES] + struct.pack("!HH", tpid, tci & 0xFFFF) + data[_ETHER_ADDRESSES_BYTES:]
