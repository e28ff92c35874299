"""What a trace costs: its own time, and what other traffic over the same nodes feels while one is under way.

Other traffic is an exchange of small datagrams, one at a time (its median and 99th percentile), and a TCP stream, both
over a router in whose namespace rules and taps of the trace are; without one, while one waits for its answer (the
rules alone), and while one follows the other (which also takes a core).
"""

import contextlib
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import netsim
from netsim.kernel.netns import Netns
from netsim.kernel.process import Spawner
from netsim.testing.lookup import cluster_ip
from tests.bench.figures import measure_s, show
from tests.kernel.observe.line import SERVER, TCP_PORT, Line, make_line
from tests.packets.world import make_pod, make_service

ECHO_PORT, STREAM_PORT = 7, 8
MEASURE_S = 2.0
NOBODY = "10.0.2.99"  # a neighbour that never answers: the probe waits all its time
DROP = "add table ip t; add chain ip t f { type filter hook forward priority 0; policy drop; }"
CHUNK = bytes(1 << 16)
_fork = multiprocessing.get_context("fork")


def echo(ns: Netns) -> None:
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", ECHO_PORT))
        while True:
            data, client = server.recvfrom(100)
            server.sendto(data, client)


def sink(ns: Netns) -> None:
    with ns.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("0.0.0.0", STREAM_PORT))
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection:
                while connection.recv(1 << 20):
                    pass


def ping(ns: Netns, report: Any) -> None:
    """Round trips of MEASURE_S seconds: median and 99th percentile, in seconds."""
    times = []
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1.0)
        client.connect((SERVER[4], ECHO_PORT))
        end = time.perf_counter() + MEASURE_S
        while (started := time.perf_counter()) < end:
            client.send(b"x" * 32)
            client.recv(100)
            times.append(time.perf_counter() - started)
    times.sort()
    report.send((statistics.median(times), times[len(times) * 99 // 100]))


def stream(ns: Netns, report: Any) -> None:
    """Bytes a second."""
    sent = 0
    with ns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect((SERVER[4], STREAM_PORT))
        started = time.perf_counter()
        while time.perf_counter() < started + MEASURE_S:
            sent += client.send(CHUNK)
        report.send(sent / (time.perf_counter() - started))


def measured(work: Callable[[Netns, Any], None], ns: Netns) -> Any:
    """What a process of its own reports."""
    ours, theirs = _fork.Pipe()
    process = _fork.Process(target=work, args=(ns, theirs))
    process.start()
    found = ours.recv()
    process.join()
    return found


@contextlib.contextmanager
def servers(line: Line) -> Iterator[None]:
    processes = [_fork.Process(target=work, args=(line.places["server"],), daemon=True) for work in (echo, sink)]
    for process in processes:
        process.start()
    time.sleep(0.3)
    yield
    for process in processes:
        process.terminate()
        process.join()


@contextlib.contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """``act`` again and again, until the end of the block."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            act()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.1)
    try:
        yield
    finally:
        ended.set()
        thread.join()


def show_other_traffic(line: Line) -> None:
    client = line.places["client"]
    cases: list[tuple[str, contextlib.AbstractContextManager[None]]] = [
        ("", contextlib.nullcontext()),
        (" while a trace waits", meanwhile(lambda: line.ask("tcp", NOBODY, 80, timeout_s=3 * MEASURE_S))),
        (" while UDP's trace waits", meanwhile(lambda: line.ask("udp", NOBODY, 80, timeout_s=3 * MEASURE_S))),
        (" during trace after trace", meanwhile(lambda: line.ask("tcp", SERVER[4], TCP_PORT))),
    ]
    floors: tuple[float, float, float] | None = None
    for words, context in cases:
        with context:
            median, late = measured(ping, client)
            rate = measured(stream, client)
        figures = (median * 1e6, late * 1e6, rate * 8 / 1e9)
        for name, unit, at in (("round trip", "us", 0), ("  its 99th percentile", "us", 1), ("TCP stream", "Gb/s", 2)):
            floor = floors[at] if floors else None
            show(f"{name}{words}", figures[at], unit, floor=floor, floor_name="no trace")
        floors = floors or figures


def show_times(line: Line) -> None:
    ask = lambda: line.ask("tcp", SERVER[4], TCP_PORT)  # noqa: E731
    ask()
    show("evidence of a handshake, 3 namespaces", measure_s(ask, 21) * 1000, "ms")
    others = {f"node/n{number}": Netns.create(f"n{number}") for number in range(97)}
    line.places.update(others)
    show("  among 100 nodes", measure_s(ask, 5) * 1000, "ms", goal="< 1 s")
    for name in others:
        line.places.pop(name).close()
    pods = {f"pod/d/p{number}": Netns.create(f"p{number}") for number in range(1000)}
    line.places.update(pods)
    show("  among 1,000 pods", measure_s(ask, 3) * 1000, "ms", goal="< 1.5 s")
    for name in pods:
        line.places.pop(name).close()


def show_in_a_cluster(mode: str) -> None:
    with (
        tempfile.TemporaryDirectory() as state,
        netsim.up("bench", nodes=3, proxy_mode=mode, state_dir=state) as cluster,
    ):
        cluster.apply(
            [make_pod("client", node="node-1"), make_pod("web", node="node-2"), make_service("web", app="web")]
        )
        address = cluster_ip(cluster, "web")
        trace = lambda: cluster.trace("pod/client", f"{address}:80")  # noqa: E731
        trace()
        show(f"trace pod to Service, {mode}", measure_s(trace, 11) * 1000, "ms", goal="< 1 s")
        cluster.exec("node/node-2", ["ip", "route", "replace", "10.244.0.0/24", "dev", "lo"])
        show("  lost, no rule dropped it", measure_s(trace, 11) * 1000, "ms", goal="< 1 s")
        cluster.exec("node/node-2", ["nft", DROP])
        show("  dropped by a rule", measure_s(trace, 11) * 1000, "ms", goal="< 1 s")


def main() -> None:
    with Spawner.start() as spawner, make_line(spawner) as line, servers(line):
        show_times(line)
        show_other_traffic(line)
    for mode in ("nftables", "iptables"):
        show_in_a_cluster(mode)


if __name__ == "__main__":
    main()
