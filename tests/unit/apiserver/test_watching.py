"""Watches in process: replay, selectors, initial events, expiry."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from netsim.client.transport import Transport, WatchStream
from netsim.model.errors import ApiError
from tests.unit.apiserver.server import NS, PODS, Object, Server, make_pod

Scenario = Callable[[Server, Transport], Awaitable[None]]


def run(scenario: Scenario) -> None:
    async def main() -> None:
        server = Server()
        async with asyncio.timeout(10):
            await scenario(server, server.core.transport())

    asyncio.run(main())


async def create(transport: Transport, name: str, **spec: Any) -> Object:
    labels = spec.pop("labels", None)
    response = await transport.request("POST", PODS, body=make_pod(name, labels=labels, **spec))
    assert response.status == 201
    return response.body  # type: ignore[no-any-return]


async def label(transport: Transport, name: str, **labels: str | None) -> None:
    response = await transport.request("PATCH", f"{PODS}/{name}", body={"metadata": {"labels": labels}})
    assert response.status == 200


async def seen(stream: WatchStream, count: int) -> list[tuple[str, str]]:
    """The next ``count`` events: type and object's name."""
    events = [await anext(stream) for _ in range(count)]
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


def test_a_watch_goes_on_from_a_list() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        await create(transport, "a")
        listed = (await transport.request("GET", PODS)).body
        await create(transport, "b")
        stream = await transport.watch(PODS, {"resourceVersion": listed["metadata"]["resourceVersion"]})
        await label(transport, "a", x="y")
        await transport.request("DELETE", f"{PODS}/b")
        assert await seen(stream, 3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
        assert stream.delivered() == server.core.revision()
        await stream.aclose()

    run(scenario)


def test_a_watch_without_a_revision_starts_with_what_is_there() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        await create(transport, "a")
        for query in ({}, {"resourceVersion": "0"}):
            stream = await transport.watch(PODS, query)
            assert stream.delivered() < server.core.revision()
            assert await seen(stream, 1) == [("ADDED", "a")]
            assert stream.delivered() == server.core.revision()

    run(scenario)


def test_initial_events_end_with_a_bookmark() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        await create(transport, "a")
        stream = await transport.watch(PODS, {"sendInitialEvents": "true", "allowWatchBookmarks": "true"})
        assert await seen(stream, 1) == [("ADDED", "a")]
        mark = await anext(stream)
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["kind"] == "Pod"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert mark["object"]["metadata"]["resourceVersion"] == str(server.core.revision())

    run(scenario)


def test_objects_enter_and_leave_a_selection() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        stream = await transport.watch(
            PODS, {"labelSelector": "app=web", "resourceVersion": str(server.core.revision())}
        )
        await create(transport, "a", labels={"app": "db"})
        await label(transport, "a", app="web")
        await label(transport, "a", more="x")
        await label(transport, "a", app="db")
        await label(transport, "a", app="web")
        await transport.request("DELETE", f"{PODS}/a")
        wanted = ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
        assert await seen(stream, 5) == [(type_, "a") for type_ in wanted]
        assert stream.delivered() == server.core.revision()

    run(scenario)


def test_a_watch_by_field_and_by_name() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        revision = {"resourceVersion": str(server.core.revision())}
        by_node = await transport.watch("/api/v1/pods", {"fieldSelector": "spec.nodeName=n1", **revision})
        by_name = await transport.watch(PODS, {"fieldSelector": "metadata.name=b", **revision})
        await create(transport, "a")
        await create(transport, "b", nodeName="n1")
        body = {"target": {"kind": "Node", "name": "n1"}}
        await transport.request("POST", f"{PODS}/a/binding", body=body)
        assert await seen(by_node, 2) == [("ADDED", "b"), ("ADDED", "a")]
        assert await seen(by_name, 1) == [("ADDED", "b")]
        with pytest.raises(ApiError, match="field label not supported"):
            await transport.watch(PODS, {"fieldSelector": "spec.x=1"})

    run(scenario)


def test_a_watch_keeps_to_its_namespace_and_kind() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        stream = await transport.watch(PODS, {"resourceVersion": str(server.core.revision())})
        await transport.request("POST", "/api/v1/namespaces/kube-system/pods", body=make_pod("other"))
        await transport.request("POST", f"{NS}/configmaps", body={"metadata": {"name": "c"}})
        assert stream.delivered() == server.core.revision()
        await create(transport, "mine")
        assert await seen(stream, 1) == [("ADDED", "mine")]

    run(scenario)


def test_a_compacted_revision_is_gone() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        await create(transport, "a")
        early = await transport.watch(PODS, {"resourceVersion": "1"})
        server.store.compact(server.store.revision)
        with pytest.raises(ApiError, match="too old resource version: 1") as caught:
            await transport.watch(PODS, {"resourceVersion": "1"})
        assert (caught.value.code, caught.value.reason) == (410, "Expired")
        assert await seen(early, 1) == [("ADDED", "a")]  # still in memory: nothing was lost

    run(scenario)


def test_a_watch_that_was_overtaken_ends_with_an_error() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        stream = await transport.watch(PODS, {"resourceVersion": "1"})
        path = f"{NS}/pods/a/status"
        await create(transport, "a")
        for number in range(2100):  # more than the window in memory holds
            await transport.request("PATCH", path, body={"status": {"podIP": f"10.0.0.{number}"}})
        server.store.compact(server.store.revision)
        event = await anext(stream)
        assert event["type"] == "ERROR"
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(scenario)


def test_a_watch_ends_with_the_store() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        stream = await transport.watch(PODS, {"resourceVersion": str(server.core.revision())})
        ended = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        server.store.close()
        assert await ended is None

    run(scenario)


def test_watchers_share_one_object() -> None:
    async def scenario(server: Server, transport: Transport) -> None:
        query = {"resourceVersion": str(server.core.revision())}
        first, second = [await transport.watch(PODS, query) for _ in range(2)]
        created = await create(transport, "a")
        assert (await anext(first))["object"] is created
        assert (await anext(second))["object"] is created

    run(scenario)
