"""Bearer tokens: a pod's, and one whose file is renewed while we run."""

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from netsim.client.http import HttpTransport
from netsim.client.kubeconfig import ServerAccess, read_service_account
from netsim.model.errors import InputError


def test_what_a_pod_is_given(tmp_path: Path) -> None:
    place = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert read_service_account({}, tmp_path) is None
    with pytest.raises(InputError, match=r"ca\.crt"):
        read_service_account(place, tmp_path)
    (tmp_path / "ca.crt").write_text("authority")
    (tmp_path / "token").write_text("secret\n")
    access = read_service_account(place, tmp_path)
    token_file = str(tmp_path / "token")
    assert access == ServerAccess("https://[fd00::1]:443", b"authority", token="secret", token_file=token_file)


def test_a_renewed_token_is_used(tmp_path: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({})

    async def run() -> None:
        server = web.Server(answer)
        listener = await asyncio.get_running_loop().create_unix_server(server, str(tmp_path / "api.sock"))
        file = tmp_path / "token"
        file.write_text("first")
        transport = HttpTransport(ServerAccess(f"unix://{tmp_path / 'api.sock'}", token="first", token_file=str(file)))
        try:
            await transport.request("GET", "/")
            file.write_text("second")
            os.utime(file, (2_000_000_000, 2_000_000_000))  # however coarse the file system's clock is
            await transport.request("GET", "/")
            file.unlink()  # between the old and the new: the one we have may still do
            await transport.request("GET", "/")
        finally:
            await transport.close()
            listener.close()
            await server.shutdown()
            await listener.wait_closed()

    asyncio.run(run())
    assert seen == ["Bearer first", "Bearer second", "Bearer second"]
