"""CHECK, GC and STATUS on a real bridge: what they find, what they free, and what they leave alone."""

from collections.abc import Callable
from typing import Any

import pytest

from netsim.kernel.rtnl import (
    Rtnl,
    del_address,
    del_link,
    del_route,
    new_address,
    new_veth,
    set_bridge_port,
)
from netsim.kernel.rtnl import new_route as make_route
from netsim.kernel.rtnl import set_link as change_link
from netsim.kernel.rtnl_read import Link
from tests.kernel.cni.place import Place, link, refusal

pytestmark = pytest.mark.needs("netns")


# -- CHECK


def set_in(place: Place, where: str, make: Callable[[Link], Any]) -> None:
    ns, name = (place.container("c1"), "eth0") if where == "inside" else (place.node, place.ports()[0])
    if where == "bridge":
        name = "cni0"
    with Rtnl(ns) as rtnl:
        rtnl.batch([make(link(ns, name))])


DAMAGES: list[tuple[str, str, Callable[[Link], Any]]] = [
    ("missing: interface", "inside", lambda one: del_link(one.ifindex)),
    ("expected up, found down", "inside", lambda one: change_link(one.ifindex, up=False)),
    ("MAC of", "inside", lambda one: change_link(one.ifindex, mac="0a:00:00:00:00:99")),
    ("MTU of", "inside", lambda one: change_link(one.ifindex, mtu=1300)),
    ("missing: address 10.1.2.2/24", "inside", lambda one: del_address("10.1.2.2/24", one.ifindex)),
    ("missing: route 0.0.0.0/0", "inside", lambda one: del_route("0.0.0.0/0", index=one.ifindex)),
    ("expected a port of", "port", lambda one: change_link(one.ifindex, master=0)),
    ("hairpin mode", "port", lambda one: set_bridge_port(one.ifindex, hairpin=False)),
    ("MAC of", "port", lambda one: change_link(one.ifindex, mac="0a:00:00:00:00:99")),
    ("expected up, found down", "port", lambda one: change_link(one.ifindex, up=False)),
    ("missing: bridge", "bridge", lambda one: del_link(one.ifindex)),
    ("MAC of", "bridge", lambda one: change_link(one.ifindex, mac="0a:00:00:00:00:99")),
    ("missing: gateway address", "bridge", lambda one: del_address("10.1.2.1/24", one.ifindex)),
]


@pytest.mark.parametrize(("words", "where", "damage"), DAMAGES, ids=[f"{w}: {m}" for m, w, _ in DAMAGES])
def test_check_finds_damage(place: Place, words: str, where: str, damage: Callable[[Link], Any]) -> None:
    config = place.config(mtu=1400, hairpinMode=True)
    config["prevResult"] = place.call("ADD", config=config)
    place.call("CHECK", config=config)
    set_in(place, where, damage)
    error = refusal(place, "CHECK", config=config)
    assert error.code == 101
    assert words in error.error["msg"]


def test_check_finds_a_lost_reservation_and_another_sandbox(place: Place) -> None:
    config = place.config()
    config["prevResult"] = place.call("ADD", config=config)
    assert refusal(place, "CHECK", config=config, netns=place.netns_path("c2")).code == 7
    (place.data_dir / "net" / "10.1.2.2").unlink()
    assert "Failed to find address" in refusal(place, "CHECK", config=config).error["msg"]


def test_check_tolerates_what_others_add(place: Place) -> None:
    config = place.config()
    config["prevResult"] = place.call("ADD", config=config)
    with Rtnl(place.container("c1")) as rtnl:
        rtnl.batch([new_address("192.0.2.7/24", 2), make_route("198.51.100.0/24", via="10.1.2.9", index=2)])
    place.call("CHECK", config=config)


# -- GC and STATUS


def test_gc_keeps_the_valid_and_frees_the_rest(place: Place) -> None:
    config = place.config(ipMasq=True)
    result = place.call("ADD", "keep", config)
    ports = {**config, "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}
    place.call("ADD", "gone", ports)
    place.call("ADD", "gone-too", config)
    other = place.config(name="net2", bridge="cni1", ipMasq=True, ipam={"subnet": "10.2.2.0/24"})
    place.call("ADD", "other-network", other)
    valid = [{"containerID": "keep", "ifname": "eth0"}]
    assert place.program("GC", config={**config, "cni.dev/valid-attachments": valid}, netns="") == {}
    assert (place.addresses_taken(), place.records()) == (["10.1.2.2"], ["keep~eth0"])
    assert place.addresses_taken("net2") == ["10.2.2.2"]
    assert "10.2.2.2 " in place.rules()
    assert len(place.ports()) == 2
    assert "hp-" not in place.rules()
    place.call("CHECK", "keep", {**config, "prevResult": result})


def test_gc_finds_leftovers_that_no_record_names(place: Place) -> None:
    config = place.config(ipMasq=True, runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80}]})
    place.call("ADD", config=config)
    for path in (place.data_dir / "net" / "10.1.2.2", place.data_dir / "net" / ".attachments" / "c1~eth0"):
        path.unlink()
    (place.data_dir / "net" / "10.1.2.99").write_text("")
    place.call("GC", config={**config, "cni.dev/valid-attachments": []})
    place.assert_nothing_left()


def test_gc_without_a_list_touches_nothing(place: Place) -> None:
    place.call("ADD")
    assert refusal(place, "GC").code == 7
    assert place.addresses_taken() == ["10.1.2.2"]


def test_status_is_silent_before_and_after_the_first_add(place: Place) -> None:
    for _ in range(2):
        assert place.program("STATUS") == {}
        if not place.ports():
            place.call("ADD")


def test_status_names_a_bridge_that_is_none(place: Place) -> None:
    with Rtnl(place.node) as rtnl:
        rtnl.batch([new_veth("cni0", peer="other")])
    assert refusal(place, "STATUS").code == 50
