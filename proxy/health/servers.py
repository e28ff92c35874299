"""HTTP servers on sockets that live in a node's network namespace, in the event loop of this process.

aiohttp's low-level server: no routes, no application, one object for each listening socket. In the cluster process the
API server has paid for the import; a hundred nodes cost two sockets each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError
from proxy.addresses import join_port
from proxy.health.proxyhealth import Answer

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 0.5  # what an open keep-alive connection is given
_BACKLOG = 64

Handler = Callable[["web.BaseRequest"], Awaitable[Answer]]


def open_listener(netns: Netns, address: str, port: int, *, dual: bool = False) -> socket.socket:
    """A listening TCP socket in the namespace. ``dual``: ``::`` takes IPv4 too. Raises KernelError with the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = netns.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(netns, address, port, error) from error
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _refused(netns, address, port, error) from error
    return listener


def _refused(netns: Netns, address: str, port: int, error: OSError) -> KernelError:
    return KernelError(
        f"cannot listen on {join_port(address, port)}: {error.strerror}",
        errno=error.errno or 0,
        where=netns.name,
        hint="ss -ltnp in that namespace shows who has the port",
    )


class HttpServer:
    """One listening socket and what answers on it."""

    def __init__(self, listener: socket.socket, handler: Handler) -> None:
        self._listener = listener
        self._handler = handler
        self._runner: web.Server | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Take connections from now on. Raises KernelError; `close` is needed then, too."""
        try:
            await self._start()
        except OSError as error:  # no descriptors left, for the modules of aiohttp when they are loaded here
            raise KernelError(f"cannot serve: {error.strerror}", errno=error.errno or 0) from error

    async def _start(self) -> None:
        from aiohttp import web  # 120 ms to import, for a proxy that serves

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            found = await self._handler(request)
            return web.Response(status=found.status, body=found.body, headers=found.headers)

        self._runner = web.Server(answer, access_log=None)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._runner, sock=self._listener, backlog=_BACKLOG)

    async def close(self) -> None:
        """Stop listening and end what is open."""
        if self._server is None or self._runner is None:
            self._listener.close()
            return
        self._server.close()
        await self._runner.shutdown(CLOSE_TIMEOUT_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._server.wait_closed()
