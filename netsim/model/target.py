"""TO on the command line and in Python: where a packet is to go, as it is written and as an address and a port.

``svc/[NAMESPACE/]NAME``, a place (`netsim.model.where`) or an address, each with ``:PORT``, a number or a port's name.
Pure: the object that the target names is handed in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Literal

from netsim.model.errors import NetsimError, UsageError
from netsim.model.where import Where, parse_where

Protocol = Literal["tcp", "udp", "icmp"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "icmp")
_SERVICE_WORDS = ("svc", "service", "services")
_BROADCAST = "255.255.255.255"
HINT = "write svc/[NAMESPACE/]NAME, pod/[NAMESPACE/]NAME, node/NAME, host/NAME or an address, with :PORT"


@dataclass(frozen=True, slots=True)
class Target:
    """What was written. One of ``place``, ``service`` and ``address`` is set."""

    place: Where | None = None
    service: str = ""  # its name
    namespace: str = ""  # of the Service
    address: str = ""
    port: str = ""  # as written: "80", "http", or "" for none

    @property
    def bare(self) -> str:
        """Without the port."""
        if self.place is not None:
            return str(self.place)
        return f"svc/{self.namespace}/{self.service}" if self.service else self.address

    def __str__(self) -> str:
        if not self.port:
            return self.bare
        return f"[{self.bare}]:{self.port}" if ":" in self.address else f"{self.bare}:{self.port}"


@dataclass(frozen=True, slots=True)
class Destination:
    """What it means: where the packet is addressed to. ``port`` is 0 for icmp."""

    address: str
    port: int
    protocol: Protocol


def parse_target(text: str, namespace: str = "default") -> Target:
    """``svc/web:http``, ``pod/shop/web-0:80``, ``node/node-1:30080``, ``10.96.0.10:53``, ``[fd00::1]:80``, ``fd00::1``.

    Raises UsageError.
    """
    body, port = _split_port(text)
    if port and port.isdigit() and not 1 <= int(port) <= 65535:
        raise UsageError(f'"{text}": {port} is no port', hint="ports are 1 to 65535")
    if "/" not in body:
        return Target(address=_check_address(body, text), port=port)
    kind, _, rest = body.partition("/")
    if kind not in _SERVICE_WORDS:
        try:
            return Target(place=parse_where(body, namespace), port=port)
        except UsageError:
            raise UsageError(f'"{text}" is no target', hint=HINT) from None
    parts = rest.split("/")
    if not all(parts) or len(parts) > 2:
        raise UsageError(f'"{text}" is no target', hint=HINT)
    return Target(service=parts[-1], namespace=parts[0] if len(parts) == 2 else namespace, port=port)


def _check_address(body: str, text: str) -> str:
    """An address that one host has: of a group, a network or nobody there is no way to tell. Raises UsageError."""
    try:
        address = ip_address(body)
    except ValueError:
        raise UsageError(f'"{text}" is no target', hint=HINT) from None
    if address.is_unspecified or address.is_multicast or str(address) == _BROADCAST:
        raise UsageError(f'"{text}" is no target: {address} is no address of one host', hint=HINT)
    return str(address)


def parse_service(text: str, namespace: str = "default") -> Target:
    """A Service alone: ``[svc/][NAMESPACE/]NAME`` with or without a port. Raises UsageError."""
    kind = text.partition("/")[0]
    known = kind in (*_SERVICE_WORDS, "pod", "node", "host") and "/" in text
    target = parse_target(text if known else f"svc/{text}", namespace)
    if not target.service:
        raise UsageError(f'"{text}" is no Service', hint="write svc/[NAMESPACE/]NAME")
    return target


def resolve_service(
    target: Target, service: Mapping[str, Any], *, protocol: Protocol | None = None, family: int | None = None
) -> Destination:
    """The ClusterIP (of IP version ``family``, or its first) and a port of the Service object.

    protocol: None takes that of the port. A Service of one port needs no port said. Raises UsageError for a port's name
    that it has not, NetsimError for a Service that has no address of its own (headless, ExternalName).
    """
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        name = spec.get("externalName", "")
        raise NetsimError(
            f"a Service of type ExternalName has no address; its name stands for {name}", where=str(target)
        )
    addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP", "")] if a and a != "None"]
    if not addresses:
        hint = "its pods' own addresses are what DNS answers: name a pod"
        raise NetsimError("a headless Service has no address", where=str(target), hint=hint)
    address = choose_address(target, addresses, family)
    if protocol == "icmp":
        _check_no_port(target)
        return Destination(address, 0, "icmp")
    offered = [(p.get("name", ""), int(p["port"]), p.get("protocol", "TCP").lower()) for p in spec.get("ports", [])]
    return Destination(address, *_choose_port(target, offered, protocol))


def resolve_place(
    target: Target,
    addresses: Iterable[str],
    pod: Mapping[str, Any] | None = None,
    *,
    protocol: Protocol | None = None,
    family: int | None = None,
) -> Destination:
    """A place or an address: one of ``addresses`` (of a target that is an address: that one).

    pod: the Pod object, which may have named ports; one with a single port needs no port said. protocol: None is that
    of the named port, else tcp. Raises UsageError where no port is said that is needed.
    """
    address = target.address or choose_address(target, list(addresses), family)
    if protocol == "icmp":
        _check_no_port(target)
        return Destination(address, 0, "icmp")
    containers = pod["spec"].get("containers", []) if pod else []
    offered = [
        (p.get("name", ""), int(p["containerPort"]), p.get("protocol", "TCP").lower())
        for container in containers
        for p in container.get("ports") or []
    ]
    return Destination(address, *_choose_port(target, offered, protocol))


def choose_address(target: Target, addresses: Sequence[str], family: int | None = None) -> str:
    """The first address of IP version ``family`` (4, 6; None: the first of all). Raises NetsimError."""
    found = next((a for a in addresses if family is None or (":" in a) == (family == 6)), None)
    if found is None:
        words = f"IPv{family} address" if family else "address"
        raise NetsimError(f"{target.bare} has no {words}", hint=f"it has {', '.join(addresses)}" if addresses else "")
    return found


def _choose_port(
    target: Target, offered: Sequence[tuple[str, int, str]], protocol: Protocol | None
) -> tuple[int, Protocol]:
    """``offered``: name, number and protocol of the ports that the object lists. Any number will do, also one it does
    not list: what becomes of a packet to it is worth asking.
    """
    listed = ", ".join(f"{number}/{words}" + (f" ({name})" if name else "") for name, number, words in offered)
    hint = f"{target.bare} has {listed}" if listed else HINT
    wanted = [p for p in offered if protocol in (None, p[2])]
    if not target.port:
        if len(wanted) == 1:
            return wanted[0][1], _check_protocol(target, wanted[0][2])
        if not listed:
            hint = f"write {replace(target, port='PORT')}, or --protocol icmp for a ping"
        raise UsageError(f"{target.bare}: which port?", hint=hint)
    matching = [p for p in wanted if target.port in (p[0], str(p[1]))]
    # Cluster DNS has 53 twice: who says nothing means tcp.
    best = next((p for p in matching if p[2] == "tcp"), matching[0] if matching else None)
    if best is not None:
        return best[1], _check_protocol(target, best[2])
    if target.port.isdigit():
        return int(target.port), protocol or "tcp"
    raise UsageError(f'{target.bare} has no port "{target.port}"', hint=hint)


def _check_protocol(target: Target, protocol: str) -> Protocol:
    found = next((known for known in PROTOCOLS if known == protocol), None)
    if found is None:
        raise UsageError(f"{target}: no probe of protocol {protocol}", hint=f"one of {', '.join(PROTOCOLS)}")
    return found


def _check_no_port(target: Target) -> None:
    if target.port:
        raise UsageError(f"{target}: icmp has no ports", hint=f"write {target.bare}")


def _split_port(text: str) -> tuple[str, str]:
    """Target and port. An IPv6 address with a port stands in brackets (RFC 3986); without, its colons are its own."""
    if text.startswith("["):
        body, bracket, rest = text[1:].partition("]")
        if bracket and (rest == "" or rest.startswith(":")):
            return body, rest[1:]
        return text, ""
    if text.count(":") > 1 and "/" not in text:
        return text, ""
    body, colon, port = text.partition(":")
    if colon and not port:
        raise UsageError(f'"{text}": which port?', hint=HINT)
    return body, port
