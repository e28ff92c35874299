"""Sockets that listen in a namespace, by NETLINK_SOCK_DIAG. Sources: sock_diag(7), include/uapi/linux/inet_diag.h."""

import errno
import socket
import struct
from typing import NamedTuple

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl_socket import Channel
from netsim.model.errors import FeatureMissing, KernelError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2: family, protocol, ext, states, id
_HEADER = struct.Struct("=BBBB")  # struct inet_diag_msg: family, state, timer, retrans; then struct inet_diag_sockid
_ID = struct.Struct(">HH16s16s")  # ports and addresses, in network order
_SIZE = 4 + 48 + 20
_SKV6ONLY = 11
_CLOSE, _LISTEN = 7, 10  # enum tcp_states; an unconnected UDP socket is in CLOSE
_PROTOCOLS = {"tcp": (socket.IPPROTO_TCP, 1 << _LISTEN), "udp": (socket.IPPROTO_UDP, 1 << _CLOSE)}


class Listening(NamedTuple):
    """``address``: "0.0.0.0" or "::" for any. ``interface``: index of the one it is bound to, else 0."""

    protocol: str
    address: str
    port: int
    interface: int
    v6only: bool


def read_listeners(ns: Netns) -> list[Listening]:
    """TCP sockets that listen and UDP sockets that are not connected. Raises KernelError, FeatureMissing."""
    found: list[Listening] = []
    with Channel(ns, _NETLINK_SOCK_DIAG) as channel:
        for protocol, (number, states) in _PROTOCOLS.items():
            for family in (socket.AF_INET, socket.AF_INET6):
                body = _REQUEST.pack(family, number, 0, states, bytes(48))
                try:
                    answers = channel.query(_SOCK_DIAG_BY_FAMILY, body, f"ss -l --{protocol}")
                except KernelError as error:
                    if error.errno != errno.ENOENT:
                        raise
                    raise FeatureMissing(
                        "sock_diag",
                        f"the kernel can't list {protocol} sockets (CONFIG_INET_{protocol.upper()}_DIAG)",
                        where=ns.name,
                        hint=f"modprobe {protocol}_diag",
                    ) from None
                found += [_parse(protocol, answer) for answer in answers]
    return found


def _parse(protocol: str, body: bytes) -> Listening:
    family = _HEADER.unpack_from(body)[0]
    port, _, source, _ = _ID.unpack_from(body, 4)
    interface = int.from_bytes(body[4 + 36 : 4 + 40], "little")
    address = wire.render_ip(source[: 4 if family == socket.AF_INET else 16])
    v6only = wire.parse_attributes(body, _SIZE).get(_SKV6ONLY, b"\1") != b"\0"
    return Listening(protocol, address, port, interface, v6only)
