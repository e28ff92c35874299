"""The kernel's own words about addresses that come and go."""

import select
import subprocess
from collections.abc import Iterator

import pytest

from netsim.kernel.address_events import AddressEvents
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl

pytestmark = pytest.mark.needs("root", "netns", "command:ip")


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns.create("addresses") as made:
        yield made


def ip(ns: Netns, *lines: str) -> None:
    with ns.entered():
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def test_it_is_readable_once_an_address_came_or_went(ns: Netns) -> None:
    ip(ns, "link set lo up")
    events = AddressEvents(ns)
    try:
        assert not select.select([events], [], [], 0)[0]
        for change in ("add", "del"):
            ip(ns, f"address {change} 10.9.8.7/32 dev lo")
            assert select.select([events], [], [], 0)[0] == [events]
            assert events.drain()
            assert not events.drain()
        ip(ns, "link add other type bridge", "link set other up")  # links are none of its concern
        assert not events.drain()
    finally:
        events.close()


def test_one_link_may_be_left_out(ns: Netns) -> None:
    ip(ns, "link set lo up", "link add other type bridge")
    with Rtnl(ns) as rtnl:
        other = rtnl.link("other")
    assert other is not None
    events = AddressEvents(ns)
    try:
        ip(ns, "address add 10.9.8.7/32 dev other")
        assert not events.drain(but=other.ifindex)
        ip(ns, "address add 10.9.8.8/32 dev other", "address add 10.9.8.9/32 dev lo")
        assert events.drain(but=other.ifindex)
    finally:
        events.close()


def test_more_than_the_socket_holds_is_a_change(ns: Netns) -> None:
    ip(ns, "link set lo up")
    with Rtnl(ns) as rtnl:
        loopback = rtnl.link("lo")
    assert loopback is not None
    events = AddressEvents(ns)
    try:
        ip(ns, *(f"address add 10.9.{n // 250}.{n % 250}/32 dev lo" for n in range(3000)))
        assert events.drain(but=loopback.ifindex)
        assert not events.drain(but=loopback.ifindex)
    finally:
        events.close()
