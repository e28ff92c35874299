"""The control protocol's messages: JSON and file descriptors over a unix SOCK_SEQPACKET socket.

Why not HTTP: what is asked for here are file descriptors (a socket in a pod's namespace, a process on the caller's own
terminal), and only a unix socket carries those (SCM_RIGHTS, unix(7)). One packet is one message; a message larger than
a packet travels in a memfd.
"""

import json
import os
import socket
from typing import Any

from netsim.kernel.passing import receive_fds
from netsim.model.errors import ApiError, FeatureMissing, KernelError, NetsimError, TimeoutExpired, UsageError

PACKET_MAX_BYTES = 64 * 1024
FDS_MAX = 16


def send(sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message with its file descriptors (which stay open here)."""
    data = json.dumps(message).encode()
    if len(data) <= PACKET_MAX_BYTES:
        socket.send_fds(sock, [data], fds or [])
        return
    body = os.memfd_create("netsim-message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(body), "wb") as stream:
            stream.write(data)
        socket.send_fds(sock, [b'{"large":true}'], [body, *(fds or [])])
    finally:
        os.close(body)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its file descriptors (now the caller's), or None at the end. May raise BlockingIOError."""
    data, fds = receive_fds(sock, PACKET_MAX_BYTES, FDS_MAX)
    if not data:
        return None
    message = json.loads(data)
    if message.get("large") is True:
        with os.fdopen(fds.pop(0), "rb") as stream:
            stream.seek(0)
            message = json.load(stream)
    return message, fds


# Kinds of errors that have no more than their words.
_PLAIN = {kind.__name__: kind for kind in (NetsimError, UsageError, TimeoutExpired)}


def describe_error(error: NetsimError) -> dict[str, Any]:
    """An error as a message carries it."""
    described: dict[str, Any] = {
        "type": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
    }
    if isinstance(error, ApiError):
        described |= {"code": error.code, "reason": error.reason, "details": error.details}
    if isinstance(error, FeatureMissing):
        described["feature"] = error.feature
    if isinstance(error, KernelError):
        described["errno"] = error.errno
    return described


def rebuild_error(error: dict[str, Any]) -> NetsimError:
    """The error on the caller's side, with the same words and exit status."""
    message, where, hint = error["message"], error.get("where", ""), error.get("hint", "")
    kind = error.get("type", "NetsimError")
    if kind == "ApiError":
        return ApiError(error["code"], error["reason"], message, details=error.get("details"), hint=hint)
    if kind == "FeatureMissing":
        return FeatureMissing(error["feature"], message, where=where, hint=hint)
    if kind == "KernelError":
        return KernelError(message, errno=error["errno"], where=where, hint=hint)
    if kind in _PLAIN:
        return _PLAIN[kind](message, where=where, hint=hint)
    return NetsimError(message, where=where, hint=hint)
