"""Addresses that come to a namespace's links and go from them, told by the kernel as it happens.

Source: rtnetlink(7), RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR; struct ifaddrmsg in linux/if_addr.h.
"""

import errno
import socket
import struct

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.rtnl_socket import SocketSource
from netsim.model.errors import KernelError

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_IFADDRMSG = struct.Struct("=BBBBI")
_RECEIVE_BYTES = 32768


class AddressEvents:
    """A socket that is readable when an address came or went. For one thread at a time."""

    def __init__(self, ns: SocketSource) -> None:
        """Hears what happens from now on. Raises KernelError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = ns.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError as error:
            raise KernelError(f"netlink socket: {error.strerror}", errno=error.errno or 0, where=ns.name) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """May be repeated."""
        self._socket.close()

    def drain(self, *, but: int = 0) -> bool:
        """Whether there was anything since the last call on any link but the one of index ``but``.

        True also where the kernel had more to tell than the socket holds: then nobody knows.
        """
        found = False
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True
                continue
            for kind, _, _, body in wire.walk_messages(data):
                if kind in (wire.RTM_NEWADDR, wire.RTM_DELADDR):
                    found = found or _IFADDRMSG.unpack_from(body)[-1] != but
