"""Receiving descriptors over a unix socket (SCM_RIGHTS, unix(7)) so that they are closed on exec."""

import array
import socket

_INT = array.array("i").itemsize


def receive_fds(sock: socket.socket, size_bytes: int, max_fds: int) -> tuple[bytes, list[int]]:
    """One message and the descriptors beside it, which the caller closes.

    Not `socket.recv_fds`: it ignores its flags (seen in CPython 3.11), so that every program executed meanwhile
    would inherit what was received.
    """
    data, ancillary, _flags, _address = sock.recvmsg(
        size_bytes, socket.CMSG_SPACE(max_fds * _INT), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _INT])
    return data, list(fds)
