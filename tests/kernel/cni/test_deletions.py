"""DEL: what it takes away, when it may be called, and what it leaves alone."""

import pytest

from cni.attachment import Attachment
from cni.plugin import Plugin
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import (
    Rtnl,
    del_link,
)
from tests.kernel.cni.place import Place, link

pytestmark = pytest.mark.needs("netns")

BOTH_FAMILIES = {"ranges": [[{"subnet": "fd00:1::/64"}]], "routes": [{"dst": "192.0.2.0/24", "gw": "10.1.2.9"}]}


@pytest.mark.parametrize("netns", ["", "/no/such/netns", None])
def test_del_needs_neither_namespace_nor_result_and_may_be_repeated(place: Place, netns: str | None) -> None:
    config = place.config(ipMasq=True, runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80}]})
    place.call("ADD", config=config)
    for _ in range(3):
        place.call("DEL", config=config, netns=netns)
    place.assert_nothing_left()


def test_del_after_the_container_has_gone(place: Place) -> None:
    config = place.config(
        ipMasq=True,
        runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
        egressRate=1_000_000,
        egressBurst=800_000,
    )
    place.call("ADD", config=config)
    place.end_container("c1")
    place.call("DEL", config=place.config(), netns="/proc/1/ns/gone")  # nor the configuration of then
    place.assert_nothing_left()


def test_del_of_an_interface_that_has_gone(place: Place) -> None:
    place.call("ADD")
    with Rtnl(place.node) as rtnl:
        rtnl.batch([del_link(place.ports()[0])])
    place.call("DEL")
    place.assert_nothing_left()


def test_del_after_a_reboot(place: Place) -> None:
    """Kernel state gone, the state on disk still there."""
    place.call("ADD", config=place.config(ipMasq=True))
    place.node.close()
    place.node = Netns.create("node", ipv6=True)
    place.call("DEL", config=place.config(ipMasq=True))
    place.assert_nothing_left()


def test_links_deleted_together_leave_their_dels_the_rest(place: Place) -> None:
    names = ("c1", "c2", "c3")
    for name in (*names, "stays"):
        place.call("ADD", name)
    kept = Attachment("net", "stays", "eth0").veth
    with place.node.entered():
        Plugin().delete_links([("net", name, "eth0") for name in (*names, "never")])
        Plugin().delete_links([("net", name, "eth0") for name in names])  # all are gone: nothing happens
    assert place.ports() == [kept]
    assert len(place.addresses_taken()) == 4
    for name in (*names, "stays"):
        place.call("DEL", name)
    place.assert_nothing_left()


def test_del_of_what_was_never_there(place: Place) -> None:
    place.call("DEL", "never-seen")
    assert not place.data_dir.exists()


def test_del_touches_no_other_network(place: Place) -> None:
    place.call("ADD")
    place.call("DEL", config=place.config(name="another"))
    assert link(place.container("c1"), "eth0").running
    assert place.addresses_taken() == ["10.1.2.2"]
