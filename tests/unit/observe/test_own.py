"""Which packets of the rule trace are the probe's."""

from ipaddress import ip_address

from netsim.observe.evidence import Sighting
from netsim.observe.own import Own
from netsim.observe.signature import make_signature

NODE, TUNNEL, SERVICE, POD = "172.18.0.2", "10.244.0.0", "10.96.1.2", "10.244.1.2"
ASKED = ("udp", SERVICE, 81)


def ipv4(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    head = bytes((0x45, 0)) + (20 + len(body)).to_bytes(2) + bytes(4) + bytes((64, protocol, 0, 0))
    return head + ip_address(source).packed + ip_address(destination).packed + body


def udp(source: str, source_port: int, destination: str, port: int) -> bytes:
    """As the rule trace gives it: cut before the tag."""
    body = source_port.to_bytes(2) + port.to_bytes(2) + bytes((0, 35, 0, 0)) + b"echo netsim-"
    return ipv4(source, destination, 17, body)


def make_own(*frames: bytes) -> Own:
    sightings = [Sighting("node/node-1", "vxlan0", "out", 1, bytes(12) + b"\x08\0" + frame, 100) for frame in frames]
    return Own(make_signature("udp", 4, 81, 0xABCD), sightings, ASKED, 40000)


def test_a_probe_that_its_own_node_translates_is_its_own_before_too() -> None:
    own = make_own(udp(TUNNEL, 52000, POD, 8081))
    assert own.has(udp(NODE, 40000, SERVICE, 81))  # at output
    assert own.has(udp(NODE, 40000, POD, 8081))  # at postrouting
    assert own.has(udp(TUNNEL, 52000, POD, 8081))


def test_a_probe_that_no_interface_saw_is_its_own() -> None:
    error = ipv4(NODE, NODE, 1, bytes((3, 3, 0, 0, 0, 0, 0, 0)) + udp(NODE, 40000, SERVICE, 81))
    own = make_own(error)
    assert own.has(udp(NODE, 40000, SERVICE, 81))
    assert not own.has(ipv4(NODE, "10.0.0.1", 1, bytes((8, 0, 0, 0, 0, 1, 0, 1))))


def test_others_to_the_same_service_are_not() -> None:
    own = make_own(udp(TUNNEL, 52000, POD, 8081))
    assert not own.has(udp(NODE, 40001, SERVICE, 81))
    assert not own.has(udp(NODE, 40001, POD, 8081))
