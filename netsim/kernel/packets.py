"""Raw packet sockets in a namespace: what sends and sees whole Ethernet frames on one interface (packet(7))."""

import socket

from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError

ETH_P_ALL = 0x0003
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
