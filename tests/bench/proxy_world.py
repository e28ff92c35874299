"""A node between a client and a server that has every endpoint's address, to see a first packet through the rules."""

import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.sysctl import write_sysctls

CONNECTS = 300
CLIENT_IP, NODE_IP = "10.244.255.2", "172.18.0.2"
DIRECT = "10.244.0.1"  # an endpoint: connections past all services
_IP_FREEBIND = 15


class Ran(NamedTuple):
    """A tool that ran: how long, and the most memory it had (as far as looking each 2 ms shows it)."""

    took_ms: float
    peak_mb: float


class World:
    """Three namespaces: client, node, server."""

    def __init__(self, spawner: Spawner) -> None:
        self.node, self.client, self.server = (Netns.create(name) for name in ("node", "client", "server"))
        self._spawner = spawner
        fds = f"/proc/{os.getpid()}/fd"
        self._ip(
            self.node,
            f"link add c type veth peer name eth0 netns {fds}/{self.client.fd}",
            f"link add s type veth peer name eth0 netns {fds}/{self.server.fd}",
            "link set c up",
            "link set s up",
            f"addr add {NODE_IP}/32 dev c",
            f"route add {CLIENT_IP}/32 dev c",
            "route add 10.244.0.0/15 dev s",
        )
        for ns, ip in ((self.client, CLIENT_IP), (self.server, "10.245.255.254")):
            self._ip(
                ns,
                f"addr add {ip}/32 dev eth0",
                "link set eth0 up",
                f"route add {NODE_IP} dev eth0 src {ip}",
                f"route add default via {NODE_IP} dev eth0 src {ip} onlink",
            )
        self._ip(self.server, "route add local 10.244.0.0/17 dev lo", "route add local 10.245.0.0/17 dev lo")
        write_sysctls(
            self.node, {"net.ipv4.ip_forward": 1, "net.ipv4.conf.s.proxy_arp": 1, "net.ipv4.conf.c.proxy_arp": 1}
        )
        self._listener = self.server.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        self._listener.bind(("0.0.0.0", 80))
        # Nobody accepts: whoever is woken by a connection disturbs what is measured.
        self._listener.listen(4 * CONNECTS)

    def _ip(self, ns: Netns, *lines: str) -> None:
        done = self._spawner.run_blocking(ProcessSpec(("ip", "-batch", "-"), netns=ns), input="\n".join(lines).encode())
        if done.returncode:
            raise SystemExit(f"ip -batch: {done.stderr.decode()}")

    def run(self, argv: tuple[str, ...], text: str) -> Ran:
        """A tool on the node, ``text`` on its standard input."""
        source = Path("input")  # in the bench's own directory, see bench_proxy_modes
        source.write_text(text)
        with source.open("rb") as stdin, open("errors", "wb") as stderr:
            env = {**os.environ, "XTABLES_LOCKFILE": str(Path("xtables.lock").absolute())}
            with self.node.entered():
                started = time.perf_counter()
                process = subprocess.Popen(argv, stdin=stdin, stderr=stderr, env=env)
            peak = _Peak(process.pid)
            status = process.wait()
            took_ms = (time.perf_counter() - started) * 1000
        if status:
            raise SystemExit(f"{' '.join(argv)}: {Path('errors').read_text()[:2000]}")
        return Ran(took_ms, peak.stop())

    def connect_us(self, address: str, port: int) -> float:
        """The median time of connect(2): the first packet of a flow there, the answer back."""
        taken = []
        for _ in range(CONNECTS):
            with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(5)
                started = time.perf_counter()
                sock.connect((address, port))
                taken.append((time.perf_counter() - started) * 1e6)
        return statistics.median(taken)

    def close(self) -> None:
        self._listener.close()
        for ns in (self.node, self.client, self.server):
            ns.close()


class _Peak:
    """Looks at a process' high-water mark until it ends (wait4's would be that of the process that forked it)."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._most_kib = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while True:
            try:
                fields = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
                self._most_kib = max(self._most_kib, int(fields["VmHWM"].split()[0]))
            except (OSError, KeyError):  # gone, or a zombie, which has no memory
                return
            time.sleep(0.002)

    def stop(self) -> float:
        self._thread.join()
        return self._most_kib / 1024


@contextmanager
def world(spawner: Spawner) -> Iterator[World]:
    made = World(spawner)
    try:
        yield made
    finally:
        made.close()
