"""The responder process: it holds the listening sockets of every built-in container, and answers on them.

Standard library only. One message of the channel (a SOCK_SEQPACKET socket pair) is one JSON object, with descriptors
beside it where sockets are passed. A socket belongs to the namespace it was opened in, so one process serves all pods.

kubelet to responder:   serve {id, kind, who, options, roles, netns}
                        drain {id}   stop {id}   shell {id, request, output, error}
responder to kubelet:   exit {id, code}   stopped {id}   log {id, lines}   shell {id, request, command}
"""

import array
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping
from typing import Any

from netsim.kubelet.builtin.handlers import Base, Echo, FileServer, Page, Porter, ServeHostname
from netsim.kubelet.builtin.http import Address, Connection, read_address, render_address
from netsim.kubelet.builtin.netexec import Netexec

MESSAGE_MAX_BYTES = 128 * 1024
FDS_MAX = 250  # SCM_MAX_FD is 253, include/net/scm.h
LOG_FLUSH_S = 0.2
LOG_LINES_MAX = 200  # for each container and flush; the rest is counted, not kept
ACCEPT_BATCH = 64
IP_PKTINFO = 8  # include/uapi/linux/in.h; Python has no name for it
CLONE_NEWNET = 0x40000000

_KINDS: dict[str, type[Base]] = {
    "responder": Echo,
    "page": Page,
    "serve-hostname": ServeHostname,
    "porter": Porter,
    "test-webserver": FileServer,
}


def use_packet_info(sock: socket.socket) -> None:
    """Ask the kernel for each datagram's destination, so that the answer leaves from that address."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


class Served:
    """One built-in container."""

    __slots__ = ("_log", "_lost", "_process", "_shells", "connections", "handler", "id", "netns_fd", "sockets")

    def __init__(self, process: "ResponderProcess", message: Mapping[str, Any], fds: list[int]) -> None:
        self._process = process
        self.id: str = message["id"]
        self.netns_fd = fds.pop() if message.get("netns") else -1
        self.sockets: list[socket.socket] = [socket.socket(fileno=fd) for fd in fds]
        self.connections: set[Connection] = set()
        self._log: list[str] = []
        self._lost = 0
        self._shells: dict[int, asyncio.Future[tuple[str, str]]] = {}
        kind = message["kind"]
        who, options = message["who"], message.get("options") or {}
        self.handler: Base = Netexec(who, options, self) if kind == "netexec" else _KINDS[kind](who, options)
        for sock in self.sockets:
            sock.setblocking(False)
            if sock.type == socket.SOCK_STREAM:
                process.loop.add_reader(sock, self._accept, sock)
            else:
                use_packet_info(sock)
                process.loop.add_reader(sock, self._receive, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                accepted, _ = sock.accept()
            except OSError:
                return  # none left (EAGAIN), gone before we came (ECONNABORTED), or out of descriptors: later
            accepted.setblocking(False)
            self._process.run(self._connect(accepted))

    async def _connect(self, accepted: socket.socket) -> None:
        def make() -> Connection:
            connection = Connection(self.handler, self.connections.discard)
            self.connections.add(connection)
            return connection

        try:
            await self._process.loop.connect_accepted_socket(make, accepted)
        except OSError:
            accepted.close()

    def _receive(self, sock: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                data, ancillary, _, client = sock.recvmsg(65536, 64)
            except OSError:
                return
            host, port = sock.getsockname()[:2]
            local = read_address((_read_destination(ancillary) or host, port))
            answer = self.handler.datagram(data, read_address(client), local)
            if answer is not None:
                with contextlib.suppress(OSError):  # UDP promises nothing, and neither did the server we stand in for
                    sock.sendmsg([answer], _render_source(ancillary), 0, client)

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """A non-blocking socket in the pod's network namespace."""
        return self._process.open_socket_in(self.netns_fd, family, kind)

    async def shell(self, command: str) -> tuple[str, str]:
        """Ask the kubelet, which can start processes in the container's view, to run a command."""
        number = self._process.next_number()
        future: asyncio.Future[tuple[str, str]] = self._process.loop.create_future()
        self._shells[number] = future
        self._process.send({"op": "shell", "id": self.id, "request": number, "command": command})
        return await future

    def shell_done(self, number: int, output: str, error: str) -> None:
        future = self._shells.pop(number, None)
        if future is not None and not future.done():
            future.set_result((output, error))

    def exit(self, code: int) -> None:
        """The program in the container ends itself."""
        self._process.stop(self.id)
        self._process.send({"op": "exit", "id": self.id, "code": code})

    def log(self, line: str) -> None:
        if len(self._log) >= LOG_LINES_MAX:
            self._lost += 1
            return
        self._log.append(line)
        self._process.wants_flush(self)

    def take_log(self) -> list[str]:
        lines, self._log = self._log, []
        if self._lost:
            lines.append(f"({self._lost} more lines were not kept)")
            self._lost = 0
        return lines

    def close(self) -> None:
        """What the end of a process does: listening sockets and connections close."""
        for sock in self.sockets:
            self._process.loop.remove_reader(sock)
            sock.close()
        for connection in list(self.connections):
            connection.abort()
        for future in self._shells.values():
            future.cancel()
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            self.netns_fd = -1


