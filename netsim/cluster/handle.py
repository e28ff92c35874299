"""`netsim.up()` and the Cluster handle: the same for the command line, tests and notebooks.

The handle is synchronous and may be used from any thread. What it does to objects goes through the API; processes,
sockets and dumps come from the control socket.
"""

import builtins
import os
import socket as sockets  # the handle's own method is called socket
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from netsim.client.api import Api, check_response
from netsim.client.http import HttpTransport
from netsim.client.manifest_files import read_manifests
from netsim.client.transport import Response
from netsim.cluster.apply import Applied, apply_objects, delete_objects, wait_gone, wait_ready
from netsim.cluster.capturing_client import Capturing
from netsim.cluster.control_client import ControlClient
from netsim.cluster.explaining_client import Explaining
from netsim.cluster.fault_client import ActiveFault, Breaking
from netsim.cluster.launch import launch, stop
from netsim.cluster.loop import BackgroundLoop
from netsim.cluster.state import StateDir, find_state, state_root
from netsim.cluster.topology import make_config
from netsim.cluster.tracing_client import Tracing
from netsim.model.errors import NetsimError, TimeoutExpired
from netsim.model.kinds import find_kind
from netsim.model.manifests import SourceObject, parse_manifests
from netsim.model.names import check_object_name
from netsim.model.objects import Object
from netsim.model.where import parse_where

# What apply and delete take: a file or folder, YAML text, one object, or several, which may know their file and line.
Source = str | Path | Object | Iterable[Object] | Iterable[SourceObject]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command printed, and its exit status (negative: the number of the signal that ended it)."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of a place; ``addresses`` with their prefix lengths."""

    name: str
    index: int
    mac: str
    mtu: int
    addresses: tuple[str, ...]


def up(  # noqa: PLR0913 - all by name, and all have defaults
    name: str | None = None,
    *,
    nodes: int | None = None,
    proxy_mode: str | None = None,
    pod_network: str | None = None,
    ip_family: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    state_dir: str | Path | None = None,
    owned: bool = True,
    progress: Callable[[str], None] | None = None,
) -> "Cluster":
    """Start a cluster and return when it is ready.

    nodes:       how many (3); or a topology in ``config``, a YAML file or a mapping with the same keys.
    proxy_mode:  the kube-proxy's dialect. pod_network: ``routes`` or ``vxlan``.
    ip_family:   ``ipv4``, ``ipv6`` or ``dual``.
    state_dir:   where its state directory is made; default as `netsim.cluster.state.state_root` says.
    owned:       it ends with this Python process, however that ends; ``netsim up`` says False.
    progress:    called with a few words as start-up goes on.

    Raises InputError for a wrong topology, UsageError for what is wrong beside it, NetsimError if a cluster of that
    name runs or start-up fails (nothing is left then), FeatureMissing where the kernel lacks something.
    """
    document = make_config(
        name, nodes=nodes, proxy_mode=proxy_mode, pod_network=pod_network, ip_family=ip_family, config=config
    )
    state = StateDir(Path(state_dir or state_root()) / document["name"])
    status, owner_fd = launch(state, document, owned=owned, progress=progress)
    return Cluster(state, status, owner_fd)


def attach(name: str | None = None) -> "Cluster":
    """The running cluster of that name, or the only one. Raises NetsimError: none, several, or its process has died."""
    state = find_state(name)
    return Cluster(state, state.read_status())


