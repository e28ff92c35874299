"""Carrying out a network plan (`netsim.ruleset.netplan`): the acting half of the node network.

Links go through pyroute2. Addresses, routes, neighbour and forwarding entries, of which a cluster of N nodes has
N*(N-1), go through the compact encoder in one batch for each namespace: 9,900 routes cost pyroute2 1.6 s of encoding
and `netsim.kernel.rtnl` 0.1 s.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import groupby
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netsim.kernel import rtnl
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.sysctl import write_sysctl
from netsim.model.errors import KernelError
from netsim.ruleset.netplan import (
    Address,
    Bridge,
    ForwardingEntry,
    Neighbour,
    NftRules,
    Operation,
    Plan,
    Route,
    Sysctl,
    Up,
    Veth,
    Vxlan,
)


def apply_plan(plan: Plan, namespaces: Mapping[str, Netns]) -> None:
    """Do what the plan says, in its order. Blocking. Raises KernelError naming the operation that failed."""
    with ExitStack() as stack:
        hands = _Hands(namespaces, stack)
        for (name, many), group in groupby(plan, key=lambda step: (step.netns, isinstance(step, _BATCHED))):
            if many:
                _apply_batch(namespaces[name], group)  # type: ignore[arg-type]  # groupby loses what the key says
            else:
                _apply_each(hands, name, group)


class _Hands:
    """What operations act with: the namespaces, and an IPRoute for each that needs one.

    Made in its namespace, an IPRoute costs 1 ms; ``IPRoute(netns=...)`` would cost 7.
    """

    def __init__(self, namespaces: Mapping[str, Netns], stack: ExitStack) -> None:
        self.namespaces = namespaces
        self._stack = stack
        self._open: dict[str, IPRoute] = {}

    def ipr(self, name: str) -> IPRoute:
        if name not in self._open:
            with self.namespaces[name].entered():
                self._open[name] = IPRoute()
            self._stack.callback(self._open[name].close)
        return self._open[name]


_BATCHED = (Address, Route, Neighbour, ForwardingEntry)


def _apply_batch(netns: Netns, operations: Iterable[Address | Route | Neighbour | ForwardingEntry]) -> None:
    with rtnl.Rtnl(netns) as channel:
        index = {link.name: link.ifindex for link in channel.links()}
        messages = []
        for operation in operations:
            if isinstance(operation, Route):
                messages.append(
                    rtnl.new_route(
                        operation.destination,
                        via=operation.via,
                        index=index[operation.link] if operation.link else 0,
                        onlink=operation.onlink,
                        replace=True,
                    )
                )
            elif isinstance(operation, Address):
                messages.append(rtnl.new_address(operation.address, index[operation.link]))
            elif isinstance(operation, Neighbour):
                messages.append(rtnl.new_neighbour(operation.address, operation.mac, index[operation.link]))
            else:
                messages.append(rtnl.new_forwarding_entry(operation.mac, index[operation.link], operation.remote))
        channel.batch(messages)


def _apply_each(hands: _Hands, name: str, operations: Iterable[Operation]) -> None:
    for operation in operations:
        try:
            _APPLY[type(operation)](hands, operation)
        except NetlinkError as error:
            words = error.args[1] if len(error.args) > 1 else error
            raise KernelError(f"{operation}: {words}", errno=error.code, where=name) from error


def _index(ipr: IPRoute, name: str) -> int:
    found = ipr.link_lookup(ifname=name)
    if not found:
        raise KernelError(f"there is no link {name}")
    return int(found[0])


def _bridge(hands: _Hands, bridge: Bridge) -> None:
    hands.ipr(bridge.netns).link(
        "add", ifname=bridge.name, kind="bridge", address=bridge.mac, mtu=bridge.mtu, state="up"
    )


def _veth(hands: _Hands, veth: Veth) -> None:
    ipr = hands.ipr(veth.netns)
    peer = {
        "ifname": veth.peer,
        "net_ns_fd": hands.namespaces[veth.peer_netns].fd,
        "address": veth.peer_mac,
        "mtu": veth.mtu,
    }
    master = {"master": _index(ipr, veth.master)} if veth.master else {}
    ipr.link("add", ifname=veth.name, kind="veth", mtu=veth.mtu, state="up", peer=peer, **master)


def _up(hands: _Hands, up: Up) -> None:
    ipr = hands.ipr(up.netns)
    ipr.link("set", index=_index(ipr, up.link), state="up")


def _vxlan(hands: _Hands, vxlan: Vxlan) -> None:
    ipr = hands.ipr(vxlan.netns)
    ipr.link(
        "add",
        ifname=vxlan.name,
        kind="vxlan",
        address=vxlan.mac,
        mtu=vxlan.mtu,
        vxlan_id=vxlan.vni,
        vxlan_port=vxlan.port,
        **{"vxlan_local6" if ":" in vxlan.local else "vxlan_local": vxlan.local},
        vxlan_link=_index(ipr, vxlan.link),
        vxlan_learning=False,
        state="up",
    )


def _sysctl(hands: _Hands, sysctl: Sysctl) -> None:
    write_sysctl(hands.namespaces[sysctl.netns], sysctl.key, sysctl.value)


def _nft_rules(hands: _Hands, rules: NftRules) -> None:
    with Nft(hands.namespaces[rules.netns]) as nft:
        nft.run(rules.text)


_APPLY: dict[type, Callable[..., Any]] = {
    Bridge: _bridge,
    Veth: _veth,
    Up: _up,
    Vxlan: _vxlan,
    Sysctl: _sysctl,
    NftRules: _nft_rules,
}
