"""The runtime's side of CNI, what libcni is for Go: runs the chain, caches results. Blocking; for worker threads.

Our own plugin runs in this process, in a thread that is in the node's namespace: starting a program for each pod would
cost more than all the rest. Any other type is a program in CNI_PATH.

Source: containernetworking/cni libcni/api.go, pkg/invoke/raw_exec.go; SPEC.md 1.1.0.
"""

import base64
import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cni.types import CniError, Request, Result, version_at_least
from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kubelet.cni_config import OWN_TYPE, NetworkList, plan_request_config
from netsim.model.errors import KernelError, TimeoutExpired

log = logging.getLogger(__name__)

CNI_PATH_DEFAULT = "/opt/cni/bin:/usr/lib/cni"
PLUGIN_TIMEOUT_S = 30.0
INTERNAL = 999  # an untyped error, as libcni's skel numbers it


class InProcess(Protocol):
    """What of `cni.plugin.Plugin` is used here."""

    def add(self, request: Request) -> Result: ...

    def delete(self, request: Request) -> None: ...

    def delete_links(self, attachments: Sequence[tuple[str, str, str]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Attachment:
    """One pod on one network. ``netns`` is a path valid in the sandbox's PID namespace, "" when it is gone."""

    container_id: str
    netns: str
    args: str
    capabilities: Mapping[str, Any]
    ifname: str = "eth0"


class CniRuntime:
    """Runs chains for all nodes of a cluster. Thread safe; two operations for one container are never made at once
    because a pod has one worker."""

    def __init__(self, spawner: Spawner, cache_dir: Path, plugin: Callable[[], InProcess], cni_path: str = "") -> None:
        self._spawner = spawner
        self._cache_dir = cache_dir / "results"
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        self._plugin = plugin()
        self._cni_path = cni_path or os.environ.get("CNI_PATH", CNI_PATH_DEFAULT)

    def add(self, node: Netns, network: NetworkList, attachment: Attachment) -> Mapping[str, Any]:
        """ADD through the chain; the final result as JSON data. Call it in a thread that is in ``node``.

        Raises CniError with the plugin's code and words; everything is undone by DEL first.
        """
        programs = [self._find(plugin) for plugin in network.plugins]  # a missing one fails before anything runs
        previous: Mapping[str, Any] | None = None
        try:
            for plugin, program in zip(network.plugins, programs, strict=True):
                config = plan_request_config(network, plugin, attachment.capabilities, previous)
                answer = self._call("ADD", node, program, plugin, config, attachment)
                previous = answer if answer is not None else {}
            if previous is None:
                raise CniError(INTERNAL, f'network "{network.name}" has no plugins')
            self._write_cache(network, attachment, previous)
        except (CniError, KernelError, OSError) as error:
            with contextlib.suppress(CniError, KernelError, OSError):  # the first error is the one to tell
                self.delete(node, network, attachment)
            raise _wrap(error) from error
        return previous

    def delete(self, node: Netns, network: NetworkList, attachment: Attachment) -> None:
        """DEL in reverse order; stops at the first error, and may be repeated. Raises CniError."""
        previous = self._read_cache(network, attachment)
        if not version_at_least(network.cni_version, "0.4.0"):
            previous = None
        for plugin in reversed(network.plugins):
            config = plan_request_config(network, plugin, attachment.capabilities, previous)
            self._call("DEL", node, self._find(plugin), plugin, config, attachment)
        self._cache_file(network, attachment).unlink(missing_ok=True)

    def delete_all(self, node: Netns, attached: Sequence[tuple[NetworkList, Attachment]]) -> list[CniError | None]:
        """DEL for several pods of one node; what failed, for each.

        Where all plugins of a chain are ours their links go first, in one operation of the kernel: it waits for that
        once, and not for each link. Other plugins find everything as it was.
        """
        ours = [
            (network.name, one.container_id, one.ifname)
            for network, one in attached
            if all(plugin["type"] == OWN_TYPE for plugin in network.plugins)
        ]
        if len(ours) > 1:
            try:
                self._plugin.delete_links(ours)
            except KernelError as error:
                log.warning("%d links at once: %s", len(ours), error)  # each DEL tries its own again, and tells
        failures: list[CniError | None] = []
        for network, one in attached:
            try:
                self.delete(node, network, one)
                failures.append(None)
            except CniError as error:
                failures.append(error)
        return failures

    def check(self, node: Netns, network: NetworkList, attachment: Attachment) -> None:
        """CHECK in order, unless the network says disableCheck. Raises CniError."""
        if network.disable_check or not version_at_least(network.cni_version, "0.4.0"):
            return
        previous = self._read_cache(network, attachment)
        if previous is None:
            raise CniError(INTERNAL, f'no cached result of network "{network.name}" for {attachment.container_id}')
        for plugin in network.plugins:
            config = plan_request_config(network, plugin, attachment.capabilities, previous)
            self._call("CHECK", node, self._find(plugin), plugin, config, attachment)

    def _find(self, plugin: Mapping[str, Any]) -> str:
        """The program of a plugin, "" for our own."""
        kind = plugin["type"]
        if kind == OWN_TYPE:
            return ""
        for directory in self._cni_path.split(":"):
            path = os.path.join(directory, kind)
            if directory and os.path.isfile(path):
                return path
        raise CniError(INTERNAL, f'failed to find plugin "{kind}" in path [{self._cni_path}]')

    def _call(
        self,
        command: str,
        node: Netns,
        program: str,
        plugin: Mapping[str, Any],
        config: dict[str, Any],
        attachment: Attachment,
    ) -> Mapping[str, Any] | None:
        """One plugin, one command; errors get libcni's prefix and keep their code."""
        try:
            if program:
                return self._execute(command, node, program, config, attachment)
            request = Request(
                command, attachment.container_id, attachment.netns, attachment.ifname, attachment.args, config
            )
            if command == "ADD":
                return self._plugin.add(request).render(config["cniVersion"])
            if command == "DEL":
                self._plugin.delete(request)
            else:
                getattr(self._plugin, command.lower())(request)
            return None
        except (CniError, KernelError, TimeoutExpired) as error:
            verb = {"ADD": "add", "DEL": "delete"}.get(command, command.lower())
            head = f'plugin type="{plugin["type"]}" name="{config["name"]}" failed ({verb}): '
            if isinstance(error, CniError):
                raise CniError(error.code, head + error.summary, error.details) from error
            raise CniError(INTERNAL, f"{head}{error}") from error
        except Exception as error:
            # A fault in a plugin that is a program ends as an untyped error, 999; in process it must not end otherwise,
            # or the pod would neither hear of it nor be tried again.
            log.exception("plugin %s", plugin["type"])
            raise CniError(INTERNAL, f'plugin type="{plugin["type"]}" failed: {error!r}') from error

    def _execute(
        self, command: str, node: Netns, program: str, config: dict[str, Any], attachment: Attachment
    ) -> Mapping[str, Any] | None:
        env = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.container_id,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": attachment.ifname,
            "CNI_ARGS": attachment.args,
            "CNI_PATH": self._cni_path,
        }
        spec = ProcessSpec((program,), env=env, netns=node)
        done = self._spawner.run_blocking(spec, input=json.dumps(config).encode(), timeout_s=PLUGIN_TIMEOUT_S)
        if done.returncode != 0:
            raise parse_plugin_error(done.stdout, done.stderr)
        if command != "ADD":
            return None
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            raise CniError(INTERNAL, f"netplugin printed no JSON: {done.stdout[:200]!r}") from error
        return {"cniVersion": config["cniVersion"], **answer} if isinstance(answer, dict) else {}

    def _cache_file(self, network: NetworkList, attachment: Attachment) -> Path:
        return self._cache_dir / f"{network.name}-{attachment.container_id}-{attachment.ifname}"

    def _write_cache(self, network: NetworkList, attachment: Attachment, result: Mapping[str, Any]) -> None:
        plugins = {"cniVersion": network.cni_version, "name": network.name, "plugins": network.plugins}
        body = {
            "kind": "cniCacheV1",
            "containerId": attachment.container_id,
            "ifName": attachment.ifname,
            "networkName": network.name,
            "netns": attachment.netns,
            "config": base64.b64encode(json.dumps(plugins).encode()).decode(),
            "cniArgs": attachment.args,
            "capabilityArgs": attachment.capabilities,
            "result": result,
        }
        path = os.fspath(self._cache_file(network, attachment))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(body).encode())
        finally:
            os.close(fd)

    def _read_cache(self, network: NetworkList, attachment: Attachment) -> Mapping[str, Any] | None:
        """The cached result; None when there is none or it is damaged, which must not stop a DEL."""
        try:
            body = json.loads(self._cache_file(network, attachment).read_bytes())
            result = body["result"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if isinstance(result, dict) else None


def parse_plugin_error(stdout: bytes, stderr: bytes) -> CniError:
    """The error of a plugin that failed, in libcni's words when it said nothing proper."""
    words = stderr.decode("utf-8", "replace").strip()
    if not stdout.strip():
        return CniError(INTERNAL, f"netplugin failed: {words}" if words else "netplugin failed with no error message")
    try:
        body = json.loads(stdout)
        return CniError(int(body["code"]), str(body["msg"]), str(body.get("details", "")))
    except (ValueError, KeyError, TypeError):
        text = stdout.decode("utf-8", "replace").strip()
        return CniError(INTERNAL, f'netplugin failed but error parsing its diagnostic message "{text}"')


def _wrap(error: BaseException) -> CniError:
    return error if isinstance(error, CniError) else CniError(INTERNAL, str(error))


def read_ips(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The pod's addresses, without prefix length, in the order of the result; old formats too."""
    if "ip4" in result or "ip6" in result:
        entries = [result[key]["ip"] for key in ("ip4", "ip6") if result.get(key)]
    else:
        entries = [ip["address"] for ip in result.get("ips") or ()]
    return tuple(dict.fromkeys(str(entry).partition("/")[0] for entry in entries))