class Cluster(Tracing, Explaining, Capturing, Breaking):
    """A running cluster. As a context manager it is taken down at the end."""

    def __init__(self, state: StateDir, status: Mapping[str, Any], owner_fd: int = -1) -> None:
        self._state = state
        self._owner_fd = owner_fd
        self._control = ControlClient(state.control_socket)
        self._loop: BackgroundLoop | None = None
        self._client: Api | None = None
        self._hang_up: weakref.finalize[..., Cluster] | None = None
        self.name = state.name
        self.state_dir = state.path
        self.pid = int(status.get("pid", 0))
        self.api_server = str(status.get("apiServer", ""))
        self.kubeconfig = state.kubeconfig

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def __repr__(self) -> str:
        return f"<Cluster {self.name} pid={self.pid}>"

    # Its life

    def status(self) -> dict[str, Any]:
        """name, pid, apiServer, kubeconfig, proxyMode, podNetwork and nodes, as they are now."""
        return self._control.ask("status")

    def barrier(self, timeout_s: float = 10.0) -> None:
        """Return when everything applied so far is in the kernel on every node. Raises TimeoutExpired."""
        self._control.ask("barrier", timeout_s=timeout_s)

    def set_proxy_mode(self, mode: str) -> None:
        """Have every node serve in another proxy mode, and return when all do.

        Established connections go on, and at no moment are there no rules. Raises UsageError for a mode there is not,
        FeatureMissing or KernelError when a node cannot have it; then the old mode serves on.
        """
        self._control.ask("proxy-mode", mode=mode)

    def down(self) -> None:
        """End the cluster; may be repeated. Its namespaces, processes and state directory are gone afterwards."""
        self.close()
        stop(self._state)
        if self._owner_fd >= 0:
            os.close(self._owner_fd)
            self._owner_fd = -1

    def close(self) -> None:
        """Let go of the connections; the cluster runs on (unless it is owned and this process ends)."""
        if self._hang_up is not None:
            self._hang_up()
        self._loop = self._client = self._hang_up = None

    # Objects

    def apply(
        self,
        source: Source,
        *,
        namespace: str = "default",
        wait: bool = True,
        timeout_s: float = 60.0,
    ) -> list[Applied]:
        """Create or change objects, as ``kubectl apply`` does: a file, a folder, one object, or several.

        With ``wait`` it returns when all are ready and the barrier has passed. Raises InputError (file, line, field),
        ApiError, and TimeoutExpired naming what is not ready and why.
        """
        loop, api = self._connect()
        applied = loop.run(apply_objects(api, _sources(source), namespace))
        if wait:
            self.wait_ready([item.object for item in applied], timeout_s=timeout_s)
        return applied

    def wait_ready(self, objects: Iterable[Object], *, timeout_s: float = 60.0) -> None:
        """Return when all of these objects are ready and the barrier has passed: the next packet takes the new path.

        Raises TimeoutExpired naming what is not ready and why, NetsimError at once for what can't become so any more.
        """
        loop, api = self._connect()
        loop.run(wait_ready(api, list(objects), timeout_s))
        self.barrier(timeout_s)

    def delete(
        self,
        source: Source,
        name: str | None = None,
        *,
        namespace: str = "default",
        wait: bool = True,
        timeout_s: float = 60.0,
    ) -> list[Object]:
        """Delete what a manifest names, or with ``name`` the object of that kind: ``delete("pod", "web")``."""
        if name is not None:
            kind = find_kind(str(source))
            metadata = {"name": check_object_name(name)} | ({"namespace": namespace} if kind.namespaced else {})
            objects: list[Object] = [{"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}]
        else:
            objects = [item.object for item in _sources(source)]
        loop, api = self._connect()
        deleted = loop.run(delete_objects(api, objects, namespace))
        if wait:
            loop.run(wait_gone(api, deleted, timeout_s))
            self.barrier(timeout_s)
        return deleted

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """One object. Raises ApiError."""
        loop, api = self._connect()
        found = find_kind(kind)
        return loop.run(api.get(found, check_object_name(name), namespace if found.namespaced else None))

    def list(self, kind: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        """Objects of a kind, of one namespace or of all (None)."""
        loop, api = self._connect()
        return loop.run(api.list(find_kind(kind), namespace, labels=labels)).items

    def patch(self, kind: str, name: str, patch: Mapping[str, Any], namespace: str = "default") -> Object:
        """Change one object by a merge patch (RFC 7386)."""
        loop, api = self._connect()
        found = find_kind(kind)
        return loop.run(api.patch(found, check_object_name(name), dict(patch), namespace if found.namespaced else None))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        accept: str = "",
    ) -> Response:
        """Any request to the API server; a failure is returned, not raised."""
        loop, api = self._connect()
        transport = api.transport
        if not isinstance(transport, HttpTransport):
            raise TypeError("the handle speaks HTTP")
        return loop.run(transport.request(method, path, query=query or {}, body=body, accept=accept))

    def logs(
        self, pod: str, *, namespace: str = "default", container: str | None = None, tail: int | None = None
    ) -> str:
        """What a pod's container has printed. ``pod`` is NAME or NAMESPACE/NAME."""
        where = parse_where(pod if pod.startswith("pod/") else f"pod/{pod}", namespace)
        query = {"container": container, "tailLines": None if tail is None else str(tail)}
        response = self.request(
            "GET",
            f"/api/v1/namespaces/{where.namespace}/pods/{where.name}/log",
            query={key: value for key, value in query.items() if value is not None},
        )
        return str(check_response(response))

    # Inside its namespaces

    def exec(
        self,
        where: str,
        argv: Sequence[str],
        *,
        input: bytes | str = b"",
        timeout_s: float | None = 30.0,
        check: bool = False,
        container: str | None = None,
    ) -> ExecResult:
        """Run a command at a place and return what it printed. Raises TimeoutExpired; with ``check`` also on
        failure."""
        content = input.encode() if isinstance(input, str) else input
        # Files, not pipes: nothing can fill up, however much is printed before it is read.
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(content)
            stdin.seek(0)
            options: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}
            fds = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
            returncode = self._control.exec(str(parse_where(where)), argv, fds, container=container, **options)
            stdout.seek(0)
            stderr.seek(0)
            result = ExecResult(
                returncode, stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace")
            )
        if check and result.returncode != 0:
            raise NetsimError(
                f"{' '.join(argv)}: exit status {result.returncode}: {result.stderr.strip()}", where=where
            )
        return result

    def exec_stream(  # noqa: PLR0913 - a process has that many sides, and all but its streams have defaults
        self,
        where: str | None,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        tty: bool = False,
        env: Mapping[str, str] | None = None,
        container: str | None = None,
        started: Callable[[Callable[[int], None]], None] | None = None,
    ) -> int:
        """Run a command on file descriptors of the caller, and return its exit status. No place: the sandbox itself."""
        place = None if where is None else str(parse_where(where))
        return self._control.exec(
            place, argv, [stdin, stdout, stderr], started=started, tty=tty, env=dict(env or {}), container=container
        )

    def socket(
        self, where: str, family: int = sockets.AF_INET, type: int = sockets.SOCK_STREAM, proto: int = 0
    ) -> sockets.socket:
        """An ordinary Python socket that lives at that place: connect, bind and listen as if run there."""
        return self._control.ask_socket(
            "socket", where=str(parse_where(where)), family=int(family), type=int(type), proto=int(proto)
        )

    def packet_socket(self, where: str, interface: str = "eth0") -> sockets.socket:
        """A raw AF_PACKET socket bound to an interface of that place: what it sends and receives are Ethernet
        frames."""
        return self._control.ask_socket("packet-socket", where=str(parse_where(where)), interface=interface)

    def interfaces(self, where: str) -> builtins.list[Interface]:
        """The network interfaces of a place."""
        reply = self._control.ask("interfaces", where=str(parse_where(where)))
        return [
            Interface(item["name"], item["index"], item["mac"], item["mtu"], tuple(item["addresses"]))
            for item in reply["interfaces"]
        ]

    def dump(self, *where: str) -> str:
        """Rules with counters, routes, neighbours and conntrack of these places, for a person to read."""
        return str(self._control.ask("dump", where=[str(parse_where(text)) for text in where])["text"])

    def _connect(self) -> tuple[BackgroundLoop, Api]:
        if self._loop is None or self._client is None:
            if not self._state.is_running():
                find_state(self.name)  # raises, and says why
            self._loop = BackgroundLoop()
            self._client = Api(HttpTransport.from_unix_socket(self._state.api_socket))
            # A handle that is dropped without close() must not leave its thread and connections to chance.
            self._hang_up = weakref.finalize(self, _hang_up, self._loop, self._client)
        return self._loop, self._client


def _hang_up(loop: BackgroundLoop, client: Api) -> None:
    loop.run(client.close())
    loop.close()


def _sources(source: Source) -> list[SourceObject]:
    """What was given, as objects that know their file and line."""
    if isinstance(source, Path):
        return read_manifests(source)
    if isinstance(source, str):
        return parse_manifests(source) if "\n" in source else read_manifests(source)
    objects = [source] if isinstance(source, Mapping) else list(source)
    if objects and all(isinstance(item, SourceObject) for item in objects):
        return objects  # type: ignore[return-value]
    return parse_manifests(yaml.safe_dump_all(objects), "<objects>")


__all__ = ["ActiveFault", "Applied", "Cluster", "ExecResult", "Interface", "TimeoutExpired", "attach", "up"]
