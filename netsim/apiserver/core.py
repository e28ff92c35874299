"""The Kubernetes API apart from HTTP: a Request in, a Response out.

Everything that writes runs to its end without an ``await``, so each request is one transaction.
"""

from collections.abc import Mapping
from typing import Any

from netsim.apiserver import deleting, reading, subresources, writing
from netsim.apiserver.bootstrap import ensure_system_objects
from netsim.apiserver.discovery import read_static
from netsim.apiserver.podruntime import PodRuntime
from netsim.apiserver.request import JSON, Answer, Request, is_true
from netsim.apiserver.routing import Route, parse_path
from netsim.apiserver.state import State
from netsim.apiserver.tables import make_table, table_wanted
from netsim.apiserver.watching import ServerWatch
from netsim.client.transport import NO_QUERY, Response, Transport, WatchStream
from netsim.model.clock import Clock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.store.log import encode
from netsim.store.store import Record, Store

Object = dict[str, Any]
_BODY_VERBS = frozenset({"POST", "PUT", "PATCH"})


class ApiServer:
    """One API server over one store. All its calls belong to one thread, the event loop's.

    pods: how to reach running pods (logs); without it those subresources answer 503.
    """

    def __init__(self, store: Store, config: ClusterConfig, clock: Clock, *, pods: PodRuntime | None = None) -> None:
        self.state = State(store, config, clock, pods)
        ensure_system_objects(self.state)

    def revision(self) -> int:
        """The last write's revision."""
        return self.state.store.revision

    def set_pods(self, pods: PodRuntime) -> None:
        """Name the PodRuntime later: the kubelet that implements it is itself a client of this server."""
        self.state.pods = pods

    def transport(self) -> Transport:
        """A transport in this process: no JSON round trip; objects are shared."""
        return LocalTransport(self)

    async def handle(self, request: Request) -> Response:
        """Answer one request. Failures are Status answers, never exceptions; a watch's body is a ServerWatch."""
        warnings: list[str] = []
        try:
            answer = await self._answer(request, warnings)
        except ApiError as error:
            return Answer(error.code, error.to_status(), warnings=tuple(warnings))
        if warnings:
            return Answer(answer.status, answer.body, answer.encoded, tuple(warnings))
        return answer

    async def _answer(self, request: Request, warnings: list[str]) -> Answer:
        static = read_static(request.path) if request.method in ("GET", "HEAD") else None
        if static is not None:
            return static
        route = parse_path(request.path)
        if route.subresource not in (None, "status"):
            return await self._subresource(route, request)
        if request.method in ("GET", "HEAD"):
            return self._read(route, request)
        return self._write(route, request, warnings)

    def _read(self, route: Route, request: Request) -> Answer:
        query = request.query
        if is_true(query, "watch"):
            return Answer(200, reading.watch(self.state, route, query))
        if route.name is not None:
            record = reading.get(self.state, route)
            if table_wanted(request.accept):
                return Answer(200, self._table(route, request, [record], record.value["metadata"]["resourceVersion"]))
            return Answer(200, record.value, record.data)
        records, revision = reading.list_(self.state, route, query)
        if table_wanted(request.accept):
            return Answer(200, self._table(route, request, records, str(revision)))
        return _list_answer(route, records, revision)

    def _table(self, route: Route, request: Request, records: list[Record], revision: str) -> Object:
        strategy, include = self.state.strategy(route.kind), request.query.get("includeObject", "Metadata")
        objects = [record.value for record in records]
        return make_table(strategy, objects, revision, self.state.clock.wall_s(), include)

    def _write(self, route: Route, request: Request, warnings: list[str]) -> Answer:
        state, method, query, body = self.state, request.method, request.query, request.body
        if method in _BODY_VERBS:
            _check_content_type(method, request.content_type)
        if route.name is None:
            if method == "POST":
                return Answer(201, writing.create(state, route, body, query, warnings))
            if method == "DELETE":
                return deleting.delete_collection(state, route, body, query)
        elif method == "PUT":
            return Answer(200, writing.update(state, route, body, query, warnings))
        elif method == "PATCH":
            return Answer(200, writing.patch(state, route, body, request.content_type, query, warnings))
        elif method == "DELETE" and route.subresource is None:
            return deleting.delete(state, route, body, query)
        raise _not_allowed()

    async def _subresource(self, route: Route, request: Request) -> Answer:
        state, method, query, body = self.state, request.method, request.query, request.body
        if method in _BODY_VERBS:
            _check_content_type(method, request.content_type)
        if route.subresource == "binding" and method == "POST":
            return subresources.bind(state, route, body, query)
        if route.subresource == "log" and method == "GET":
            return await subresources.read_log(state, route, query)
        if route.subresource == "finalize" and method == "PUT":
            return Answer(200, subresources.finalize(state, route, body, query))
        if route.subresource == "scale" and method == "GET":
            return Answer(200, subresources.scale_of(reading.get(state, route).value))
        if route.subresource == "scale" and method in ("PUT", "PATCH"):
            scale = subresources.write_scale(state, route, method, body, request.content_type, query)
            return Answer(200, scale)
        raise _not_allowed()


def _not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _check_content_type(method: str, content_type: str) -> None:
    """POST and PUT carry JSON; nothing said means JSON too (old clients say nothing)."""
    media_type = content_type.partition(";")[0].strip().lower()
    if method == "PATCH" or media_type in ("", JSON):
        return
    hint = ""
    if "protobuf" in media_type:
        hint = ": use kubectl 1.31 or older, or apply -f and create -f, which send JSON"
    raise ApiError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in {media_type} - accepted media types include: {JSON}{hint}",
    )


def _list_answer(route: Route, records: list[Record], revision: int) -> Answer:
    head = {
        "kind": f"{route.kind.kind}List",
        "apiVersion": route.kind.api_version,
        "metadata": {"resourceVersion": str(revision)},
    }
    return ListAnswer(200, {**head, "items": [record.value for record in records]}, records=tuple(records))


class ListAnswer(Answer):
    """A list; ``to_bytes`` joins the JSON that the store holds of each object, instead of encoding it again."""

    records: tuple[Record, ...]

    def __init__(self, status: int, body: Object, *, records: tuple[Record, ...]) -> None:
        super().__init__(status, body)
        object.__setattr__(self, "records", records)

    def to_bytes(self) -> bytes:
        head = encode({key: value for key, value in self.body.items() if key != "items"})
        return head[:-1] + b',"items":[' + b",".join(record.data for record in self.records) + b"]}"


class LocalTransport:
    """The Transport of components in this process."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: Any = None,
        content_type: str = JSON,
    ) -> Response:
        """One request. A status >= 400 is returned, not raised."""
        return await self._server.handle(Request(method, path, query, body, content_type))

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        """Start a watch. Raises ApiError."""
        stream: ServerWatch = reading.watch(self._server.state, parse_path(path), query)
        return stream

    async def close(self) -> None:
        """Nothing to release."""
