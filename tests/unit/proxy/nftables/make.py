"""Test data of the nftables dialect: a fresh node's table, and a walker over it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from netsim.model.objects import Object
from netsim.ruleset.nft_model import Table, apply_edits
from netsim.ruleset.nft_walk import NftWalker
from proxy.config import FamilyView
from proxy.nftables.plan import NftablesDialect
from tests.unit.proxy import make
from tests.unit.proxy.make import NODE_IP, make_map

CONFIG = replace(make.CONFIG, mode="nftables", service_cidrs=("10.96.0.0/12",))


def make_view(node: str = "node-1", **options: Any) -> FamilyView:
    return make.make_view(node, config=options.pop("config", CONFIG), **options)


def make_table(objects: Iterable[Object], view: FamilyView | None = None) -> Table:
    view = view or make_view()
    plan = NftablesDialect().plan_full(make_map(objects, view.family).snapshot(), view, None)
    table = apply_edits(None, plan.edits)
    assert table is not None
    return table


def make_walker(objects: Iterable[Object], view: FamilyView | None = None, **walker: Any) -> NftWalker:
    return NftWalker(make_table(objects, view), local=(NODE_IP, "127.0.0.1", "10.244.1.1"), **walker)
