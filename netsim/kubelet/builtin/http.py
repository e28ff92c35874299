"""A small HTTP/1.1 server side that also meets what is not HTTP: the first line decides.

Standard library only. Not http.server: that is a thread per connection; not aiohttp: the responder is forked before
anything heavy is loaded. Source: RFC 9112.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

LINE_MAX_BYTES = 64 * 1024
BODY_MAX_BYTES = 16 * 1024 * 1024
_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.([01])\r?")
Address = tuple[str, int]


def read_address(address: tuple[str, int, *tuple[Any, ...]]) -> Address:
    """Host and port of a socket address; IPv4 as itself on a socket that serves both families (RFC 4291 2.5.5.2)."""
    return address[0].removeprefix("::ffff:"), address[1]


def render_address(address: Address) -> str:
    """``IP:PORT`` or ``[v6]:PORT``."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


@dataclass(slots=True)
class Request:
    """One request. ``headers`` has canonical names (``Content-Type``) and all values of each."""

    method: str
    target: str
    headers: dict[str, list[str]]
    body: bytes
    client: Address
    local: Address

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    def header(self, name: str) -> str:
        return self.headers.get(name, [""])[0]

    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def form(self, name: str) -> str:
        """A value from the body's form or the query, as Go's FormValue: the body first."""
        if self.body and self.header("Content-Type").startswith("application/x-www-form-urlencoded"):
            posted = parse_qs(self.body.decode("utf-8", "replace"), keep_blank_values=True)
            if name in posted:
                return posted[name][0]
        return self.query().get(name, [""])[0]


@dataclass(slots=True)
class Response:
    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


class Handler(Protocol):
    """What answers on the sockets of one container."""

    def greet(self, client: Address) -> bytes | None:
        """Bytes to send on accept, after which the connection is closed; None to wait for a line."""
        ...

    def http(self, request: Request) -> Response | Awaitable[Response]: ...

    def line(self, line: bytes, client: Address, local: Address) -> bytes | None:
        """The answer to a first line that is no HTTP; None is 400 Bad Request."""
        ...

    def datagram(self, data: bytes, client: Address, local: Address) -> bytes | None: ...


def render_response(request: Request | None, response: Response, *, close: bool) -> bytes:
    """The bytes of ``response``; HEAD has no body."""
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = f"status code {response.status}"
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Content-Length: {len(response.body)}"]
    if response.body or response.status == 200:
        lines.insert(1, f"Content-Type: {response.content_type}")
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if close:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head if request is not None and request.method == "HEAD" else head + response.body


class ParseError(ValueError):
    """Not a request we can read."""


def parse_headers(block: bytes) -> dict[str, list[str]]:
    """Header lines by canonical name (RFC 9110 5.1; Go's CanonicalMIMEHeaderKey). Raises ParseError."""
    headers: dict[str, list[str]] = {}
    for line in block.split(b"\r\n" if b"\r\n" in block else b"\n"):
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ParseError(f"malformed header line {line[:80]!r}")
        canonical = "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))
        headers.setdefault(canonical, []).append(value.strip().decode("latin-1"))
    return headers


def split_body(headers: dict[str, list[str]], data: bytes) -> tuple[bytes, int] | None:
    """(body, bytes used) once ``data`` holds the whole body, None before. Raises ParseError."""
    if "chunked" in headers.get("Transfer-Encoding", [""])[0].lower():
        return _split_chunks(data)
    text = headers.get("Content-Length", ["0"])[0]
    if not text.isdigit() or int(text) > BODY_MAX_BYTES:
        raise ParseError("bad Content-Length")
    length = int(text)
    return (data[:length], length) if len(data) >= length else None


def _split_chunks(data: bytes) -> tuple[bytes, int] | None:
    parts: list[bytes] = []
    position = 0
    while (end := data.find(b"\r\n", position)) >= 0:
        try:
            size = int(data[position:end].split(b";")[0], 16)
        except ValueError as error:
            raise ParseError("bad chunk size") from error
        if size < 0 or size > BODY_MAX_BYTES:
            raise ParseError("bad chunk size")
        start = end + 2
        if size == 0:
            trailer = data.find(b"\r\n", start)
            return (b"".join(parts), trailer + 2) if trailer >= 0 else None
        if len(data) < start + size + 2:
            return None
        parts.append(data[start : start + size])
        position = start + size + 2
    return None


