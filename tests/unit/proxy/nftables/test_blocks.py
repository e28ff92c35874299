"""Blocks of plain ClusterIPs are made by a way of their own: they are the same blocks."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.nftables.blocks import NOTHING, Block, make_block
from proxy.topology import choose_endpoints
from tests.unit.proxy.make import make_endpoint, make_map, make_service, make_slice
from tests.unit.proxy.nftables.make import make_view

STATES = ("ready", "unready", "terminating", "gone")


def parts(block: Block) -> dict[str, Any]:
    """A block's content; the order of elements within a transaction does not matter."""
    return {field.name: getattr(block, field.name) for field in fields(Block)} | {
        "elements": set(block.elements),
        "shared": set(block.shared),
    }


@pytest.mark.parametrize(
    ("ip", "prefix", "kind"), [("10.96.0.10", "10.244.1.", "IPv4"), ("fd00::10", "fd01::", "IPv6")]
)
@settings(max_examples=60)
@given(
    states=st.lists(st.sampled_from(STATES), max_size=12),
    protocol=st.sampled_from(["TCP", "UDP", "SCTP"]),
    twice=st.booleans(),
)
def test_a_plain_service_port_has_the_block_that_any_other_way_makes(
    ip: str, prefix: str, kind: str, states: list[str], protocol: str, twice: bool
) -> None:
    family = 4 if kind == "IPv4" else 6
    ports = [{"name": "http", "port": 80, "protocol": protocol}]
    endpoints = [make_endpoint(f"{prefix}{number}", state=state) for number, state in enumerate(states, 2)]
    slices = [make_slice(endpoints, ports=ports, addressType=kind)]
    if twice:  # one address behind two ports: its hairpin is there once
        slices.append(make_slice(endpoints, name="more", ports=[{**ports[0], "port": 8081}], addressType=kind))
    view = make_view(family=family)
    snapshot = make_map([make_service(ip=ip, ports=ports), *slices], family).snapshot()
    for entry in snapshot.entries.values():
        choice = choose_endpoints(entry, "node-1")
        # A block before, though an empty one, is not what a first sync has.
        made, usual = make_block(entry, choice, view), make_block(entry, choice, view, before=replace(NOTHING))
        assert parts(made) == parts(usual)
        assert len(made.elements) >= 1
