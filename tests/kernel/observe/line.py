"""Three namespaces in a line, for evidence of probes: a client, a router whose rules a test writes, a server.

    client 10.0.1.2 --- c router s --- 10.0.2.2 server      and fd00:1::2, fd00:2::2 likewise

The server listens on TCP 80 and answers on UDP 81 with words of its own. Nothing else is in the way.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.observe.collect import collect
from netsim.observe.decode import Decoded, decode_frame
from netsim.observe.evidence import Evidence, Sighting
from netsim.observe.path import Question

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLIENT, SERVER = {4: "10.0.1.2", 6: "fd00:1::2"}, {4: "10.0.2.2", 6: "fd00:2::2"}
ROUTER = {4: "10.0.1.1", 6: "fd00:1::1"}
TCP_PORT, UDP_PORT = 80, 81
ANSWER = b"words that no probe says"
VXLAN_PORT = 8472


class Line:
    """Namespaces by place, and commands in them."""

    def __init__(self, spawner: Spawner) -> None:
        self.spawner = spawner
        self.places = {name: Netns.create(name, ipv6=True) for name in ("client", "router", "server")}
        self._servers = [threading.Thread(target=work) for work in (self._answer, self._accept)]

    def build(self) -> None:
        for end, letter, number in (("client", "c", 1), ("server", "s", 2)):
            self.run("router", f"ip link add {letter} type veth peer name eth0 netns {self._path(end)}")
            self.run("router", f"ip addr add 10.0.{number}.1/24 dev {letter}; ip link set {letter} up")
            self.run("router", f"ip addr add fd00:{number}::1/64 dev {letter} nodad")
            self.run(end, f"ip addr add 10.0.{number}.2/24 dev eth0; ip addr add fd00:{number}::2/64 dev eth0 nodad")
            self.run(end, f"ip link set eth0 up; ip route add default via 10.0.{number}.1")
            self.run(end, f"ip -6 route add default via fd00:{number}::1")
        self.run("router", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        self._tcp = self.places["server"].socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._tcp.bind(("::", TCP_PORT))
        self._tcp.listen(4096)  # room for a busy client while a probe is served
        self._udp = self.places["server"].socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._udp.bind(("::", UDP_PORT))
        for thread in self._servers:
            thread.start()

    def _path(self, place: str) -> str:
        return f"/proc/{os.getpid()}/fd/{self.places[place].fd}"

    def _answer(self) -> None:
        while True:
            data, peer = self._udp.recvfrom(2000)
            if data == b"end":
                return
            self._udp.sendto(ANSWER, peer)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._tcp.accept()[0]
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionResetError):
                connection.recv(1)  # the client ends it

    def close(self) -> None:
        if self._servers[0].is_alive():
            with self.places["server"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as last:
                last.sendto(b"end", ("::1", UDP_PORT))
            self._tcp.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            for thread in self._servers:
                thread.join()
            self._udp.close()
            self._tcp.close()
        for ns in self.places.values():
            ns.close()

    def run(self, place: str, script: str) -> str:
        """What the commands print; a failing one fails the test."""
        spec = ProcessSpec(("sh", "-ec", script), env={"PATH": PATH}, netns=self.places[place])
        done = self.spawner.run_blocking(spec, timeout_s=20.0)
        assert done.returncode == 0, f"{script}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def ask(
        self, protocol: Any, address: str, port: int = 0, *, source: str = "client", size: int = 0, **options: Any
    ) -> Evidence:
        question = Question(source, address, protocol, address, port, size)
        return collect(question, self.places, source, spawner=self.spawner, **options)


@contextmanager
def make_line(spawner: Spawner) -> Iterator[Line]:
    line = Line(spawner)
    try:
        line.build()
        yield line
    finally:
        line.close()


def crossings(evidence: Evidence, note: str = "") -> list[str]:
    """``PLACE INTERFACE DIRECTION`` of every frame, in order; with ``note``, of the packets that have it."""
    return [
        f"{one.place} {one.interface} {one.direction}"
        for one in evidence.sightings
        if not note or decoded(one).packet.note == note
    ]


def decoded(sighting: Sighting) -> Decoded:
    found = decode_frame(sighting.frame)
    assert found is not None
    return found


def rule_texts(evidence: Evidence, place: str = "router", hook: str = "") -> list[str]:
    """The texts of the rules that the probe's packets met, in order."""
    return [
        evidence.rules.get((event.place, event.family, event.table, event.chain, event.handle), "?")
        for event in evidence.events
        if event.place == place and event.kind == "rule" and hook in ("", event.hook)
    ]
