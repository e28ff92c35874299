"""What a probe's evidence holds, in three namespaces whose rules each test writes."""

import socket
import threading
from collections.abc import Callable

import pytest

from netsim.model.errors import UsageError
from netsim.observe.assemble import assemble
from netsim.observe.collect import collect
from netsim.observe.evidence import RuleEvent
from netsim.observe.path import Question
from netsim.observe.reader import KernelReader
from tests.kernel.observe.line import (
    ANSWER,
    CLIENT,
    ROUTER,
    SERVER,
    TCP_PORT,
    UDP_PORT,
    Line,
    crossings,
    decoded,
    rule_texts,
)

pytestmark = pytest.mark.needs("netns", "veth", "nft", "nft_trace", "packet", "command:ip", "command:nft")

THERE = ["client eth0 out", "router c in", "router s out", "server eth0 in"]
BACK = ["server eth0 out", "router s in", "router c out", "client eth0 in"]
BOTH = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
FORWARD = "add table inet t; add chain inet t f {{ type filter hook forward priority 0; }}; add rule inet t f {}"


@BOTH
def test_every_interface_that_a_handshake_crosses_in_its_order(line: Line, family: int) -> None:
    evidence = line.ask("tcp", SERVER[family], TCP_PORT)
    assert evidence.reply.result == "connected"
    assert crossings(evidence) == THERE + BACK + THERE
    assert crossings(evidence, "SYN") == THERE
    assert crossings(evidence, "SYN,ACK") == BACK
    times = [one.time_ns for one in evidence.sightings]
    assert times == sorted(times)
    first = decoded(evidence.sightings[0]).packet
    assert (first.source, first.source_port) == (CLIENT[family], evidence.source_port)
    assert evidence.notes == ()


@BOTH
def test_an_answer_that_looks_like_nothing_known_is_found_by_its_addresses(line: Line, family: int) -> None:
    line.run("router", f"nft '{FORWARD.format('counter')}'")
    evidence = line.ask("udp", SERVER[family], UDP_PORT)
    assert (evidence.reply.result, evidence.reply.data) == ("answered", ANSWER)
    assert crossings(evidence) == THERE + BACK
    met = [event for event in evidence.events if event.kind == "rule"]
    assert [event.interface_in for event in met] == ["c", "s"], "the answer met the rule too"


@BOTH
def test_ping(line: Line, family: int) -> None:
    evidence = line.ask("icmp", SERVER[family])
    assert evidence.reply.result == "answered"
    assert crossings(evidence, "echo request") == THERE
    assert crossings(evidence, "echo reply") == BACK


@BOTH
@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_a_probe_in_pieces_has_its_whole_way(line: Line, protocol: str, family: int) -> None:
    evidence = line.ask(protocol, SERVER[family], UDP_PORT if protocol == "udp" else 0, size=3000)
    assert evidence.reply.result == "answered"
    assert crossings(evidence) == THERE + BACK, "of each packet its first piece"
    path = assemble(evidence, KernelReader(line.places), {})
    assert (path.verdict.outcome, path.answered_by) == ("delivered", "server")
    assert "first fragment" in path.hops[0].packet.note


