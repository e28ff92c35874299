"""A watch over a network that fails."""

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp import web

from netsim.client import http
from netsim.client.http import HttpTransport
from netsim.client.kubeconfig import ServerAccess
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.nft import Nft
from netsim.model.errors import ApiError

pytestmark = pytest.mark.needs("root", "nft")

PORT = 7001
SILENCE = f"""
add table ip silence
add chain ip silence out {{ type filter hook output priority 0; }}
add rule ip silence out tcp sport {PORT} drop
add rule ip silence out tcp dport {PORT} drop
"""


@pytest.fixture
def ns() -> Iterator[Netns]:
    made = Netns.create("server")
    yield made
    made.close()


def test_a_server_that_went_without_a_word_is_noticed(ns: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when its machine or the way there is gone: no FIN, no reset, and a watch may be silent for hours."""
    monkeypatch.setattr(http, "KEEPALIVE", dict.fromkeys(http.KEEPALIVE, 1))

    async def talk() -> None:
        over = asyncio.Event()

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await over.wait()
            return response

        server = web.Server(answer)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", PORT)
        transport = HttpTransport(ServerAccess(f"http://127.0.0.1:{PORT}"))
        stream = await transport.watch("/", {})
        with Nft(ns) as nft:
            nft.run(SILENCE)
        try:
            async with asyncio.timeout(20):
                with pytest.raises(ApiError, match=r"broke: .*timed out"):
                    await anext(stream)
        finally:
            await stream.aclose()
            await transport.close()
            over.set()
            listener.close()
            await server.shutdown(1)

    asyncio.run(run_in(ns, lambda: asyncio.run(talk())))


def test_the_times_are_those_of_client_go() -> None:
    idle_s, interval_s, probes = http.KEEPALIVE.values()
    assert idle_s + interval_s * probes == 45
