"""The proxy's modes, in one table: a mode's name, its dialect, its hands on a node, and how to remove what it wrote.

A new mode is one line in ``MODES`` and its three functions; nothing else here asks for a mode by name. Their modules
are imported when asked for, so that a proxy loads one mode's code and kernel libraries only. Its name must be in
``netsim.model.config.PROXY_MODES`` too, which planning asks: it may not see this table, whose targets touch the kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netsim.model.errors import FeatureMissing, KernelError

if TYPE_CHECKING:
    from netsim.kernel.iptables import Backend
    from netsim.kernel.netns import Netns
    from netsim.kernel.process import Spawner
    from proxy.config import ProxyConfig
    from proxy.dialect import Dialect, Target

log = logging.getLogger(__name__)
_FAMILIES = (4, 6)


@dataclass(frozen=True, slots=True)
class Mode:
    """make_dialect: one for all nodes. make_target: one for each node.

    clean_up: removes what this mode ever wrote in a namespace, both families; may be repeated; False when nothing of
    the mode works there, and so nothing can be there. Raises KernelError, when all was tried.
    """

    name: str
    make_dialect: Callable[[], Dialect]
    make_target: Callable[[Netns, Spawner, ProxyConfig], Target]
    clean_up: Callable[[Netns, Spawner], Awaitable[bool]]


@contextmanager
def _noting(failures: list[KernelError]) -> Iterator[None]:
    """What fails here is no reason to leave the rest."""
    try:
        yield
    except KernelError as error:
        failures.append(error)


def raise_all(failures: list[KernelError]) -> None:
    """One error for all of them, if there are any."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise KernelError("; ".join(map(str, failures)))


def _iptables_dialect() -> Dialect:
    from proxy.iptables.plan import IptablesDialect

    return IptablesDialect()


def _iptables_target(netns: Netns, spawner: Spawner, config: ProxyConfig) -> Target:
    from proxy.iptables.target import IptablesTarget

    return IptablesTarget(netns, spawner, config)


async def _clean_iptables(netns: Netns, spawner: Spawner) -> bool:
    from proxy.config import ProxyConfig
    from proxy.iptables.plan import IptablesDialect, is_guarded_by_us
    from proxy.iptables.target import IptablesTarget
    from proxy.kernelsettings import forget_settings

    dialect = IptablesDialect()
    backends: tuple[Backend, ...] = ("nft", "legacy")
    found, failures = False, list[KernelError]()
    for backend in backends:
        target = IptablesTarget(netns, spawner, ProxyConfig(), backend=backend)
        for family in _FAMILIES:
            try:
                existing = await target.look(family)
            except (FeatureMissing, KernelError) as error:
                log.info("IPv%d, iptables-%s: %s", family, backend, error)  # what does not work here wrote nothing here
                continue
            found = True
            if is_guarded_by_us(existing):  # first, so that there is no moment without a guard
                forget_settings(netns)
            with _noting(failures):
                await target.apply(dialect.plan_cleanup(family, existing))
    raise_all(failures)
    return found


def _nftables_dialect() -> Dialect:
    from proxy.nftables.plan import NftablesDialect

    return NftablesDialect()


def _nftables_target(netns: Netns, spawner: Spawner, config: ProxyConfig) -> Target:
    from proxy.nftables.target import NftablesTarget

    return NftablesTarget(netns)


async def _clean_nftables(netns: Netns, spawner: Spawner) -> bool:
    from proxy.nftables.plan import NftablesDialect
    from proxy.nftables.target import NftablesTarget

    dialect, target = NftablesDialect(), NftablesTarget(netns)
    found, failures = False, list[KernelError]()
    for family in _FAMILIES:
        try:
            existing = await target.read(family)
        except (FeatureMissing, KernelError) as error:
            log.info("IPv%d, nftables: %s", family, error)  # a kernel without nf_tables or this family holds no table
            continue
        found = True
        with _noting(failures):
            await target.apply(dialect.plan_cleanup(family, existing))
    target.close()
    raise_all(failures)
    return found


def _ipvs_dialect() -> Dialect:
    from proxy.ipvs.plan import IpvsDialect

    return IpvsDialect()


def _ipvs_target(netns: Netns, spawner: Spawner, config: ProxyConfig) -> Target:
    from proxy.ipvs.target import IpvsTarget

    return IpvsTarget(netns, spawner, config)


async def _clean_ipvs(netns: Netns, spawner: Spawner) -> bool:
    from proxy.config import ProxyConfig
    from proxy.ipvs.plan import IpvsDialect
    from proxy.ipvs.target import IpvsTarget

    dialect = IpvsDialect()
    target = IpvsTarget(netns, spawner, ProxyConfig())
    found, failures = False, list[KernelError]()
    for family in _FAMILIES:
        try:
            existing = await target.look(family)
        except (FeatureMissing, KernelError) as error:
            log.info("IPv%d, ipvs: %s", family, error)  # without IPVS, ipset or iptables no proxy wrote any of it
            continue
        found = True
        with _noting(failures):
            await target.apply(dialect.plan_cleanup(family, existing))
    raise_all(failures)
    return found


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (  # one line each
        Mode("iptables", _iptables_dialect, _iptables_target, _clean_iptables),
        Mode("nftables", _nftables_dialect, _nftables_target, _clean_nftables),
        Mode("ipvs", _ipvs_dialect, _ipvs_target, _clean_ipvs),
    )
}
