"""Named packet counters of a namespace, which rules count into by ``-m nfacct --nfacct-name NAME``.

Sources: include/uapi/linux/netfilter/nfnetlink_acct.h, net/netfilter/nfnetlink_acct.c.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.rtnl_socket import SocketSource
from netsim.model.errors import FeatureMissing, KernelError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 7 << 8
_NEW, _GET, _DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 3
_NAME, _PACKETS = 1, 2
_ABSENT = (errno.EPROTONOSUPPORT, errno.EINVAL)  # no such subsystem: CONFIG_NETFILTER_NETLINK_ACCT
_RECEIVE_BYTES = 65536


def ensure_counters(ns: SocketSource, names: Iterable[str]) -> None:
    """Have these counters; those that are there keep what they counted. Raises FeatureMissing, KernelError."""
    _run(ns, _NEW, wire.NLM_F_CREATE, names, errno.EBUSY)


def delete_counters(ns: SocketSource, names: Iterable[str]) -> None:
    """Delete what is there of them. Raises FeatureMissing, KernelError: EBUSY while a rule counts into one."""
    _run(ns, _DELETE, 0, names, errno.ENOENT)


def read_counters(ns: SocketSource) -> dict[str, int]:
    """The packets that each counter has seen. Raises FeatureMissing, KernelError."""
    found = {}
    with _open(ns) as sock:
        sock.send(_message(_GET, wire.NLM_F_REQUEST | wire.NLM_F_DUMP, b""))
        for kind, body in _answers(sock):
            if kind == wire.NLMSG_DONE:
                break
            if kind == wire.NLMSG_ERROR:
                _check(ns, "reading counters", body)
                break
            attributes = wire.parse_attributes(body, 4)
            found[attributes[_NAME].rstrip(b"\0").decode()] = int.from_bytes(attributes[_PACKETS], "big")
    return found


def _run(ns: SocketSource, kind: int, flags: int, names: Iterable[str], accepted: int) -> None:
    """One request for each name; ``accepted``: the error that means it is so already."""
    with _open(ns) as sock:
        for name in names:
            sock.send(_message(kind, wire.NLM_F_REQUEST | wire.NLM_F_ACK | flags, wire.text(_NAME, name)))
            _, body = next(_answers(sock))
            _check(ns, f"counter {name}", body, accepted)


def _open(ns: SocketSource) -> socket.socket:
    try:
        sock = ns.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise FeatureMissing("nfacct", f"netlink socket: {error.strerror}", where=ns.name) from None
    sock.bind((0, 0))
    return sock


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    body = struct.pack("=BBH", 0, 0, 0) + attributes  # struct nfgenmsg: family, version, resource
    return wire.HEADER.pack(wire.HEADER.size + len(body), kind, flags, 1, 0) + body


def _answers(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        for kind, _flags, _sequence, body in wire.walk_messages(sock.recv(_RECEIVE_BYTES)):
            yield kind, body


def _check(ns: SocketSource, what: str, body: bytes, accepted: int = 0) -> None:
    number = -int(struct.unpack_from("=i", body)[0])
    if number in (0, accepted):
        return
    if number in _ABSENT:
        raise FeatureMissing("nfacct", "the kernel has no packet counters (NETFILTER_NETLINK_ACCT)", where=ns.name)
    raise KernelError(f"nfacct: {what}: {os.strerror(number)}", errno=number, where=ns.name)
