"""The API on its sockets: a unix socket, and HTTPS on a loopback port.

Who reaches the API runs commands as the cluster's owner, so: the unix socket is guarded by its file mode, and the
port lets nobody in without the client certificate from the kubeconfig, before a single byte of HTTP is read.

This is the one module of the package that imports aiohttp (150 ms): what runs in process does not need it.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from socket import socket
from typing import Any

from aiohttp import web
from aiohttp.typedefs import LooseHeaders

from netsim.apiserver.certificates import TlsFiles
from netsim.apiserver.core import ApiServer, ListAnswer
from netsim.apiserver.request import JSON, Answer, Request, bad_request
from netsim.apiserver.routing import Route, parse_path
from netsim.apiserver.streams import watch_lines
from netsim.apiserver.tables import table_wanted
from netsim.apiserver.watching import ServerWatch
from netsim.client.transport import Response
from netsim.model.errors import ApiError
from netsim.store.log import encode

MAX_BODY_BYTES = 3 * 1024 * 1024  # upstream's limit of a request body
_SHUTDOWN_S = 0.2  # for answers under way when the server closes; watches are ended before

# Serves a subresource that is not plain HTTP (exec, attach, port-forward, proxy). Raises ApiError.
RawHandler = Callable[[web.BaseRequest, Route], Awaitable[web.StreamResponse]]


def make_ssl_context(tls: TlsFiles) -> ssl.SSLContext:
    """Server-side TLS that requires a client certificate of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Runner:
    """A server that is listening."""

    def __init__(self, front: "_Front", runner: web.ServerRunner) -> None:
        self._front = front
        self._runner = runner

    async def close(self) -> None:
        """Stop listening and end every request, watches first. May be repeated."""
        await self._front.end_streams()
        await self._runner.cleanup()


async def serve(
    server: ApiServer,
    *,
    unix_socket: socket | None,
    tcp_socket: socket | None,
    tls: TlsFiles | None,
    raw_handlers: Mapping[str, RawHandler] | None = None,
) -> Runner:
    """Put an API server on sockets that are bound already. The runner owns them from now on.

    tls: for ``tcp_socket``, which is not served without it. raw_handlers: by subresource.
    Raises ValueError for a TCP socket without tls.
    """
    if tcp_socket is not None and tls is None:
        raise ValueError("the TCP port is served with TLS only")
    front = _Front(server, raw_handlers or {})
    # handler_cancellation: a client that hangs up ends its watch at once, not at the next event.
    runner = web.ServerRunner(
        web.Server(front.handle, handler_cancellation=True, access_log=None), shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    if unix_socket is not None:
        await web.SockSite(runner, unix_socket).start()
    if tcp_socket is not None and tls is not None:
        context = make_ssl_context(tls)
        await web.SockSite(runner, tcp_socket, ssl_context=context).start()
    return Runner(front, runner)


class _Front:
    """From HTTP to Request, and from Response to HTTP."""

    def __init__(self, server: ApiServer, raw_handlers: Mapping[str, RawHandler]) -> None:
        self._server = server
        self._raw_handlers = raw_handlers
        self._streams: set[asyncio.Task[Any]] = set()

    async def end_streams(self) -> None:
        """Cancel the watches and log streams that are open."""
        tasks = list(self._streams)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        try:
            raw = self._find_raw_handler(http.path)
            if raw is not None:
                handler, route = raw
                return await handler(http, route)
            request = await _read_request(http)
            response = await self._server.handle(request)
        except ApiError as error:
            return _render(Answer(error.code, error.to_status()))
        if isinstance(response.body, ServerWatch):
            return await self._stream_watch(http, request, response.body)
        if isinstance(response.body, AsyncIterator):
            return await self._stream(http, response.body, "text/plain")
        return _render(response)

    def _find_raw_handler(self, path: str) -> tuple[RawHandler, Route] | None:
        if not self._raw_handlers:
            return None
        route = parse_path(path)
        handler = self._raw_handlers.get(route.subresource or "")
        return (handler, route) if handler else None

    async def _stream_watch(self, http: web.BaseRequest, request: Request, watch: ServerWatch) -> web.StreamResponse:
        state = self._server.state
        strategy = state.strategy(parse_path(request.path).kind)
        lines = watch_lines(state, watch, strategy, request.query, table=table_wanted(request.accept))
        try:
            return await self._stream(http, lines, JSON)
        finally:
            await watch.aclose()

    async def _stream(
        self, http: web.BaseRequest, pieces: AsyncIterator[bytes], content_type: str
    ) -> web.StreamResponse:
        """Send pieces as they come. Ends without a word when the client hangs up or the server closes."""
        task = asyncio.current_task()
        if task is None:  # cannot happen inside a coroutine; says so instead of an AttributeError below
            raise RuntimeError("a stream needs a task")
        answer = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-cache, private"})
        self._streams.add(task)
        try:
            await answer.prepare(http)  # at once: clients wait for the headers
            async for piece in pieces:
                if piece:
                    await answer.write(piece)
            await answer.write_eof()
        except ConnectionResetError:
            pass  # the client has gone; there is nobody to tell
        finally:
            self._streams.discard(task)
        return answer


async def _read_request(http: web.BaseRequest) -> Request:
    """Raises ApiError 400 for a body that is no JSON, 413 for one that is too large."""
    content_type = http.headers.get("Content-Type", "")
    query = dict(http.query)
    body: Any = None
    if http.can_read_body:
        raw = await _read_body(http)
        media_type = content_type.partition(";")[0].strip().lower()
        if raw and (media_type in ("", JSON) or media_type.endswith("+json")):
            try:
                body = json.loads(raw)
            except ValueError as error:
                raise bad_request(f"the body of the request is no valid JSON: {error}") from error
    return Request(http.method, http.path, query, body, content_type, http.headers.get("Accept", ""))


async def _read_body(http: web.BaseRequest) -> bytes:
    pieces, size = [], 0
    async for piece in http.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, "RequestEntityTooLarge", f"limit is {MAX_BODY_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _render(response: Response) -> web.Response:
    headers: LooseHeaders = {"Cache-Control": "no-cache, private"}
    warnings = response.warnings if isinstance(response, Answer) else ()
    if warnings:
        # RFC 7234, section 5.5; kubectl prints the quoted text.
        headers = [*dict(headers).items(), *(("Warning", f"299 - {json.dumps(text)}") for text in warnings)]
    body = response.body
    if isinstance(body, str):
        return web.Response(status=response.status, text=body, headers=headers)
    if isinstance(response, ListAnswer):
        data = response.to_bytes()
    elif isinstance(response, Answer) and response.encoded is not None:
        data = response.encoded
    else:
        data = encode(body)
    return web.Response(status=response.status, body=data, headers=headers, content_type=JSON)
