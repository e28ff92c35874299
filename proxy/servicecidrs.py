"""The cluster's service network, as its ServiceCIDR objects say: what nftables mode drops packets to.

A cluster's own network is in the topology that made it; the program has only the API server to ask. Servers before
Kubernetes 1.33 have no such objects, and roles made for older proxies may not read them: then nothing is dropped.

Source: kubernetes pkg/proxy/config/config.go (ServiceCIDRConfig), KEP-1880.
"""

import logging
from collections.abc import Callable, Iterable

from netsim.client.api import Api
from netsim.client.informerset import InformerSet
from netsim.model.clock import Clock
from netsim.model.errors import ApiError
from netsim.model.kinds import SERVICE_CIDR
from netsim.model.objects import Object
from proxy.addresses import parse_cidr

log = logging.getLogger(__name__)

RETRY_S = 1.0
_NOT_TO_BE_HAD = (403, 404)


async def follow_service_cidrs(
    api: Api, informers: InformerSet, clock: Clock, tell: Callable[[tuple[str, ...]], None]
) -> None:
    """Call ``tell`` with all networks whenever they change; return at once where the API server has none to offer."""
    while True:
        try:
            await api.list(SERVICE_CIDR)
            break
        except ApiError as error:
            if error.code in _NOT_TO_BE_HAD:
                log.warning("no ServiceCIDRs (%s): packets to free service addresses are not dropped", error.message)
                return
        await clock.sleep(RETRY_S)
    known: dict[str, tuple[str, ...]] = {}

    def changed(old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        before = join_networks(known.values())
        if new is None:
            known.pop(name, None)
        else:
            known[name] = read_networks(new)
        if join_networks(known.values()) != before:
            tell(join_networks(known.values()))

    informers.of(SERVICE_CIDR).add_handler(changed)


def read_networks(obj: Object) -> tuple[str, ...]:
    """What one object says; what is no network is left out."""
    found = (parse_cidr(text) for text in (obj.get("spec") or {}).get("cidrs") or ())
    return tuple(cidr for cidr in found if cidr is not None)


def join_networks(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """All of them, each once, in an order of their own."""
    return tuple(sorted({cidr for part in parts for cidr in part}))
