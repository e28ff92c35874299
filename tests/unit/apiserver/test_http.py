"""The API over HTTP: a unix socket, TLS with client certificates, watches as lines, logs."""

import asyncio
import io
import json
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from netsim.apiserver.certificates import TlsFiles, make_certificates, write_kubeconfig
from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import Runner, serve
from netsim.client.kubeconfig import read_kubeconfig
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.store.store import Store
from tests.unit.apiserver.server import NS, PODS, TABLE, make_pod

Session = aiohttp.ClientSession


class Logs:
    """A PodRuntime whose pods have said three lines."""

    async def read_log(
        self, namespace: str, pod: str, container: str | None, *, tail_lines: int | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        if container == "none":
            raise ApiError(400, "BadRequest", f"container none is not valid for pod {pod}")
        lines = [f"{namespace} {pod} {container} {number} {follow}\n".encode() for number in range(3)]

        async def pieces() -> AsyncIterator[bytes]:
            for line in lines[-tail_lines:] if tail_lines is not None else lines:
                yield line

        return pieces()


@asynccontextmanager
async def unix_server(path: Path) -> AsyncIterator[tuple[ApiServer, Session, Runner]]:
    server = ApiServer(Store(), ClusterConfig(), SystemClock(), pods=Logs())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    runner = await serve(server, unix_socket=listener, tcp_socket=None, tls=None)
    connector = aiohttp.UnixConnector(str(path))
    async with Session("http://localhost", connector=connector) as session:
        try:
            yield server, session, runner
        finally:
            await runner.close()


def run(tmp_path: Path, scenario: Callable[[ApiServer, Session, Runner], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), unix_server(tmp_path / "api.sock") as (server, session, runner):
            await scenario(server, session, runner)

    asyncio.run(main())


def test_json_in_and_out(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        async with session.post(PODS, data=json.dumps(make_pod())) as answer:  # no JSON content type
            assert answer.status == 415
        async with session.post(PODS, json=make_pod()) as answer:
            assert (answer.status, answer.content_type) == (201, "application/json")
            created = await answer.json()
        async with session.get(f"{PODS}/web") as answer:
            assert await answer.json() == created
        async with session.get(PODS) as answer:
            listed = await answer.json()
            assert listed["items"] == [created]
            assert listed["kind"] == "PodList"
        async with session.get("/healthz") as answer:
            assert (await answer.text(), answer.content_type) == ("ok", "text/plain")

    run(tmp_path, scenario)


def test_failures_are_status_objects(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        async with session.get(f"{PODS}/none") as answer:
            assert answer.status == 404
            assert (await answer.json())["reason"] == "NotFound"
        headers = {"Content-Type": "application/json"}
        async with session.post(PODS, data="{broken", headers=headers) as answer:
            assert answer.status == 400
            assert "no valid JSON" in (await answer.json())["message"]
        async with session.post(PODS, data=io.BytesIO(b"x" * (3 * 1024 * 1024 + 1)), headers=headers) as answer:
            assert answer.status == 413
        async with session.get("/nonsense") as answer:
            assert answer.status == 404
            assert "known kinds" in (await answer.json())["message"]

    run(tmp_path, scenario)


def test_warnings_come_as_headers(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        body = make_pod(colour="red")
        async with session.post(f"{PODS}?fieldValidation=Warn", json=body) as answer:
            assert answer.status == 201
            assert answer.headers["Warning"] == '299 - "unknown field \\"spec.colour\\""'

    run(tmp_path, scenario)


async def read_events(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    return [json.loads(await answer.content.readline()) for _ in range(count)]


def test_a_watch_is_lines_until_its_timeout(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        revision = server.revision()
        query = f"watch=true&resourceVersion={revision}&timeoutSeconds=1&allowWatchBookmarks=true"
        async with session.get(f"{PODS}?{query}") as answer:
            assert answer.status == 200
            await session.post(PODS, json=make_pod())
            (event,) = await read_events(answer, 1)
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "web")
            (mark,) = await read_events(answer, 1)
            assert mark["type"] == "BOOKMARK"
            assert mark["object"]["metadata"]["resourceVersion"] == str(server.revision())
            assert await answer.content.readline() == b""

    run(tmp_path, scenario)


def test_a_watch_of_tables_defines_its_columns_once(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        for name in ("a", "b"):
            await session.post(PODS, json=make_pod(name))
        async with session.get(f"{PODS}?watch=1", headers={"Accept": TABLE}) as answer:
            first, second = await read_events(answer, 2)
        assert first["object"]["kind"] == "Table"
        assert first["object"]["rows"][0]["cells"][:3] == ["a", "0/1", "Pending"]
        assert first["object"]["columnDefinitions"]
        assert second["object"]["columnDefinitions"] == []

    run(tmp_path, scenario)


def test_an_expired_watch_is_410(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        server.state.store.compact(server.revision())
        async with session.get(f"{PODS}?watch=1&resourceVersion=1") as answer:
            assert answer.status == 410
            assert (await answer.json())["reason"] == "Expired"

    run(tmp_path, scenario)


def test_a_client_that_hangs_up_ends_its_watch(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        answer = await session.get(f"{PODS}?watch=1&resourceVersion={server.revision()}")
        waiters = server.state.store._resource("pods").waiters
        assert len(waiters) == 1
        answer.close()
        while server.state.store._resource("pods").waiters:  # noqa: ASYNC110 - the limit is the test's timeout
            await asyncio.sleep(0.005)

    run(tmp_path, scenario)


def test_closing_ends_watches_at_once(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        async with session.get(f"{PODS}?watch=1&resourceVersion={server.revision()}") as answer:
            async with asyncio.timeout(2):
                await runner.close()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.content.readline()
        await runner.close()  # may be repeated

    run(tmp_path, scenario)


def test_logs_are_text(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        await session.post(PODS, json=make_pod())
        async with session.get(f"{PODS}/web/log?tailLines=1&container=c&follow=true") as answer:
            assert (await answer.text(), answer.content_type) == ("default web c 2 True\n", "text/plain")
        async with session.get(f"{PODS}/web/log?container=none") as answer:
            assert answer.status == 400
        async with session.get(f"{PODS}/other/log") as answer:
            assert answer.status == 404
        async with session.get(f"{PODS}/web/log?tailLines=-1") as answer:
            assert answer.status == 422

    run(tmp_path, scenario)


def test_without_a_node_agent_there_are_no_logs(tmp_path: Path) -> None:
    async def scenario(server: ApiServer, session: Session, runner: Runner) -> None:
        server.state.pods = None
        await session.post(PODS, json=make_pod())
        async with session.get(f"{NS}/pods/web/log") as answer:
            assert answer.status == 503

    run(tmp_path, scenario)


# --- TLS ------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_server(tls: TlsFiles) -> AsyncIterator[int]:
    server = ApiServer(Store(), ClusterConfig(), SystemClock())
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    runner = await serve(server, unix_socket=None, tcp_socket=listener, tls=tls)
    try:
        yield port
    finally:
        await runner.close()


def client_context(tls: TlsFiles, directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls.ca_pem.decode())
    pem = directory / "client.pem"
    pem.write_bytes(tls.client_certificate + tls.client_key)
    context.load_cert_chain(pem)
    return context


async def version_over(port: int, context: ssl.SSLContext) -> str:
    connector = aiohttp.TCPConnector(ssl=context)
    async with Session(connector=connector) as session, session.get(f"https://127.0.0.1:{port}/version") as answer:
        return (await answer.json())["gitVersion"]  # type: ignore[no-any-return]


def test_the_client_certificate_gets_in_and_nothing_else_does(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "pki")
    stranger = make_certificates(tmp_path / "other")

    async def main() -> None:
        async with asyncio.timeout(20), tls_server(tls) as port:
            assert (await version_over(port, client_context(tls, tmp_path))).startswith("v1.31")
            bare = ssl.create_default_context(cadata=tls.ca_pem.decode())
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await version_over(port, bare)
            forged = ssl.create_default_context(cadata=tls.ca_pem.decode())
            pem = tmp_path / "forged.pem"
            pem.write_bytes(stranger.client_certificate + stranger.client_key)
            forged.load_cert_chain(pem)
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await version_over(port, forged)
            servers_own = ssl.create_default_context(cadata=tls.ca_pem.decode())
            servers_own.load_cert_chain(tls.certificate, tls.key)  # good for a server only
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await version_over(port, servers_own)
            with pytest.raises((aiohttp.ClientError, OSError)):
                async with Session() as session, session.get(f"http://127.0.0.1:{port}/version"):
                    pass

    asyncio.run(main())


def test_a_port_without_tls_is_refused() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = ApiServer(Store(), ClusterConfig(), SystemClock())
            with pytest.raises(ValueError, match="with TLS only"):
                await serve(server, unix_socket=None, tcp_socket=listener, tls=None)

    asyncio.run(main())


def test_keys_and_kubeconfig_are_their_owners_alone(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "pki", cluster="test")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("old")
    kubeconfig.chmod(0o644)
    write_kubeconfig(kubeconfig, "https://127.0.0.1:6443", "test", tls)
    for path in (kubeconfig, tls.key, tls.certificate, tls.ca):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tls.key.parent.stat().st_mode) == 0o700
    access = read_kubeconfig(kubeconfig)
    assert access.server == "https://127.0.0.1:6443"
    assert (access.ca, access.client_certificate, access.client_key) == (
        tls.ca_pem,
        tls.client_certificate,
        tls.client_key,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kubeconfig", "pki"]  # no half-written file left
