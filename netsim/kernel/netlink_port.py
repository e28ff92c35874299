"""The port of a netlink socket to which the kernel ties something that ends with the socket.

The kernel ends it by the number of the port: when a socket is closed, its number is free at once, and only a moment
later all that was tied to it is ended (netlink_release: the table of sockets first, then NETLINK_URELEASE). The kernel
gives the first socket of a process the process' number. So a socket that is just being closed by another thread, of
whatever use, would take with it what a new one with its number has made in between: a listener of the packet log
(nfulnl_rcv_nl_event), a table with an owner (nft_rcv_nl_event). A number that nobody had before does not have that.
"""

import errno
import os
import socket

_LOWEST = 1 << 23  # above all numbers of processes (PID_MAX_LIMIT); those that the kernel draws are negative
_SPAN = (1 << 31) - _LOWEST
_TRIES = 8


def bind_alone(sock: socket.socket, groups: int = 0) -> None:
    """Bind to a number drawn by chance. Raises OSError."""
    for _ in range(_TRIES):
        port = _LOWEST + int.from_bytes(os.urandom(4), "big") % _SPAN
        try:
            sock.bind((port, groups))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
