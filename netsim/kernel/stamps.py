"""Waiting until the kernel stamps packets with the time of their coming, which it begins a moment after it is asked to.

A socket that wants stamps switches them on for the whole machine, but by a work queue (net_enable_timestamp), which
takes milliseconds on a busy machine; a packet that comes until then is stamped when it is read (__sock_recv_timestamp).
Then the order of packets by time is that of reading.

Source: net/core/dev.c, net/socket.c.
"""

import contextlib
import socket
import struct
import time

_SO_TIMESTAMPNS = 35
_TIMEOUT_S, _PAUSE_S = 0.1, 0.001
_TIME = struct.Struct("=qq")


def await_stamps() -> bool:
    """Return when packets are stamped as they come; False: that could not be seen, and a little time has passed.

    To be called while a socket that wants stamps is open. It sends datagrams to itself by the loopback interface of the
    calling thread's namespace: one stamped as it came has a time before the end of its sending.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.settimeout(_TIMEOUT_S)
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        while time.monotonic() < deadline:
            sock.send(b"")
            sent_ns = time.time_ns()
            _data, ancillary, _flags, _address = sock.recvmsg(1, 64)
            seconds, nanoseconds = _TIME.unpack_from(ancillary[0][2])
            if seconds * 1_000_000_000 + nanoseconds <= sent_ns:
                return True
            time.sleep(_PAUSE_S)
    time.sleep(_PAUSE_S)
    return False
