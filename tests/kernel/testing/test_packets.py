"""The packet tools themselves, between two bare namespaces and a router: no cluster needed."""

import socket as sockets
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.packets import open_packet_socket
from netsim.model.errors import TimeoutExpired, UsageError
from netsim.testing.packets import ICMP, IP, UDP, Ether, Packets, Raw
from netsim.testing.traffic import Traffic

pytestmark = pytest.mark.needs("root", "netns", "veth", "packet")

LEFT_IP, RIGHT_IP = "192.0.2.2", "198.51.100.2"


@dataclass
class Link:
    name: str
    mac: str
    addresses: tuple[str, ...]


class Bench:
    """left - router - right, each a namespace of its own, by the same interface a cluster has."""

    def __init__(self) -> None:
        self.netns = {name: Netns.create(name) for name in ("left", "router", "right")}
        for side, network in (("left", "192.0.2"), ("right", "198.51.100")):
            self._ip("router", f"link add to-{side} type veth peer name eth0 netns /proc/self/fd/{self.netns[side].fd}")
            self._ip("router", f"address add {network}.1/24 dev to-{side}", f"link set to-{side} up")
            self._ip(
                side, f"address add {network}.2/24 dev eth0", "link set eth0 up", f"route add default via {network}.1"
            )
        with self.netns["router"].entered():
            subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)

    def _ip(self, where: str, *commands: str) -> None:
        fds = [ns.fd for ns in self.netns.values()]
        with self.netns[where].entered():
            for command in commands:
                subprocess.run(["ip", *command.split()], check=True, pass_fds=fds)

    def socket(self, where: str, family: int = 2, type: int = 1, proto: int = 0) -> sockets.socket:
        return self.netns[where].socket(family, type, proto)

    def packet_socket(self, where: str, interface: str = "eth0") -> sockets.socket:
        return open_packet_socket(self.netns[where], interface)

    def interfaces(self, where: str) -> list[Link]:
        with self.netns[where].entered():
            words = subprocess.run(
                ["ip", "-br", "link"], capture_output=True, text=True, check=True
            ).stdout.splitlines()
        address = {"left": LEFT_IP, "right": RIGHT_IP}[where]
        return [Link(w.split()[0].split("@")[0], w.split()[2], (f"{address}/24",)) for w in words]

    def close(self) -> None:
        for ns in self.netns.values():
            ns.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def packets(bench: Bench) -> Packets:
    return Packets(bench)


def test_a_packet_is_routed_from_where_it_is_sent_and_seen_where_it_arrives(packets: Packets) -> None:
    with packets.sniffer("right") as right, packets.sniffer("left") as left:
        packets.send("left", IP(dst=RIGHT_IP, ttl=20) / UDP(sport=1111, dport=2222) / Raw(b"hello"))
        seen = right.first(lambda s: s.dport == 2222)
        assert (seen.direction, seen.src, seen.sport, seen.dst, seen.ttl) == ("in", LEFT_IP, 1111, RIGHT_IP, 19)
        assert (seen.payload, seen.packet[UDP].chksum != 0) == (b"hello", True)
        sent = left.first(lambda s: s.dport == 2222)
        assert (sent.direction, sent.ttl) == ("out", 20)
        assert sent.time_s <= seen.time_s  # one clock for all namespaces
        # Nothing listens there, and the kernel on the right says so.
        error = left.first(lambda s: s.packet.haslayer(ICMP))
        assert (error.direction, error.src, error.packet[ICMP].type, error.packet[ICMP].code) == ("in", RIGHT_IP, 3, 3)
        assert (error.sport, error.dport) == (0, 0)  # the ports quoted in an ICMP error are not its own


def test_a_frame_goes_out_as_it_is(bench: Bench, packets: Packets) -> None:
    gateway = "02:00:00:00:00:01"
    with packets.sniffer("left") as left, packets.sniffer("right") as right:
        packets.send("left", Ether(dst=gateway) / IP(dst=RIGHT_IP) / UDP(sport=1, dport=3333))
        seen = left.first(lambda s: s.dport == 3333)
        own = {link.name: link.mac for link in bench.interfaces("left")}["eth0"]
        assert (seen.packet.src, seen.packet.dst) == (own, gateway)
        # No such station: a packet to the real one, sent after it, arrives; this one did not.
        packets.send("left", IP(dst=RIGHT_IP) / UDP(sport=1, dport=4444))
        right.first(lambda s: s.dport == 4444)
        assert right.seen(lambda s: s.dport == 3333) == []


def test_what_would_make_scapy_look_at_the_machine_is_refused(packets: Packets) -> None:
    with pytest.raises(UsageError, match="Ether needs a dst"):
        packets.send("left", Ether() / IP(dst=RIGHT_IP) / UDP())
    with pytest.raises(UsageError, match="from Ether or IP on"):
        packets.send("left", UDP(dport=1))
    with pytest.raises(UsageError, match="no interface eth7"):
        packets.send("left", IP(dst=RIGHT_IP) / UDP(), "eth7")


def test_waiting_in_vain_lists_what_came_instead(packets: Packets) -> None:
    with packets.sniffer("right") as right:
        packets.send("left", IP(dst=RIGHT_IP) / UDP(sport=5, dport=6666))
        right.first(lambda s: s.dport == 6666)
        with pytest.raises(TimeoutExpired, match=r"an answer from Mars \(1\) did not come within 0\.05 s(.|\n)*6666"):
            right.wait_for(lambda s: s.src == "10.0.0.1", timeout_s=0.05, what="an answer from Mars")


def test_the_filter_of_a_sniffer_gets_scapy_packets(packets: Packets) -> None:
    with packets.sniffer("right", match=lambda p: p.haslayer(UDP) and p[UDP].dport == 7002) as right:
        for port in (7001, 7002, 7003):
            packets.send("left", IP(dst=RIGHT_IP) / UDP(sport=5, dport=port))
        right.first(lambda _: True)
        assert {s.dport for s in right.seen()} == {7002}


def test_a_sniffer_ends_with_its_block_and_its_thread_with_it(packets: Packets) -> None:
    before = set(threading.enumerate())
    with packets.sniffer("right"), packets.sniffer("left"):
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before


def test_tcp_and_udp_from_one_namespace_to_another(bench: Bench, packets: Packets) -> None:
    traffic = Traffic(bench)
    with traffic.listen("right", address=RIGHT_IP) as listener, packets.sniffer("right") as right:
        port = listener.getsockname()[1]
        with traffic.connect("left", RIGHT_IP, port, source_port=45000):
            accepted, peer = listener.accept()
            accepted.close()
        assert peer == (LEFT_IP, 45000)
        assert right.first(lambda s: s.is_syn).ttl == 63
        assert right.first(lambda s: s.is_syn_ack).direction == "out"
    with pytest.raises(ConnectionRefusedError):
        traffic.connect("left", RIGHT_IP, 1)
    with pytest.raises(ConnectionRefusedError):
        traffic.udp_exchange("left", RIGHT_IP, 1, b"anybody?")
    with pytest.raises(UsageError, match="resolver"):
        traffic.http_get("left", "http://web/")