def test_rules_of_nft_in_the_order_of_the_packet_with_their_words(line: Line) -> None:
    line.run(
        "router",
        """nft '
        table inet t {
            map targets {
                type ipv4_addr . inet_service : ipv4_addr . inet_service
                elements = { 10.9.9.9 . 8080 : 10.0.2.2 . 80, 10.9.9.8 . 8080 : 10.0.2.2 . 81 }
            }
            set many {
                type ipv4_addr; flags interval
                elements = { 10.0.2.0/24 }
            }
            chain services {
                udp dport 9 drop
                dnat ip to ip daddr . tcp dport map @targets
            }
            chain pre {
                type nat hook prerouting priority dstnat
                meta l4proto tcp goto services
            }
            chain forwarded {
                type filter hook forward priority filter; policy drop
                ip daddr @many counter accept comment "let in"
                ct state established accept
            }
            chain post {
                type nat hook postrouting priority srcnat
                oifname "s" masquerade random
            }
        }'""",
    )
    evidence = line.ask("tcp", "10.9.9.9", 8080)
    assert evidence.reply.result == "connected"
    assert rule_texts(evidence)[:4] == [
        "meta l4proto tcp goto services",
        "dnat ip to ip daddr . tcp dport map @targets",
        'ip daddr @many counter accept comment "let in"',
        'oifname "s" masquerade random',
    ]
    first = [event for event in evidence.events if event.kind == "rule"][:4]
    assert [(one.hook, one.priority) for one in first] == [
        ("prerouting", -100),
        ("prerouting", -100),
        ("forward", 0),
        ("postrouting", 100),
    ]
    assert [one.verdict for one in first] == ["goto services", "accept", "accept", "accept"]
    elements = [evidence.elements.get(at) for at, event in enumerate(evidence.events) if event in first]
    assert elements[1] == "10.9.9.9 . 8080 : 10.0.2.2 . 80"
    # After the masquerade the packet has a port that nobody knew beforehand.
    [entry] = evidence.conntrack["router"]
    assert f"src={CLIENT[4]} dst=10.9.9.9 sport={evidence.source_port} dport=8080" in entry
    assert "src=10.0.2.2 dst=10.0.2.1" in entry
    assert "ESTABLISHED" in entry


def test_a_rule_that_drops_is_the_last_and_the_kernel_says_netfilter(line: Line) -> None:
    line.run("router", f"nft '{FORWARD.format('tcp dport 80 drop')}'")
    evidence = line.ask("tcp", SERVER[4], TCP_PORT, timeout_s=0.3)
    assert evidence.reply.result == "timeout"
    assert crossings(evidence) == THERE[:2]
    last = evidence.events[-1]
    assert (last.place, last.hook, last.verdict) == ("router", "forward", "drop")
    assert rule_texts(evidence) == ["tcp dport 80 drop"]


@pytest.mark.needs("drop_reasons")
def test_drop_reasons_of_the_kernel(line: Line) -> None:
    line.run("router", f"nft '{FORWARD.format('tcp dport 80 drop')}'")
    evidence = line.ask("tcp", SERVER[4], TCP_PORT, timeout_s=0.3)
    assert "NETFILTER_DROP" in [drop.reason for drop in evidence.drops]
    assert all("+0x" in drop.function for drop in evidence.drops)
    refused = line.ask("tcp", SERVER[4], 9)
    assert refused.reply.result == "refused"
    assert "NO_SOCKET" in [drop.reason for drop in refused.drops]
    assert crossings(refused, "RST,ACK") == BACK


@BOTH
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_error_by_icmp_is_the_probes_too(line: Line, protocol: str, family: int) -> None:
    line.run("router", f"nft '{FORWARD.format('meta l4proto ' + protocol + ' reject')}'")
    evidence = line.ask(protocol, SERVER[family], TCP_PORT)
    assert evidence.reply.result == "refused"
    assert crossings(evidence, "port unreachable") == ["router c out", "client eth0 in"]
    errors = [one for one in evidence.sightings if decoded(one).is_error]
    assert decoded(errors[0]).packet.source == ROUTER[family]


def test_no_route_at_the_source(line: Line) -> None:
    line.run("client", "ip route del default")
    evidence = line.ask("tcp", SERVER[4], TCP_PORT)
    assert (evidence.reply.result, evidence.sightings) == ("unreachable", ())
    assert "unreachable" in evidence.reply.error


@BOTH
@pytest.mark.needs("iptables-nft")
def test_rules_of_iptables_over_nf_tables(line: Line, family: int) -> None:
    tool = {4: "iptables-nft", 6: "ip6tables-nft"}[family]
    line.run(
        "router", f'{tool} -N WEB; {tool} -A WEB -p udp -j DROP; {tool} -A WEB -m comment --comment "a b" -j ACCEPT'
    )
    line.run("router", f"{tool} -A FORWARD -p tcp --dport 80 -j WEB")
    evidence = line.ask("tcp", SERVER[family], TCP_PORT)
    met = [event for event in evidence.events if event.kind == "rule"]
    assert {event.backend for event in met} == {"iptables-nft"}
    assert rule_texts(evidence)[:2] == [
        "-A FORWARD -p tcp -m tcp --dport 80 -j WEB",
        '-A WEB -m comment --comment "a b" -j ACCEPT',
    ]
    assert [event.verdict for event in met[:2]] == ["jump WEB", "accept"]


