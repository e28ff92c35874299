"""The control socket's server: what only the cluster process can hand out.

Everything a person does to API objects goes through the API. This is for the rest: processes on the caller's terminal,
sockets that live in a pod's namespace, the barrier, and dumps of kernel state.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from netsim.cluster import wire
from netsim.kernel.netns import Netns
from netsim.kernel.packets import open_packet_socket
from netsim.kernel.process import Process
from netsim.model.errors import NetsimError, TimeoutExpired, UsageError
from netsim.model.where import Where, parse_spot, parse_where

log = logging.getLogger(__name__)


class ControlTarget(Protocol):
    """What the server acts on: the running cluster."""

    def netns_at(self, where: Where) -> Netns:
        """The network namespace of a place. Raises NetsimError if there is none."""
        ...

    async def start_process(
        self, where: Where | None, argv: list[str], fds: list[int], options: dict[str, Any]
    ) -> Process:
        """Run a command at a place (None: in the sandbox itself) on three file descriptors."""
        ...

    async def barrier(self, timeout_s: float) -> None: ...

    async def dump(self, places: list[Where]) -> str: ...

    async def read_interfaces(self, where: Where) -> list[dict[str, Any]]: ...

    async def set_proxy_mode(self, mode: str) -> None: ...

    async def rules(self, service: str, node: str | None) -> dict[str, Any]: ...

    async def explain(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]: ...

    async def trace(self, request: dict[str, Any]) -> dict[str, Any]: ...

    async def change_faults(self, action: str, request: dict[str, Any]) -> dict[str, Any]: ...

    def status(self) -> dict[str, Any]: ...


Reply = tuple[dict[str, Any], list[int]]

# What is of no use to anybody when its caller is gone. The others are done to their end, once begun.
_FOR_ITS_CALLER = frozenset({"trace"})


class ControlServer:
    """Serves the control protocol on a listening SOCK_SEQPACKET socket."""

    def __init__(self, listener: socket.socket, target: ControlTarget) -> None:
        self._listener = listener
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[Reply]]] = {
            "socket": self._open_socket,
            "packet-socket": self._open_packet_socket,
            "interfaces": self._interfaces,
            "barrier": self._barrier,
            "dump": self._dump,
            "status": self._status,
            "proxy-mode": self._proxy_mode,
            "fault": self._fault,
            "rules": self._rules,
            "explain": self._explain,
            "trace": self._trace,
        }

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            while (received := await _receive(connection)) is not None:
                message, fds = received
                try:
                    await self._answer(connection, message, fds)
                except (BrokenPipeError, ConnectionResetError):
                    return
                finally:
                    for descriptor in fds:
                        os.close(descriptor)

    async def _answer(self, connection: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        name = message.get("op", "")
        try:
            if name == "exec":
                await self._exec(connection, message, fds)
                return
            operation = self._operations.get(name)
            if operation is None:
                raise UsageError(f'unknown operation "{name}"', hint="client and cluster process differ in version")
            working = operation(message)
            reply, reply_fds = await (_while_heard(connection, working) if name in _FOR_ITS_CALLER else working)
        except ConnectionResetError:
            raise
        except NetsimError as error:
            wire.send(connection, {"error": wire.describe_error(error)})
            return
        except Exception as error:
            log.exception("control operation %s failed", name)
            wire.send(connection, {"error": {"message": f"{name}: {error!r}", "hint": "the cluster's log has more"}})
            return
        try:
            wire.send(connection, {"ok": reply}, reply_fds)
        finally:
            for descriptor in reply_fds:
                os.close(descriptor)

    async def _exec(self, connection: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Start a process on the caller's file descriptors; then signals go in, and its exit status comes out."""
        if len(fds) != 3:
            raise UsageError("exec needs three file descriptors")
        where = parse_where(message["where"]) if message.get("where") else None
        process = await self._target.start_process(where, message["argv"], fds, message)
        wire.send(connection, {"ok": {"pid": process.pid}})
        ending = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(message.get("timeout_s")):
                await self._pass_signals(connection, process, ending)
            answer: dict[str, Any] = {"exit": ending.result()}
        except TimeoutError:
            process.kill(signal.SIGKILL)
            late = f"{' '.join(message['argv'])}: still running after {message['timeout_s']:g} s, killed"
            answer = {"error": wire.describe_error(TimeoutExpired(late, where=message.get("where") or ""))}
        wire.send(connection, answer)

    async def _pass_signals(self, connection: socket.socket, process: Process, ending: "asyncio.Future[int]") -> None:
        """Until the process ends, send it what the caller sends; kill it when the caller is gone."""
        while not ending.done():
            incoming = asyncio.ensure_future(_receive(connection))
            waited_for: set[asyncio.Future[Any]] = {ending, incoming}
            try:
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
                if not incoming.done():
                    continue
            finally:
                # Gone before anybody else reads from or closes this connection: a reader left behind for a closed
                # descriptor would make the event loop deaf to the next connection with the same number.
                incoming.cancel()
                await asyncio.wait({incoming})
            received = incoming.result()
            if received is None:
                process.kill(signal.SIGKILL)  # its terminal is gone too
                await ending
                return
            process.kill(int(received[0]["signal"]))

    async def _open_socket(self, message: dict[str, Any]) -> Reply:
        netns = self._target.netns_at(parse_spot(message["where"])[0])
        sock = netns.socket(message["family"], message["type"], message["proto"])
        return {}, [sock.detach()]

    async def _open_packet_socket(self, message: dict[str, Any]) -> Reply:
        netns = self._target.netns_at(parse_where(message["where"]))
        return {}, [open_packet_socket(netns, message["interface"]).detach()]

    async def _interfaces(self, message: dict[str, Any]) -> Reply:
        return {"interfaces": await self._target.read_interfaces(parse_where(message["where"]))}, []

    async def _barrier(self, message: dict[str, Any]) -> Reply:
        await self._target.barrier(float(message["timeout_s"]))
        return {}, []

    async def _dump(self, message: dict[str, Any]) -> Reply:
        return {"text": await self._target.dump([parse_where(text) for text in message["where"]])}, []

    async def _proxy_mode(self, message: dict[str, Any]) -> Reply:
        await self._target.set_proxy_mode(message["mode"])
        return {}, []

    async def _explain(self, message: dict[str, Any]) -> Reply:
        return {"explanations": await self._target.explain(message["requests"])}, []

    async def _rules(self, message: dict[str, Any]) -> Reply:
        return await self._target.rules(message["service"], message["node"]), []

    async def _trace(self, message: dict[str, Any]) -> Reply:
        return await self._target.trace(message["request"]), []

    async def _fault(self, message: dict[str, Any]) -> Reply:
        return await self._target.change_faults(message["action"], message["request"]), []

    async def _status(self, _message: dict[str, Any]) -> Reply:
        return self._target.status(), []


async def _while_heard(connection: socket.socket, work: Awaitable[Reply]) -> Reply:
    """What ``work`` brings. It is cancelled when the caller is gone: then raises ConnectionResetError."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_receive(connection))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("the caller is gone")
        return working.result()
    finally:
        for one in (working, gone):
            one.cancel()
        await asyncio.wait({working, gone})


async def _receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """wire.receive that waits in the event loop."""
    loop = asyncio.get_running_loop()
    descriptor = sock.fileno()
    while True:
        try:
            return wire.receive(sock)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(descriptor, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(descriptor)
        except ConnectionResetError:
            return None


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
