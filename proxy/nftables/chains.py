"""The chains that choose an endpoint.

Shared ones: one for each number of endpoints and way of coming in, whatever the services. `ChainKey` names one; its
rule draws a number below the number of endpoints and translates to what ``endpoints`` has for the destination and it.

Chains of a service port's own, as upstream has them, only for session affinity: which endpoint a client had is known
from one set of clients for each endpoint, and no map can say "and only if it may still be used".
"""

import base64
import hashlib
from functools import lru_cache
from typing import NamedTuple

from netsim.ruleset import nft
from netsim.ruleset.nft import Rule, SetSpec
from proxy.addresses import join_port
from proxy.config import FamilyView
from proxy.nftables.skeleton import LAYOUTS, MARK_CHAIN, MARK_OUTSIDE_CHAIN, Layout, mark_rule, outside_rules
from proxy.servicemap import ServicePort

CLUSTER_LIST, LOCAL_LIST = 0, 1  # which of a service port's two lists of endpoints
LIST_OFFSET = 1 << 16  # numbers of the local list in ``endpoints`` start here
MAX_CLIENTS = 65536  # remembered for each endpoint; further ones are served and forgotten


class ChainKey(NamedTuple):
    """A shared chain. ``entry``: cluster (a ClusterIP), external (masqueraded), pod and local (source kept).

    ``node_port``: came in by a NodePort. ``which``: the list of endpoints; ``size``: how many it has.
    """

    entry: str
    node_port: bool
    which: int
    size: int

    @property
    def name(self) -> str:
        """``cluster-2``, ``nodeport-external-3``, ``cluster-local-1`` (internalTrafficPolicy Local)."""
        return _chain_name(self)


@lru_cache(maxsize=4096)
def _chain_name(key: ChainKey) -> str:
    entry = f"{key.entry}-local" if key.entry == "cluster" and key.which == LOCAL_LIST else key.entry
    return f"{'nodeport-' if key.node_port else ''}{entry}-{key.size}"


def plan_chain(key: ChainKey, view: FamilyView) -> tuple[Rule, ...]:
    """The rules of a shared chain."""
    rule = _random_rule(LAYOUTS[view.family], key)
    if key.entry == "external":
        return (mark_rule(view), rule)
    return (*outside_rules(view), rule) if key.entry == "cluster" else (rule,)


def _random_rule(layout: Layout, key: ChainKey) -> Rule:
    words, load, after = layout.service_key(node_port=key.node_port)
    offset = key.which * LIST_OFFSET
    name = "nodeport-endpoints" if key.node_port else "endpoints"
    draw = f"numgen random mod {key.size}" + (f" offset {offset}" if offset else "")
    nat = nft.DestinationNat(8, 8 + layout.registers)
    return Rule(
        f"dnat {layout.word} to {words} . {draw} map @{name}",
        (*load, nft.Random(after, key.size, offset), nft.Lookup(0, name, to=8), nat),
    )


class OwnChains(NamedTuple):
    """Chains and sets of one service port with affinity. ``chains``: rules by chain."""

    chains: dict[str, tuple[Rule, ...]]
    sets: tuple[SetSpec, ...]


def own_chain(service: ServicePort, entry: str) -> str:
    """``entry``: service, local (the two lists), cluster, cluster-local, external (ways in to them)."""
    return f"{entry}-{_full_name(service)}"


