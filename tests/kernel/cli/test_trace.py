"""``netsim trace`` as a program: what it prints, writes and refuses."""

import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from netsim.testing.waiting import wait_until
from tests.json_schema import find_faults
from tests.kernel.cli.conftest import TIMEOUT_S, Netsim

SCHEMA = json.loads(files("netsim.observe").joinpath("path.schema.json").read_text(encoding="utf-8"))
SILENT = "10.96.77.77:80"  # no Service's; the fabric's router knows no way, and so says


def small_files() -> None:
    """No file may be larger than 1,000 bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def run_with(netsim: Netsim, prepare: Any, *argv: str, **options: Any) -> "tuple[int, str, str]":
    with netsim.start(*argv, preexec_fn=prepare, **options) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out, err


def test_the_way_to_a_service_is_a_tree(deployed: Netsim) -> None:
    text = deployed("trace", "pod/client", "svc/web").stdout
    lines = text.splitlines()
    assert lines[0].startswith("pod/default/client to svc/default/web (10.96.")
    assert "there" in lines
    assert "back" in lines
    for words in ("out eth0", "KUBE-SERVICES", "dnat ", "un-dnat ", "conntrack ", "route "):
        assert words in text
    assert lines[-1].startswith("delivered by pod/default/web-")
    assert "\x1b" not in text


@pytest.mark.parametrize("command", ["trace pod/client svc/web", "explain pod/client svc/web", "rules svc/web"])
def test_on_a_terminal_lines_are_folded_and_in_a_pipe_they_are_whole(deployed: Netsim, command: str) -> None:
    screen = deployed.on_terminal(*command.split(), columns=70)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).splitlines()
    assert max(map(len, lines)) <= 70
    assert ("\x1b[" in screen) == (not command.startswith("rules"))  # which has no colours
    whole = deployed(*command.split()).stdout
    assert '--comment "kubernetes service portals" -j KUBE-SERVICES' in whole
    assert "kubernetes service portals" in " ".join(re.sub("[│ ]+", " ", "\n".join(lines)).split())


def test_what_is_written_to_a_file_is_whole_on_a_terminal_too(deployed: Netsim, tmp_path: Path) -> None:
    file = tmp_path / "way.txt"
    assert deployed.on_terminal("trace", "pod/client", "svc/web", "-w", str(file), columns=70) == ""
    text = file.read_text()
    assert '--comment "kubernetes service portals" -j KUBE-SERVICES' in text
    assert "\x1b" not in text


def test_it_takes_less_than_a_second_by_its_own_clock(deployed: Netsim) -> None:
    """The least of several, as others may use the machine; tests/bench has the figures."""
    took = min(deployed.json("trace", "pod/client", "svc/web")["elapsedMs"] for _ in range(5))
    assert took < 1000


def test_json_is_as_the_schema_says(deployed: Netsim) -> None:
    path = deployed.json("trace", "pod/client", "svc/web:http")
    assert find_faults(SCHEMA, path) == []
    assert path["question"]["target"] == "svc/default/web:http"
    assert path["verdict"]["outcome"] == "delivered"
    assert path["names"][f"{path['question']['address']}:80"] == "svc/default/web:http"
    assert {hop["kind"] for hop in path["hops"]} == {"interface", "hook", "rewrite", "route", "conntrack"}


def test_several_probes_are_spread_over_endpoints(deployed: Netsim) -> None:
    spread = deployed.json("trace", "pod/client", "svc/web", "--count", "12")
    assert find_faults(SCHEMA, spread) == []
    assert spread["probes"] == sum(spread["answeredBy"].values()) == sum(way["count"] for way in spread["ways"]) == 12
    assert len(spread["answeredBy"]) == 2


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_every_protocol_has_a_way(deployed: Netsim, protocol: str) -> None:
    target = {"tcp": "svc/kube-system/kube-dns:dns-tcp", "udp": "svc/kube-system/kube-dns:dns", "icmp": "host/external"}
    path = deployed.json("trace", "pod/client", target[protocol], "--protocol", protocol)
    assert path["verdict"]["outcome"] == "delivered"
    assert {hop["leg"] for hop in path["hops"]} == {"there", "back"}


def test_what_is_not_delivered_has_status_1_and_a_whole_answer(deployed: Netsim) -> None:
    done = deployed("trace", "pod/client", "node/node-1:9", "-o", "json", status=1)
    path = json.loads(done.stdout)
    assert (path["verdict"]["outcome"], path["verdict"]["place"]) == ("refused", "node/node-1")
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["trace", "explain"])
def test_a_service_without_endpoints_is_said_to_have_none(deployed: Netsim, command: str) -> None:
    said = deployed(command, "pod/client", "svc/kubernetes", status=1).stdout
    assert "rejected by node/" in said
    assert "\nnext: netsim exec node/" in said
    assert "\nnote: svc/default/kubernetes has no endpoints: the API server is not in the cluster's network" in said
    found = json.loads(deployed(command, "pod/client", "svc/web:81", "-o", "json", status=1).stdout)
    assert found["notes"] == ["svc/default/web has no port 81/tcp, but 80/tcp"]
    assert deployed.json(command, "pod/client", "svc/web")["notes"] == []


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("pod/nope", "svc/web"), 1, 'pods "nope" not found\nnext: netsim get pods -A'),
        (("node/nope", "svc/web"), 1, 'there is no node "nope"\nnext: nodes: node-1, node-2'),
        (("host/nope", "svc/web"), 1, 'there is no host "nope"'),
        (("client", "svc/web"), 2, '"client" is no place'),
        (("svc/web", "pod/client:80"), 2, '"svc/web" is no place'),
        (("pod/client", "svc/nope:80"), 1, 'services "nope" not found'),
        (
            ("pod/client", "svc/web:nope"),
            2,
            'svc/default/web has no port "nope"\nnext: svc/default/web has 80/tcp (http)',
        ),
        (("pod/client", "pod/client"), 2, "which port?"),
        (("pod/client", "svc/web:0"), 2, "0 is no port"),
        (("pod/client", "300.1.1.1:80"), 2, '"300.1.1.1:80" is no target'),
        (("pod/client", "svc/web", "--protocol", "icmp", "--ip-family", "ipv6"), 1, "has no IPv6 address"),
        (("pod/client", "svc/web", "--count", "0"), 2, "--count"),
        (("pod/client", "svc/web", "--timeout", "0"), 2, "not 0 s"),
        (("pod/client", "svc/web", "--timeout", "61"), 2, "up to 60 s"),
        (("pod/client", "svc/web", "--size", "100"), 2, "a TCP probe is a handshake"),
        (("pod/client", "svc/web", "-w", "/nope/way.html"), 1, "/nope: cannot write: there is no such folder"),
        (("pod/client", "svc/web", "-w", "/"), 1, "/: cannot write: it is a folder"),
        (("pod/client", "svc/web", "-w", "/dev/full"), 1, "/dev/full: cannot write: No space left on device"),
    ],
)
def test_what_can_not_be_is_told(deployed: Netsim, argv: tuple[str, ...], status: int, words: str) -> None:
    done = deployed("trace", *argv, status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pod_that_does_not_run_is_told(deployed: Netsim, tmp_path: Path) -> None:
    manifest = tmp_path / "homeless.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: homeless}\n"
        "spec: {nodeSelector: {no: such}, containers: [{name: main, image: pause}]}\n"
    )
    deployed("apply", "-f", str(manifest), "--no-wait")
    for argv in (("pod/homeless", "svc/web"), ("pod/client", "pod/homeless:80")):
        done = deployed("trace", *argv, status=1)
        assert "it is not running" in done.stderr
        assert "next: netsim describe pod homeless" in done.stderr
    deployed("delete", "-f", str(manifest))


def test_a_full_disk_leaves_what_was_there(deployed: Netsim, tmp_path: Path) -> None:
    page = tmp_path / "way.html"
    page.write_text("before")
    status, _, err = run_with(deployed, small_files, "trace", "pod/client", "svc/web", "-o", "html", "-w", str(page))
    assert status == 1
    assert f"{page}: cannot write: " in err
    assert page.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["way.html"]


@pytest.mark.parametrize(
    "command",
    [
        ("trace", "pod/client", "svc/web", "-o", "json"),
        ("explain", "pod/client", "svc/web"),
        ("rules", "svc/web", "-o", "json"),
        ("capture", "pod/client", "-w", "-"),
        ("fault", "list"),
        ("experiment", "list"),
        ("get", "pods"),
        ("check",),
        ("trace", "--help"),
    ],
    ids=" ".join,
)
def test_a_full_standard_output_is_told(deployed: Netsim, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        status, _, err = run_with(deployed, None, *command, stdout=full)
    assert status == 1
    assert err == "error: standard output: cannot write: No space left on device\n"


def test_an_interrupt_shows_what_there_is(deployed: Netsim) -> None:
    with deployed.start("trace", "pod/client", "svc/web", "--count", "10000") as process:
        time_out = time.monotonic() + TIMEOUT_S
        before = probes_seen(deployed)
        while probes_seen(deployed) < before + 2 and time.monotonic() < time_out:
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "way 1: " in out
    assert " probes: " in out
    deployed("trace", "pod/client", "svc/web")  # and the cluster goes on


def probes_seen(netsim: Netsim) -> int:
    """How many connections have left the client pod: it makes none but probes."""
    text = netsim("exec", "pod/client", "--", "cat", "/proc/net/snmp").stdout
    header, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(values[header.index("ActiveOpens")])


def test_it_leaves_no_rule_behind(deployed: Netsim) -> None:
    def rules() -> list[str]:
        return [
            deployed("exec", where, "--", "nft", "list", "tables").stdout for where in ("pod/client", "node/node-1")
        ]

    before = rules()
    deployed("trace", "pod/client", "svc/web")
    assert rules() == before


@pytest.fixture
def silent(deployed: Netsim) -> Iterator[Netsim]:
    """A node that takes pings and does not answer."""
    deployed("exec", "node/node-1", "--", "sysctl", "-w", "net.ipv4.icmp_echo_ignore_all=1")
    yield deployed
    deployed("exec", "node/node-1", "--", "sysctl", "-w", "net.ipv4.icmp_echo_ignore_all=0")


WAITING = ("trace", "pod/client", "node/node-1", "--protocol", "icmp", "--timeout", "60")


def count_traces(netsim: Netsim) -> int:
    return netsim("exec", "node/node-1", "--", "nft", "list", "tables").stdout.count("netsim-trace-")


def test_a_trace_ends_with_its_caller(silent: Netsim) -> None:
    with silent.start(*WAITING) as process:
        wait_until("the trace is under way", lambda: count_traces(silent) == 1)
        process.kill()
    wait_until("its rules are gone", lambda: count_traces(silent) == 0)


def test_traces_that_wait_keep_nobody_else_waiting(silent: Netsim) -> None:
    many = (os.cpu_count() or 1) + 5  # more than asyncio has threads of its own
    waiting = [silent.start(*WAITING) for _ in range(many)]
    try:
        wait_until("all are under way", lambda: count_traces(silent) == many)
        explained = silent("explain", "pod/client", "svc/web", "--all-ways", "-a").stdout
        assert "delivered by" in explained
        assert "netsim-trace" not in explained, "what watches is no part of the network"
        assert [process.poll() for process in waiting] == [None] * many
    finally:
        for process in waiting:
            process.kill()
            process.communicate()
    wait_until("their rules are gone", lambda: count_traces(silent) == 0)


def test_a_page_is_written(deployed: Netsim, tmp_path: Path) -> None:
    page = tmp_path / "way.html"
    done = deployed("trace", "pod/client", "svc/web", "-o", "html", "-w", str(page))
    assert done.stdout == ""
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert deployed("trace", "pod/client", "svc/web", "-o", "html").stdout.startswith("<!DOCTYPE html>")


def test_colours_are_for_terminals(deployed: Netsim) -> None:
    leader, follower = os.openpty()
    command = ("trace", "pod/client", "svc/web")
    with deployed.start(*command, stdout=follower, stderr=subprocess.DEVNULL, text=False) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            text += piece
        assert process.wait(TIMEOUT_S) == 0
    os.close(leader)
    assert b"\x1b[36;1mnode/node-" in text
