"""What each built-in answers. Standard library only: runs in the responder process."""

import json
import mimetypes
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from netsim.kubelet.builtin.http import Address, Request, Response, render_address

JSON = "application/json"


class Base:
    """Refuses everything; the parent of every built-in.

    who: pod, namespace, node, container, podIP, hostname.
    """

    __slots__ = ("draining", "options", "who")

    def __init__(self, who: Mapping[str, str], options: Mapping[str, Any]) -> None:
        self.who = who
        self.options = options
        self.draining = False

    def greet(self, client: Address) -> bytes | None:
        return None

    def http(self, request: Request) -> Response | Awaitable[Response]:
        return Response(404, b"404 page not found\n")

    def line(self, line: bytes, client: Address, local: Address) -> bytes | None:
        return None

    def datagram(self, data: bytes, client: Address, local: Address) -> bytes | None:
        return None


class Echo(Base):
    """The stand-in for any image: says who it is and whom it saw, over HTTP, line by line, or for each datagram."""

    __slots__ = ()

    def http(self, request: Request) -> Response:
        seen = self._see("http", request.client, request.local)
        seen["path"] = request.target
        seen["method"] = request.method
        return Response(200, json.dumps(seen).encode() + b"\n", JSON)

    def line(self, line: bytes, client: Address, local: Address) -> bytes | None:
        return json.dumps(self._see("tcp", client, local)).encode() + b"\n"

    def datagram(self, data: bytes, client: Address, local: Address) -> bytes | None:
        return json.dumps(self._see("udp", client, local)).encode() + b"\n"

    def _see(self, protocol: str, client: Address, local: Address) -> dict[str, str]:
        names = ("pod", "namespace", "node", "container", "podIP")
        seen = {name: self.who[name] for name in names}
        return seen | {"protocol": protocol, "local": render_address(local), "client": render_address(client)}


PAGE = """<!DOCTYPE html>
<html>
<head><title>{image} on {pod}</title></head>
<body>
<h1>Welcome to {image}!</h1>
<p>pod {namespace}/{pod} on node {node}, address {podIP}</p>
<p><em>A stand-in by netsim: no image was pulled.</em></p>
</body>
</html>
"""


class Page(Base):
    """nginx and httpd: a page that names pod and node; UDP ports, which those do not have, answer as any image's."""

    __slots__ = ()

    def http(self, request: Request) -> Response:
        server = {"Server": f"{self.options.get('image', 'nginx')} (netsim)"}
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"405 Not Allowed\n", headers=server)
        page = PAGE.format(image=self.options.get("image", "nginx"), **self.who)
        return Response(200, page.encode(), "text/html", server)

    def datagram(self, data: bytes, client: Address, local: Address) -> bytes | None:
        return Echo(self.who, self.options).datagram(data, client, local)


class ServeHostname(Base):
    """agnhost serve-hostname."""

    __slots__ = ()

    def greet(self, client: Address) -> bytes | None:
        return self.who["hostname"].encode() if self.options.get("tcp") else None

    def http(self, request: Request) -> Response:
        response = Response(200, self.who["hostname"].encode())
        if self.options.get("close"):
            response.headers["Connection"] = "close"
        return response

    def datagram(self, data: bytes, client: Address, local: Address) -> bytes | None:
        return self.who["hostname"].encode()


class Porter(Base):
    """agnhost porter: the value of SERVE_PORT_N for whatever is asked on port N."""

    __slots__ = ()

    def http(self, request: Request) -> Response:
        value = self.options["values"].get(str(request.local[1]), "")
        if self.options.get("json"):
            return Response(200, json.dumps({"Method": request.method, "Body": value}).encode(), JSON)
        kind = "text/html; charset=utf-8" if value.lstrip().lower().startswith(("<a ", "<html", "<!doctype")) else None
        return Response(200, value.encode(), kind or "text/plain; charset=utf-8")


class FileServer(Base):
    """agnhost test-webserver: the files of the container's volumes, each at its mount path."""

    __slots__ = ()

    def http(self, request: Request) -> Response:
        path = request.path
        mounts: list[tuple[str, str]] = sorted(self.options.get("mounts") or (), key=lambda m: -len(m[0]))
        for mount_path, source in mounts:
            prefix = mount_path.rstrip("/") + "/"
            if not (path + "/").startswith(prefix):
                continue
            root = Path(source).resolve()
            found = (root / path[len(prefix) :]).resolve()
            if not found.is_relative_to(root):
                break
            if found.is_dir():
                names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in found.iterdir())
                items = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
                return Response(200, f"<pre>\n{items}</pre>\n".encode(), "text/html; charset=utf-8")
            if found.is_file():
                kind = mimetypes.guess_type(found.name)[0] or "text/plain; charset=utf-8"
                return Response(200, found.read_bytes(), kind)
        if path == "/":
            items = "".join(f'<a href="{m.lstrip("/")}/">{m.lstrip("/")}/</a>\n' for m, _ in mounts)
            return Response(200, f"<pre>\n{items}</pre>\n".encode(), "text/html; charset=utf-8")
        return Response(404, b"404 page not found\n")
