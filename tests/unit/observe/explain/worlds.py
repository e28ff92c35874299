"""A small world in memory: a node with two pods on a bridge, and a Service by iptables rules."""

from dataclasses import replace

from netsim.observe.explain.predict import Explainer, Explanation
from netsim.observe.explain.state import (
    Address,
    Forwarding,
    Link,
    Listener,
    Neighbour,
    NextHop,
    Place,
    PolicyRule,
    Route,
)
from netsim.observe.iptables_save import parse_counted_save
from netsim.observe.nft_listing import NftTables
from netsim.observe.path import Path, Question
from netsim.observe.rules.model import Rules

CLIENT, SERVER, NODE = "pod/default/client", "pod/default/web", "node/n1"
MAC = {NODE: "0a:00:00:00:00:01", CLIENT: "0a:00:00:00:00:02", SERVER: "0a:00:00:00:00:03"}
SERVICE = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:SVC - [0:0]
-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j SVC
-A SVC -s 10.244.0.3/32 -j MARK --set-xmark 0x4000/0x4000
-A SVC -p tcp -m tcp -j DNAT --to-destination 10.244.0.3:8080
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
"""
POLICY = tuple(PolicyRule(n, 4, "lookup", table) for n, table in ((0, 255), (32766, 254), (32767, 253)))


class MemoryWorld:
    """`netsim.observe.explain.state.World` over places that a test may change."""

    def __init__(self, places: dict[str, Place], peers: dict[tuple[str, int], tuple[str, int]]) -> None:
        self.places = places
        self._peers = peers | {there: here for here, there in peers.items()}

    def place(self, name: str) -> Place:
        return self.places[name]

    def peer(self, place: str, index: int) -> tuple[str, int] | None:
        return self._peers.get((place, index))


def make_rules(save: str = SERVICE, nft: NftTables | None = None) -> Rules:
    return Rules(nft or {}, {("iptables-nft", "ip"): parse_counted_save(save)} if save else {})


def make_pod(name: str, address: str) -> Place:
    return Place(
        name,
        links=[Link(1, "lo", ""), Link(2, "eth0", "veth", MAC[name])],
        addresses=[Address(1, "127.0.0.1", 8, 254), Address(2, address, 24)],
        routes=[
            Route(f"{address}/32", "local", 255, (NextHop(2),), address),
            Route("127.0.0.0/8", "local", 255, (NextHop(1),), "127.0.0.1"),
            Route("0.0.0.0/0", "unicast", 254, (NextHop(2, "10.244.0.1"),)),
            Route("10.244.0.0/24", "unicast", 254, (NextHop(2),), address),
        ],
        policy=POLICY,
        neighbours=[Neighbour(2, "10.244.0.1", MAC[NODE], "permanent")],
    )


def make_world(rules: Rules | None = None) -> MemoryWorld:
    """client 10.244.0.2 and web 10.244.0.3, which listens on 8080, behind a node that is 10.244.0.1."""
    node = Place(
        NODE,
        links=[
            Link(1, "lo", ""),
            Link(2, "cni0", "bridge", MAC[NODE]),
            Link(3, "veth2", "veth", "0a:00:00:00:01:02", master=2, hairpin=True),
            Link(4, "veth3", "veth", "0a:00:00:00:01:03", master=2, hairpin=True),
        ],
        addresses=[Address(2, "10.244.0.1", 24)],
        routes=[
            Route("10.244.0.1/32", "local", 255, (NextHop(2),), "10.244.0.1"),
            Route("10.244.0.0/24", "unicast", 254, (NextHop(2),), "10.244.0.1"),
        ],
        policy=POLICY,
        neighbours=[
            Neighbour(2, "10.244.0.2", MAC[CLIENT], "permanent"),
            Neighbour(2, "10.244.0.3", MAC[SERVER], "permanent"),
        ],
        forwarding=[Forwarding(3, MAC[CLIENT], 2), Forwarding(4, MAC[SERVER], 2)],
        sysctls={"ipv4.ip_forward": "1", "bridge.bridge-nf-call-iptables": "1"},
        rules=rules if rules is not None else make_rules(),
    )
    web = replace(make_pod(SERVER, "10.244.0.3"), listeners=[Listener("tcp", "0.0.0.0", 8080)])
    places = {NODE: node, CLIENT: make_pod(CLIENT, "10.244.0.2"), SERVER: web}
    return MemoryWorld(places, {(NODE, 3): (CLIENT, 2), (NODE, 4): (SERVER, 2)})


def explain(world: MemoryWorld, address: str = "10.96.0.1", port: int = 80, source: str = CLIENT) -> Explanation:
    question = Question(source, address, "tcp" if port else "icmp", address, port)
    return Explainer(world, {}).explain(question)


def change(world: MemoryWorld, place: str, **fields: object) -> MemoryWorld:
    """The same world with one place changed."""
    changed = replace(world.places[place], decisions={}, **fields)  # type: ignore[arg-type]
    world.places[place] = changed
    return world


def crossed(path: Path, leg: str) -> list[str]:
    return [f"{hop.place} {hop.interface}" for hop in path.hops if hop.kind == "interface" and hop.leg == leg]
