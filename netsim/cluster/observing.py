"""What tracing needs of the running cluster: its places, the names of addresses, and what a target means."""

from collections.abc import Mapping

from netsim.cluster.service_notes import note_services
from netsim.cluster.site import Site
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl
from netsim.model.errors import not_found
from netsim.model.kinds import ENDPOINT_SLICE, NODE, POD, SERVICE
from netsim.model.names import EXTERNAL
from netsim.model.objects import Object, name_of, namespace_of
from netsim.model.target import Destination, Protocol, Target, choose_address, resolve_place, resolve_service
from netsim.model.where import Where
from netsim.observe.names import name_addresses
from netsim.observe.path import FABRIC


def map_places(site: Site) -> dict[str, Netns]:
    """Every place and its network namespace. A pod with its node's network is its node."""
    registry = site.namespaces
    places = {FABRIC: registry.need(FABRIC), f"host/{EXTERNAL}": registry.need(EXTERNAL)}
    places |= {f"node/{name}": registry.need(name) for name in site.node_names()}
    known = {netns.inode for netns in places.values()}
    for pod in site.informers.of(POD).items():
        netns = site.kubelet.netns_of(namespace_of(pod), name_of(pod))
        if netns is not None and netns.inode not in known:
            places[f"pod/{namespace_of(pod)}/{name_of(pod)}"] = netns
    return places


def find_place(site: Site, places: Mapping[str, Netns], where: Where) -> str:
    """The place a WHERE is; of a pod with its node's network that node. Raises NetsimError, ApiError."""
    if str(where) in places:
        return str(where)
    netns = site.netns_at(where)
    return next((name for name, known in places.items() if known.inode == netns.inode), str(where))


def name_all(site: Site, places: Mapping[str, Netns]) -> dict[str, str]:
    """Names of addresses: by the API's objects, and for what no object has by where it is. Blocking."""
    informers = site.informers
    others: dict[str, str] = {}
    for place, netns in places.items():
        if not place.startswith("pod/"):
            others |= dict.fromkeys(_read_addresses(netns), place)
    return name_addresses(informers.of(POD).items(), informers.of(NODE).items(), informers.of(SERVICE).items(), others)


def resolve(site: Site, target: Target, protocol: Protocol | None, family: int | None) -> Destination:
    """Where a packet for a target is to be addressed. Raises UsageError, ApiError, NetsimError. Blocking."""
    if target.service:
        service = site.informers.of(SERVICE).get(target.namespace, target.service)
        if service is None:
            raise not_found("services", "", target.service)
        return resolve_service(target, service, protocol=protocol, family=family)
    if target.place is None:
        if family is not None:
            choose_address(target, [target.address], family)
        return resolve_place(target, [target.address], protocol=protocol)
    netns = site.netns_at(target.place)
    pod = _find_pod(site, target.place)
    addresses = [entry["ip"] for entry in ((pod or {}).get("status") or {}).get("podIPs") or ()]
    if not addresses:
        addresses = _read_addresses(netns)
    return resolve_place(target, addresses, pod, protocol=protocol, family=family)


def note_destination(site: Site, destination: Destination) -> list[str]:
    """A note where a Service has the address that is asked and can't serve it, which the kernel does not tell."""
    informers = site.informers
    statuses = [node.get("status") or {} for node in informers.of(NODE).items()]
    of_nodes = {entry["address"] for status in statuses for entry in status.get("addresses") or ()}
    return note_services(destination, informers.of(SERVICE).items(), informers.of(ENDPOINT_SLICE).items(), of_nodes)


def _find_pod(site: Site, where: Where) -> Object | None:
    if where.kind != "pod":
        return None
    pod = site.informers.of(POD).get(where.namespace, where.name)
    if pod is None:
        raise not_found("pods", "", where.name)
    return pod


def _read_addresses(netns: Netns) -> list[str]:
    """Its own addresses; eth0's first, since that is the one it is known by."""
    with netns.entered(), Rtnl() as rtnl:
        links = {link.ifindex: link.name for link in rtnl.links()}
        found = [(links.get(a.ifindex, "") != "eth0", a.cidr.partition("/")[0]) for a in rtnl.addresses()]
    own = [(late, address) for late, address in found if not address.startswith(("127.", "fe80:", "::1"))]
    return [address for _, address in sorted(own, key=lambda item: item[0])]
