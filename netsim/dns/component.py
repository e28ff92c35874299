"""Cluster DNS as a Component: the API's objects by informers, the servers that answer from them."""

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from netsim.client.informerset import InformerSet
from netsim.dns.records import Answer, answer, slice_keys
from netsim.dns.server import PORT, DnsServer
from netsim.kernel.netns import Netns
from netsim.model.config import ClusterConfig
from netsim.model.kinds import ENDPOINT_SLICE, NAMESPACE, SERVICE
from netsim.model.objects import Object

IMAGE = "netsim/dns"

_SOCKET_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_BY_SERVICE = "dns/service"
_BY_ADDRESS = "dns/address"


class ContainerContext(Protocol):
    """What the kubelet tells a built-in container's provider; only what DNS needs of it."""

    @property
    def netns(self) -> Netns: ...

    @property
    def log(self) -> Callable[[str], None]: ...


class DnsComponent:
    """Answers from shared informers (Services, EndpointSlices, Namespaces).

    Also the kubelet's provider of containers with the image ``netsim/dns``: each becomes a server whose sockets live
    in the pod's namespace and whose work is done here, in the cluster process.
    """

    name = "dns"

    def __init__(self, informers: InformerSet, config: ClusterConfig) -> None:
        self._domain = config.dns_domain
        self._dns_ips = config.dns_ips
        self._families = tuple(_SOCKET_FAMILIES[family] for family in config.families)
        self._services = informers.of(SERVICE)
        self._slices = informers.of(ENDPOINT_SLICE)
        self._namespaces = informers.of(NAMESPACE)
        self._services.add_index(_BY_ADDRESS, _service_addresses)
        self._slices.add_index(_BY_SERVICE, slice_keys)
        self._slices.add_index(_BY_ADDRESS, _slice_addresses)
        self._servers: list[DnsServer] = []

    async def run(self) -> None:
        """Wait for the end: answering is done by the sockets' events. Stops every server when cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            for server in self._servers:
                await server.stop()
            self._servers.clear()

    async def settle(self, revision: int) -> None:
        """Return when answers come from ``revision`` or later."""
        for informer in (self._services, self._slices, self._namespaces):
            await informer.reached(revision)

    def resolve(self, name: str, record_type: str) -> Answer:
        """The answer as of now."""
        return answer(name, record_type, self, domain=self._domain, dns_ips=self._dns_ips)

    # --- the kubelet's provider of built-in containers ---

    def matches(self, container: Mapping[str, Any]) -> bool:
        """Whether a container is one of ours, by its image: ``netsim/dns``, with or without registry and tag."""
        image = str(container.get("image", "")).partition("@")[0]
        path, _, tag = image.rpartition(":")
        without_tag = image if not path or "/" in tag else path  # "host:5000/image" has a port, no tag
        return without_tag == IMAGE or without_tag.endswith(f"/{IMAGE}")

    async def start(self, context: ContainerContext) -> DnsServer:
        """A server that listens on port 53 of the container's namespace when this returns. Raises KernelError."""
        server = await self.start_in(context.netns)
        context.log(f"answering for {self._domain} on UDP and TCP port {PORT}; no upstream")
        return server

    async def start_in(self, netns: Netns) -> DnsServer:
        """A server in any namespace. Raises KernelError."""
        server = await DnsServer.start(netns, self.resolve, domain=self._domain, families=self._families)
        self._servers = [one for one in self._servers if one.is_listening]
        self._servers.append(server)
        return server

    # --- records.View ---

    @property
    def serial(self) -> int:
        return max(self._services.revision, self._slices.revision)

    def namespace_exists(self, name: str) -> bool:
        return self._namespaces.get(None, name) is not None

    def service(self, namespace: str, name: str) -> Object | None:
        return self._services.get(namespace, name)

    def slices(self, namespace: str, service: str) -> Collection[Object]:
        return self._slices.by_index(_BY_SERVICE, f"{namespace}/{service}")

    def services_at(self, address: str) -> Collection[Object]:
        return self._services.by_index(_BY_ADDRESS, address)

    def slices_at(self, address: str) -> Collection[Object]:
        return self._slices.by_index(_BY_ADDRESS, address)


def _service_addresses(service: Object) -> Iterable[str]:
    spec = service.get("spec") or {}
    addresses = spec.get("clusterIPs") or (spec.get("clusterIP"),)
    return [address for address in addresses if address and address != "None"]


def _slice_addresses(endpoint_slice: Object) -> Iterable[str]:
    return [a for endpoint in endpoint_slice.get("endpoints") or () for a in endpoint.get("addresses") or ()]
