"""Port mappings, masquerading and limits with real packets, built in and as plugins further down the chain."""

import contextlib
import socket
import time
from typing import Any

import pytest

from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.rtnl import Rtnl, new_address, new_route, new_veth, set_link
from tests.kernel.cni.place import Failed, Place

pytestmark = pytest.mark.needs("netns", "nft")


def tcp_peer(client: Netns, target: tuple[str, int], server: Netns, port: int) -> str:
    """The client address that a server sees. Raises OSError if the connection fails."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listener, client.socket(family, socket.SOCK_STREAM) as source:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.listen()
        listener.settimeout(2)
        source.settimeout(2)
        source.connect(target)
        connection, peer = listener.accept()
        with connection:
            connection.sendall(b"x")
            assert source.recv(1) == b"x"
        return str(peer[0])


@pytest.fixture
def outside(place: Place) -> Any:
    """A host beyond the node: 203.0.113.2, with the node at 203.0.113.1, and no route to the containers."""
    with Netns.create("outside") as ns:
        with Rtnl(place.node) as node:
            node.batch([new_veth("out0", peer="eth0", peer_netns_fd=ns.fd)])
            index = node.link("out0")
            assert index is not None
            node.batch([new_address("203.0.113.1/24", index.ifindex)])
        with Rtnl(ns) as rtnl:
            index = rtnl.link("eth0")
            assert index is not None
            rtnl.batch([set_link(index.ifindex, up=True), new_address("203.0.113.2/24", index.ifindex)])
        yield ns


def mapped(place: Place, *mappings: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return place.config(runtimeConfig={"portMappings": list(mappings)}, hairpinMode=True, **keys)


WEB = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}


def test_a_mapped_port_from_everywhere(place: Place, outside: Netns) -> None:
    config = mapped(place, WEB)
    result = place.program("ADD", config=config)
    place.call("ADD", "c2")
    c1, c2 = place.container("c1"), place.container("c2")
    seen = {
        "outside": tcp_peer(outside, ("203.0.113.1", 8080), c1, 80),
        "other container": tcp_peer(c2, ("203.0.113.1", 8080), c1, 80),
        "hairpin": tcp_peer(c1, ("203.0.113.1", 8080), c1, 80),
        "node": tcp_peer(place.node, ("203.0.113.1", 8080), c1, 80),
        "localhost": tcp_peer(place.node, ("127.0.0.1", 8080), c1, 80),
    }
    assert seen == {
        "outside": "203.0.113.2",  # kept
        "other container": "10.1.2.1",  # through the node, or the answer would not come back through it
        "hairpin": "10.1.2.1",
        "node": "203.0.113.1",
        "localhost": "10.1.2.1",
    }
    place.call("CHECK", config={**config, "prevResult": result})
    place.program("DEL", config=config)
    with pytest.raises(OSError, match=r"refused|timed out"):
        tcp_peer(outside, ("203.0.113.1", 8080), c1, 80)


def test_a_mapping_of_one_address_only(place: Place, outside: Netns) -> None:
    place.call("ADD", config=mapped(place, {**WEB, "hostIP": "127.0.0.1"}, {**WEB, "hostIP": "::1"}))
    c1 = place.container("c1")
    assert tcp_peer(place.node, ("127.0.0.1", 8080), c1, 80) == "10.1.2.1"
    with pytest.raises(OSError, match=r"refused|timed out"):
        tcp_peer(outside, ("203.0.113.1", 8080), c1, 80)


def test_ipv6_mappings(place: Place) -> None:
    config = mapped(place, WEB, ipam={"subnet": "fd00:1::/64"})
    config["prevResult"] = place.call("ADD", config=config)
    place.call("ADD", "c2", place.config(ipam={"subnet": "fd00:1::/64"}))
    assert tcp_peer(place.container("c2"), ("fd00:1::1", 8080), place.container("c1"), 80) == "fd00:1::1"
    place.call("CHECK", config=config)


def test_a_port_of_another_container_is_refused_by_name(place: Place) -> None:
    config = mapped(place, WEB, ipMasq=True)
    place.call("ADD", config=config)
    with pytest.raises(Failed) as failure:
        place.call("ADD", "c2", config)
    assert failure.value.code == 103
    assert failure.value.error["msg"] == "host port tcp 8080 is mapped to another container already"
    assert place.addresses_taken() == ["10.1.2.2"]
    assert len(place.ports()) == 1
    place.call("DEL", "c2", config)
    assert "10.1.2.2:80" in place.rules()


def test_udp_goes_on_when_another_container_takes_the_port_over(place: Place, outside: Netns) -> None:
    mapping = {"hostPort": 53, "containerPort": 5353, "protocol": "udp"}
    with outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("203.0.113.1", 53))
        client.settimeout(2)
        for name in ("c1", "c2"):
            config = mapped(place, mapping)
            place.call("ADD", name, config)
            with place.container(name).socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind(("", 5353))
                server.settimeout(2)
                client.send(name.encode())
                assert server.recv(10) == name.encode()
            place.call("DEL", name, config)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("flush map inet netsim-cni hostport4", "leads nowhere"),
        ("flush chain inet netsim-cni CHAIN", "rules are missing"),
        ("flush chain inet netsim-cni prerouting", "has lost its rules"),
        ("delete element inet netsim-cni masquerade4 { 10.1.2.2 }", "no masquerading for 10.1.2.2/24"),
        ("flush chain inet netsim-cni postrouting", "has lost its rules"),
        ("delete table inet netsim-cni", "no masquerading"),
    ],
)
def test_check_finds_missing_rules(place: Place, damage: str, words: str) -> None:
    config = mapped(place, WEB, ipMasq=True)
    config["prevResult"] = place.call("ADD", config=config)
    place.call("CHECK", config=config)
    rules = place.rules()
    chain = rules[rules.index("hp-") :].split(" ", 1)[0].split()[0]
    with Nft(place.node) as nft:
        nft.run(damage.replace("CHAIN", chain) + "\n")
    with pytest.raises(Failed, match=words) as failure:
        place.call("CHECK", config=config)
    assert failure.value.code == 101


def test_check_before_add_and_after_del_fails(place: Place) -> None:
    config = mapped(place, WEB)
    result = place.call("ADD", config=config)
    place.call("DEL", config=config)
    with pytest.raises(Failed):
        place.call("CHECK", config={**config, "prevResult": result})


def test_masquerading_of_what_leaves_and_of_nothing_else(place: Place, outside: Netns) -> None:
    place.call("ADD", config=place.config(ipMasq=True))
    place.call("ADD", "c2", place.config(ipMasq=True))
    c1, c2 = place.container("c1"), place.container("c2")
    assert tcp_peer(c1, ("203.0.113.2", 80), outside, 80) == "203.0.113.1"
    assert tcp_peer(c1, ("10.1.2.3", 80), c2, 80) == "10.1.2.2"
    assert tcp_peer(c1, ("10.1.2.1", 80), place.node, 80) == "10.1.2.2"


def test_without_masquerading_the_source_is_kept(place: Place, outside: Netns) -> None:
    place.call("ADD", config=place.config())
    with Rtnl(outside) as rtnl:
        rtnl.batch([new_route("10.1.2.0/24", via="203.0.113.1")])
    assert tcp_peer(place.container("c1"), ("203.0.113.2", 80), outside, 80) == "10.1.2.2"


def test_two_ranges_masquerade_each_address(place: Place, outside: Netns) -> None:
    config = place.config(ipMasq=True, isDefaultGateway=False, isGateway=False)
    config["ipam"]["ranges"] = [[{"subnet": "10.3.0.0/24"}]]
    config["prevResult"] = place.call("ADD", config=config)
    rules = place.rules()
    assert "10.1.2.2 " in rules
    assert "10.3.0.2 " in rules
    place.call("CHECK", config=config)
    place.call("DEL", config=config)
    place.assert_nothing_left()


# -- as a plugin further down the chain


def test_chained_mappings_and_limits_work_on_the_previous_result(place: Place) -> None:
    main = place.config(cniVersion="1.0.0")
    previous = place.program("ADD", config=main)
    chained = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "portmap",
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": [WEB], "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000}},
        "prevResult": previous,
    }
    final = place.program("ADD", config=chained)
    assert final == previous
    assert tcp_peer(place.node, ("127.0.0.1", 8080), place.container("c1"), 80) == "10.1.2.1"
    place.program("CHECK", config=chained)
    place.program("DEL", config=chained)
    assert "hp-" not in place.rules()
    assert place.addresses_taken() == ["10.1.2.2"]
    place.program("DEL", config={**main, "prevResult": final})
    place.assert_nothing_left()


def test_gc_of_a_chained_plugin_sweeps_mappings_and_keeps_masquerading(place: Place) -> None:
    main = place.config(ipMasq=True)
    previous = {name: place.call("ADD", name, main) for name in ("c1", "c2")}
    chained = {"cniVersion": "1.1.0", "name": "net", "type": "portmap"}
    for name, port in (("c1", 8081), ("c2", 8082)):
        ports = {"portMappings": [{**WEB, "hostPort": port}]}
        place.call("ADD", name, {**chained, "prevResult": previous[name], "runtimeConfig": ports})
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    place.call("GC", config={**chained, "cni.dev/valid-attachments": valid})
    rules = place.rules()
    assert "10.1.2.2 " in rules
    assert "tcp . 8081" in rules
    assert "8082" not in rules


def test_chained_without_anything_to_do_passes_the_result_on(place: Place) -> None:
    previous = place.call("ADD", config=place.config())
    chained = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": previous}
    assert place.program("ADD", config=chained) == previous
    place.program("CHECK", config=chained)
    place.program("DEL", config=chained)
    with Nft(place.node) as nft:
        assert "netsim-cni" not in nft.run("list tables\n")


def test_a_bridge_behind_another_plugin_passes_its_result_on(place: Place) -> None:
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "sandbox": place.netns_path("c1")}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
    }
    result = place.call("ADD", config=place.config(prevResult=previous))
    assert [i["name"] for i in result["interfaces"]] == ["net1", "cni0", place.ports()[0], "eth0"]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [("192.0.2.7/24", 0), ("10.1.2.2/24", 3)]
    place.call("CHECK", config=place.config(prevResult=result))


# -- limits


def seconds_for(source: Netns, target: Netns, address: str, size_bytes: int) -> float:
    """How long a TCP transfer takes."""
    with target.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 9000))
        listener.listen()
        with source.socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.settimeout(20)
            sender.connect((address, 9000))
            receiver, _ = listener.accept()
            with receiver:
                receiver.settimeout(20)
                begin, sent, got = time.monotonic(), 0, 0
                sender.setblocking(False)
                while got < size_bytes:
                    if sent < size_bytes:
                        with contextlib.suppress(BlockingIOError):
                            sent += sender.send(bytes(min(65536, size_bytes - sent)))
                    got += len(receiver.recv(65536))
                return time.monotonic() - begin


LIMIT = {"Rate": 16_000_000, "Burst": 1_600_000}  # 2 MB/s and 200 kB


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_limited_direction_is_slow_and_the_other_is_not(place: Place, direction: str) -> None:
    config = place.config(**{f"{direction}{key}": value for key, value in LIMIT.items()})
    result = place.call("ADD", config=config)
    place.call("ADD", "c2")
    names = [i["name"] for i in result["interfaces"]]
    assert [n.startswith("ifb") for n in names] == [False] * 3 + [True] * (direction == "egress")
    c1, c2 = place.container("c1"), place.container("c2")
    towards = seconds_for(c2, c1, "10.1.2.2", 2_000_000)
    away = seconds_for(c1, c2, "10.1.2.3", 2_000_000)
    slow, fast = (towards, away) if direction == "ingress" else (away, towards)
    assert slow > fast + 0.5, f"towards the container {towards:.2f} s, away from it {away:.2f} s"
    place.call("CHECK", config={**config, "prevResult": result})
    place.call("DEL", config=config)
    place.call("DEL", "c2")
    place.assert_nothing_left()


def test_check_finds_a_lost_limit(place: Place) -> None:
    config = place.config(egressRate=16_000_000, egressBurst=1_600_000)
    config["prevResult"] = place.call("ADD", config=config)
    with pytest.raises(Failed, match="egressRate 8000000 expected, tbf, 16000000 bit/s found"):
        place.call("CHECK", config={**config, "egressRate": 8_000_000})
    with pytest.raises(Failed, match="ingressRate 8000000 expected"):
        place.call("CHECK", config={**config, "ingressRate": 8_000_000, "ingressBurst": 1_600_000})


def test_limits_need_a_veth_that_the_result_knows(place: Place) -> None:
    previous = place.call("ADD", config=place.config())
    chained = {"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", "ingressRate": 8, "ingressBurst": 8}
    for result, words in (
        ({**previous, "interfaces": previous["interfaces"][2:], "ips": []}, "is not in the result"),
        ({**previous, "interfaces": [], "ips": []}, "the result has no interfaces"),
    ):
        with pytest.raises(Failed, match=words):
            place.call("ADD", config={**chained, "prevResult": result})
