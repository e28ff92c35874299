"""The load program against real sockets on loopback."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from typing import Any

import pytest

SOURCE = files("netsim.experiment").joinpath("load_program.py").read_text()


def run(**plan: Any) -> dict[str, Any]:
    """As in a place: an interpreter that sees the standard library only."""
    plan = {"parallel": 1, "timeout_s": 5.0, **plan}
    argv = [sys.executable, "-I", "-S", "-c", SOURCE, json.dumps(plan)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def serve(listening: socket.socket, counts: dict[int, int]) -> None:
    """Answers each connection with a line, until the socket is shut down."""
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        with closing(client):
            counts[listening.getsockname()[1]] += 1
            if client.recv(4096):
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")


@pytest.fixture
def servers() -> Iterator[tuple[list[int], dict[int, int]]]:
    """Two listening ports, and how many connections each has had."""
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
    counts = {one.getsockname()[1]: 0 for one in sockets}
    threads = [threading.Thread(target=serve, args=(one, counts)) for one in sockets]
    for thread in threads:
        thread.start()
    yield [one.getsockname()[1] for one in sockets], counts
    for one in sockets:
        one.shutdown(socket.SHUT_RDWR)
        one.close()
    for thread in threads:
        thread.join()


def test_connections_go_to_the_targets_in_turn(servers: tuple[list[int], dict[int, int]]) -> None:
    ports, counts = servers
    answer = run(targets=[["127.0.0.1", port] for port in ports], count=20, parallel=4, mode="http")
    assert len(answer["samplesMs"]) == 20
    assert answer["errors"] == {}
    assert all(0 < sample < 5000 for sample in answer["samplesMs"])
    assert list(counts.values()) == [10, 10]


def test_what_fails_is_counted_by_the_kernels_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        answer = run(targets=[["127.0.0.1", taken.getsockname()[1]]], count=3, mode="connect")
    assert answer["samplesMs"] == []
    assert answer["errors"] == {"Connection refused": 3}


def test_datagrams_without_an_answer_time_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        answer = run(targets=[list(silent.getsockname())], count=2, mode="udp", timeout_s=0.05)
    assert answer["errors"] == {"timed out": 2}


def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        answer = run(targets=[["::1", listening.getsockname()[1]]], count=3, mode="connect")
    assert len(answer["samplesMs"]) == 3
