"""Small worlds in memory: a node with two pods on a bridge, and a Service by iptables rules; two nodes and a tunnel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
from netsim.observe.nft_listing import NftChain, NftRule, NftTable, NftTables
from netsim.observe.path import Path, Question
from netsim.observe.rules.model import Rules

CLIENT, SERVER, NODE, OTHER = "pod/default/client", "pod/default/web", "node/n1", "node/n2"
TO_POD, TO_NODE, FROM_NODE = (CLIENT, "10.244.0.3", 8080), (CLIENT, "10.244.0.1", 0), (NODE, "10.244.0.3", 8080)
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


DROP = {"drop": None}


def meta(key: str, value: Any, operator: str = "==") -> dict[str, Any]:
    """``meta KEY VALUE`` as libnftables writes it."""
    return {"match": {"op": operator, "left": {"meta": {"key": key}}, "right": value}}


def header(protocol: str, field: str, value: Any) -> dict[str, Any]:
    """``PROTOCOL FIELD VALUE``."""
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": value}}


def draw(operator: str, value: Any, most: int, offset: int = 0) -> dict[str, Any]:
    """``numgen random mod MOST offset OFFSET OPERATOR VALUE``."""
    left = {"numgen": {"mode": "random", "mod": most, "offset": offset}}
    return {"match": {"op": operator, "left": left, "right": value}}


def make_chain(
    family: str, hook: str, *statements: Any, priority: int = -200, devices: Sequence[str] = ()
) -> NftTables:
    """A table "t" of one base chain "c", which has one rule "the rule"."""
    rule = NftRule(7, statements, "the rule counter packets 1 bytes 60")
    chain = NftChain("c", "filter", hook, priority, devices=tuple(devices), rules=[rule])
    return {(family, "t"): NftTable(family, "t", chains={"c": chain})}


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


def make_known(rules: Rules | None = None) -> MemoryWorld:
    """The world where pods know each other, so that nobody asks for a neighbour."""
    world = make_world(rules)
    for place, other, address in ((CLIENT, SERVER, "10.244.0.3"), (SERVER, CLIENT, "10.244.0.2")):
        known = Neighbour(2, address, MAC[other], "permanent")
        world = change(world, place, neighbours=[*world.places[place].neighbours, known])
    return world


def with_nft(tables: NftTables, place: str = NODE, world: MemoryWorld | None = None) -> MemoryWorld:
    world = world or make_known()
    return change(world, place, rules=replace(world.places[place].rules, nft=tables))


def the_path(world: MemoryWorld, question: tuple[str, str, int] = TO_POD) -> Path:
    source, address, port = question
    found = explain(world, address, port, source)
    assert len(found.ways) == 1
    return found.path


def make_tunnel() -> MemoryWorld:
    """Two nodes 172.18.0.1 and .2, and between their vxlan0, 10.9.0.1 and .2, a tunnel."""
    places = {}
    for name, own, other in ((NODE, 1, 2), (OTHER, 2, 1)):
        places[name] = Place(
            name,
            links=[
                Link(1, "lo", ""),
                Link(2, "eth0", "veth", f"0a:00:00:00:00:0{own}"),
                Link(3, "vxlan0", "vxlan", f"0a:00:00:00:09:0{own}", 1450, vni=1, port=8472, local=f"172.18.0.{own}"),
            ],
            addresses=[Address(2, f"172.18.0.{own}", 24), Address(3, f"10.9.0.{own}", 24)],
            routes=[
                Route(f"172.18.0.{own}/32", "local", 255, (NextHop(2),), f"172.18.0.{own}"),
                Route(f"10.9.0.{own}/32", "local", 255, (NextHop(3),), f"10.9.0.{own}"),
                Route("172.18.0.0/24", "unicast", 254, (NextHop(2),), f"172.18.0.{own}"),
                Route("10.9.0.0/24", "unicast", 254, (NextHop(3),), f"10.9.0.{own}"),
            ],
            policy=POLICY,
            neighbours=[Neighbour(3, f"10.9.0.{other}", f"0a:00:00:00:09:0{other}", "permanent")],
            forwarding=[Forwarding(3, f"0a:00:00:00:09:0{other}", remote=f"172.18.0.{other}")],
        )
    return MemoryWorld(places, {(NODE, 2): (OTHER, 2)})