@BOTH
@pytest.mark.needs("iptables-legacy")
@pytest.mark.parametrize("back_end", ["nft", "legacy"])
def test_what_to_look_at_next_shows_the_rule_that_dropped(line: Line, back_end: str, family: int) -> None:
    tool = {4: "iptables", 6: "ip6tables"}[family] + f"-{back_end}"
    line.run("router", f"{tool} -w -A FORWARD -p tcp --dport 80 -j DROP")
    evidence = line.ask("tcp", SERVER[family], TCP_PORT, timeout_s=0.1)
    verdict = assemble(evidence, KernelReader(line.places), {}).verdict
    assert (verdict.outcome, verdict.place) == ("dropped", "router")
    words, _, command = verdict.next.partition(" -- ")
    assert words == "netsim exec router"
    assert verdict.cause.partition(": ")[2] in line.run("router", command)


@BOTH
@pytest.mark.needs("iptables-legacy")
def test_rules_of_legacy_iptables(line: Line, family: int) -> None:
    tool = {4: "iptables-legacy", 6: "ip6tables-legacy"}[family]
    line.run("router", f"{tool} -w -N WEB; {tool} -w -A WEB -p udp -j DROP; {tool} -w -A WEB -j ACCEPT")
    line.run("router", f"{tool} -w -A FORWARD -p tcp --dport 80 -j WEB")
    before = line.run("router", "sysctl net.netfilter.nf_log.2 net.netfilter.nf_log.10")
    for _ in range(2):  # the second finds the log free again
        evidence = line.ask("tcp", SERVER[family], TCP_PORT)
        assert evidence.notes == ()
        assert rule_texts(evidence, hook="forward")[:2] == [
            "-A FORWARD -p tcp -m tcp --dport 80 -j WEB",
            "-A WEB -j ACCEPT",
        ]
        met = [event for event in evidence.events if event.kind == "rule"]
        assert [(event.backend, event.handle, event.interface_in) for event in met[:2]] == [
            ("iptables-legacy", 1, "c"),
            ("iptables-legacy", 2, "c"),
        ]
        assert line.run("router", "sysctl net.netfilter.nf_log.2 net.netfilter.nf_log.10") == before


@pytest.mark.needs("vxlan")
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_inside_vxlan(line: Line, protocol: str) -> None:
    """The client and the server are in one network of their own, over the router."""
    for place, other, number in (("client", SERVER, 1), ("server", CLIENT, 2)):
        line.run(place, f"ip link add vx type vxlan id 7 remote {other[4]} dstport 8472 dev eth0")
        line.run(place, f"ip addr add 10.7.0.{number}/24 dev vx; ip link set vx up")
    line.run("router", f"nft '{FORWARD.format('udp dport 8472 counter')}'")
    line.ask("icmp", "10.7.0.2")  # the neighbours are known from now on
    evidence = line.ask(protocol, "10.7.0.2", {"tcp": TCP_PORT, "udp": UDP_PORT, "icmp": 0}[protocol])
    assert evidence.reply.result in ("connected", "answered")
    there = ["client vx out", *THERE, "server vx in"]
    back = ["server vx out", *BACK, "client vx in"]
    assert crossings(evidence)[:12] == there + back
    at_router = decoded(next(one for one in evidence.sightings if one.place == "router")).packet
    assert at_router.vni == 7
    assert at_router.outer is not None
    assert (at_router.source, at_router.outer.source) == ("10.7.0.1", CLIENT[4])
    assert [event.interface_in for event in evidence.events if event.kind == "rule"][:2] == ["c", "s"]


