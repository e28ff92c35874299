"""Raw packet sockets in a namespace: what sends and sees whole Ethernet frames on one interface (packet(7))."""

import ctypes
import fcntl
import os
import socket
import struct

from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError

ETH_P_ALL = 0x0003
SOL_PACKET = 263
_PACKET_STATISTICS = 6
_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933
_ADDRESS = struct.Struct("=HHiHBB8s")  # struct sockaddr_ll
_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024


def open_packet_socket(ns: Netns, interface: str, *, protocol: int = ETH_P_ALL) -> socket.socket:
    """An AF_PACKET socket bound to ``interface``: gets every frame in and out from now on, sends frames as they are.

    ``protocol`` is an EtherType; 0 receives nothing, for a socket that only sends. Raises KernelError.
    """
    sock = None
    try:
        # Protocol 0 until bound: a socket that is not bound yet sees the frames of every interface.
        sock = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        sock.bind((interface, protocol))
    except OSError as error:
        if sock is not None:
            sock.close()
        raise KernelError(
            f"packet socket on {interface}: {error.strerror or error}", errno=error.errno or 0, where=ns.name
        ) from error
    return sock


def bind_to(sock: socket.socket, ifindex: int) -> None:
    """Receive the frames of an interface, 0: of all. Raises OSError.

    By ctypes: socket.bind takes the name of one interface, and has no word for all of them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    address = _ADDRESS.pack(socket.AF_PACKET, socket.htons(ETH_P_ALL), ifindex, 0, 0, 0, b"")
    if libc.bind(sock.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def take_losses(sock: socket.socket) -> int:
    """How many frames had no room since this was last asked: the kernel then counts from 0 again. Raises OSError."""
    return int(struct.unpack("=II", sock.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 8))[1])


def name_interface(sock: socket.socket, ifindex: int) -> str:
    """The name of an interface of the socket's namespace now; "" if it is gone."""
    try:
        answer = fcntl.ioctl(sock, _SIOCGIFNAME, struct.pack("=16si20x", b"", ifindex))
    except OSError:
        return ""
    return answer[:16].split(b"\0", 1)[0].decode(errors="replace")


def find_interface(sock: socket.socket, name: str) -> int:
    """The index of an interface of the socket's namespace. Raises OSError."""
    answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("=16s24x", name.encode()[:15]))
    return int(struct.unpack_from("=i", answer, 16)[0])
