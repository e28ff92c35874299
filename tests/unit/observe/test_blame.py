"""What is blamed for a loss where the kernel's answers alone would mislead."""

from netsim.observe.blame import blame_size
from netsim.observe.case import Case
from netsim.observe.decode import Decoded
from netsim.observe.evidence import Evidence, Reply, Sighting
from netsim.observe.flow import Seen
from netsim.observe.journey import Journey, Pass
from netsim.observe.path import Hop, Packet, Question
from tests.unit.observe.recording import Lenient

NODE = "node/node-1"


class OneLink(Lenient):
    """Every route leads out of eth0, which has the usual MTU."""

    def route(self, *_words: str, **_named: object) -> str:
        return "default dev eth0"

    def link(self, _place: str, interface: str) -> str:
        return f"2: {interface} veth mtu 1500 link/ether 0a:58:ac:12:00:02"


def make_case(mtu: int) -> Case:
    """A datagram that was to go elsewhere than its destination says, and an error of that size."""
    packet = Packet("2001:db8:113::2", "fd00:172:18::2", "udp", 40000, 30080, length=1488)
    question = Question("host/external", "node/node-1:30080", "udp", packet.destination, 30080, 1440)
    evidence = Evidence(question, 40000, Reply("failed", "Message too long"), (), (), (), {}, {}, (), 1.0)
    error = Packet(packet.destination, packet.source, "icmpv6", note="packet too big")
    seen = Seen(Sighting(NODE, "eth0", "out", 0, b"", 0), Decoded(error, is_error=True, mtu=mtu), "back")
    journey = Journey((), (Pass(NODE, "back", outs=[seen]),))
    there = Hop(NODE, "there", "interface", packet, interface="eth0", direction="in")
    return Case(evidence, OneLink({}), journey, (there,), ())


def test_the_mtu_of_a_link_that_was_not_seen_is_the_one_the_error_tells() -> None:
    """A rule sent it into a tunnel; by its old destination it would have left by another link."""
    cause = blame_size(make_case(1450), NODE).cause
    assert cause == "1488 bytes are more than 1450, the MTU of the link it was to leave by"


def test_the_link_is_named_where_it_is_that_one() -> None:
    assert blame_size(make_case(1500), NODE).cause == "1488 bytes are more than the MTU of eth0, 1500"
