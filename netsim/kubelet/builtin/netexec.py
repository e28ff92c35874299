"""agnhost netexec. Standard library only: runs in the responder process.

Source: kubernetes test/images/agnhost/netexec/netexec.go.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.parser import BytesParser
from email.policy import HTTP as HTTP_POLICY
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Protocol
from urllib.parse import quote

from netsim.kubelet.builtin.agnhost import FlagError, parse_duration
from netsim.kubelet.builtin.handlers import Base
from netsim.kubelet.builtin.http import Address, Request, Response, render_address
from netsim.kubelet.builtin.resolve import Resolver

DIAL_TIMEOUT_S = 5.0
UDP_MAX_BYTES = 2048
PLAIN = "text/plain; charset=utf-8"


class Surroundings(Protocol):
    """What netexec needs of the process it runs in."""

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """A non-blocking socket in the pod's network namespace."""
        ...

    async def shell(self, command: str) -> tuple[str, str]:
        """Output and error of ``/bin/sh -c command`` in the container."""
        ...

    def exit(self, code: int) -> None: ...

    def log(self, line: str) -> None: ...


class Netexec(Base):
    """The HTTP and UDP sides of netexec."""

    __slots__ = ("_around", "_routes")

    def __init__(self, who: Mapping[str, str], options: Mapping[str, Any], around: Surroundings) -> None:
        super().__init__(who, options)
        self._around = around
        self._routes: dict[str, Callable[[Request], Response | Awaitable[Response]]] = {
            "/hostname": self._hostname,
            "/hostName": self._hostname,
            "/clientip": lambda request: _text(render_address(request.client)),
            "/header": self._header,
            "/echo": self._echo,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/dial": self._dial,
            "/shell": self._shell,
            "/exit": self._exit,
            "/shutdown": self._shutdown,
            "/upload": self._upload,
            "/redirect": self._redirect,
        }

    def http(self, request: Request) -> Response | Awaitable[Response]:
        self._around.log(f"{request.method} {request.target}")
        override = self.options.get("override")
        route = self._routes.get(override or request.path)
        if route is None:
            return _text(f"NOW: {datetime.now().astimezone()}")
        return route(request)

    def datagram(self, data: bytes, client: Address, local: Address) -> bytes | None:
        text = data.decode("utf-8", "replace").strip().lower()
        if text == "hostname":
            return self.who["hostname"].encode()
        if text.startswith("echo "):
            return text[5:].strip().encode()
        if text == "clientip":
            return render_address(client).encode()
        return None

    def _hostname(self, request: Request) -> Response:
        return _text(self.who["hostname"])

    def _header(self, request: Request) -> Response:
        key = request.form("key")
        if key:
            return _text(request.header("-".join(part.capitalize() for part in key.split("-"))))
        return Response(200, json.dumps(request.headers).encode(), PLAIN)

    def _echo(self, request: Request) -> Response:
        message, code = request.form("msg"), request.form("code")
        if not code:
            return _text(message)
        if not code.isdigit() or not 100 <= int(code) <= 999:
            return _text(f"error occurs while parsing code: {code}\n")
        return Response(int(code), message.encode())

    def _healthz(self, request: Request) -> Response:
        return Response(200 if self.options.get("udp") else 412)

    def _readyz(self, request: Request) -> Response:
        return Response(503, b"shutting down") if self.draining else _text("ok")

    async def _shell(self, request: Request) -> Response:
        command = request.form("shellCommand") or request.form("cmd")
        output, error = await self._around.shell(command)
        answer = {key: value for key, value in (("output", output), ("error", error)) if value}
        return Response(200, json.dumps(answer).encode(), PLAIN)

    async def _exit(self, request: Request) -> Response:
        try:
            wait_s = parse_duration(request.form("wait"))
            parse_duration(request.form("timeout"))
            code = int(request.form("code") or 0)
        except (FlagError, ValueError) as error:
            return Response(500, f"{error}".encode())
        await asyncio.sleep(wait_s)
        self._around.exit(code)
        return Response(200)

    def _shutdown(self, request: Request) -> Response:
        self._around.exit(0)
        return Response(200)

    def _redirect(self, request: Request) -> Response:
        location, code = request.form("location"), request.form("code") or "302"
        if not location or not code.isdigit():
            return Response(400, b"location parameter is missing or code is no number")
        return Response(int(code), headers={"Location": location})

    def _upload(self, request: Request) -> Response:
        folder = self.options.get("uploads")
        content = _read_part(request, "file")
        if content is None or not folder:
            return Response(500, json.dumps({"error": "Unable to upload file."}).encode(), PLAIN)
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle, path = mkstemp(prefix="upload", dir=folder)
        with open(handle, "wb") as file:
            file.write(content)
        return Response(201, json.dumps({"output": f"/uploads/{Path(path).name}"}).encode(), PLAIN)

    async def _dial(self, request: Request) -> Response:
        query = {name: values[0] for name, values in request.query().items()}
        host, port, asked = query.get("host", ""), query.get("port", ""), query.get("request", "")
        protocol, tries = query.get("protocol", "http"), query.get("tries", "1")
        if not tries.isdigit() or int(tries) < 1:
            return Response(400, f"tries parameter is invalid: {tries}".encode())
        if not asked:
            return Response(400, b"request parameter not specified")
        if protocol not in ("http", "udp") or not port.isdigit() or not 0 < int(port) < 65536:
            return Response(400, f"unsupported protocol or port: {protocol} {port}".encode())
        resolver = Resolver(self.options.get("resolver") or {}, self._around.open_socket)
        address = await resolver.first(host)
        if address is None:
            return Response(400, f"host and/or port param are invalid: lookup {host}: no such host".encode())
        responses: list[str] = []
        errors: list[str] = []
        last = ""
        dial = self._dial_http if protocol == "http" else self._dial_udp
        for _ in range(int(tries)):
            try:
                last = await asyncio.wait_for(dial(address, host, int(port), asked), DIAL_TIMEOUT_S)
                responses.append(last)
            except (OSError, TimeoutError) as error:
                words = os.strerror(error.errno).lower() if error.errno else "i/o timeout"
                errors.append(f"dial {protocol} {host}:{port}: {words}")
        answer: dict[str, list[str]] = {}
        if last:
            answer["responses"] = responses
        if errors:
            answer["errors"] = errors
        return Response(200, json.dumps(answer).encode(), PLAIN)

    async def _dial_http(self, address: str, host: str, port: int, asked: str) -> str:
        """GET /ASKED; the body, whatever the status."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self._around.open_socket(family, socket.SOCK_STREAM) as connection:
            await loop.sock_connect(connection, (address, port))
            name = render_address((host, port))
            target = quote(f"/{asked}", safe="/?&=%:+,;@")
            head = f"GET {target} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: netexec\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(connection, head.encode())
            parts = []
            while part := await loop.sock_recv(connection, 65536):
                parts.append(part)
        return read_body(b"".join(parts)).decode("utf-8", "replace")

    async def _dial_udp(self, address: str, host: str, port: int, asked: str) -> str:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self._around.open_socket(family, socket.SOCK_DGRAM) as connection:
            await loop.sock_connect(connection, (address, port))
            await loop.sock_sendall(connection, asked.encode())
            return (await loop.sock_recv(connection, UDP_MAX_BYTES)).decode("utf-8", "replace")


def read_body(answer: bytes) -> bytes:
    """The body of a whole HTTP answer whose connection was closed after it; chunks are put together."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    parts = []
    while body:
        size_text, _, body = body.partition(b"\r\n")
        size = int(size_text.split(b";")[0] or b"0", 16)
        if size == 0:
            break
        parts.append(body[:size])
        body = body[size + 2 :]
    return b"".join(parts)


def _read_part(request: Request, name: str) -> bytes | None:
    """One part of a multipart form."""
    head = f"Content-Type: {request.header('Content-Type')}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=HTTP_POLICY).parsebytes(head + request.body)
    if not message.is_multipart():
        return None
    for part in message.iter_parts():
        if part.get_param("name", header="content-disposition") == name:
            content = part.get_payload(decode=True)
            return content if isinstance(content, bytes) else None
    return None


def _text(text: str) -> Response:
    return Response(200, text.encode(), PLAIN)
