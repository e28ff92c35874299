"""Probes are sent here: from the node's namespace, as a kubelet's are, on the clock that is handed in."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache

from netsim.kernel.netns import Netns
from netsim.kubelet.probes import Answer, ExecTarget, HttpTarget, Probe, TcpTarget, Verdict
from netsim.model.clock import Clock
from netsim.model.errors import NetsimError

ANSWER_MAX_BYTES = 10 * 1024  # pkg/probe/http/http.go maxRespBodyLength
USER_AGENT = "kube-probe/1.30"
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")

RunCommand = Callable[[tuple[str, ...], float], Awaitable[tuple[int, bytes]]]  # argv, timeout_s: exit code, output


@dataclass(frozen=True, slots=True)
class ProbeSubject:
    """Whom a probe asks: from where, which address, and how to run a command in the container."""

    node: Netns
    pod_ip: str
    run: RunCommand


class ContainerProbes:
    """The probes of one running container: one task each. Readiness and liveness wait for startup to succeed.

    ``changed(probe, holds, answer)`` is called when a threshold is met; ``failed(probe, answer)`` on every failure.
    """

    def __init__(
        self,
        probes: tuple[Probe, ...],
        subject: ProbeSubject,
        clock: Clock,
        changed: Callable[[Probe, bool], None],
        failed: Callable[[Probe, Answer], None],
    ) -> None:
        self._subject = subject
        self._clock = clock
        self._changed = changed
        self._failed = failed
        self._started = asyncio.Event()
        if not any(probe.kind == "startup" for probe in probes):
            self._started.set()
        self._tasks = [asyncio.get_running_loop().create_task(self._run(probe)) for probe in probes]
        self._kinds = [probe.kind for probe in probes]

    def stop(self, *, keep_readiness: bool = False) -> None:
        """Ask no more; a pod that is terminating is still asked whether it is ready."""
        for kind, task in zip(self._kinds, self._tasks, strict=True):
            if not (keep_readiness and kind == "readiness"):
                task.cancel()

    async def _run(self, probe: Probe) -> None:
        if probe.kind != "startup":
            await self._started.wait()
        if probe.initial_delay_s:
            await self._clock.sleep(probe.initial_delay_s)
        verdict = Verdict(probe)
        while True:
            answer = await ask(probe, self._subject)
            if not answer.success:
                self._failed(probe, answer)
            if verdict.record(answer):
                self._changed(probe, verdict.holds)
                if probe.kind == "startup" and verdict.holds:
                    self._started.set()
                    return
            await self._clock.sleep(probe.period_s)


async def ask(probe: Probe, subject: ProbeSubject) -> Answer:
    """One try, within the probe's timeout. Never raises: whatever goes wrong is a failure with its words."""
    target = probe.target
    if isinstance(target, ExecTarget):
        return await _ask_exec(target, probe.timeout_s, subject)
    host = target.host or subject.pod_ip
    try:
        async with asyncio.timeout(probe.timeout_s):
            if isinstance(target, TcpTarget):
                (await _connect(subject.node, host, target.port)).close()
                return Answer(True)
            return await _ask_http(target, host, subject.node)
    except TimeoutError:
        words = "i/o timeout"
    except (OSError, NetsimError) as error:
        words = f"connect: {_words(error)}"
    where = f"{_bracket(host)}:{target.port}"
    if isinstance(target, TcpTarget):
        return Answer(False, f"dial tcp {where}: {words}")
    return Answer(False, f'Get "{target.scheme}://{where}{target.path}": dial tcp {where}: {words}')


def _words(error: Exception) -> str:
    # asyncio puts its own words in strerror: the kernel's are what people know.
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return text[:1].lower() + text[1:]


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _connect(node: Netns, host: str, port: int) -> socket.socket:
    """A connection from the node's namespace."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = node.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    return connection


@cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # upstream's probes skip certificate verification
    context.verify_mode = ssl.CERT_NONE
    return context


async def _ask_http(target: HttpTarget, host: str, node: Netns) -> Answer:
    connection = await _connect(node, host, target.port)
    tls = _unverified() if target.scheme == "https" else None
    try:
        reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=host if tls else None)
    except BaseException:
        connection.close()
        raise
    try:
        headers = {name.title(): value for name, value in target.headers}
        headers.setdefault("Host", f"{_bracket(host)}:{target.port}")
        headers.setdefault("User-Agent", USER_AGENT)
        headers.setdefault("Accept", "*/*")
        lines = [f"GET {target.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Connection: close"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
        line = await reader.readline()
        match = _STATUS_LINE.match(line)
        if match is None:
            return Answer(False, f"malformed HTTP response {line[:80]!r}")
        code = int(match[1])
        with contextlib.suppress(ConnectionError):
            await reader.read(ANSWER_MAX_BYTES)
        if 200 <= code < 400:
            return Answer(True)
        return Answer(False, f"HTTP probe failed with statuscode: {code}")
    finally:
        writer.transport.abort()


async def _ask_exec(target: ExecTarget, timeout_s: float, subject: ProbeSubject) -> Answer:
    try:
        code, output = await subject.run(target.argv, timeout_s)
    except NetsimError as error:
        return Answer(False, error.message)
    text = output[:ANSWER_MAX_BYTES].decode("utf-8", "replace").strip()
    return Answer(code == 0, text or f"command exited with status {code}")