class Connection(asyncio.Protocol):
    """One accepted connection: HTTP with keep-alive, or lines."""

    __slots__ = ("_buffer", "_busy", "_client", "_continued", "_forget", "_handler", "_lines", "_local", "_transport")

    def __init__(self, handler: Handler, forget: Callable[["Connection"], None]) -> None:
        self._handler = handler
        self._forget = forget
        self._buffer = b""
        self._busy = False
        self._lines = False
        self._continued = False
        self._client: Address = ("", 0)
        self._local: Address = ("", 0)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            return
        self._transport = transport
        self._client = read_address(transport.get_extra_info("peername"))
        self._local = read_address(transport.get_extra_info("sockname"))
        greeting = self._handler.greet(self._client)
        if greeting is not None:
            transport.write(greeting)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._forget(self)

    def abort(self) -> None:
        """What the end of the container's process does to its connections."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def eof_received(self) -> bool:
        """A half-closed client (``echo hostname | nc``) still gets its answers."""
        if self._buffer and not self._busy and not self._buffer.endswith(b"\n"):
            self._buffer += b"\n"
            self._advance()
        if self._transport is not None and not self._busy:
            self._transport.close()
        return self._busy

    def _advance(self) -> None:
        """Take whole requests or lines out of the buffer."""
        while self._buffer and not self._busy and self._transport is not None and not self._transport.is_closing():
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > LINE_MAX_BYTES:
                    self._refuse()
                return
            match = None if self._lines else _REQUEST_LINE.fullmatch(self._buffer[:end])
            if match is None:
                self._take_line(end)
            elif not self._take_request(match, end):
                return

    def _take_line(self, end: int) -> None:
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        answer = self._handler.line(line.rstrip(b"\r"), self._client, self._local)
        if answer is None or self._transport is None:
            self._refuse()
            return
        self._lines = True
        self._transport.write(answer)

    def _refuse(self) -> None:
        """What Go's net/http answers to a line that is no request."""
        if self._transport is not None:
            self._transport.write(render_response(None, Response(400, b"400 Bad Request"), close=True))
            self._transport.close()
        self._buffer = b""

    def _take_request(self, match: re.Match[bytes], end: int) -> bool:
        """Handle the request that starts the buffer; False when it is not whole yet."""
        crlf = self._buffer.find(b"\r\n\r\n", end - 1)
        bare = self._buffer.find(b"\n\n", end)
        if crlf >= 0 and (bare < 0 or crlf < bare):
            stop, gap = crlf, 4
        else:
            stop, gap = bare, 2
        if stop < 0:
            if len(self._buffer) > LINE_MAX_BYTES:
                self._refuse()
            return False
        try:
            headers = parse_headers(self._buffer[end + 1 : stop] if stop > end else b"")
            found = split_body(headers, self._buffer[stop + gap :])
        except ParseError:
            self._refuse()
            return False
        if found is None:
            if headers.get("Expect", [""])[0].lower() == "100-continue" and not self._continued and self._transport:
                self._continued = True
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        self._continued = False
        body, used = found
        self._buffer = self._buffer[stop + gap + used :]
        method, target, minor = match[1].decode(), match[2].decode("latin-1"), match[3]
        request = Request(method, target, headers, body, self._client, self._local)
        wish = request.header("Connection").lower()
        self._answer(request, close=wish == "close" if minor == b"1" else wish != "keep-alive")
        return True

    def _answer(self, request: Request, *, close: bool) -> None:
        answer = self._handler.http(request)
        if isinstance(answer, Response):
            self._write(request, answer, close)
            return
        self._busy = True
        task = asyncio.ensure_future(answer)
        task.add_done_callback(lambda done: self._answered(request, close, done))

    def _answered(self, request: Request, close: bool, done: "asyncio.Future[Response]") -> None:
        self._busy = False
        if done.cancelled():
            self.abort()
            return
        error = done.exception()
        self._write(request, done.result() if error is None else Response(500, str(error).encode()), close)
        self._advance()

    def _write(self, request: Request, response: Response, close: bool) -> None:
        if self._transport is None:
            return
        self._transport.write(render_response(request, response, close=close))
        if close:
            self._transport.close()
