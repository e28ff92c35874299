"""Reading a kubeconfig file: the current context's server and credentials.

Source: kubernetes ``staging/src/k8s.io/client-go/tools/clientcmd/api/v1/types.go``.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netsim.model.errors import InputError

_OTHER_CREDENTIALS = ("exec", "auth-provider", "username")
_OTHER_WAYS = ("proxy-url",)
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """Where an API server is and how to be let in. Certificates and keys are PEM."""

    server: str  # https://127.0.0.1:6443, or unix:///path/to/api.sock
    ca: bytes = b""
    client_certificate: bytes = b""
    client_key: bytes = b""
    token: str = ""
    token_file: str = ""  # where the token came from: it is read again when the file changes
    verify: bool = True
    server_name: str = ""  # name in the server's certificate, where it is not the host of ``server``
    namespace: str = "default"


def read_kubeconfig(path: Path | str, context: str = "") -> ServerAccess:
    """The access that a kubeconfig file describes. Raises InputError naming file and field."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the kubeconfig: {error}", where=str(file)) from error
    return parse_kubeconfig(text, file, context)


def read_service_account(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> ServerAccess | None:
    """The access of a pod to its cluster; None outside of one. Raises InputError when its files can't be read.

    Source: kubernetes staging/src/k8s.io/client-go/rest/config.go (InClusterConfig).
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return None
    token_file = folder / "token"
    return ServerAccess(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca=_read(folder / "ca.crt", folder),
        token=_read(token_file, folder).decode().strip(),
        token_file=str(token_file),
    )


def parse_kubeconfig(text: str, file: Path, context: str = "") -> ServerAccess:
    """The content of ``file``; relative paths in it are taken from its folder, as kubectl does."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"no valid YAML: {error}", where=str(file)) from error
    if not isinstance(document, dict) or document.get("kind", "Config") != "Config":
        raise InputError("no kubeconfig: kind Config expected", where=str(file))
    wanted = context or str(document.get("current-context") or "")
    if not wanted:
        raise InputError("current-context: not set", where=str(file), hint="kubectl config use-context NAME")
    chosen = _entry(document, "contexts", "context", wanted, file)
    cluster = _entry(document, "clusters", "cluster", str(chosen.get("cluster", "")), file)
    user = _entry(document, "users", "user", str(chosen.get("user", "")), file) if chosen.get("user") else {}
    if not cluster.get("server"):
        raise InputError(f'clusters: "{chosen.get("cluster")}" has no server', where=str(file))
    for field in _OTHER_CREDENTIALS:
        if user.get(field):
            hint = "use a client certificate or a token"
            raise InputError(f"users: {field} credentials are not supported", where=str(file), hint=hint)
    for group, entry, fields in (("clusters", cluster, _OTHER_WAYS), ("users", user, _IMPERSONATION)):
        for field in fields:
            if entry.get(field):  # without it another server would be asked, or as somebody else
                raise InputError(f"{group}: {field} is not supported", where=str(file), hint="use a context without it")
    token = str(user.get("token") or "")
    # A token beside it is for as long as the file can't be read (client-go tools/clientcmd/client_config.go).
    token_file = str(file.parent / str(user["tokenFile"])) if user.get("tokenFile") else ""
    if token_file and not token:
        token = _read(Path(token_file), file).decode().strip()
    return ServerAccess(
        server=str(cluster["server"]).rstrip("/"),
        ca=_material(cluster, "certificate-authority", file),
        client_certificate=_material(user, "client-certificate", file),
        client_key=_material(user, "client-key", file),
        token=token,
        token_file=token_file,
        verify=not cluster.get("insecure-skip-tls-verify"),
        server_name=str(cluster.get("tls-server-name") or ""),
        namespace=str(chosen.get("namespace") or "default"),
    )


def _entry(document: dict[str, Any], group: str, field: str, name: str, file: Path) -> dict[str, Any]:
    for entry in document.get(group) or ():
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(field)
            if isinstance(value, dict):
                return value
    raise InputError(f'{group}: there is no "{name}"', where=str(file))


def _material(entry: dict[str, Any], field: str, file: Path) -> bytes:
    """A certificate or key: inlined in base64 (``FIELD-data``, which wins) or in a file of its own."""
    if data := entry.get(f"{field}-data"):
        try:
            return base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"{field}-data: no valid base64: {error}", where=str(file)) from error
    return _read(file.parent / str(entry[field]), file) if entry.get(field) else b""


def _read(path: Path, file: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", where=str(file)) from error
