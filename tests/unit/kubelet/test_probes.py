"""Probe settings, thresholds, and their times on a clock that stands still."""

import asyncio
import http.server
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from netsim.kernel.netns import Netns
from netsim.kubelet.prober import ContainerProbes, ProbeSubject, ask
from netsim.kubelet.probes import Answer, ExecTarget, HttpTarget, Probe, ProbeError, TcpTarget, Verdict, parse_probes
from tests.fake_clock import FakeClock
from tests.unit.kubelet.make import make_container

Run = Callable[[tuple[str, ...], float], Awaitable[tuple[int, bytes]]]


class HereNetns(Netns):
    """The namespace the test is in, which needs no permission to enter."""

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
        return socket.socket(family, type, proto)


@contextmanager
def subject(run: Run | None = None) -> Iterator[ProbeSubject]:
    async def nothing(argv: tuple[str, ...], timeout_s: float) -> tuple[int, bytes]:
        raise AssertionError(argv)

    with HereNetns.current() as here:
        yield ProbeSubject(here, "127.0.0.1", run or nothing)


def test_defaults_and_named_ports() -> None:
    container = make_container(
        ports=[{"name": "http", "containerPort": 8080}],
        readinessProbe={"httpGet": {"port": "http", "path": "healthz"}},
        livenessProbe={"tcpSocket": {"port": 9}, "periodSeconds": 3, "failureThreshold": 1, "initialDelaySeconds": 4},
    )
    liveness, readiness = parse_probes(container)
    assert readiness == Probe("readiness", HttpTarget("http", "", 8080, "/healthz"), 0, 10, 1, 1, 3)
    assert liveness == Probe("liveness", TcpTarget("", 9), 4, 3, 1, 1, 1)


@pytest.mark.parametrize("handler", [{"httpGet": {"port": "no"}}, {"grpc": {"port": 1}}, {}])
def test_probes_that_can_not_be_understood(handler: dict[str, object]) -> None:
    with pytest.raises(ProbeError):
        parse_probes(make_container(readinessProbe={"periodSeconds": 1, **handler}))


def test_thresholds() -> None:
    probe = Probe("readiness", TcpTarget("", 1), success_threshold=2, failure_threshold=3)
    verdict = Verdict(probe)
    answers = [True, True, False, False, True, False, False, False, False, True, True]
    changes = [verdict.record(Answer(answer)) for answer in answers]
    assert [index for index, changed in enumerate(changes) if changed] == [1, 7, 10]
    assert verdict.holds is True


def test_a_liveness_probe_holds_until_it_fails_and_says_so_again() -> None:
    verdict = Verdict(Probe("liveness", TcpTarget("", 1), failure_threshold=2))
    assert verdict.holds is True
    assert [verdict.record(Answer(False)) for _ in range(3)] == [False, True, True]


class Scripted:
    """Answers of a probed command, one after the other; the last one for ever. Times at which it was asked."""

    def __init__(self, clock: FakeClock, *codes: int) -> None:
        self._clock = clock
        self._codes = list(codes)
        self.asked_s: list[float] = []

    async def __call__(self, argv: tuple[str, ...], timeout_s: float) -> tuple[int, bytes]:
        self.asked_s.append(self._clock.monotonic_s())
        return (self._codes.pop(0) if len(self._codes) > 1 else self._codes[0]), b"words"


def run_probes(probes: tuple[Probe, ...], seconds: float, *codes: int) -> tuple[list[float], list[tuple[str, bool]]]:
    """When the command was asked, and which thresholds were met."""
    changes: list[tuple[str, bool]] = []

    async def main() -> list[float]:
        clock = FakeClock()
        script = Scripted(clock, *codes)
        with subject(script) as whom:
            running = ContainerProbes(
                probes, whom, clock, lambda probe, holds: changes.append((probe.kind, holds)), lambda *_: None
            )
            await clock.advance(seconds)
            running.stop()
            await clock.advance(100)
        return script.asked_s

    return asyncio.run(main()), changes


def test_delay_and_period_and_no_more_after_stop() -> None:
    probe = Probe("readiness", ExecTarget(("x",)), initial_delay_s=5, period_s=2)
    assert run_probes((probe,), 10, 0) == ([5, 7, 9], [("readiness", True)])


def test_readiness_goes_away_after_the_failure_threshold() -> None:
    probe = Probe("readiness", ExecTarget(("x",)), period_s=1, failure_threshold=3)
    asked, changes = run_probes((probe,), 4.5, 0, 1)
    assert asked == [0, 1, 2, 3, 4]
    assert changes == [("readiness", True), ("readiness", False)]


def test_the_others_wait_for_startup() -> None:
    startup = Probe("startup", ExecTarget(("x",)), period_s=4)
    liveness = Probe("liveness", ExecTarget(("x",)), period_s=10)
    asked, changes = run_probes((startup, liveness), 9, 1, 0)
    assert asked == [0, 4, 4]  # startup fails, succeeds; then liveness
    assert changes == [("startup", True)]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()
        self.wfile.write(f"{self.headers['Host']} {self.headers['X-Test']}".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def asked(target: HttpTarget | TcpTarget | ExecTarget, run: Run | None = None) -> Answer:
    with subject(run) as whom:
        return asyncio.run(ask(Probe("readiness", target, timeout_s=5), whom))


@pytest.mark.parametrize(("code", "success"), [(200, True), (399, True), (400, False), (503, False)])
def test_http_over_a_real_socket(web: int, code: int, success: bool) -> None:
    answer = asked(HttpTarget("http", "", web, f"/{code}", (("x-test", "1"),)))
    assert answer.success is success
    assert success or answer.message == f"HTTP probe failed with statuscode: {code}"


def test_tcp_and_refusal(web: int) -> None:
    assert asked(TcpTarget("", web)).success
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        refused = asked(TcpTarget("", port))
    assert refused == Answer(False, f"dial tcp 127.0.0.1:{port}: connect: connection refused")


def test_a_listener_that_never_answers_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, subject() as whom:
        target = HttpTarget("http", "", silent.getsockname()[1], "/")
        answer = asyncio.run(ask(Probe("readiness", target, timeout_s=0.05), whom))
    assert answer.message.endswith("i/o timeout")


def test_exec_says_what_the_command_said() -> None:
    async def run(argv: tuple[str, ...], timeout_s: float) -> tuple[int, bytes]:
        return 3, b"no such file\n"

    assert asked(ExecTarget(("cat", "/x")), run) == Answer(False, "no such file")
