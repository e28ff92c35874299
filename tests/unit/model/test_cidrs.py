"""Shares of a network: allocate, occupy, release, exhaustion."""

from ipaddress import ip_network

import pytest

from netsim.model.cidrs import CidrAllocator, CidrsExhausted
from netsim.model.errors import NetsimError


def test_shares_come_in_order_and_go_round() -> None:
    allocator = CidrAllocator(ip_network("10.244.0.0/22"), 24)
    assert [str(allocator.allocate()) for _ in range(3)] == ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]
    allocator.release("10.244.0.0/24")
    assert str(allocator.allocate()) == "10.244.3.0/24"  # a share just released is not given again at once
    assert str(allocator.allocate()) == "10.244.0.0/24"


def test_an_exhausted_network_says_so_and_what_to_do() -> None:
    allocator = CidrAllocator(ip_network("10.244.0.0/24"), 25)
    allocator.allocate()
    allocator.allocate()
    with pytest.raises(
        CidrsExhausted, match="there are no remaining CIDRs left to allocate in the accepted range"
    ) as caught:
        allocator.allocate()
    assert "podCIDR" in caught.value.hint
    assert "10.244.0.0/24" in str(caught.value)


def test_ipv6_is_only_data() -> None:
    allocator = CidrAllocator(ip_network("fd00:10:244::/56"), 64)
    assert str(allocator.allocate()) == "fd00:10:244::/64"
    allocator.occupy("fd00:10:244:1::/64")
    assert str(allocator.allocate()) == "fd00:10:244:2::/64"


def test_what_lies_outside_is_refused() -> None:
    allocator = CidrAllocator(ip_network("10.244.0.0/16"), 24)
    for cidr in ("192.0.2.0/24", "fd00::/64"):
        with pytest.raises(NetsimError, match=r"is out of the range of cluster CIDR 10.244.0.0/16"):
            allocator.occupy(cidr)
    with pytest.raises(NetsimError, match="do not fit"):
        CidrAllocator(ip_network("10.244.0.0/16"), 8)
