"""Frames that a bridge sends out of all its ports, in whatever order their copies arrive."""

from typing import Literal

import pytest

from netsim.observe.decode import Decoded
from netsim.observe.evidence import Sighting
from netsim.observe.flooding import without_copies
from netsim.observe.flow import Seen
from netsim.observe.journey import Pass
from netsim.observe.path import Packet
from tests.unit.observe.recording import Lenient

MACS = {"web": "0a:58:0a:f4:00:03", "dns": "0a:58:0a:f4:00:02", "late": "0a:58:0a:f4:00:09"}
PORTS = {"to-client": 10, "to-web": 11, "to-dns": 12, "to-late": 13}


class Links(Lenient):
    """A node with a bridge that pods hang on: eth0 of each is the other end of a port."""

    def link(self, place: str, interface: str) -> str:
        if place == "node/node-1":
            return f"{PORTS[interface]}: {interface}@if2 veth mtu 1500 master cni0 hairpin on"
        pod = place.rpartition("/")[2]
        return f"2: eth0@if{PORTS[f'to-{pod}']} veth mtu 1500 link/ether {MACS.get(pod, '0a:58:0a:f4:00:04')}"


def see(place: str, interface: str, direction: Literal["in", "out"], ttl: int = 64) -> Seen:
    packet = Packet("10.244.0.4", "10.244.0.3", "udp", 40000, 80, ttl=ttl, destination_mac=MACS["web"])
    return Seen(Sighting(place, interface, direction, 0, b"", 60), Decoded(packet), "there")


def leave(*ports: str) -> Pass:
    return Pass("node/node-1", "there", outs=[see("node/node-1", port, "out") for port in ports])


def hear(pod: str) -> Pass:
    return Pass(f"pod/default/{pod}", "there", ins=[see(f"pod/default/{pod}", "eth0", "in")])


@pytest.mark.parametrize(
    "flood",
    [
        [leave("to-web"), hear("web"), leave("to-dns"), hear("dns"), leave("to-late"), hear("late")],
        [leave("to-dns"), hear("dns"), leave("to-web"), hear("web"), leave("to-late"), hear("late")],
        [leave("to-dns"), hear("dns"), leave("to-late"), hear("late"), leave("to-web"), hear("web")],
        [leave("to-dns", "to-web", "to-late"), hear("web"), hear("dns"), hear("late")],
    ],
)
def test_the_way_is_the_one_to_whom_it_was_for(flood: list[Pass]) -> None:
    sent = Pass("pod/default/client", "there", outs=[see("pod/default/client", "eth0", "out")])
    came, *rest = flood
    came.ins.append(see("node/node-1", "to-client", "in"))
    way = without_copies([sent, came, *rest], Links({}))
    crossed = [(one.place, [seen.sighting.interface for seen in (*one.ins, *one.outs)]) for one in way]
    assert crossed == [
        ("pod/default/client", ["eth0"]),
        ("node/node-1", ["to-client", "to-web"]),
        ("pod/default/web", ["eth0"]),
    ]


def test_a_second_round_through_the_same_place_stays() -> None:
    """A routing loop: the TTL is another one."""
    round_ = Pass("node/node-1", "there", outs=[see("node/node-1", "to-web", "out", ttl=62)])
    came = leave("to-dns")
    came.ins.append(see("node/node-1", "to-client", "in"))
    way = without_copies([came, hear("dns"), round_], Links({}))
    assert [seen.packet.ttl for one in way for seen in one.outs] == [64, 62]
