"""Paths as text: the tree, what is left out of it, colours only where asked for."""

import re
from dataclasses import replace

from netsim.observe.path import RuleHit
from netsim.observe.pathhtml import render_html
from netsim.observe.pathtext import choose_telling, render_spread_text, render_text
from netsim.observe.spread import Spread
from tests.unit.observe.test_path_json import make_path

TEXT = """\
pod/default/client to svc/default/web:80 (10.96.0.1:80), tcp

there
  pod/default/client
  └─ out eth0       10.0.0.1:40000 > 10.96.0.1:80 (svc/default/web:http) tcp SYN, ttl 64
  node/node-1
  ├─ dnat           destination 10.96.0.1:80 (svc/default/web:http) is now 10.244.0.3:8080
  ├─ route          10.244.0.0/24 dev cni0
  ├─ encapsulate    VXLAN 1: 172.18.0.2:5 > 172.18.0.3:8472
  ├─ conntrack      tcp 6 ...
  └─ lost           gone

dropped at node/node-1: gone (2 ms)
next: look there
note: dim"""


def test_a_path_is_a_tree() -> None:
    assert render_text(make_path()) == TEXT


def test_everything_has_rules_that_led_nowhere() -> None:
    assert "prerouting     ip nat PREROUTING: -j X" in render_text(make_path(), everything=True)


def test_colours_are_asked_for() -> None:
    assert "\x1b[" not in render_text(make_path())
    assert "\x1b[31;1mdropped\x1b[0m" in render_text(make_path(), colour=True)


NARROW = """\
pod/default/client to svc/default/web:80
  (10.96.0.1:80), tcp

there
  pod/default/client
  └─ out eth0       10.0.0.1:40000 >
                      10.96.0.1:80
                      (svc/default/web:htt
                      p) tcp SYN, ttl 64
  node/node-1
  ├─ prerouting     ip nat PREROUTING: -j
  │                   X
  ├─ dnat           destination
  │                   10.96.0.1:80
  │                   (svc/default/web:htt
  │                   p) is now
  │                   10.244.0.3:8080
  ├─ route          10.244.0.0/24 dev cni0
  ├─ encapsulate    VXLAN 1: 172.18.0.2:5
  │                   > 172.18.0.3:8472
  ├─ conntrack      tcp 6 ...
  └─ lost           gone

dropped at node/node-1: gone (2 ms)
next: look there
note: dim"""


def test_a_width_folds_lines_beside_the_bars_of_the_tree() -> None:
    assert render_text(make_path(), everything=True, width=42) == NARROW
    assert render_text(make_path(), width=200) == TEXT
    coloured = render_text(make_path(), everything=True, width=42, colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == NARROW


def test_what_is_to_be_done_next_is_whole_to_be_copied() -> None:
    command = "netsim exec node/node-1 -- " + "nft list ruleset " * 10
    path = make_path()
    path = replace(path, verdict=replace(path.verdict, next=command, cause="of much " * 10), notes=("much " * 12,))
    lines = render_text(path, width=42).splitlines()
    assert f"next: {command}" in lines
    assert max(len(line) for line in lines if not line.startswith("next: ")) <= 42
    end = lines.index(f"next: {command}")
    assert lines[end - 2].startswith("  ")
    assert lines[end + 1].startswith("note: ")
    assert lines[end + 2].startswith("  ")


def test_a_rule_that_drops_is_red_to_its_end() -> None:
    rule = RuleHit("ip", "filter", "FORWARD", "-j DROP", "drop", element="x")
    path = make_path()
    hook = next(hop for hop in path.hops if hop.kind == "hook")
    text = render_text(replace(path, hops=(replace(hook, rules=(rule,)),)), colour=True)
    assert "\x1b[31;1mip filter FORWARD: -j DROP  { x }\x1b[0m" in text


def test_a_long_name_of_an_interface_stands_apart_from_what_follows() -> None:
    path = make_path()
    text = render_text(replace(path, hops=(replace(path.hops[0], interface="veth80f0ebf9702"),)))
    assert "└─ out veth80f0ebf9702 10.0.0.1:40000 >" in text


def test_jumps_are_kept_that_led_somewhere() -> None:
    jump = RuleHit("ip", "nat", "PREROUTING", "-j A", "jump A")
    nowhere = RuleHit("ip", "nat", "A", "-j B", "jump B")
    hit = RuleHit("ip", "nat", "A", "-j DNAT", "dnat")
    policy = RuleHit("ip", "filter", "FORWARD", "policy accept", "accept")
    drop = replace(policy, text="policy drop", verdict="drop")
    assert choose_telling([jump, nowhere, hit, policy]) == [jump, hit]
    assert choose_telling([jump, nowhere]) == []
    assert choose_telling([policy, drop]) == [drop]


def test_several_probes_say_how_they_were_spread() -> None:
    spread = Spread()
    for name in ("web-1", "web-2", "web-1"):
        spread.add(replace(make_path(), answered_by=f"pod/default/{name}"))
    text = render_spread_text(spread)
    assert "way 1: 2 of 3 probes" in text
    assert text.endswith("  pod/default/web-1     2  67 %\n  pod/default/web-2     1  33 %")


def test_ways_differ_by_what_happened_and_not_by_chance() -> None:
    path = make_path()
    other = replace(path.hops[0], packet=replace(path.hops[0].packet, source_port=41000), time_ns=99)
    spread = Spread()
    spread.add(path)
    spread.add(replace(path, hops=(other, *path.hops[6:])))
    assert len(spread.groups) == 2
    same = tuple(
        replace(hop, packet=replace(hop.packet, source_port=41000), before=None, time_ns=None) for hop in path.hops
    )
    spread.add(replace(path, hops=same, elapsed_ms=9.0))
    assert [group.count for group in spread.groups] == [2, 1]


def test_a_rule_can_not_end_the_page() -> None:
    rule = RuleHit("ip", "nat", "X", '-m comment --comment "</script><script>alert(1)</script><!--"', "continue")
    path = make_path()
    spread = Spread()
    spread.add(replace(path, hops=(path.hops[0], replace(path.hops[1], rules=(rule,)))))
    page = render_html(spread)
    assert page.count("</script>") == 1
    assert "alert(1)</" not in page
    assert "/*NETSIM-DATA*/" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "").replace(":http", "")
