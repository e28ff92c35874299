"""A netlink socket's own number. Any process may have such sockets."""

import os
import socket
from contextlib import closing

from netsim.kernel.netlink_port import bind_alone

_PID_MAX_LIMIT = 1 << 22  # include/linux/threads.h
_NETLINK_ROUTE = 0


def make_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)


def test_the_number_is_none_that_the_kernel_gives() -> None:
    with closing(make_socket()) as one, closing(make_socket()) as other, closing(make_socket()) as usual:
        bind_alone(one)
        bind_alone(other, 1)
        usual.bind((0, 0))
        ports = [sock.getsockname()[0] for sock in (one, other, usual)]
        assert min(ports[:2]) > _PID_MAX_LIMIT
        assert len({*ports, os.getpid()}) >= 3
        assert other.getsockname()[1] == 1
