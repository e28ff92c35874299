"""One service port on one node as elements: what the maps hold of it, and the chains it needs.

Cost on a node: one element for each address and one for each address and endpoint; a ClusterIP's and the endpoints' own
addresses are in two sets more.

Source of the behaviour: kubernetes pkg/proxy/nftables/proxier.go, syncProxyRules.
"""

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from netsim.ruleset.nft import pack_address
from proxy.addresses import contains
from proxy.config import FamilyView
from proxy.nftables import skeleton as sk
from proxy.nftables.chains import (
    CLUSTER_LIST,
    LIST_OFFSET,
    LOCAL_LIST,
    ChainKey,
    OwnChains,
    own_chain,
    plan_own_chains,
)
from proxy.servicemap import Endpoint, Entry, ServicePort
from proxy.topology import Choice

Element = tuple[int, bytes, bytes]  # (number of the set, key, value)
Order = tuple[bytes, ...]  # endpoints as elements have them, each at its number
Claim = tuple[int, bytes]  # (rank, key): whose an address, protocol and port is, the lowest rank first

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PORT = struct.Struct("!Hxx")
_NUMBERS = tuple(number.to_bytes(4, "little") for number in range(256))
_POLICY_CHAINS = {node_port: name.encode() for node_port, name in sk.POLICY_CHAIN.items()}
_NO_CHAINS = OwnChains({}, ())
_PLAIN_CHAIN = ChainKey("cluster", False, CLUSTER_LIST, 0)
CLUSTER_IP, OTHER = 0, 1  # ranks of claims


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Compared by identity: nodes for which it is the same share it.

    ``elements`` are this service port's alone; ``shared`` (without values) may be others' too. ``own``: chains and
    sets of its own. ``orders``: the cluster and the local list. ``claims``: its addresses, also those that another has.
    """

    elements: tuple[Element, ...]
    shared: tuple[tuple[int, bytes], ...]
    chains: tuple[ChainKey, ...]
    own: OwnChains
    orders: tuple[Order, Order]
    claims: tuple[Claim, ...]


NOTHING = Block((), (), (), _NO_CHAINS, ((), ()), ())


@lru_cache(maxsize=1 << 17)
def pack_endpoint(ip: str, port: int) -> bytes:
    """An endpoint as maps have it."""
    return pack_address(ip) + _PORT.pack(port)


def _number(value: int) -> bytes:
    return _NUMBERS[value] if value < 256 else value.to_bytes(4, "little")


def service_key(address: bytes, protocol: str, port: int) -> bytes:
    """A destination as maps have it. A NodePort's ``address`` is empty."""
    return b"%b%c\0\0\0%b" % (address, _PROTOCOLS[protocol], _PORT.pack(port))


def arrange(before: Order, wanted: Order) -> Order:
    """``wanted`` in an order that leaves as many as possible of ``before`` at their places.

    One that comes takes the place of one that goes, or a new last place; where more go than come the last ones move
    up. So one endpoint's change is at most two elements for each address, whatever the size of the list.
    """
    if before == wanted or not before:
        return wanted
    staying = set(wanted)
    known = set(before)
    coming = [endpoint for endpoint in wanted if endpoint not in known]
    order: list[bytes | None] = [endpoint if endpoint in staying else None for endpoint in before]
    coming.reverse()
    for index, endpoint in enumerate(order):
        if endpoint is None and coming:
            order[index] = coming.pop()
    order += reversed(coming)
    for index in range(len(order) - 1, -1, -1):
        if order[index] is None:
            last = order.pop()
            if index < len(order):
                order[index] = last
    return tuple(endpoint for endpoint in order if endpoint is not None)


def claims_of(entry: Entry) -> tuple[Claim, ...]:
    """The keys of a service port's addresses."""
    known: tuple[Claim, ...] | None = entry.memo.get(Claim)
    if known is None:
        service, protocol = entry.service, entry.service.name.protocol
        cluster_ip = pack_address(service.cluster_ip)
        found = {service_key(cluster_ip, protocol, service.port): CLUSTER_IP}
        for ip in (*service.external_ips, *service.load_balancer_ips):
            found.setdefault(service_key(pack_address(ip), protocol, service.port), OTHER)
        if service.node_port:
            found[service_key(b"", protocol, service.node_port)] = OTHER
        known = entry.memo[Claim] = tuple((rank, key) for key, rank in found.items())
    return known


