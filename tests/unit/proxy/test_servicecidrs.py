"""The service network from ServiceCIDR objects, against API servers that have them, get them, or never do."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from netsim.client.api import Api
from netsim.client.informerset import InformerSet
from netsim.client.transport import NO_QUERY, Response
from netsim.model.errors import ApiError
from proxy.config import ProxyConfig
from proxy.servicecidrs import follow_service_cidrs
from tests.unit.proxy.cluster import HandClock, let_run, running
from tests.unit.proxy.make import make_service


class Server:
    """An API server's ServiceCIDRs, as lists and as one watch after the other. ``codes``: answers before those."""

    def __init__(self, cidrs: Mapping[str, list[str]], codes: list[int] | None = None) -> None:
        self.objects = {name: self._make(name, networks) for name, networks in cidrs.items()}
        self.codes = codes or []
        self.asked = 0
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    @staticmethod
    def _make(name: str, networks: list[str]) -> dict[str, Any]:
        meta = {"name": name, "uid": name, "resourceVersion": "1"}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": meta,
            "spec": {"cidrs": networks},
        }

    def tell(self, kind: str, name: str, networks: list[str]) -> None:
        self.events.put_nowait({"type": kind, "object": self._make(name, networks)})

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY, body: Any = None, content_type: str = ""
    ) -> Response:
        assert (method, path) == ("GET", "/apis/networking.k8s.io/v1/servicecidrs")
        self.asked += 1
        if self.codes:
            code = self.codes.pop(0)
            if code == 503:
                raise ApiError(503, "ServiceUnavailable", "no answer")
            return Response(code, {"kind": "Status", "code": code, "message": "not to be had"})
        return Response(200, {"items": list(self.objects.values()), "metadata": {"resourceVersion": "1"}})

    async def watch(self, path: str, query: Mapping[str, str]) -> "Server":
        return self

    def __aiter__(self) -> "Server":
        return self

    async def __anext__(self) -> dict[str, Any]:
        return await self.events.get()

    def delivered(self) -> int:
        return 1

    async def aclose(self) -> None: ...

    async def close(self) -> None: ...


def follow(server: Server, seconds: int = 0) -> list[tuple[str, ...]]:
    """What was told of the networks, as they come and go."""
    told: list[tuple[str, ...]] = []

    async def run() -> None:
        clock = HandClock()
        api = Api(server)
        informers = InformerSet(api)
        tasks = [
            asyncio.create_task(informers.run()),
            asyncio.create_task(follow_service_cidrs(api, informers, clock, told.append)),
        ]
        await let_run()
        for _ in range(seconds):
            await clock.advance(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    return told


def test_networks_of_all_objects_as_they_come_and_go() -> None:
    server = Server({"kubernetes": ["10.96.0.0/12", "fd00:10:96::/112"]})
    server.tell("ADDED", "more", ["10.128.0.0/16"])
    server.tell("MODIFIED", "more", ["10.128.0.0/16"])
    server.tell("DELETED", "more", ["10.128.0.0/16"])
    first = ("10.96.0.0/12", "fd00:10:96::/112")
    assert follow(server) == [first, ("10.128.0.0/16", *first), first]


@pytest.mark.parametrize("code", [403, 404])
def test_a_server_without_them_is_asked_once(code: int, caplog: pytest.LogCaptureFixture) -> None:
    server = Server({}, [code])
    assert follow(server, seconds=5) == []
    assert server.asked == 1
    assert "not dropped" in caplog.text


def test_a_server_that_is_away_is_waited_for() -> None:
    assert follow(Server({"kubernetes": ["10.96.0.0/12"]}, [503, 503]), seconds=2) == [("10.96.0.0/12",)]


def test_another_network_writes_the_rules_anew_and_the_same_one_does_not() -> None:
    async def run() -> None:
        config = ProxyConfig(cluster_cidrs=("10.244.0.0/16",))
        async with running(1, config) as cluster:
            await cluster.put(make_service(ip="10.96.0.77"))
            await cluster.settle()
            full = cluster.proxy.summary()["fullSyncs"]
            for cidrs, more in ((("10.96.0.0/12",), 1), (("10.96.0.0/12",), 1), ((), 2)):
                cluster.proxy.set_service_cidrs(cidrs)
                await cluster.settle()
                assert cluster.proxy.summary()["fullSyncs"] == full + more

    asyncio.run(run())
