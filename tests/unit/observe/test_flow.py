"""Which packets belong to a probe's way there and back."""

from netsim.observe.evidence import Evidence, Reply, Sighting
from netsim.observe.flow import Flow
from netsim.observe.path import Question
from tests.unit.observe.test_own import ipv4

CLIENT, NODE, POD, ROUTER = "203.0.113.2", "172.18.0.3", "10.244.0.3", "203.0.113.1"
SYN, RST, ISN = 0x02, 0x04, 1000


def tcp(source: str, source_port: int, destination: str, port: int, flags: int) -> bytes:
    head = source_port.to_bytes(2) + port.to_bytes(2) + ISN.to_bytes(4) + bytes(4) + bytes((0x50, flags))
    return ipv4(source, destination, 6, head + bytes(6))


def error_about(packet: bytes) -> bytes:
    return ipv4(ROUTER, CLIENT, 1, bytes((3, 1, 0, 0, 0, 0, 0, 0)) + packet)


def legs(*packets: bytes) -> list[str]:
    sightings = tuple(
        Sighting("host/external", "eth0", "out", at, bytes(12) + b"\x08\0" + packet, 100)
        for at, packet in enumerate(packets)
    )
    question = Question("host/external", "", "tcp", NODE, 30080)
    evidence = Evidence(question, 40000, Reply("timeout"), sightings, (), (), {}, {}, (), 0.0)
    return [seen.leg for seen in Flow(evidence).read_sightings(sightings)]


def test_an_error_about_the_probe_comes_back() -> None:
    syn = tcp(CLIENT, 40000, NODE, 30080, SYN)
    assert legs(syn, error_about(syn)) == ["there", "back"]


def test_an_error_about_a_clients_reset_is_no_part_of_the_way() -> None:
    """The answer came from the pod, untranslated; what the client says to that leads nowhere."""
    syn, reset = tcp(CLIENT, 40000, NODE, 30080, SYN), tcp(CLIENT, 40000, POD, 8080, RST)
    assert legs(syn, reset, error_about(reset)) == ["there"]
