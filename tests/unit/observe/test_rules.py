"""The rules that serve one Service, picked out of a namespace's by following them."""

import json

from netsim.observe.iptables_save import Condition, parse_counted_save, parse_spec
from netsim.observe.nft_listing import parse_listing
from netsim.observe.rules.choose import choose_service_rules
from netsim.observe.rules.model import Entry, Group, NodeRules, Rules, ServiceRules, Virtual
from netsim.observe.rules.read import parse_ipsets
from netsim.observe.rules.render import dump_rules, load_rules, render_rules
from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, VirtualServer

WEB = (Entry("ClusterIP", "10.96.0.1", 80, "tcp"), Entry("NodePort", "", 30080, "tcp"))
SAVE = """# Generated
*nat
:PREROUTING ACCEPT [5:300]
:POSTROUTING ACCEPT [0:0]
:SERVICES - [0:0]
:NODEPORTS - [0:0]
:MARK-MASQ - [0:0]
:MASQ - [0:0]
:WEB - [0:0]
:OTHER - [0:0]
[5:300] -A PREROUTING -m comment --comment "service portals" -j SERVICES
[1:60] -A POSTROUTING -j MASQ
[3:180] -A SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j WEB
[2:120] -A SERVICES -d 10.96.0.2/32 -p tcp -m tcp --dport 80 -j OTHER
[0:0] -A SERVICES -d 10.96.0.1/32 -p udp -m udp --dport 80 -j OTHER
[0:0] -A SERVICES -m addrtype --dst-type LOCAL -j NODEPORTS
[0:0] -A NODEPORTS -p tcp -m tcp --dport 30080 -j WEB
[0:0] -A NODEPORTS -p tcp -m tcp --dport 30081 -j OTHER
[0:0] -A MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[1:60] -A MASQ -m mark ! --mark 0x4000/0x4000 -j RETURN
[0:0] -A MASQ -j MASQUERADE
[1:60] -A WEB ! -s 10.244.0.0/16 -j MARK-MASQ
[3:180] -A WEB -p tcp -j DNAT --to-destination 10.244.0.5:8080
[0:0] -A OTHER -j MARK-MASQ
COMMIT
"""


def lines_of(groups: list[Group], name: str) -> list[str]:
    return [line.text for group in groups if group.name == name for line in group.lines]


def test_iptables_rules_are_found_by_following_them() -> None:
    groups = choose_service_rules(Rules(iptables={("iptables-nft", "ip"): parse_counted_save(SAVE)}), WEB)
    assert [group.name for group in groups] == [
        *("PREROUTING", "SERVICES", "WEB", "MARK-MASQ", "NODEPORTS", "POSTROUTING", "MASQ"),
    ]
    assert lines_of(groups, "SERVICES") == [
        "-A SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j WEB",
        "-A SERVICES -m addrtype --dst-type LOCAL -j NODEPORTS",
    ]
    assert len(lines_of(groups, "NODEPORTS")) == 1
    web = next(group for group in groups if group.name == "WEB")
    assert (web.lines[1].packets, web.lines[1].bytes, web.shared, web.way) == (3, 180, False, False)
    assert {group.name for group in groups if group.shared and not group.way} == {"MARK-MASQ", "MASQ"}


def test_a_rule_is_taken_apart_as_iptables_means_it() -> None:
    parts = parse_spec(
        '! -s 10.0.0.0/8 -m comment --comment "a -j \\"b\\"" -m set --match-set X dst,dst -j DNAT --to 1'
    )
    assert parts.target == "DNAT"
    assert parts.conditions[0] == Condition("-s", ("10.0.0.0/8",), True)
    assert Condition("--comment", ('a -j "b"',)) in parts.conditions
    assert Condition("--match-set", ("X", "dst,dst")) in parts.conditions
    assert parts.options == (Condition("--to", ("1",)),)


def _nft(*items: dict[str, object]) -> str:
    return json.dumps({"nftables": [{"table": {"family": "ip", "name": "t", "handle": 1}}, *items]})


def _chain(name: str, **more: object) -> dict[str, object]:
    return {"chain": {"family": "ip", "table": "t", "name": name, "handle": 1, **more}}


def _rule(chain: str, handle: int, *statements: object) -> dict[str, object]:
    return {"rule": {"family": "ip", "table": "t", "chain": chain, "handle": handle, "expr": list(statements)}}


def _map(name: str, kind: str, types: list[str], *elements: object, **more: object) -> dict[str, object]:
    return {kind: {"family": "ip", "table": "t", "name": name, "type": types, "elem": list(elements), **more}}


