"""A stub resolver that works in another network namespace, with the pod's own resolv.conf. Standard library only.

Not getaddrinfo: that blocks, and uses this process's namespace and files. Source: RFC 1035, resolv.conf(5).
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

TRY_S = 1.0
TRIES = 2
TYPE_A, TYPE_AAAA = 1, 28
TYPES = {4: TYPE_A, 6: TYPE_AAAA}


class Resolver:
    """Looks names up as a pod does. options: nameservers, searches, ndots, hosts (name to address), and families
    (4, 6) in the order in which addresses are asked for."""

    def __init__(self, options: Mapping[str, Any], open_socket: Callable[[int, int], socket.socket]) -> None:
        self._servers: list[str] = list(options.get("nameservers") or ())
        self._searches: list[str] = list(options.get("searches") or ())
        self._ndots = int(options.get("ndots", 1))
        self._hosts: Mapping[str, str] = options.get("hosts") or {}
        self._families: list[int] = list(options.get("families") or (4,))
        self._open_socket = open_socket

    async def first(self, host: str) -> str | None:
        """The first address of ``host``, or None."""
        host = host.strip("[]")
        if not host:
            return "::1" if self._families[0] == 6 else "127.0.0.1"
        try:
            return str(ip_address(host))
        except ValueError:
            pass
        if host in self._hosts:
            return self._hosts[host]
        for name in plan_names(host, self._searches, self._ndots):
            for family in self._families:
                address = await self._ask(name, TYPES[family])
                if address:
                    return address
        return None

    async def _ask(self, name: str, kind: int) -> str | None:
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            for server in self._servers:
                number = random.randrange(65536)
                family = socket.AF_INET6 if ":" in server else socket.AF_INET
                with self._open_socket(family, socket.SOCK_DGRAM) as client:
                    try:
                        await loop.sock_connect(client, (server, 53))
                        await loop.sock_sendall(client, render_query(number, name, kind))
                        answer = await asyncio.wait_for(loop.sock_recv(client, 4096), TRY_S)
                    except (OSError, TimeoutError):
                        continue
                found = parse_answer(answer, number, kind)
                return found[0] if found else None
        return None


def plan_names(host: str, searches: list[str], ndots: int) -> list[str]:
    """The names to try in order: as it is first when it has enough dots, last otherwise."""
    if host.endswith("."):
        return [host.rstrip(".")]
    longer = [f"{host}.{search}" for search in searches]
    return [host, *longer] if host.count(".") >= ndots else [*longer, host]


def render_query(number: int, name: str, kind: int) -> bytes:
    """A DNS query with recursion desired."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("idna").split(b".") if label)
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def parse_answer(data: bytes, number: int, kind: int) -> list[str]:
    """Addresses of type ``kind`` in a DNS answer; none for another's answer, an error or a broken one."""
    found: list[str] = []
    try:
        got, flags, questions, answers = struct.unpack_from("!4H", data)
        if got != number or not flags & 0x8000:
            return []
        position = 12
        for _ in range(questions):
            position = _skip_name(data, position) + 4
        for _ in range(answers):
            position = _skip_name(data, position)
            record, _, _, length = struct.unpack_from("!2HIH", data, position)
            position += 10
            if record == kind:
                found.append(str(ip_address(data[position : position + length])))
            position += length
    except (struct.error, IndexError, ValueError):
        return found
    return found


def _skip_name(data: bytes, position: int) -> int:
    while data[position]:
        if data[position] >= 0xC0:
            return position + 2
        position += data[position] + 1
    return position + 1
