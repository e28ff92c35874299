"""``netsim explain`` and ``netsim rules`` as programs: what they print and refuse."""

import json
from importlib.resources import files

import pytest

from tests.json_schema import find_faults
from tests.kernel.cli.conftest import Netsim

PING = ("node/node-1", "node/node-2", "--protocol", "icmp")
SCHEMA = json.loads(files("netsim.observe").joinpath("path.schema.json").read_text(encoding="utf-8"))


def test_every_way_to_a_service_is_told(deployed: Netsim) -> None:
    text = deployed("explain", "pod/client", "svc/web").stdout
    assert text.startswith("one of 2 ways: 1, 50%\npod/default/client to svc/default/web (10.96.")
    assert text.count("50%  delivered by pod/default/web-") == 2
    assert deployed("explain", "pod/client", "svc/web", "--all-ways").stdout.count("one of 2 ways") == 2


def test_json_has_paths_as_trace_has_them(deployed: Netsim) -> None:
    found = deployed.json("explain", "pod/client", "svc/web:http")
    assert (found["complete"], found["notes"]) == (True, [])
    assert [way["probability"] for way in found["ways"]] == [0.5, 0.5]
    for way in found["ways"]:
        assert find_faults(SCHEMA, way["path"]) == []
    traced = deployed.json("trace", "pod/client", "svc/web:http")
    assert traced["answeredBy"] in {way["path"]["answeredBy"] for way in found["ways"]}


def test_nothing_is_sent(deployed: Netsim) -> None:
    def count() -> str:
        return deployed("exec", "pod/client", "--", "cat", "/sys/class/net/eth0/statistics/tx_packets").stdout

    before = count()
    deployed("explain", "pod/client", "svc/web")
    assert count() == before


def test_rules_of_a_kind_that_is_not_modelled_are_noted(deployed: Netsim) -> None:
    deployed("exec", "node/node-2", "--", "nft", "add table arp mine")
    try:
        found = deployed.json("explain", "node/node-1", "node/node-2", "--protocol", "icmp")
    finally:
        deployed("exec", "node/node-2", "--", "nft", "delete table arp mine")
    assert found["notes"] == ["node/node-2: the rules of nft table arp mine are not modelled"]


def test_the_rule_of_a_partition_is_told(deployed: Netsim) -> None:
    """It is one of the fabric's bridge."""
    deployed("fault", "partition", "node/node-1", "node/node-2")
    try:
        found = json.loads(deployed("explain", *PING, "-o", "json", status=1).stdout)
        text = deployed("explain", *PING, status=1).stdout
    finally:
        deployed("fault", "undo", "--all")
    path = found["ways"][0]["path"]
    assert find_faults(SCHEMA, path) == []
    assert (path["verdict"]["outcome"], path["verdict"]["place"], found["notes"]) == ("dropped", "fabric", [])
    (hook,) = [hop for hop in path["hops"] if hop["place"] == "fabric" and hop["kind"] == "hook"]
    assert (hook["hook"], hook["rules"][0]["family"]) == ("forward", "bridge")
    assert "forward        bridge netsim-fault-" in text


def test_what_is_to_be_done_next_can_be_done_in_the_fabric_too(deployed: Netsim) -> None:
    said = deployed("explain", "pod/client", "192.0.2.9:80", status=1).stdout
    assert "next: echo 'ip route' | netsim shell" in said


@pytest.mark.parametrize(
    ("target", "words"),
    [("node/node-2:9", "refused by node/node-2: nobody listens on tcp port 9"), ("192.0.2.9:80", "no route at fabric")],
)
def test_what_is_not_delivered_is_status_1(deployed: Netsim, target: str, words: str) -> None:
    assert words in deployed("explain", "pod/client", target, status=1).stdout


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("explain", "pod/nope", "svc/web"), 1, 'pods "nope" not found'),
        (("explain", "pod/client", "svc/nope"), 1, 'services "nope" not found'),
        (("explain", "pod/client", "svc/web:nope"), 2, 'no port "nope"'),
        (("explain", "pod/client", "frog"), 2, '"frog" is no target'),
        (("explain", "pod/client", "node/node-1"), 2, "which port?"),
        (("explain", "pod/client", "svc/web", "--ip-family", "ipv6"), 1, "no IPv6 address"),
        (("rules", "svc/nope"), 1, 'services "nope" not found'),
        (("rules", "svc/web", "--node", "nope"), 1, 'there is no node "nope"'),
        (("rules", "pod/client"), 2, "is no Service"),
        (("rules", "svc/web:80"), 2, "a whole Service"),
    ],
)
def test_what_can_not_be_meant_is_refused(deployed: Netsim, argv: tuple[str, ...], status: int, words: str) -> None:
    done = deployed(*argv, status=status)
    assert words in done.stderr
    assert done.stdout == ""


def test_rules_of_one_service(deployed: Netsim) -> None:
    text = deployed("rules", "web").stdout
    assert text.startswith("svc/default/web  ClusterIP 10.96.")
    assert text.count("-j DNAT --to-destination 10.244.") == 2
    assert "kube-dns" not in text
    assert "as on node/node-1" in text


def test_rules_as_json_have_counters_that_grow(deployed: Netsim) -> None:
    def count() -> int:
        groups = [group for node in deployed.json("rules", "svc/web")["nodes"] for group in node["groups"]]
        return sum(line["packets"] for group in groups for line in group["lines"] if "-j DNAT" in line["text"])

    before = count()
    deployed("exec", "pod/client", "--", "curl", "-s", "http://web")
    assert count() == before + 1