class ResponderProcess:
    """The whole process: the channel to the kubelet, and what is served."""

    def __init__(self, channel: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self._channel = channel
        self._served: dict[str, Served] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unflushed: list[Served] = []
        self._outgoing: list[bytes] = []
        self._home_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.ended = self.loop.create_future()
        channel.setblocking(False)
        self.loop.add_reader(channel, self._read)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def run(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def open_socket_in(self, netns_fd: int, family: int, kind: int) -> socket.socket:
        """Visit the namespace for one system call; this process has one thread and never awaits inside."""
        self._setns(netns_fd)
        try:
            sock = socket.socket(family, kind)
        finally:
            self._setns(self._home_fd)
        sock.setblocking(False)
        return sock

    def _setns(self, fd: int) -> None:
        if self._libc.setns(fd, CLONE_NEWNET) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")

    def _read(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                data, fds = _receive_message(self._channel)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:  # the kubelet's end is closed: its process is gone
                if not self.ended.done():
                    self.ended.set_result(None)
                self.loop.remove_reader(self._channel)
                return
            self._take(json.loads(data), fds)

    def _take(self, message: Mapping[str, Any], fds: list[int]) -> None:
        operation, name = message["op"], message["id"]
        if operation == "serve":
            self.stop(name)
            self._served[name] = Served(self, message, fds)
        elif operation == "stop":
            self.stop(name)
            self.send({"op": "stopped", "id": name})
        elif name in self._served:
            if operation == "drain":
                self._served[name].handler.draining = True
            elif operation == "shell":
                self._served[name].shell_done(message["request"], message["output"], message["error"])

    def stop(self, name: str) -> None:
        served = self._served.pop(name, None)
        if served is not None:
            self._flush_one(served)
            served.close()

    def wants_flush(self, served: Served) -> None:
        if not self._unflushed:
            self.loop.call_later(LOG_FLUSH_S, self._flush)
        if served not in self._unflushed:
            self._unflushed.append(served)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for served in unflushed:
            self._flush_one(served)

    def _flush_one(self, served: Served) -> None:
        lines = served.take_log()
        if lines:
            self.send({"op": "log", "id": served.id, "lines": [line[:400] for line in lines]})

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue one message to the kubelet; the order is kept."""
        self._outgoing.append(json.dumps(message).encode())
        self._write()

    def _write(self) -> None:
        while self._outgoing:
            try:
                self._channel.send(self._outgoing[0])
            except BlockingIOError:
                self.loop.add_writer(self._channel, self._write)
                return
            except OSError:
                self._outgoing.clear()  # the kubelet is gone; _read ends us
                return
            self._outgoing.pop(0)
        self.loop.remove_writer(self._channel)


def _receive_message(channel: socket.socket) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
    data, ancillary, _, _ = channel.recvmsg(MESSAGE_MAX_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def _read_destination(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """The address a datagram was sent to (struct in_pktinfo: ifindex, spec_dst, addr; struct in6_pktinfo)."""
    for level, kind, content in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return socket.inet_ntop(socket.AF_INET, content[8:12])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return socket.inet_ntop(socket.AF_INET6, content[:16])
    return None


def _render_source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Control data that makes the answer leave from the address the question came to."""
    for level, kind, content in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return [(level, kind, struct.pack("=I4s4s", 0, content[8:12], b"\0" * 4))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, content[:16] + b"\0" * 4)]
    return []


async def _serve(channel: socket.socket) -> None:
    process = ResponderProcess(channel)
    await process.ended


def main(channel: socket.socket) -> None:
    """Run until the other end of ``channel`` closes. For the forked child only."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is for the cluster process, whose end is ours
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()
    asyncio.run(_serve(channel))


__all__ = ["Address", "ResponderProcess", "main", "render_address"]
