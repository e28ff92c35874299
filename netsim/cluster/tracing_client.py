"""What a Cluster handle offers about ways of packets: `trace`, which sends a probe and tells its whole way."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from netsim.cluster.control_client import ControlClient
from netsim.model.errors import UsageError
from netsim.model.target import parse_target
from netsim.model.where import parse_where

if TYPE_CHECKING:  # every command imports this module
    from netsim.observe.path import Path

DEFAULT_TIMEOUT_S = 0.7  # before the kernel would send a SYN again


class Tracing:
    """Part of `netsim.cluster.handle.Cluster`."""

    _control: ControlClient

    def trace(
        self,
        from_: str,
        to: str,
        *,
        protocol: Literal["tcp", "udp", "icmp"] | None = None,
        ip_family: Literal["ipv4", "ipv6"] | None = None,
        size_bytes: int = 0,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> "Path":
        """Send one real probe and return its way there and back, and what became of it.

        from_:      a place: ``pod/[NAMESPACE/]NAME``, ``node/NAME``, ``host/external``.
        to:         a place, ``svc/[NAMESPACE/]NAME`` or an address, with ``:PORT``, a number or a port's name. Where a
                    Service or pod has one port only, it need not be said.
        protocol:   default: that of the port; tcp where nothing says it.
        ip_family:  which address of the target; default: its first.
        size_bytes: of what a udp or icmp probe carries; at least what it is known by.
        timeout_s:  how long an answer is waited for.

        That the probe was lost is no error: ``path.verdict`` says so, where and by what. Raises UsageError for a place
        or target that is none, ApiError or NetsimError for one that is not there, has no network or no such address.
        """
        from netsim.observe.pathjson import parse_path

        parse_where(from_)
        parse_target(to)
        family = {None: None, "ipv4": 4, "ipv6": 6}.get(ip_family, 0)
        if family == 0:
            raise UsageError(f'ip_family: "{ip_family}" is not one of ipv4, ipv6')
        request = {
            "from": from_,
            "to": to,
            "protocol": protocol,
            "family": family,
            "size": size_bytes,
            "timeout_s": timeout_s,
        }
        return parse_path(self._control.ask("trace", request=request))

    def traces(
        self,
        from_: str,
        to: str,
        count: int,
        *,
        protocol: Literal["tcp", "udp", "icmp"] | None = None,
        ip_family: Literal["ipv4", "ipv6"] | None = None,
        size_bytes: int = 0,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> "Iterator[Path]":
        """``count`` probes, one after the other, each when it is asked for; see `trace`."""
        for _ in range(count):
            yield self.trace(
                from_, to, protocol=protocol, ip_family=ip_family, size_bytes=size_bytes, timeout_s=timeout_s
            )