def test_other_traffic_is_not_in_the_evidence(line: Line) -> None:
    """Other connections between the same two hosts, to the same port, before, during and after; and traced, too."""
    line.run("router", f"nft '{FORWARD.format('meta nftrace set 1')}'")
    stop = threading.Event()

    def chatter() -> None:
        datagrams = line.places["client"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        with datagrams:
            datagrams.settimeout(5.0)
            while not stop.is_set():
                datagrams.sendto(b"echo netsim-", (SERVER[4], UDP_PORT))
                datagrams.recv(100)
                with line.places["client"].socket(socket.AF_INET, socket.SOCK_STREAM) as other:
                    other.settimeout(5.0)
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    other.connect((SERVER[4], TCP_PORT))

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        for protocol, port in (("tcp", TCP_PORT), ("udp", UDP_PORT), ("icmp", 0)):
            evidence = line.ask(protocol, SERVER[4], port)
            assert crossings(evidence) == THERE + BACK + (THERE if protocol == "tcp" else []), protocol
            for sighting in evidence.sightings:
                packet = decoded(sighting).packet
                assert evidence.source_port in (packet.source_port, packet.destination_port)
            assert all(evidence.source_port in ports_of(event) for event in evidence.events if event.packet)
    finally:
        stop.set()
        thread.join()


def ports_of(event: RuleEvent) -> tuple[int, ...]:
    """Source and destination port, or the identifier of an echo."""
    header = (event.packet[0] & 15) * 4
    return tuple(int.from_bytes(event.packet[header + at : header + at + 2], "big") for at in (0, 2, 4))


def test_probes_side_by_side_do_not_mix(line: Line) -> None:
    line.run("router", f"nft '{FORWARD.format('counter')}'")
    found = []
    threads = [threading.Thread(target=lambda: found.append(line.ask("tcp", SERVER[4], TCP_PORT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for evidence in found:
        assert evidence.notes == ()
        assert crossings(evidence) == THERE + BACK + THERE
        assert rule_texts(evidence) == ["counter"] * 3


DROPPED = FORWARD.format("tcp dport 99 drop")
LONG_S = 60.0


@pytest.mark.parametrize("back_end", ["iptables-nft", "nft"])
def test_nothing_is_waited_for_once_a_rule_has_dropped_the_probe(
    line: Line, back_end: str, require_feature: Callable[[str], None]
) -> None:
    require_feature(back_end)
    rule = "iptables-nft -A FORWARD -p tcp --dport 99 -j DROP"
    line.run("router", f"nft '{DROPPED}'" if back_end == "nft" else rule)
    evidence = line.ask("tcp", SERVER[4], 99, timeout_s=LONG_S)
    assert evidence.reply.result == "timeout"
    assert evidence.events[-1].verdict == "drop"
    assert evidence.elapsed_ms < LONG_S * 1000 / 2


@BOTH
def test_a_datagrams_answer_that_a_rule_drops_is_not_waited_for(line: Line, family: int) -> None:
    line.run("router", f"nft '{FORWARD.format(f'udp sport {UDP_PORT} drop')}'")
    evidence = line.ask("udp", SERVER[family], UDP_PORT, timeout_s=LONG_S)
    assert evidence.reply.result == "timeout"
    assert crossings(evidence) == [*THERE, "server eth0 out", "router s in"]
    assert evidence.elapsed_ms < LONG_S * 1000 / 2


def test_an_answer_is_waited_for_while_another_probe_is_dropped(line: Line) -> None:
    line.run("router", f"nft '{DROPPED}'")
    dropped = threading.Event()
    with line.places["server"].socket(socket.AF_INET, socket.SOCK_DGRAM) as slow:
        slow.bind((SERVER[4], 99))

        def answer() -> None:
            _, peer = slow.recvfrom(100)
            for _ in range(3):  # each is waited for longer than what is said of a drop takes to be believed
                line.ask("tcp", SERVER[4], 99)
            dropped.set()
            slow.sendto(b"at last", peer)

        thread = threading.Thread(target=answer)
        thread.start()
        evidence = line.ask("udp", SERVER[4], 99, timeout_s=LONG_S)
        thread.join()
    assert dropped.is_set()
    assert (evidence.reply.result, evidence.reply.data) == ("answered", b"at last")
    assert crossings(evidence) == THERE + BACK


def test_a_source_that_is_no_place_and_an_address_that_is_none(line: Line) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        collect(Question("nowhere", "x", "tcp", SERVER[4], 80), line.places, "nowhere")
    with pytest.raises(UsageError, match="no address"):
        collect(Question("client", "x", "tcp", "server", 80), line.places, "client")