def plan_own_chains(service: ServicePort, orders: tuple[tuple[bytes, ...], ...]) -> OwnChains:
    """All chains of a service port with affinity; ``orders``: its two lists, endpoints as in maps."""
    layout = LAYOUTS[6 if ":" in service.cluster_ip else 4]
    chains: dict[str, tuple[Rule, ...]] = {}
    sets: list[SetSpec] = []
    endpoints = dict.fromkeys(endpoint for order in orders for endpoint in order)
    for which, entry, suffix in ((CLUSTER_LIST, "service", ""), (LOCAL_LIST, "local", "-local")):
        if orders[which]:
            name = own_chain(service, entry)
            chains[name] = _choice_rules(service, orders[which], layout)
            chains[own_chain(service, f"cluster{suffix}")] = (
                _verdict("jump", MARK_OUTSIDE_CHAIN),
                _verdict("goto", name),
            )
            if which == CLUSTER_LIST:
                chains[own_chain(service, "external")] = (_verdict("jump", MARK_CHAIN), _verdict("goto", name))
    for endpoint in endpoints:
        name = _endpoint_name(service, endpoint)
        address = nft.ADDRESS[6 if layout.bytes == 16 else 4]
        spec = SetSpec(f"affinity-{name}", (address,), dynamic=True, size=MAX_CLIENTS)
        sets.append(spec)
        chains[f"endpoint-{name}"] = _endpoint_rules(service, endpoint, spec, layout)
    return OwnChains(chains, tuple(sets))


def _choice_rules(service: ServicePort, order: tuple[bytes, ...], layout: Layout) -> tuple[Rule, ...]:
    """First the endpoint that the client had last, then an equal chance for each."""
    names = [_endpoint_name(service, endpoint) for endpoint in order]
    known = [
        Rule(
            f"{layout.word} saddr @affinity-{name} goto endpoint-{name}",
            (layout.source(), nft.Lookup(0, f"affinity-{name}"), nft.Verdict("goto", f"endpoint-{name}")),
        )
        for name in names
    ]
    drawn = []
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        goto = nft.Verdict("goto", f"endpoint-{name}")
        chance = (nft.Random(0, left, 0), nft.Compare(0, True, bytes(4))) if left > 1 else ()
        words = f"numgen random mod {left} 0 " if left > 1 else ""
        drawn.append(Rule(f"{words}goto endpoint-{name}", (*chance, goto)))
    return (*known, *drawn)


def _endpoint_rules(service: ServicePort, endpoint: bytes, spec: SetSpec, layout: Layout) -> tuple[Rule, ...]:
    """Remember the client, where there is room, then translate."""
    timeout_s = service.affinity_timeout_s
    after = layout.registers
    where = join_port(*_unpack(endpoint))
    load = (nft.Load(0, endpoint[: layout.bytes]), nft.Load(after, endpoint[layout.bytes : layout.bytes + 2]))
    return (
        Rule(
            f"update @{spec.name} {{ {layout.word} saddr timeout {_spell_timeout(timeout_s)} }}",
            (layout.source(), nft.Remember("update", spec.name, 0, timeout_s=timeout_s)),
        ),
        Rule(f"dnat to {where}", (*load, nft.DestinationNat(0, after))),
    )


def _verdict(word: str, chain: str) -> Rule:
    return Rule(f"{word} {chain}", (nft.Verdict(word, chain),))


@lru_cache(maxsize=1 << 16)
def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:5]).decode()


def _full_name(service: ServicePort) -> str:
    """As upstream's: ``ULMVA6XW-ns/svc/tcp/p80``; the names alone could be longer than a chain's may be."""
    name = f"{service.name.namespace}/{service.name.name}/{service.protocol}/{service.name.port}"
    return f"{_hash(name)}-{name}"[:96]


def _endpoint_name(service: ServicePort, endpoint: bytes) -> str:
    address, port = _unpack(endpoint)
    name = f"{service.name.namespace}/{service.name.name}/{service.protocol}/{service.name.port}"
    where = f"{address}/{port}".replace(":", ".")
    return f"{_hash(f'{name}__{where}')}-{name}"[:64] + f"__{where}"


def _unpack(endpoint: bytes) -> tuple[str, int]:
    """Address and port of an endpoint as maps have it."""
    length = len(endpoint) - 4
    return nft.render_value((nft.ADDRESS[6 if length == 16 else 4],), endpoint), int.from_bytes(
        endpoint[length:-2], "big"
    )


def _spell_timeout(seconds: int) -> str:
    """As nft writes it: ``3h``, ``1d``, ``1m30s``."""
    words = ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        words += f"{count}{unit}" if count else ""
    return words
