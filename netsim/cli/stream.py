"""Answers of the API server that do not end: watches and followed logs, read as they come.

The handle's requests return whole answers, which is right for everything else; this is the one place that reads the
API's unix socket by itself.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from netsim.model.errors import ApiError, NetsimError

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster

_CHUNK_BYTES = 65536


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def open_stream(cluster: "Cluster", path: str, query: Mapping[str, str], accept: str = "") -> http.client.HTTPResponse:
    """A GET whose body is read as it comes. Raises ApiError, NetsimError."""
    socket_path = cluster.state_dir / "api.sock"
    connection = _UnixConnection(str(socket_path))
    try:
        connection.request("GET", f"{path}?{urlencode(query)}", headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
    except OSError as error:
        raise NetsimError(
            f"the API server does not answer: {error.strerror or error}",
            where=str(socket_path),
            hint="netsim list shows what runs",
        ) from error
    if response.status >= 400:
        text = response.read().decode(errors="replace")
        try:
            raise ApiError.from_status(json.loads(text))
        except ValueError:
            raise ApiError(response.status, "", text or response.reason) from None
    return response


def watch_lines(cluster: "Cluster", path: str, query: Mapping[str, str], accept: str) -> Iterator[dict[str, Any]]:
    """The events of a watch, until the server ends it."""
    response = open_stream(cluster, path, query, accept)
    while line := response.readline():
        if line.strip():
            yield json.loads(line)


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """A body in the pieces in which it arrives."""
    while piece := response.read1(_CHUNK_BYTES):
        yield piece