KEY = ["ipv4_addr", "inet_proto", "inet_service"]
NFT = _nft(
    _map(
        "services", "map", KEY,
        [{"concat": ["10.96.0.1", "tcp", 80]}, {"goto": {"target": "two"}}],
        [{"concat": ["10.96.0.2", "tcp", 80]}, {"goto": {"target": "one"}}],
        map="verdict",
    ),
    _map(
        "endpoints", "map", [*KEY, "mark"],
        [{"concat": ["10.96.0.1", "tcp", 80, 0]}, {"concat": ["10.244.0.5", 8080]}],
        [{"concat": ["10.96.0.1", "tcp", 80, 1]}, {"concat": ["10.244.1.5", 8080]}],
        [{"concat": ["10.96.0.2", "tcp", 80, 0]}, {"concat": ["10.244.0.6", 8080]}],
        map="ipv4_addr . inet_service",
    ),
    _chain("nat", type="nat", hook="prerouting", prio=-100, policy="accept"),
    _chain("one"), _chain("two"),
    _rule("nat", 5, {"vmap": {"key": "x", "data": "@services"}}),
    _rule("one", 6, {"dnat": {"addr": {"map": {"key": "x", "data": "@endpoints"}}}}),
    _rule("two", 7, {"counter": {"packets": 4, "bytes": 240}}, {"dnat": {"addr": {"map": {"data": "@endpoints"}}}}),
)  # fmt: skip
WORDS = "table ip t {\n\tchain two { # handle 3\n\t\tcounter packets 4 bytes 240 dnat to x # handle 7\n\t}\n}\n"


def test_elements_and_the_chains_they_lead_to() -> None:
    groups = choose_service_rules(Rules(parse_listing(NFT, WORDS)), WEB)
    assert [(group.kind, group.name, group.shared) for group in groups] == [
        ("map", "services", True),
        ("map", "endpoints", True),
        ("chain", "nat", True),
        ("chain", "two", False),
    ]
    assert lines_of(groups, "services") == ["10.96.0.1 . tcp . 80 : goto two"]
    assert lines_of(groups, "endpoints")[1] == "10.96.0.1 . tcp . 80 . 0x00000001 : 10.244.1.5 . 8080"
    assert [(line.text, line.packets, line.bytes) for line in groups[-1].lines] == [
        ("counter packets 4 bytes 240 dnat to x", 4, 240)
    ]


IPSETS = """create CLUSTER hash:ip,port family inet
add CLUSTER 10.96.0.1,tcp:80
add CLUSTER 10.96.0.2,tcp:80
create NODE-PORT-TCP bitmap:port range 0-65535
add NODE-PORT-TCP 30080
create LOOP hash:ip,port,ip family inet
add LOOP 10.244.0.5,tcp:8080,10.244.0.5
add LOOP 10.244.0.6,tcp:8080,10.244.0.6
create EMPTY hash:ip family inet
"""


def test_virtual_servers_and_the_sets_that_rules_ask() -> None:
    save = "*nat\n:OUTPUT ACCEPT [0:0]\n[1:2] -A OUTPUT -m set --match-set CLUSTER dst,dst -j ACCEPT\nCOMMIT\n"
    servers = {
        ServerKey("tcp", "10.96.0.1", 80): Virtual(
            VirtualServer(), {RealServer("10.244.0.5", 8080): RealState(1, 2, 3)}
        ),
        ServerKey("tcp", "172.18.0.2", 30080): Virtual(VirtualServer(), {}),
        ServerKey("tcp", "10.96.0.2", 80): Virtual(VirtualServer(), {}),
    }
    iptables = {("iptables-nft", "ip"): parse_counted_save(save)}
    groups = choose_service_rules(Rules({}, iptables, parse_ipsets(IPSETS), servers), WEB)
    assert [(group.kind, group.name) for group in groups] == [
        ("chain", "OUTPUT"),
        ("ipset", "CLUSTER"),
        ("ipset", "NODE-PORT-TCP"),
        ("ipset", "LOOP"),
        ("server", "-t 10.96.0.1:80 -s rr"),
        ("server", "-t 172.18.0.2:30080 -s rr"),
    ]
    assert lines_of(groups, "LOOP") == ["10.244.0.5,tcp:8080,10.244.0.5"]
    assert lines_of(groups, "-t 10.96.0.1:80 -s rr") == ["-r 10.244.0.5:8080 -m -w 1 (active 2, inactive 3)"]


def test_the_answer_as_json_and_as_text() -> None:
    groups = tuple(choose_service_rules(Rules(iptables={("iptables-nft", "ip"): parse_counted_save(SAVE)}), WEB))
    other = tuple(group for group in groups if group.name != "NODEPORTS")
    found = ServiceRules("svc/default/web", WEB, (NodeRules("a", groups), NodeRules("b", other), NodeRules("c", ())))
    assert load_rules(json.loads(json.dumps(dump_rules(found)))) == found
    text = render_rules(found)
    assert text.count("-j DNAT") == 1
    assert "all 6 as on node/a" in text
    assert "no rule or map element" in text
    narrow = render_rules(found, width=60).splitlines()
    assert max(map(len, narrow)) <= 60
    assert " ".join(" ".join(narrow).split()) == " ".join(text.split())
    at = narrow.index("    chain PREROUTING")
    assert narrow[at + 2 : at + 4] == [
        '      [5:300] -A PREROUTING -m comment --comment "service',
        '        portals" -j SERVICES',
    ]