def make_block(
    entry: Entry,
    choice: Choice,
    view: FamilyView,
    *,
    before: Block = NOTHING,
    lost: frozenset[bytes] = frozenset(),
) -> Block:
    """The block of ``entry`` on ``view``'s node, which has ``before`` now; ``lost``: keys that another service has."""
    from_node = _allows_node(entry.service, view)
    key = (Block, id(choice), from_node, lost, id(before))
    known: tuple[Block, Block] | None = entry.memo.get(key)  # with ``before``, which keeps its id its own
    if known is None:
        plain = before is NOTHING and not lost and bool(choice.cluster) and _is_plain(entry.service)
        block = _write_plain(entry, choice) if plain else _Writer(entry, choice, from_node, before, lost).write()
        known = entry.memo[key] = (before, block)
    return known[1]


def _allows_node(service: ServicePort, view: FamilyView) -> bool:
    if not service.source_ranges:
        return False
    ip = view.node.ip(view.family)
    return bool(ip) and any(contains(cidr, ip) for cidr in service.source_ranges)


def _is_plain(service: ServicePort) -> bool:
    """Whether it has nothing but a ClusterIP with traffic policy Cluster."""
    return not (service.internal_local or service.affinity_timeout_s or service.externally_accessible)


def _write_plain(entry: Entry, choice: Choice) -> Block:
    """What `_Writer` makes of a plain service port without a block before, in a third of the time.

    In a large cluster nearly all are so, and the first sync makes every one.
    """
    claims = claims_of(entry)
    key = claims[0][1]
    order = _pack(choice.cluster)
    chain = _sized(_PLAIN_CHAIN, len(order))
    elements: list[Element] = [(sk.SERVICES, key, chain.name.encode())]
    elements += [(sk.ENDPOINTS, key + _number(number), endpoint) for number, endpoint in enumerate(order)]
    length = len(key) - 8
    addresses = dict.fromkeys([endpoint[:length] for endpoint in order])
    shared = [(sk.CLUSTER_IPS, key[:length]), *[(sk.HAIRPINS, address + address) for address in addresses]]
    return Block(tuple(elements), tuple(shared), (chain,), _NO_CHAINS, (order, ()), claims)


