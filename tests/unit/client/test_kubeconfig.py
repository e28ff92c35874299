"""Kubeconfig files, and TLS with what they hold."""

import asyncio
import base64
import socket
from pathlib import Path

import pytest
import yaml

from netsim.apiserver.certificates import make_certificates, write_kubeconfig
from netsim.apiserver.core import ApiServer
from netsim.apiserver.http import serve
from netsim.client.api import Api
from netsim.client.http import HttpTransport
from netsim.client.kubeconfig import ServerAccess, read_kubeconfig
from netsim.model.clock import SystemClock
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError, InputError
from netsim.model.kinds import NAMESPACE
from netsim.model.objects import name_of
from netsim.store.store import Store


def write(path: Path, user: dict[str, str], **cluster: str) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_inlined_data_files_and_tokens(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("authority")
    user = {"client-certificate-data": base64.b64encode(b"cert").decode(), "token": "secret"}
    path = write(tmp_path / "config", user, **{"certificate-authority": "ca.pem"})
    access = read_kubeconfig(path)
    assert access == ServerAccess("https://127.0.0.1:6443", b"authority", b"cert", token="secret", namespace="shop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"current-context": ""}, "current-context: not set"),
        ({"current-context": "other"}, 'contexts: there is no "other"'),
        ({"clusters": []}, 'clusters: there is no "c"'),
        ({"users": [{"name": "u", "user": {"exec": {"command": "aws"}}}]}, "exec credentials are not supported"),
        ({"users": [{"name": "u", "user": {"client-key-data": "%"}}]}, "client-key-data: no valid base64"),
        ({"users": [{"name": "u", "user": {"client-key": "absent.pem"}}]}, "cannot read"),
        ({"kind": "Pod"}, "no kubeconfig"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path / "config", {})
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(InputError, match=message) as raised:
        read_kubeconfig(path)
    assert raised.value.where == str(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the kubeconfig"):
        read_kubeconfig(tmp_path / "absent")


def test_only_the_certificate_of_the_kubeconfig_gets_in(tmp_path: Path) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        tls = make_certificates(tmp_path, cluster="test")
        write_kubeconfig(tmp_path / "kubeconfig", address, "test", tls)
        server = ApiServer(Store(), ClusterConfig(), SystemClock())
        runner = await serve(server, unix_socket=None, tcp_socket=listener, tls=tls)
        api = Api(HttpTransport.from_kubeconfig(tmp_path / "kubeconfig"))
        assert "default" in [name_of(found) for found in (await api.list(NAMESPACE)).items]
        access = read_kubeconfig(tmp_path / "kubeconfig")
        stranger = Api(HttpTransport(ServerAccess(access.server, access.ca)))
        with pytest.raises(ApiError, match="no answer from the API server"):
            await stranger.list(NAMESPACE)
        doubter = Api(HttpTransport(ServerAccess(access.server)))
        with pytest.raises(ApiError, match="certificate verify failed"):
            await doubter.list(NAMESPACE)
        for client in (api, stranger, doubter):
            await client.close()
        await runner.close()

    asyncio.run(main())
