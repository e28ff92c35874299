"""What one service port is on one node: virtual servers, the addresses they answer on, and entries of ipsets.

Source: kubernetes pkg/proxy/ipvs/proxier.go, syncProxyRules, syncService, syncEndpoint.
"""

from dataclasses import dataclass

from netsim.ruleset.ipvs import FLAG_SH_FALLBACK, RealServer, ServerKey, VirtualServer
from proxy.addresses import contains
from proxy.config import FamilyView
from proxy.ipvs import sets
from proxy.ipvs.sets import Entry
from proxy.servicemap import Endpoint, ServicePort
from proxy.servicemap import Entry as ServiceEntry
from proxy.topology import Choice, choose_endpoints

Reals = tuple[RealServer, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """A virtual server's content."""

    virtual: VirtualServer
    reals: Reals


@dataclass(frozen=True, slots=True)
class Block:
    """servers: by what the kernel knows them by; addresses: what kube-ipvs0 must hold; entries: of ipsets."""

    servers: dict[ServerKey, Server]
    addresses: frozenset[str]
    entries: frozenset[Entry]


NOTHING = Block({}, frozenset(), frozenset())


def make_block(entry: ServiceEntry, view: FamilyView, local_ips: tuple[str, ...]) -> Block:
    """The block of ``entry`` on ``view``'s node, whose own addresses for NodePorts are ``local_ips``.

    Nodes for which it is the same get the same object.
    """
    service = entry.service
    choice = choose_endpoints(entry, view.node.name, view.node.zone)
    own = tuple(e for e in choice.reachable if e.node == view.node.name)
    ips = local_ips if service.node_port else ()
    from_node = _allows_node(service, view)
    key = (Block, id(choice), own, ips, from_node, view.config.ipvs_scheduler)
    block: Block | None = entry.memo.get(key)
    if block is None:
        block = entry.memo[key] = _make(service, choice, own, ips, from_node, view.config.ipvs_scheduler)
    return block


def _allows_node(service: ServicePort, view: FamilyView) -> bool:
    ip = view.node.ip(view.family)
    return bool(ip) and any(contains(cidr, ip) for cidr in service.source_ranges)


def _make(
    service: ServicePort,
    choice: Choice,
    own: tuple[Endpoint, ...],
    local_ips: tuple[str, ...],
    from_node: bool,
    scheduler: str,
) -> Block:
    protocol = service.protocol
    flags = FLAG_SH_FALLBACK if scheduler == "mh" else 0
    virtual = VirtualServer(scheduler, service.affinity_timeout_s, flags)
    internal = Server(virtual, _reals(choice, service.internal_local))
    external = Server(virtual, _reals(choice, service.external_local))
    visible = (*service.external_ips, *service.load_balancer_ips)
    servers = {ServerKey(protocol, service.cluster_ip, service.port): internal}
    for ip in visible:
        servers[ServerKey(protocol, ip, service.port)] = external
    if service.node_port:
        for ip in local_ips:
            servers[ServerKey(protocol, ip, service.node_port)] = external
    addresses = frozenset((service.cluster_ip, *visible))
    entries = {Entry(sets.IPVS_IPS, ip) for ip in addresses}
    entries |= {Entry(sets.LOOP_BACK, f"{e.ip},{protocol}:{e.port},{e.ip}") for e in own}
    entries |= _address_entries(service, from_node)
    entries |= _port_entries(service, local_ips)
    return Block(servers, addresses, frozenset(entries))


def _reals(choice: Choice, local: bool) -> Reals:
    """The real servers for a traffic policy.

    With policy Local and none on this node the cluster's, as upstream (#97081): pods must get through, and a virtual
    server can't tell them from others; what comes from outside is answered past the node then, and in vain.
    """
    endpoints = (choice.local or choice.cluster) if local else choice.cluster
    return tuple(RealServer(endpoint.ip, endpoint.port) for endpoint in endpoints)


def _address_entries(service: ServicePort, from_node: bool) -> set[Entry]:
    protocol, port = service.protocol, service.port

    def element(ip: str) -> str:
        return f"{ip},{protocol}:{port}"

    entries = {Entry(sets.CLUSTER_IP, element(service.cluster_ip))}
    external = sets.EXTERNAL_IP_LOCAL if service.external_local else sets.EXTERNAL_IP
    entries |= {Entry(external, element(ip)) for ip in service.external_ips}
    for ip in service.load_balancer_ips:
        entries.add(Entry(sets.LOAD_BALANCER, element(ip)))
        if service.external_local:
            entries.add(Entry(sets.LOAD_BALANCER_LOCAL, element(ip)))
        if service.source_ranges:
            entries.add(Entry(sets.LOAD_BALANCER_FW, element(ip)))
            for cidr in service.source_ranges:
                for part in sets.split_cidr(cidr):
                    entries.add(Entry(sets.LOAD_BALANCER_SOURCE_CIDR, f"{element(ip)},{part}"))
            if from_node:  # a node that has the load balancer's address as its own may send from it
                entries.add(Entry(sets.LOAD_BALANCER_SOURCE_IP, f"{element(ip)},{ip}"))
    return entries


def _port_entries(service: ServicePort, local_ips: tuple[str, ...]) -> set[Entry]:
    protocol, port = service.protocol, service.node_port
    entries: set[Entry] = set()
    if port:
        # The kernel has no bitmap of SCTP ports: that set holds each address with the port.
        elements = [f"{ip},sctp:{port}" for ip in local_ips] if protocol == "sctp" else [str(port)]
        entries |= {Entry(sets.NODE_PORT[protocol], element) for element in elements}
        if service.external_local:
            entries |= {Entry(sets.NODE_PORT_LOCAL[protocol], element) for element in elements}
    if service.health_check_node_port:
        entries.add(Entry(sets.HEALTH_CHECK_NODE_PORT, str(service.health_check_node_port)))
    return entries
