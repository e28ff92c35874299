"""A trace leaves nothing, however it ends."""

import os
import signal
import subprocess
import sys

import pytest

from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError
from netsim.observe.collect import collect
from netsim.observe.path import Question
from netsim.testing.waiting import wait_until
from tests.kernel.observe.line import SERVER, TCP_PORT, Line

pytestmark = pytest.mark.needs("netns", "veth", "nft", "nft_trace", "packet", "command:ip", "command:nft")

SLOW = """
import sys
from netsim.kernel.netns import Netns
from netsim.observe.collect import collect
from netsim.observe.path import Question
places = {name: Netns(name, int(fd)) for name, fd in zip(("client", "router", "server"), sys.argv[1:4])}
collect(Question("client", "", "tcp", sys.argv[4], 80), places, "client", timeout_s=60.0)
"""


def tables(line: Line) -> str:
    return "".join(line.run(place, "nft list tables") for place in line.places)


def packet_sockets(line: Line) -> int:
    return sum(len(line.run(place, "cat /proc/net/packet").splitlines()) - 1 for place in line.places)


def test_after_an_ordinary_end(line: Line) -> None:
    line.ask("tcp", SERVER[4], TCP_PORT)
    line.ask("udp", SERVER[4], 99)
    assert tables(line) == ""
    wait_until("the taps are closed", lambda: packet_sockets(line) == 0)


@pytest.mark.needs("iptables-legacy")
def test_after_kill_9_in_the_middle(line: Line) -> None:
    line.run("router", "sysctl -qw net.ipv4.ip_forward=0")  # lost, and no rule says so: it is waited for
    fds = [ns.fd for ns in line.places.values()]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *map(str, fds), SERVER[4]], pass_fds=fds)
    try:
        wait_until("rules are in every place", lambda: tables(line).count("netsim-trace-") == len(line.places))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    wait_until("the kernel took them away", lambda: "netsim-trace-" not in tables(line))
    wait_until("the taps are closed", lambda: packet_sockets(line) == 0)


def test_after_an_exception_on_the_way_up(line: Line) -> None:
    """One place can't be entered: its descriptor is no namespace's."""
    other = os.open("/proc/self/ns/uts", os.O_RDONLY)
    broken = Netns("broken", other)
    try:
        with pytest.raises(KernelError):
            collect(Question("client", "", "tcp", SERVER[4], TCP_PORT), {**line.places, "broken": broken}, "client")
    finally:
        broken.close()
    assert tables(line) == ""
    wait_until("the taps are closed", lambda: packet_sockets(line) == 0)


def test_after_a_probe_that_could_not_be_sent(line: Line) -> None:
    line.run("client", "ip link set eth0 down")
    evidence = line.ask("udp", SERVER[4], 99)
    assert evidence.reply.result == "unreachable"
    assert tables(line) == ""