class _Writer:
    """Writes one block."""

    def __init__(
        self,
        entry: Entry,
        choice: Choice,
        from_node: bool,
        before: Block,
        lost: frozenset[bytes],
    ) -> None:
        self.service = service = entry.service
        self.choice = choice
        self.from_node = from_node
        self.lost = lost
        self.claims = claims_of(entry)
        self.cluster_ip = pack_address(service.cluster_ip)
        self.own = _NO_CHAINS
        self.orders = _pack(choice.cluster), _pack(choice.local)
        if service.affinity_timeout_s:
            self.own = plan_own_chains(service, self.orders)
        else:
            self.orders = arrange(before.orders[0], self.orders[0]), arrange(before.orders[1], self.orders[1])
        self.elements: dict[tuple[int, bytes], bytes] = {}
        self.chains: dict[ChainKey, None] = {}
        self.has_external = choice.has_any and (bool(choice.local) or not service.external_local)

    def write(self) -> Block:
        service = self.service
        protocol = service.name.protocol
        for ip in service.load_balancer_ips:
            key = service_key(pack_address(ip), protocol, service.port)
            self._external(key, node_port=False)
            self._firewall(key)
        for ip in service.external_ips:
            self._external(service_key(pack_address(ip), protocol, service.port), node_port=False)
        if service.node_port:
            self._external(service_key(b"", protocol, service.node_port), node_port=True)
        self._internal(service_key(self.cluster_ip, protocol, service.port))
        shared = [(sk.CLUSTER_IPS, self.cluster_ip)]
        shared += [(sk.HAIRPINS, ip + ip) for ip in dict.fromkeys(_addresses(self.orders, len(self.cluster_ip)))]
        elements = tuple((index, key, value) for (index, key), value in self.elements.items())
        return Block(elements, tuple(shared), tuple(self.chains), self.own, self.orders, self.claims)

    def _internal(self, key: bytes) -> None:
        """Last of all, as a ClusterIP that is also among the service's own external addresses is a ClusterIP."""
        if key in self.lost:
            return
        which = LOCAL_LIST if self.service.internal_local else CLUSTER_LIST
        for index in range(sk.NODE_PORTS):
            self.elements.pop((index, key), None)
        if not self.choice.has_any:
            self.elements[sk.NO_ENDPOINTS, key] = b""
        elif self.orders[which]:
            self._lead(sk.SERVICES, key, ChainKey("cluster", False, which, 0))
        else:
            self.elements[sk.NO_LOCAL, key] = b""

    def _external(self, key: bytes, *, node_port: bool) -> None:
        if key in self.lost:
            return
        twin = sk.NODE_PORTS if node_port else 0
        if not self.choice.has_any:
            self.elements[twin + sk.NO_ENDPOINTS, key] = b""
            return
        if not self.has_external:
            self.elements[twin + sk.NO_LOCAL, key] = b""
        if not self.service.external_local:
            self._lead(sk.SERVICES, key, ChainKey("external", node_port, CLUSTER_LIST, 0))
            return
        self.elements[twin + sk.SERVICES, key] = _POLICY_CHAINS[node_port]
        self._lead(sk.POD_SERVICES, key, ChainKey("pod", node_port, CLUSTER_LIST, 0))
        self._lead(sk.LOCAL_SERVICES, key, ChainKey("local", node_port, LOCAL_LIST, 0))

    def _lead(self, index: int, key: bytes, chain: ChainKey) -> None:
        """Send what is for ``key`` to ``chain`` for the number of endpoints there are, and give it those."""
        order = self.orders[chain.which]
        if not order:
            return
        twin = sk.NODE_PORTS if chain.node_port else 0
        if self.service.affinity_timeout_s:
            self.elements[twin + index, key] = own_chain(self.service, _own_entry(chain)).encode()
            return
        chain = _sized(chain, len(order))
        self.chains[chain] = None
        self.elements[twin + index, key] = chain.name.encode()
        for number, endpoint in enumerate(order, chain.which * LIST_OFFSET):
            self.elements[twin + sk.ENDPOINTS, key + _number(number)] = endpoint

    def _firewall(self, key: bytes) -> None:
        service = self.service
        if not service.source_ranges or key in self.lost:
            return
        self.elements[sk.FIREWALL_IPS, key] = b""
        # A node that has the load balancer's address as its own may send from it.
        sources = [*service.source_ranges, *(service.load_balancer_ips if self.from_node else ())]
        for first, last in _ranges(sources):
            self.elements[sk.FIREWALL_SOURCES, key + first + key + last] = b""


@lru_cache(maxsize=4096)
def _sized(chain: ChainKey, size: int) -> ChainKey:
    return chain._replace(size=size)


def _own_entry(chain: ChainKey) -> str:
    """Which of a service port's own chains has the part of a shared one."""
    if chain.entry == "cluster":
        return "cluster-local" if chain.which == LOCAL_LIST else "cluster"
    return {"external": "external", "pod": "service", "local": "local"}[chain.entry]


@lru_cache(maxsize=1 << 16)
def _pack(endpoints: Collection[Endpoint]) -> Order:
    return tuple([pack_endpoint(endpoint.ip, endpoint.port) for endpoint in endpoints])


def _addresses(orders: Iterable[Order], length: int) -> Iterable[bytes]:
    return (endpoint[:length] for order in orders for endpoint in order)


def _ranges(cidrs: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """First and last addresses. Networks within others are left out: the kernel refuses overlapping elements."""
    networks: Iterable[IPv4Network | IPv6Network] = collapse_addresses([ip_network(cidr) for cidr in cidrs])  # type: ignore[type-var]  # of one family
    return [(network[0].packed, network[-1].packed) for network in networks]
