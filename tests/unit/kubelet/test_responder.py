"""The responder process over loopback: what each built-in answers, and what it does with what is no question."""

import asyncio
import json
import os
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from netsim.kubelet.responder import Responder, ResponderGone, Watcher
from netsim.testing.waiting import wait_until

WHO = {
    "pod": "web-0",
    "namespace": "shop",
    "node": "node-1",
    "container": "c",
    "podIP": "10.9.9.9",
    "hostname": "web-0",
}
TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def process() -> Iterator[Callable[[], Responder]]:
    """Responders, each used by one event loop only."""
    made: list[Responder] = []

    def start() -> Responder:
        made.append(Responder.start())
        return made[-1]

    yield start
    for responder in made:
        responder.close()


class Served:
    """One container on loopback, and what was heard of it."""

    def __init__(self, responder: Responder, name: str = "c1") -> None:
        self.responder, self.name = responder, name
        self.tcp = self.udp = 0
        self.exits: list[int] = []
        self._exit = asyncio.Event()
        self.lines: list[str] = []
        self.commands: list[str] = []

    def serve(self, kind: str, options: Mapping[str, Any], *, netns: bool = False) -> None:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        self.tcp, self.udp = tcp.getsockname()[1], udp.getsockname()[1]
        fd = os.open("/proc/self/ns/net", os.O_RDONLY) if netns else -1
        watcher = Watcher(self._exited, self._logged, self._shell)
        self.responder.serve(self.name, kind, WHO, options, [tcp, udp], watcher, fd)
        if fd >= 0:
            os.close(fd)

    def _exited(self, code: int) -> None:
        self.exits.append(code)
        self._exit.set()

    async def exited(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self._exit.wait()

    def _logged(self, lines: Sequence[str]) -> None:
        self.lines += lines

    async def _shell(self, command: str) -> tuple[str, str]:
        self.commands.append(command)
        return "out", "exit status 1"

    def get(self, path: str, *, data: bytes | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.tcp}{path}", data=data)
        opener = urllib.request.build_opener(_KeepErrors, urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read().decode()

    def raw(self, data: bytes, *, half_close: bool = True) -> bytes:
        with socket.create_connection(("127.0.0.1", self.tcp), TIMEOUT_S) as client:
            client.sendall(data)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            parts = []
            while part := client.recv(65536):
                parts.append(part)
            return b"".join(parts)

    def ask_udp(self, data: bytes) -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(("127.0.0.1", self.udp))
            client.send(data)
            return client.recv(4096).decode()


class _KeepErrors(urllib.request.HTTPErrorProcessor):
    """Every status is an answer."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response


@asynccontextmanager
async def serving(
    responder: Responder, kind: str, options: Mapping[str, Any] | None = None, *, netns: bool = False
) -> AsyncIterator[Served]:
    served = Served(responder)
    served.serve(kind, options or {}, netns=netns)
    try:
        yield served
    finally:
        responder.stop(served.name)


def with_served(
    start: Callable[[], Responder], client: Callable[[Served], Any], kind: str, options: Mapping[str, Any] | None = None
) -> Any:
    """What the blocking ``client`` returns."""

    async def both() -> Any:
        async with serving(start(), kind, options) as served:
            return await asyncio.to_thread(client, served)

    return asyncio.run(both())


Start = Callable[[], Responder]
NETEXEC = {"udp": True}


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/hostname", 200, "web-0"),
        ("/hostName", 200, "web-0"),
        ("/echo?msg=hello%20there", 200, "hello there"),
        ("/echo?msg=x&code=418", 418, "x"),
        ("/healthz", 200, ""),
        ("/readyz", 200, "ok"),
        ("/header?key=x-none", 200, ""),
        ("/redirect?location=/hostname", 302, ""),
        ("/dial?request=hostname&tries=0&host=a&port=1", 400, "tries parameter is invalid: 0"),
        ("/dial?host=a&port=1", 400, "request parameter not specified"),
        ("/shell?cmd=ls", 200, '{"output": "out", "error": "exit status 1"}'),
    ],
)
def test_netexec_over_http(process: Start, path: str, status: int, body: str) -> None:
    assert with_served(process, lambda s: s.get(path), "netexec", NETEXEC) == (status, body)


def test_netexec_says_whom_it_saw_and_takes_forms(process: Start) -> None:
    def ask(served: Served) -> None:
        assert served.get("/clientip")[1].startswith("127.0.0.1:")
        assert served.get("/nothing-here")[1].startswith("NOW: ")
        assert served.get("/echo", data=b"msg=posted") == (200, "posted")
        assert json.loads(served.get("/header")[1])["Host"] == [f"127.0.0.1:{served.tcp}"]

    with_served(process, ask, "netexec", NETEXEC)


def test_netexec_without_udp_is_never_healthy(process: Start) -> None:
    assert with_served(process, lambda s: s.get("/healthz"), "netexec", {"udp": False}) == (412, "")


def test_netexec_over_udp(process: Start) -> None:
    def ask(served: Served) -> None:
        assert served.ask_udp(b"hostName\n") == "web-0"
        assert served.ask_udp(b"echo Loud") == "loud"
        assert served.ask_udp(b"clientip").startswith("127.0.0.1:")

    with_served(process, ask, "netexec", NETEXEC)


@pytest.mark.needs("root")
def test_netexec_dials_others(process: Start) -> None:
    def ask(served: Served) -> None:
        where = f"host=127.0.0.1&port={served.tcp}"
        assert json.loads(served.get(f"/dial?{where}&request=hostname&tries=2")[1]) == {"responses": ["web-0"] * 2}
        udp = f"host=127.0.0.1&port={served.udp}&protocol=udp"
        assert json.loads(served.get(f"/dial?{udp}&request=echo%20hi")[1]) == {"responses": ["hi"]}
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            failed = served.get(f"/dial?host=127.0.0.1&port={unused.getsockname()[1]}&request=hostname")
        assert list(json.loads(failed[1])) == ["errors"]

    async def both() -> None:
        async with serving(process(), "netexec", NETEXEC, netns=True) as served:
            await asyncio.to_thread(ask, served)

    asyncio.run(both())


@pytest.mark.parametrize(
    "garbage", [b"hostName\n", b"\n", b"GET\n", b"get / HTTP/1.1\r\n\r\n", b"no newline", b"\x16\x03\x01\n"]
)
def test_http_servers_refuse_garbage_with_400(process: Start, garbage: bytes) -> None:
    answer = with_served(process, lambda s: s.raw(garbage), "netexec", NETEXEC)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


UNREADABLE = [
    b"GET / HTTP/1.1\r\nbroken\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"GET /" + b"x" * 70_000,
]


@pytest.mark.parametrize("bad", UNREADABLE)
def test_http_servers_refuse_what_they_can_not_read(process: Start, bad: bytes) -> None:
    assert with_served(process, lambda s: s.raw(bad), "netexec", NETEXEC).startswith(b"HTTP/1.1 400 ")


def test_keep_alive_pipelining_chunks_and_every_split(process: Start) -> None:
    requests = (
        b"GET /echo?msg=one HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n4\r\nmsg=\r\n3\r\ntwo\r\n0\r\n\r\n"
        b"GET /echo?msg=three HTTP/1.1\r\nConnection: close\r\n\r\n"
    )

    def ask(served: Served) -> None:
        for size in (len(requests), 1, 7):
            with socket.create_connection(("127.0.0.1", served.tcp), TIMEOUT_S) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for start in range(0, len(requests), size):
                    client.sendall(requests[start : start + size])
                with client.makefile("rb") as answers:
                    text = answers.read()
            assert text.count(b"HTTP/1.1 200 OK") == 3
            assert [text.find(word) > 0 for word in (b"one", b"two", b"three")] == [True] * 3

    with_served(process, ask, "netexec", NETEXEC)


def test_drain_and_exit(process: Start) -> None:
    async def both() -> None:
        async with serving(process(), "netexec", NETEXEC) as served:
            served.responder.drain(served.name)
            assert await asyncio.to_thread(served.get, "/readyz") == (503, "shutting down")
            assert await asyncio.to_thread(served.get, "/healthz") == (200, "")
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(served.get, "/exit?code=3")
            await served.exited()
            assert served.exits == [3]
            with pytest.raises(OSError, match="refused"):
                await asyncio.to_thread(served.raw, b"x\n")
            assert "GET /healthz" in served.lines

    asyncio.run(both())


def test_stop_closes_connections_and_is_silent(process: Start) -> None:
    async def both() -> None:
        async with serving(process(), "responder") as served:
            with socket.create_connection(("127.0.0.1", served.tcp), TIMEOUT_S) as client:
                client.sendall(b"hello\n")
                assert await asyncio.to_thread(client.recv, 4096)
                served.responder.stop(served.name)
                assert await asyncio.to_thread(client.recv, 1) == b""
            assert served.exits == []

    asyncio.run(both())


def test_a_responder_answers_http_lines_and_datagrams_with_who_it_is(process: Start) -> None:
    def ask(served: Served) -> None:
        seen = json.loads(served.get("/a/b?c")[1])
        assert {key: seen[key] for key in ("pod", "namespace", "node", "container", "podIP")} == {
            key: WHO[key] for key in ("pod", "namespace", "node", "container", "podIP")
        }
        assert (seen["protocol"], seen["path"], seen["local"]) == ("http", "/a/b?c", f"127.0.0.1:{served.tcp}")
        lines = [json.loads(line) for line in served.raw(b"PING\r\nGET / HTTP/1.1\nlast").splitlines()]
        assert [line["protocol"] for line in lines] == ["tcp"] * 3  # a connection that began with lines stays so
        datagram = json.loads(served.ask_udp(b"?"))
        assert (datagram["protocol"], datagram["local"]) == ("udp", f"127.0.0.1:{served.udp}")

    with_served(process, ask, "responder")


def test_a_page_names_pod_and_node(process: Start) -> None:
    status, body = with_served(process, lambda s: s.get("/"), "page", {"image": "nginx"})
    assert status == 200
    assert "pod shop/web-0 on node node-1" in body
    assert "Welcome to nginx!" in body


def test_serve_hostname_greets(process: Start) -> None:
    assert with_served(process, lambda s: s.raw(b""), "serve-hostname", {"tcp": True}) == b"web-0"
    assert with_served(process, lambda s: s.ask_udp(b"x"), "serve-hostname", {"tcp": True}) == "web-0"
    assert with_served(process, lambda s: s.get("/any"), "serve-hostname") == (200, "web-0")


def test_test_webserver_serves_volumes_and_nothing_else(process: Start, tmp_path: Any) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_text("content")
    (tmp_path / "secret").write_text("x")
    options = {"mounts": [["/results", str(tmp_path / "volume")]]}

    def ask(served: Served) -> None:
        assert served.get("/results/file") == (200, "content")
        assert served.get("/results/none")[0] == 404
        assert served.get("/results/%2e%2e/secret")[0] == 404
        assert served.get("/etc/passwd")[0] == 404

    with_served(process, ask, "test-webserver", options)


def test_porter(process: Start) -> None:
    async def both() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            served = Served(process())
            served.tcp = port
            for json_wanted in (False, True):
                options = {"values": {str(port): "<a href='/x'>"}, "json": json_wanted}
                watcher = Watcher(print, print, served._shell)
                served.responder.serve(served.name, "porter", WHO, options, [listener.dup()], watcher)
                expected = json.dumps({"Method": "GET", "Body": "<a href='/x'>"}) if json_wanted else "<a href='/x'>"
                assert await asyncio.to_thread(served.get, "/any") == (200, expected)

    asyncio.run(both())


def test_when_the_process_dies_every_container_has_ended(process: Start) -> None:
    async def both() -> None:
        responder = process()
        async with serving(responder, "responder") as served:
            assert await asyncio.to_thread(served.raw, b"x\n")
            os.kill(responder.pid, 9)
            await served.exited()
            assert served.exits == [-9]
            with pytest.raises(ResponderGone), socket.create_server(("127.0.0.1", 0)) as listener:
                responder.serve("c2", "responder", WHO, {}, [listener], Watcher(print, print, served._shell))

    asyncio.run(both())


def test_thousands_of_sockets_cost_a_few_kilobytes_each(process: Start) -> None:
    count = 1000

    def memory_kib(pid: int) -> int:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    async def both() -> None:
        responder = process()
        last = Served(responder, "first")
        last.serve("responder", {})
        await asyncio.to_thread(last.get, "/")
        before_kib = memory_kib(responder.pid)
        for number in range(count // 2):  # two sockets each
            last = Served(responder, f"c{number}")
            last.serve("responder", {})
        assert (await asyncio.to_thread(last.get, "/"))[0] == 200  # all before it were taken too
        assert (memory_kib(responder.pid) - before_kib) / count < 30
        for number in range(count // 2):
            responder.stop(f"c{number}")

    asyncio.run(both())


def test_close_ends_the_process() -> None:
    responder = Responder.start()
    responder.close()
    wait_until("the responder to be gone", lambda: not os.path.exists(f"/proc/{responder.pid}"))
