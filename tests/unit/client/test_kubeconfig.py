"""Kubeconfig files, and TLS with what they hold."""

import asyncio
import base64
import socket
from dataclasses import replace
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

PROXIED = {"server": "https://127.0.0.1:6443", "proxy-url": "http://127.0.0.1:3128"}


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
        ({"users": [{"name": "u", "user": {"as": "someone"}}]}, "users: as is not supported"),
        ({"users": [{"name": "u", "user": {"as-groups": ["some"]}}]}, "users: as-groups is not supported"),
        ({"clusters": [{"name": "c", "cluster": PROXIED}]}, "clusters: proxy-url is not supported"),
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


def test_a_token_file_goes_before_a_token_which_serves_while_it_is_not_there(tmp_path: Path) -> None:
    access = read_kubeconfig(write(tmp_path / "config", {"token": "first", "tokenFile": "token"}))
    transport = HttpTransport(access)
    assert transport._authorization() == {"Authorization": "Bearer first"}
    (tmp_path / "token").write_text("renewed\n")
    assert transport._authorization() == {"Authorization": "Bearer renewed"}
    with pytest.raises(InputError, match="cannot read"):
        read_kubeconfig(write(tmp_path / "config", {"tokenFile": "absent"}))


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


@pytest.mark.parametrize("name", ["kubernetes.default.svc", "elsewhere.example"])
def test_the_certificate_must_be_of_the_server_name(tmp_path: Path, name: str) -> None:
    """As where a server is reached by an address that its certificate does not have: 127.0.0.2."""

    async def main() -> None:
        listener = socket.create_server(("127.0.0.2", 0))
        address = f"https://127.0.0.2:{listener.getsockname()[1]}"
        tls = make_certificates(tmp_path, cluster="test")
        runner = await serve(
            ApiServer(Store(), ClusterConfig(), SystemClock()), unix_socket=None, tcp_socket=listener, tls=tls
        )
        access = ServerAccess(address, tls.ca_pem, tls.client_certificate, tls.client_key)
        nameless, named = Api(HttpTransport(access)), Api(HttpTransport(replace(access, server_name=name)))
        with pytest.raises(ApiError, match="certificate verify failed"):
            await nameless.list(NAMESPACE)
        if name.startswith("kubernetes"):
            listed = await named.list(NAMESPACE)
            stream = await named.watch(NAMESPACE, revision=listed.revision)
            await stream.aclose()
        else:
            with pytest.raises(ApiError, match="certificate verify failed"):
                await named.list(NAMESPACE)
        for client in (nameless, named):
            await client.close()
        await runner.close()

    asyncio.run(main())
