"""Ordinary TCP, HTTP and UDP from any pod, node or external host: Python sockets that live in its namespace.

No process is started: a socket belongs to the namespace it was opened in, wherever it is used.
"""

import contextlib
import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from netsim.model.errors import UsageError
from netsim.testing.places import Places


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One answer. ``local`` and ``peer`` are the client socket's own (address, port) pairs."""

    status: int
    headers: Mapping[str, str]
    body: str
    local: tuple[str, int]
    peer: tuple[str, int]


class Traffic:
    """Clients and servers in the namespaces of one cluster. ``where`` is ``pod/[NS/]NAME``, ``node/NAME`` or
    ``host/NAME``.
    """

    def __init__(self, cluster: Places) -> None:
        self._cluster = cluster

    def connect(
        self, where: str, address: str, port: int, *, source_port: int | None = None, timeout_s: float = 5.0
    ) -> socket.socket:
        """A connected TCP socket. Raises ConnectionRefusedError, TimeoutError or another OSError as connect(2) does."""
        sock = self._socket(where, address, socket.SOCK_STREAM, source_port, timeout_s)
        try:
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def http_get(
        self,
        where: str,
        url: str,
        *,
        source_port: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> HttpReply:
        """GET ``url`` over a connection of its own. The host is an address: names are for ``exec(where, ["curl",
        ...])``.

        Raises OSError as connect(2) and recv(2) do, UsageError for a URL that is not ``http://ADDRESS[:PORT]/...``.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme != "http" or not _is_address(host):
            raise UsageError(
                f"{url!r} is not http://ADDRESS[:PORT]/PATH",
                hint="a name is resolved by the pod's own resolver: cluster.exec(where, ['curl', ...])",
            )
        port = parts.port or 80
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self.connect(where, host, port, source_port=source_port, timeout_s=timeout_s)
        try:
            local, peer = connection.sock.getsockname(), connection.sock.getpeername()
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace")
            return HttpReply(answer.status, dict(answer.getheaders()), body, local[:2], peer[:2])
        finally:
            connection.close()

    def udp_exchange(
        self,
        where: str,
        address: str,
        port: int,
        payload: bytes | str,
        *,
        source_port: int | None = None,
        timeout_s: float = 2.0,
    ) -> bytes:
        """Send one datagram and return the answer.

        The socket is connected, so an answer counts only when it comes from ``address`` and ``port`` themselves, and
        an ICMP port unreachable raises ConnectionRefusedError. Silence raises TimeoutError.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        with self._socket(where, address, socket.SOCK_DGRAM, source_port, timeout_s) as sock:
            sock.connect((address, port))
            with contextlib.suppress(PermissionError):
                sock.send(data)
            return sock.recv(65535)

    def listen(self, where: str, port: int = 0, *, address: str = "0.0.0.0", backlog: int = 16) -> socket.socket:
        """A listening TCP socket in ``where``; port 0 takes a free one (``getsockname()`` says which)."""
        sock = self._socket(where, address, socket.SOCK_STREAM, None, 5.0)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def _socket(
        self, where: str, address: str, kind: socket.SocketKind, source_port: int | None, timeout_s: float
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self._cluster.socket(where, family, kind)
        sock.settimeout(timeout_s)
        if source_port is not None:
            try:
                # The same client port again and again is what tests of affinity and NAT need: TIME_WAIT must not
                # forbid it.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", source_port))
            except BaseException:
                sock.close()
                raise
        return sock


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
