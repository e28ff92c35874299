"""Sockets of built-in containers, in namespaces of one family and of two."""

import socket

import pytest

from netsim.kernel.netns import Netns
from netsim.kubelet.builtin.agnhost import Listen
from netsim.kubelet.builtin.http import read_address
from netsim.kubelet.containers import open_listeners

pytestmark = pytest.mark.needs("root", "netns")


@pytest.mark.needs("ipv6")
def test_listeners_of_two_families_see_ipv4_as_itself() -> None:
    with Netns.create("dual", ipv6=True) as ns:
        listens = (Listen("TCP", 80, "tcp"), Listen("UDP", 81, "udp"), Listen("UDP", 82, "udp", "127.0.0.1"))
        tcp, udp, one = open_listeners(ns, listens, (4, 6))
        with tcp, udp, one:
            assert [sock.family for sock in (tcp, udp, one)] == [socket.AF_INET6, socket.AF_INET6, socket.AF_INET]
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with ns.socket(family, socket.SOCK_STREAM) as client:
                    client.connect((host, 80))
                    tcp.setblocking(True)
                    accepted, peer = tcp.accept()
                    accepted.close()
                    assert read_address(peer) == (host, client.getsockname()[1])


def test_listeners_of_ipv4_need_no_ipv6() -> None:
    with Netns.create("four") as ns:
        (tcp,) = open_listeners(ns, (Listen("TCP", 80, "tcp"),), (4,))
        with tcp:
            assert (tcp.family, tcp.getsockname()) == (socket.AF_INET, ("0.0.0.0", 80))
