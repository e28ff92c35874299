"""ADD and DEL on a real bridge: what is there afterwards, what is not, and what is said when it goes wrong."""

import socket
from typing import Any

import pytest

from cni.types import SUPPORTED_VERSIONS, version_at_least
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import (
    Rtnl,
    new_bridge,
    new_veth,
)
from netsim.kernel.rtnl_wire import NUD_PERMANENT
from tests.kernel.cni.place import Failed, Place, link, refusal

pytestmark = pytest.mark.needs("netns")

BOTH_FAMILIES = {"ranges": [[{"subnet": "fd00:1::/64"}]], "routes": [{"dst": "192.0.2.0/24", "gw": "10.1.2.9"}]}


def ask(source: Netns, address: tuple[str, int], server: Netns, bind: tuple[str, int]) -> str:
    """The address that a TCP server in ``server`` sees when ``source`` connects to ``address``."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listener, source.socket(family, socket.SOCK_STREAM) as client:
        listener.bind(bind)
        listener.listen()
        listener.settimeout(5)
        client.settimeout(5)
        client.connect(address)
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_add_check_del_in_every_version_as_a_program(place: Place, version: str) -> None:
    config = place.config(cniVersion=version, mtu=1400)
    result = place.program("ADD", config=config)
    assert result["cniVersion"] == version
    if version_at_least(version, "0.3.0"):
        assert [i["name"] for i in result["interfaces"]] == ["cni0", place.ports()[0], "eth0"]
        assert result["interfaces"][2]["sandbox"] == place.netns_path("c1")
        assert result["interfaces"][2]["mac"] == link(place.container("c1"), "eth0").mac
        assert result["interfaces"][1]["mac"] == link(place.node, place.ports()[0]).mac
        assert result["interfaces"][0]["mac"] == link(place.node, "cni0").mac
        assert ("version" in result["ips"][0]) == (not version_at_least(version, "1.0.0"))
        assert result["ips"][0]["address"] == "10.1.2.2/24"
        assert result["ips"][0]["interface"] == 2
    else:
        assert result["ip4"]["ip"] == "10.1.2.2/24"
        assert result["ip4"]["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]
    if version_at_least(version, "0.4.0"):
        for _ in range(2):
            assert place.program("CHECK", config={**config, "prevResult": result}) == {}
    else:
        with pytest.raises(Failed, match="config version does not allow CHECK"):
            place.program("CHECK", config={**config, "prevResult": result})
    assert place.program("DEL", config={**config, "prevResult": result}) == {}
    place.assert_nothing_left()


def test_what_add_makes(place: Place) -> None:
    place.call("ADD", config=place.config(mtu=1400, hairpinMode=True))
    inside, port = link(place.container("c1"), "eth0"), link(place.node, place.ports()[0])
    bridge = link(place.node, "cni0")
    assert (inside.ifindex, inside.up, inside.running, inside.mtu, inside.mac) == (
        2,
        True,
        True,
        1400,
        "0a:58:0a:01:02:02",
    )
    assert (port.up, port.running, port.master, port.hairpin, port.mtu) == (True, True, bridge.ifindex, True, 1400)
    assert port.alias == "netsim-cni net c1 eth0"
    with Rtnl(place.container("c1")) as rtnl:
        assert [a.cidr for a in rtnl.addresses(index=2)] == ["10.1.2.2/24"]
        assert [(r.dst, r.via) for r in rtnl.routes() if r.via] == [("0.0.0.0/0", "10.1.2.1")]
    with Rtnl(place.node) as rtnl:
        assert [a.cidr for a in rtnl.addresses(index=bridge.ifindex, family=socket.AF_INET)] == ["10.1.2.1/24"]


def test_containers_reach_each_other_and_the_node_at_once(place: Place) -> None:
    """No wait between ADD and the first packet: an interface that ADD reports passes packets."""
    for name in ("c1", "c2"):
        place.call("ADD", name)
    c1, c2 = place.container("c1"), place.container("c2")
    assert ask(c1, ("10.1.2.3", 80), c2, ("10.1.2.3", 80)) == "10.1.2.2"
    assert ask(c1, ("10.1.2.1", 80), place.node, ("10.1.2.1", 80)) == "10.1.2.2"
    assert ask(place.node, ("10.1.2.2", 80), c1, ("10.1.2.2", 80)) == "10.1.2.1"


def test_the_bridge_passes_packets_too_whenever_its_first_port_comes(place: Place) -> None:
    """It gets its carrier after its first port has one, and drops what it is to send until then."""
    for _ in range(20):
        place.call("ADD")
        assert link(place.node, "cni0").running
        place.call("DEL")


def test_both_families_with_routes(place: Place) -> None:
    result = place.call("ADD", config=place.config(ipam=BOTH_FAMILIES))
    assert [ip["address"] for ip in result["ips"]] == ["10.1.2.2/24", "fd00:1::2/64"]
    assert result["routes"] == [
        {"dst": "192.0.2.0/24", "gw": "10.1.2.9"},
        {"dst": "0.0.0.0/0", "gw": "10.1.2.1"},
        {"dst": "::/0", "gw": "fd00:1::1"},
    ]
    c1 = place.container("c1")
    assert ask(c1, ("fd00:1::1", 80), place.node, ("fd00:1::1", 80)) == "fd00:1::2"
    place.call("CHECK", config={**place.config(ipam=BOTH_FAMILIES), "prevResult": result})


def test_a_link_without_addresses(place: Place) -> None:
    config = {"cniVersion": "1.1.0", "name": "l2", "type": "bridge", "bridge": "br-l2"}
    result = place.call("ADD", config=config)
    assert "ips" not in result
    assert link(place.container("c1"), "eth0").running
    place.call("CHECK", config={**config, "prevResult": result})
    place.call("DEL", config=config)
    assert place.ports() == []


def test_a_link_without_addresses_cannot_be_told_in_0_2_0(place: Place) -> None:
    config = {"cniVersion": "0.2.0", "name": "l2", "type": "bridge", "bridge": "br-l2"}
    with pytest.raises(Failed, match="cannot convert: no valid IP addresses"):
        place.program("ADD", config=config)
    assert place.ports() == []


def test_a_container_interface_may_stay_down(place: Place) -> None:
    config = {"cniVersion": "1.1.0", "name": "l2", "bridge": "br-l2", "disableContainerInterface": True}
    place.call("ADD", config=config)
    assert not link(place.container("c1"), "eth0").up


def test_an_existing_bridge_is_kept_and_gets_a_lasting_mac(place: Place) -> None:
    with Rtnl(place.node) as rtnl:
        rtnl.batch([new_bridge("cni0")])
    before = link(place.node, "cni0")
    place.call("ADD")
    for name in ("c2", "c3"):
        place.call("ADD", name)
    place.call("DEL", "c1")
    after = link(place.node, "cni0")
    assert (after.ifindex, after.mac) == (before.ifindex, before.mac)
    assert after.mac not in {link(place.node, name).mac for name in place.ports()}


def test_a_name_that_is_no_bridge_is_refused(place: Place) -> None:
    with Rtnl(place.node) as rtnl:
        rtnl.batch([new_veth("cni0", peer="other")])
    error = refusal(place, "ADD")
    assert (error.code, error.error["msg"]) == (7, '"cni0" already exists but is not a bridge')
    assert place.addresses_taken() == []


def test_promiscuous_mode_and_isolation(place: Place) -> None:
    place.call("ADD", config=place.config(promiscMode=True, portIsolation=True))
    assert link(place.node, "cni0").promisc
    assert link(place.node, place.ports()[0]).isolated


def permanent_neighbours(ns: Netns) -> set[tuple[str, str]]:
    with Rtnl(ns) as rtnl:
        found = rtnl.neighbours(family=socket.AF_INET)
    return {(entry.address, entry.mac) for entry in found if entry.state == NUD_PERMANENT}


def test_gateway_and_container_know_each_other_until_del(place: Place) -> None:
    config = place.config(staticNeighbours=True)
    place.call("ADD", config=config)
    bridge, inside = link(place.node, "cni0"), link(place.container("c1"), "eth0")
    assert permanent_neighbours(place.node) == {("10.1.2.2", inside.mac)}
    assert permanent_neighbours(place.container("c1")) == {("10.1.2.1", bridge.mac)}
    place.call("DEL", config=config)
    assert permanent_neighbours(place.node) == set()
    place.assert_nothing_left()


def test_a_failed_add_takes_back_the_neighbour_it_introduced(place: Place) -> None:
    taken = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    config = place.config(staticNeighbours=True, runtimeConfig=taken)
    place.call("ADD", "c1", config)
    before = permanent_neighbours(place.node)
    refusal(place, "ADD", "c2", config)
    assert permanent_neighbours(place.node) == before != set()


def test_a_second_gateway_address_needs_force(place: Place) -> None:
    place.call("ADD")
    other = {"ranges": [[{"subnet": "10.9.0.0/24"}]], "subnet": None}
    error = refusal(place, "ADD", "c2", place.config(name="net2", ipam=other))
    assert (error.code, error.error["msg"]) == (7, '"cni0" already has an IP address different from 10.9.0.1/24')
    assert place.addresses_taken("net2") == []
    place.call("ADD", "c2", place.config(name="net2", ipam=other, forceAddress=True))
    with Rtnl(place.node) as rtnl:
        index = link(place.node, "cni0").ifindex
        assert [a.cidr for a in rtnl.addresses(index=index, family=socket.AF_INET)] == ["10.9.0.1/24"]


def test_ipv6_gateways_stand_side_by_side_unless_they_overlap(place: Place) -> None:
    def config(network: str, subnet: str) -> dict[str, Any]:
        return place.config(name=network, ipam={"subnet": subnet})

    place.call("ADD", "c1", config("n1", "fd00:1::/64"))
    place.call("ADD", "c2", config("n2", "fd00:2::/64"))
    assert refusal(place, "ADD", "c3", config("n3", "fd00::/16")).code == 7


def test_mac_and_address_on_request(place: Place) -> None:
    config = place.config(runtimeConfig={"mac": "0a:00:00:00:00:07", "ips": ["10.1.2.88/24"]})
    result = place.call("ADD", config=config)
    assert result["ips"][0]["address"] == "10.1.2.88/24"
    assert result["interfaces"][2]["mac"] == link(place.container("c1"), "eth0").mac == "0a:00:00:00:00:07"
    error = refusal(place, "ADD", "c2", config)
    assert error.code == 102
    assert "10.1.2.88 is not available" in error.error["msg"]
    for address, words in (("10.1.2.1", "is the gateway"), ("10.7.7.7", "failed to allocate all requested IPs")):
        config = place.config(runtimeConfig={"ips": [address]})
        assert words in refusal(place, "ADD", "c2", config).error["msg"]
    assert place.addresses_taken() == ["10.1.2.88"]


def test_cni_args_of_a_kubelet(place: Place) -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.1.2.77;MAC=0a:00:00:00:00:09"
    result = place.program("ADD", args=args)
    assert (result["ips"][0]["address"], result["interfaces"][2]["mac"]) == ("10.1.2.77/24", "0a:00:00:00:00:09")


def test_dns_of_a_file_and_of_the_configuration(place: Place, tmp_path: Any) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nnameserver 10.96.0.10\nsearch a b\noptions ndots:5\ndomain c\n")
    config = place.config(ipam={"resolvConf": str(path)})
    assert place.call("ADD", config=config)["dns"] == {
        "nameservers": ["10.96.0.10"],
        "search": ["a", "b"],
        "options": ["ndots:5"],
        "domain": "c",
    }
    assert place.call("ADD", "c2", {**config, "dns": {"nameservers": []}})["dns"] == {"nameservers": []}
    missing = place.config(ipam={"resolvConf": "/no/such/file"})
    assert refusal(place, "ADD", "c3", missing).code == 5
    assert place.addresses_taken() == ["10.1.2.2", "10.1.2.3"]


# -- refusals leave nothing behind and touch nothing


def test_an_interface_that_exists_stays_as_it_was(place: Place) -> None:
    place.call("ADD")
    before = link(place.container("c1"), "eth0")
    error = refusal(place, "ADD", "another", netns=place.netns_path("c1"))
    assert error.code == 103
    assert '"eth0" exists already' in error.error["msg"]
    assert link(place.container("c1"), "eth0") == before
    assert place.addresses_taken() == ["10.1.2.2"]


def test_the_same_attachment_twice_is_refused_and_the_first_works_on(place: Place) -> None:
    place.call("ADD")
    place.call("ADD", "c2")
    for netns in (place.netns_path("c1"), place.netns_path("c3")):
        assert refusal(place, "ADD", "c1", netns=netns).code == 103
    assert place.addresses_taken() == ["10.1.2.2", "10.1.2.3"]
    assert len(place.ports()) == 2
    assert ask(place.container("c2"), ("10.1.2.2", 80), place.container("c1"), ("", 80)) == "10.1.2.3"


def test_two_interfaces_of_a_container(place: Place) -> None:
    config = place.config(isDefaultGateway=False, ipMasq=True)
    place.call("ADD", config=config)
    second = place.call("ADD", config=config, ifname="fifteen-letters")
    assert second["ips"][0]["address"] == "10.1.2.3/24"
    place.call("DEL", config=config)
    assert place.addresses_taken() == ["10.1.2.3"]
    assert link(place.container("c1"), "fifteen-letters").running
    assert "10.1.2.3" in place.rules()
    assert "10.1.2.2 " not in place.rules()
    place.call("CHECK", config={**config, "prevResult": second}, ifname="fifteen-letters")


@pytest.mark.parametrize("path", ["/no/such/netns", "/etc/passwd", "/proc/self/ns/uts", "/proc"])
def test_a_bad_namespace_leaves_nothing(place: Place, path: str) -> None:
    assert refusal(place, "ADD", netns=path).code == 8
    place.assert_nothing_left()


def test_the_plugins_own_namespace_is_refused(place: Place) -> None:
    with pytest.raises(Failed) as failure:
        place.program("ADD", netns="/proc/self/ns/net")
    assert failure.value.code == 8
    place.assert_nothing_left()


def test_an_error_after_the_veth_takes_everything_back(place: Place) -> None:
    config = place.config(ipMasq=True, ipam={"routes": [{"dst": "192.0.2.0/24", "gw": "198.51.100.1"}]})
    error = refusal(place, "ADD", config=config)
    assert error.code == 100
    assert "ip route add 192.0.2.0/24 via 198.51.100.1" in error.error["msg"]
    assert "Network is unreachable" in error.error["msg"]
    place.assert_nothing_left()
    with Rtnl(place.container("c1")) as rtnl:
        assert rtnl.link("eth0") is None


def test_pool_exhausted_and_refilled(place: Place) -> None:
    config = place.config(ipam={"subnet": "10.1.2.0/29"})
    for index in range(5):
        place.call("ADD", f"c{index}", config)
    error = refusal(place, "ADD", "more", config)
    assert (error.code, error.error["msg"]) == (
        102,
        "no IP addresses available in range set: 10.1.2.1-10.1.2.6",
    )
    assert refusal(place, "STATUS", config=config).code == 50
    place.call("DEL", "c3", config)
    place.call("STATUS", config=config)
    assert place.call("ADD", "more", config)["ips"][0]["address"] == "10.1.2.5/29"


def test_addresses_go_round(place: Place) -> None:
    first = place.call("ADD")["ips"][0]["address"]
    place.call("DEL")
    assert (first, place.call("ADD")["ips"][0]["address"]) == ("10.1.2.2/24", "10.1.2.3/24")


def test_two_networks_with_one_address_on_a_node_are_refused(place: Place) -> None:
    config = place.config(ipMasq=True)
    config["prevResult"] = place.call("ADD", config=config)
    error = refusal(place, "ADD", "c2", place.config(name="net2", ipMasq=True))
    assert error.code == 103
    assert "another network on this node has the address 10.1.2.2" in error.error["msg"]
    assert place.addresses_taken("net2") == []
    place.call("DEL", "c2", place.config(name="net2", ipMasq=True))
    place.call("CHECK", config=config)


@pytest.mark.slow
def test_the_1024th_container_of_a_bridge_is_refused_clearly(place: Place) -> None:
    place.call("ADD")
    index = link(place.node, "cni0").ifindex
    with Rtnl(place.node) as rtnl:
        rtnl.batch([new_veth(f"x{i}", peer=f"y{i}", master=index, up=False) for i in range(1022)])
    error = refusal(place, "ADD", "one-too-many")
    assert error.code == 100
    assert error.error["msg"] == 'bridge "cni0" is full: a Linux bridge has at most 1,023 ports'
    assert "Exchange full" in error.error["details"]
    assert "another node" in error.error["details"]
    assert place.addresses_taken() == ["10.1.2.2"]
    assert len(place.ports()) == 1
    assert refusal(place, "STATUS").error["msg"] == 'bridge "cni0" is full (1,023 ports)'
    with Rtnl(place.container("one-too-many")) as rtnl:
        assert rtnl.link("eth0") is None
