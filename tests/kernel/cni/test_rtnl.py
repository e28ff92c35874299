"""The netlink encoder against the kernel: what is sent is what is there, what fails says why."""

import errno
import socket
from collections.abc import Iterator

import pytest

from netsim.kernel import rtnl as nl
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl
from netsim.kernel.rtnl_socket import BatchError
from netsim.kernel.rtnl_tc import new_tbf, read_qdiscs
from netsim.kernel.rtnl_wire import Message

pytestmark = pytest.mark.needs("netns")


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns.create("test", ipv6=True) as ns:
        yield ns


@pytest.fixture
def rtnl(ns: Netns) -> Iterator[Rtnl]:
    with Rtnl(ns) as rtnl:
        yield rtnl


def index(rtnl: Rtnl, name: str) -> int:
    link = rtnl.link(name)
    assert link is not None
    return link.ifindex


def test_a_pair_between_namespaces_on_a_bridge(rtnl: Rtnl) -> None:
    with Netns.create("pod") as pod, Rtnl(pod) as inside:
        rtnl.batch([nl.new_bridge("br0", mac="0a:58:00:00:00:01", mtu=1400)])
        bridge = index(rtnl, "br0")
        pair = nl.new_veth(
            "v0", peer="eth0", peer_netns_fd=pod.fd, mac="0a:58:00:00:00:02", peer_mac="0a:58:00:00:00:03", mtu=1400,
            master=bridge,
        )  # fmt: skip
        rtnl.batch([pair, nl.set_bridge_port("v0", hairpin=True, isolated=True), nl.set_link("v0", alias="a pod")])
        inside.batch([nl.set_link(index(inside, "eth0"), up=True)])
        port, peer, one = rtnl.link("v0"), inside.link("eth0"), rtnl.link("br0")
        assert port is not None
        assert peer is not None
        assert one is not None
        assert (port.mac, port.mtu, port.master, port.up) == ("0a:58:00:00:00:02", 1400, bridge, True)
        assert (port.hairpin, port.isolated, port.alias, port.kind) == (True, True, "a pod", "veth")
        assert (peer.mac, peer.mtu, peer.peer_index, peer.ifindex) == ("0a:58:00:00:00:03", 1400, port.ifindex, 2)
        assert (one.mac, one.kind, one.vlan_filtering) == ("0a:58:00:00:00:01", "bridge", False)
        assert [link.name for link in rtnl.links(master=bridge)] == ["v0"]
        rtnl.batch([nl.del_link("v0")])
        assert (rtnl.link("v0"), inside.link("eth0")) == (None, None)


def test_links_are_changed(rtnl: Rtnl) -> None:
    rtnl.batch([nl.new_veth("a", peer="b", up=False), nl.new_bridge("br0")])
    one = index(rtnl, "a")
    rtnl.batch(
        [
            nl.set_link(one, mtu=1300, mac="0a:00:00:00:00:01", master=index(rtnl, "br0"), promisc=True),
            nl.set_link(one, name="c"),
        ]
    )
    link = rtnl.link("c")
    assert link is not None
    assert (link.mtu, link.mac, link.promisc, link.up) == (1300, "0a:00:00:00:00:01", True, False)
    rtnl.batch([nl.set_link("c", up=True, master=0)])
    link = rtnl.link(one)
    assert link is not None
    assert (link.up, link.master) == (True, 0)


@pytest.mark.parametrize(
    ("cidr", "network", "gateway"),
    [("10.0.0.5/24", "192.0.2.0/24", "10.0.0.1"), ("fd00::5/64", "2001:db8::/32", "fd00::1")],
)
def test_addresses_routes_and_neighbours_come_and_go(rtnl: Rtnl, cidr: str, network: str, gateway: str) -> None:
    family = socket.AF_INET6 if ":" in cidr else socket.AF_INET
    default = "::/0" if ":" in cidr else "0.0.0.0/0"
    rtnl.batch([nl.new_veth("a", peer="b")])
    rtnl.batch([nl.set_link("b", up=True)])
    one = index(rtnl, "a")
    rtnl.batch(
        [
            nl.new_address(cidr, one),
            nl.new_route("default", via=gateway, index=one),
            nl.new_route(network, via=gateway, index=one, table=1000, priority=7, mtu=1280, advmss=1200),
            nl.new_neighbour(gateway, "0a:00:00:00:00:09", one),
        ]
    )
    assert cidr in [a.cidr for a in rtnl.addresses(index=one, family=family)]
    assert [(r.dst, r.via, r.ifindex) for r in rtnl.routes(family=family) if r.via] == [(default, gateway, one)]
    (far,) = rtnl.routes(family=family, table=1000)
    assert (far.dst, far.via, far.priority, far.mtu, far.advmss) == (network, gateway, 7, 1280, 1200)
    assert (gateway, "0a:00:00:00:00:09") in [(n.address, n.mac) for n in rtnl.neighbours(index=one, family=family)]
    rtnl.batch(
        [
            nl.del_neighbour(gateway, one),
            nl.del_route(network, table=1000),
            nl.del_route(default, via=gateway),
            nl.del_address(cidr, one),
        ]
    )
    assert cidr not in [a.cidr for a in rtnl.addresses(family=family)]
    assert rtnl.routes(family=family, table=1000) == []
    assert gateway not in [n.address for n in rtnl.neighbours(family=family)]


def test_a_failure_names_the_operation_and_the_kernels_words_and_the_rest_goes_on(rtnl: Rtnl) -> None:
    messages = [
        nl.new_bridge("br0"),
        nl.new_route("10.9.0.0/16", via="192.0.2.1"),
        nl.new_bridge("br0"),
        nl.new_bridge("br1"),
    ]
    with pytest.raises(BatchError) as failure:
        rtnl.batch(messages)
    error = failure.value
    assert error.errno == errno.ENETUNREACH
    assert error.message.startswith("ip route add 10.9.0.0/16 via 192.0.2.1: Network is unreachable (Nexthop has")
    assert "1 of 2 later operations: ip link add br0 up type bridge: File exists" in error.message
    assert [position for position, _, _ in error.failures] == [1, 2]
    assert error.where == "test"
    assert rtnl.link("br1") is not None


def test_a_batch_longer_than_the_receive_buffer(rtnl: Rtnl) -> None:
    rtnl.batch([nl.new_veth("a", peer="b")])
    one = index(rtnl, "a")
    messages: list[Message] = [nl.new_address(f"10.{i >> 8}.{i & 255}.1/32", one) for i in range(1000)]
    rtnl.batch(messages)
    assert len(rtnl.addresses(index=one, family=socket.AF_INET)) == 1000
    with pytest.raises(BatchError) as failure:
        rtnl.batch(messages)
    assert len(failure.value.failures) == 1000


def test_a_socket_lives_on_where_it_was_opened(ns: Netns) -> None:
    with Rtnl(ns) as rtnl:
        rtnl.batch([nl.new_bridge("br-test")])
    with Rtnl() as here:
        assert here.link("br-test") is None


def test_token_buckets_are_read_back(rtnl: Rtnl) -> None:
    rtnl.batch([nl.new_veth("a", peer="b")])
    one = index(rtnl, "a")
    for rate in (125_000, 5_000_000_000):
        rtnl.batch([new_tbf(one, rate_bytes=rate, burst_bytes=100_000)])
        (bucket,) = [q for q in read_qdiscs(rtnl, one) if q.at_root]
        assert (bucket.kind, bucket.rate) == ("tbf", rate)


def test_to_rename_takes_an_index() -> None:
    with pytest.raises(ValueError, match="give its index"):
        nl.set_link("a", name="b")
