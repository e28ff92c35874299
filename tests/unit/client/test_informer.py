"""Informers in process and over HTTP, against the real API server."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import Runner, serve
from netsim.client.api import Api
from netsim.client.http import HttpTransport
from netsim.client.informer import Informer
from netsim.client.informerset import InformerSet
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.model.kinds import CONFIG_MAP, POD
from netsim.model.objects import Object, labels_of, name_of, revision_of
from netsim.store.store import Store
from tests.fake_clock import FakeClock


def make_server() -> ApiServer:
    return ApiServer(Store(), ClusterConfig(), SystemClock())


async def create(api: Api, name: str, labels: dict[str, str] | None = None) -> Object:
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    return await api.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


class Log:
    """A handler that writes down what it is told."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def __call__(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self.entries.append(("deleted", name_of(old)))
        else:
            self.entries.append(("added" if old is None else "changed", name_of(new)))


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await body()

    asyncio.run(main())


async def running(informer: Informer, body: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(informer.run())
    try:
        await informer.synced()
        await body()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_handlers_see_what_was_there_and_every_change() -> None:
    async def body() -> None:
        server = make_server()
        api = Api(server.transport())
        await create(api, "before")
        informer, log = Informer(api, CONFIG_MAP), Log()
        informer.add_handler(log)

        async def changes() -> None:
            await create(api, "a")
            await api.patch(CONFIG_MAP, "a", {"data": {"x": "y"}}, "default")
            await api.delete(CONFIG_MAP, "before", "default")
            await informer.reached(server.revision())
            assert log.entries == [("added", "before"), ("added", "a"), ("changed", "a"), ("deleted", "before")]
            assert (informer.get("default", "a") or {})["data"] == {"x": "y"}
            assert informer.get("default", "before") is None
            late = Log()
            informer.add_handler(late)
            assert late.entries == [("added", "a")]

        await running(informer, changes)

    run(body)


def test_reached_holds_for_revisions_of_other_kinds() -> None:
    async def body() -> None:
        server = make_server()
        api = Api(server.transport())
        informer = Informer(api, POD)

        async def changes() -> None:
            made = await create(api, "a")
            await informer.reached(revision_of(made))
            waiting = asyncio.create_task(informer.reached(server.revision() + 1))
            await asyncio.sleep(0)
            assert not waiting.done()
            await create(api, "b")
            await waiting

        await running(informer, changes)

    run(body)


def test_indexes_follow_the_objects() -> None:
    async def body() -> None:
        server = make_server()
        api = Api(server.transport())
        informer = Informer(api, CONFIG_MAP)
        informer.add_index("app", lambda obj: filter(None, [labels_of(obj).get("app")]))

        async def changes() -> None:
            await create(api, "a", {"app": "web"})
            await create(api, "b", {"app": "web"})
            await api.patch(CONFIG_MAP, "b", {"metadata": {"labels": {"app": "db"}}}, "default")
            await informer.reached(server.revision())
            assert [name_of(obj) for obj in informer.by_index("app", "web")] == ["a"]
            assert [name_of(obj) for obj in informer.by_index("app", "db")] == ["b"]
            await api.delete(CONFIG_MAP, "a", "default")
            await informer.reached(server.revision())
            assert informer.by_index("app", "web") == []
            assert list(informer.index_values("app")) == ["db"]

        await running(informer, changes)

    run(body)


def test_a_selector_makes_objects_come_and_go() -> None:
    async def body() -> None:
        server = make_server()
        api = Api(server.transport())
        informer, log = Informer(api, CONFIG_MAP, labels="app=web"), Log()
        informer.add_handler(log)

        async def changes() -> None:
            await create(api, "a", {"app": "web"})
            await create(api, "b", {"app": "db"})
            await api.patch(CONFIG_MAP, "a", {"metadata": {"labels": {"app": "db"}}}, "default")
            await informer.reached(server.revision())
            assert log.entries == [("added", "a"), ("deleted", "a")]

        await running(informer, changes)

    run(body)


def test_a_handler_that_fails_does_not_stop_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        server = make_server()
        api = Api(server.transport())
        informer, log = Informer(api, CONFIG_MAP), Log()

        def broken(old: Object | None, new: Object | None) -> None:
            raise ValueError("broken")

        informer.add_handler(broken)
        informer.add_handler(log)

        async def changes() -> None:
            await create(api, "a")
            await informer.reached(server.revision())
            assert log.entries == [("added", "a")]

        await running(informer, changes)

    run(body)
    assert "a handler failed" in caplog.text


class Front:
    """The API server on a unix socket, which can go away and come back."""

    def __init__(self, server: ApiServer, path: Path) -> None:
        self.server = server
        self.path = path
        self.runner: Runner | None = None

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        self.runner = await serve(self.server, unix_socket=listener, tcp_socket=None, tls=None)

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.close()


def test_over_http_the_servers_absence_is_survived(tmp_path: Path) -> None:
    async def body() -> None:
        server = make_server()
        inside = Api(server.transport())
        await create(inside, "gone-later")
        front = Front(server, tmp_path / "api.sock")
        await front.start()
        clock = FakeClock()
        transport = HttpTransport.from_unix_socket(front.path)
        informer, log = Informer(Api(transport), CONFIG_MAP, clock=clock), Log()
        informer.add_handler(log)

        async def has_seen(entry: tuple[str, str]) -> None:
            while entry not in log.entries:
                await asyncio.sleep(0.001)
                await clock.advance(0.1)

        async def changes() -> None:
            await create(inside, "a")
            await has_seen(("added", "a"))
            await front.stop()
            await create(inside, "b")
            await inside.delete(CONFIG_MAP, "gone-later", "default")
            await clock.advance(1)
            assert ("added", "b") not in log.entries
            await front.start()
            await has_seen(("added", "b"))
            await has_seen(("deleted", "gone-later"))
            assert log.entries.count(("added", "a")) == 1  # the new list tells only the difference

        await running(informer, changes)
        await transport.close()
        await front.stop()

    run(body)


def test_over_http_an_expired_revision_is_listed_again(tmp_path: Path) -> None:
    async def body() -> None:
        server = make_server()
        inside = Api(server.transport())
        first = await create(inside, "a")
        for number in range(3):
            await create(inside, f"more-{number}")
        server.state.store.compact(server.revision())
        front = Front(server, tmp_path / "api.sock")
        await front.start()
        api = Api(HttpTransport.from_unix_socket(front.path))
        with pytest.raises(ApiError) as raised:
            await api.watch(CONFIG_MAP, revision=revision_of(first))
        assert (raised.value.code, raised.value.reason) == (410, "Expired")
        informer = Informer(api, CONFIG_MAP, clock=FakeClock())
        informer.revision = revision_of(first)

        async def nothing() -> None:
            assert len(informer) == 4

        await running(informer, nothing)
        await api.close()
        await front.stop()

    run(body)


def test_pages_of_somebody_elses_are_waited_out(tmp_path: Path) -> None:
    """As a gateway gives, with status 200, that has lost its server: in place of a list, an object, and an event."""
    listed = {"kind": "ConfigMapList", "items": [], "metadata": {"resourceVersion": "5"}}
    obj = {"metadata": {"name": "a", "namespace": "default", "uid": "u", "resourceVersion": "6"}}
    event = json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n"
    answers = iter(["page", "page", listed, b"<html>\n", listed, b'{"sorry": true}\n', listed, event])

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        said = next(answers, None)
        if isinstance(said, str):
            return web.Response(text=said)
        if isinstance(said, dict):
            return web.json_response(said)
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(said or b"")
        if said == event:
            await asyncio.sleep(5)
        return stream

    async def body() -> None:
        server = web.Server(answer)
        listener = await asyncio.get_running_loop().create_unix_server(server, str(tmp_path / "api.sock"))
        api = Api(HttpTransport.from_unix_socket(tmp_path / "api.sock"))
        with pytest.raises(ApiError, match="no object of the Kubernetes API: 'page'"):
            await api.get(CONFIG_MAP, "a", "default")
        clock = FakeClock()
        informer = Informer(api, CONFIG_MAP, clock=clock)
        task = asyncio.create_task(informer.run())
        while not len(informer):
            await asyncio.sleep(0.001)
            await clock.advance(1)
            assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
        listener.close()
        await server.shutdown(1)

    run(body)


def test_a_watch_that_is_cut_now_and_then_is_begun_anew_at_once(tmp_path: Path) -> None:
    """As by a load balancer that ends idle connections: that is no server that gets worse and worse."""
    cut = asyncio.Event()
    watches = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal watches
        if "watch" not in request.query:
            return web.json_response({"kind": "ConfigMapList", "items": [], "metadata": {"resourceVersion": "5"}})
        stream = web.StreamResponse()
        await stream.prepare(request)
        watches += 1
        bookmark = {"kind": "ConfigMap", "metadata": {"resourceVersion": str(10 + watches)}}
        await stream.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        await cut.wait()
        assert request.transport is not None
        request.transport.abort()
        return stream

    async def body() -> None:
        server = web.Server(answer)
        listener = await asyncio.get_running_loop().create_unix_server(server, str(tmp_path / "api.sock"))
        api = Api(HttpTransport.from_unix_socket(tmp_path / "api.sock"))
        clock = FakeClock()
        informer = Informer(api, CONFIG_MAP, clock=clock)
        task = asyncio.create_task(informer.run())
        for number in range(1, 9):
            while informer.revision != 10 + number:
                await asyncio.sleep(0.001)
                await clock.advance(0)
            await clock.advance(60)
            cut.set()
            begun_s = clock.monotonic_s()
            while watches == number:
                cut.clear()
                await asyncio.sleep(0.001)
                await clock.advance(0.01)
                assert (
                    clock.monotonic_s() - begun_s < 5
                )  # of this clock, which stands still while messages are under way
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
        listener.close()
        await server.shutdown(1)

    run(body)


def test_no_server_is_one_clear_error(tmp_path: Path) -> None:
    async def body() -> None:
        api = Api(HttpTransport.from_unix_socket(tmp_path / "absent.sock"))
        with pytest.raises(ApiError, match="no answer from the API server") as raised:
            await api.list(POD)
        assert raised.value.code == 503
        await api.close()

    run(body)


def test_the_set_starts_what_is_asked_for_later() -> None:
    async def body() -> None:
        server = make_server()
        api = Api(server.transport())
        informers = InformerSet(api, FakeClock())
        first = informers.of(POD)
        assert informers.of(POD) is first
        task = asyncio.create_task(informers.run())
        await first.synced()
        await create(api, "a")
        second = informers.of(CONFIG_MAP)
        await informers.settle(server.revision())
        assert len(second) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(body)
