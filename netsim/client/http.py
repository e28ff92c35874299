"""The transport over HTTP: a unix socket, or HTTPS with a client certificate or a bearer token."""

import asyncio
import json
import logging
import os
import socket
import ssl
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netsim.client.kubeconfig import ServerAccess, read_kubeconfig
from netsim.client.transport import NO_QUERY, Response, WatchStream
from netsim.model.errors import ApiError, InputError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

log = logging.getLogger(__name__)

USER_AGENT = "netsim"
REQUEST_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
# A watch may be silent for long: a server that went without a word, as with its machine, is found out within 45 s, as
# by client-go (k8s.io/apimachinery pkg/util/net/http.go: HTTP/2 pings). Seconds, seconds, probes: tcp(7).
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


class HttpTransport:
    """One API server over HTTP. Use it in one event loop; aiohttp is imported when it is first needed."""

    def __init__(self, access: ServerAccess, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._session: ClientSession | None = None
        self._token = access.token
        self._token_read_ns = 0
        self._unix = access.server.removeprefix("unix://") if access.server.startswith("unix://") else ""
        self._base = "http://localhost" if self._unix else access.server
        # Of tls-server-name: the name in the server's certificate, where that is not the host's.
        self._tls: dict[str, Any] = {"server_hostname": access.server_name} if access.server_name else {}

    @classmethod
    def from_unix_socket(cls, path: Path | str) -> "HttpTransport":
        return cls(ServerAccess(server=f"unix://{path}"))

    @classmethod
    def from_kubeconfig(cls, path: Path | str, context: str = "") -> "HttpTransport":
        """Raises InputError naming file and field."""
        return cls(read_kubeconfig(path, context))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "",
    ) -> Response:
        """As Transport says; ``accept`` asks for another form of the answer (a Table)."""
        import aiohttp  # 150 ms to import: only for those who speak HTTP

        session = self._open()
        data = None if body is None else json.dumps(body).encode()
        headers = self._authorization()
        if data is not None:
            headers["Content-Type"] = content_type
        if accept:
            headers["Accept"] = accept
        try:
            async with session.request(
                method,
                self._base + path,
                params=dict(query),
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=CONNECT_TIMEOUT_S),
                **self._tls,
            ) as response:
                return Response(response.status, await _read_body(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        import aiohttp  # as above

        session = self._open()
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
        try:
            headers = self._authorization()
            response = await session.get(
                self._base + path, params=dict(query), headers=headers, timeout=timeout, **self._tls
            )
            if response.status >= 400:
                body = await _read_body(response)
                response.release()
                if isinstance(body, dict) and body.get("kind") == "Status":
                    raise ApiError.from_status(body)
                raise ApiError(response.status, "", str(body).strip() or f"HTTP status {response.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        _keep_alive(response)
        return HttpWatchStream(response, int(query.get("resourceVersion") or 0), self._access.server)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> "ClientSession":
        if self._session is not None:
            return self._session
        import aiohttp  # as above

        connector: aiohttp.BaseConnector
        if self._unix:
            connector = aiohttp.UnixConnector(self._unix, limit=0)
        else:
            context = make_ssl_context(self._access) if self._base.startswith("https:") else False
            connector = aiohttp.TCPConnector(ssl=context, limit=0)
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=True)
        return self._session

    def _authorization(self) -> dict[str, str]:
        """The bearer token as a header. A pod's token is renewed in its file, so that is looked at each time."""
        if self._access.token_file:
            try:
                changed_ns = os.stat(self._access.token_file).st_mtime_ns
                if changed_ns != self._token_read_ns:
                    self._token = Path(self._access.token_file).read_text(encoding="ascii").strip() or self._token
                    self._token_read_ns = changed_ns
            except (OSError, UnicodeDecodeError) as error:  # the one we have may still do
                log.warning("%s: %s", self._access.token_file, error)
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _unreachable(self, error: Exception) -> ApiError:
        words = str(error) or type(error).__name__
        return ApiError(
            503,
            "ServiceUnavailable",
            f"no answer from the API server at {self._access.server}: {words}",
            hint="see whether the cluster runs: netsim list",
        )


def _keep_alive(response: "ClientResponse") -> None:
    """Have the kernel ask now and then whether the server is still there."""
    connection = response.connection  # None: all is read already
    transport = connection.transport if connection is not None else None
    opened = transport.get_extra_info("socket") if transport is not None else None
    if opened is not None and opened.family != socket.AF_UNIX:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            opened.setsockopt(socket.IPPROTO_TCP, option, value)


async def _read_body(response: "ClientResponse") -> Any:
    raw = await response.read()
    if "json" in response.content_type and raw:
        try:
            return json.loads(raw)
        except ValueError as error:
            raise ApiError(502, "", f"the answer to {response.url.path} is no JSON: {error}") from error
    return raw.decode(errors="replace")


class HttpWatchStream:
    """A watch over HTTP: one JSON object a line."""

    def __init__(self, response: "ClientResponse", revision: int, server: str) -> None:
        self._response = response
        self._server = server
        self._handed_out = revision
        self._events: deque[dict[str, Any]] = deque()
        self._rest = b""

    def __aiter__(self) -> "HttpWatchStream":
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._events:
            await self._fill()
        event = self._events.popleft()
        if event["type"] != "ERROR":
            self._handed_out = int(event["object"]["metadata"].get("resourceVersion") or self._handed_out)
        return event

    def delivered(self) -> int:
        return self._handed_out

    async def aclose(self) -> None:
        self._response.close()

    async def _fill(self) -> None:
        """Wait for more bytes, and take the whole lines out of them."""
        import aiohttp  # loaded by now

        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            words = str(error) or type(error).__name__
            raise ApiError(503, "ServiceUnavailable", f"the watch on {self._server} broke: {words}") from error
        if not chunk:
            raise StopAsyncIteration
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                self._events.append(self._parse(line))

    def _parse(self, line: bytes) -> dict[str, Any]:
        """An event; ApiError for what is none, as the page of a gateway that has lost its server."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
            words = line[:80].decode(errors="replace").strip()
            raise ApiError(502, "", f"the watch on {self._server} brought no event: {words!r}")
        return event


def make_ssl_context(access: ServerAccess) -> ssl.SSLContext:
    """Trust the given CA alone, and show the client certificate. Raises InputError."""
    try:
        context = ssl.create_default_context(cadata=access.ca.decode() if access.ca else None)
        if not access.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if access.client_certificate:
            # The ssl module loads keys from files only; this one is gone again before anything is sent.
            with tempfile.NamedTemporaryFile(mode="wb", prefix="netsim-", suffix=".pem") as file:
                file.write(access.client_certificate + b"\n" + access.client_key)
                file.flush()
                context.load_cert_chain(file.name)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InputError(f"the certificates of the kubeconfig cannot be used: {error}", where=access.server) from error
    return context
