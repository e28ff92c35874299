"""The words of the CNI spec: request, result in every version's format, errors with their codes. Pure.

Plain classes and named tuples: ``dataclasses`` would add 9 ms to the program's start. Source: containernetworking/cni
SPEC.md 1.1.0.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from netsim.model.errors import NetsimError

SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]
DEFAULT_VERSION = "0.1.0"  # a configuration without cniVersion (SPEC, section 1)

# Codes of the spec; 8 and 999 are not listed there, but what the reference's skel uses.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
INTERNAL = 999
# Our own, as the spec allows from 100 on.
KERNEL_REFUSED = 100  # netlink, nft or a sysctl
CHECK_FAILED = 101  # CHECK found something missing or different
NO_ADDRESS = 102  # pool exhausted, or a requested address taken or outside
ALREADY_ATTACHED = 103  # this container and interface, or an interface of that name, exists already


class CniError(NetsimError):
    """What a plugin answers instead of a result.

    code:    a number of the spec or, from 100 on, our own (above).
    message: one line; ``details``: more of them, or empty.
    """

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(f"{message}; {details}" if details else message)
        self.code = code
        self.summary = message
        self.details = details

    def to_json(self, version: str) -> dict[str, Any]:
        """The error object; with cniVersion, as the spec wants it (the reference leaves it out)."""
        body: dict[str, Any] = {"cniVersion": version, "code": self.code, "msg": self.summary}
        if self.details:
            body["details"] = self.details
        return body


class Request(NamedTuple):
    """One operation. ``netns`` is a path, ``args`` is CNI_ARGS (``K=V;K2=V2``), ``config`` the plugin's object."""

    command: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: str = ""
    config: Mapping[str, Any] = {}
    netns_override: bool = False  # CNI_NETNS may be the namespace the plugin runs in


class Interface(NamedTuple):
    """A link of the attachment; ``sandbox`` is empty for those of the node."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


class IP(NamedTuple):
    """An address: ``address`` is ``10.244.1.5/24``, ``interface`` an index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


class Route(NamedTuple):
    """A route in the container; ``gw`` empty: by the gateway of the address of its family."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class Result(NamedTuple):
    """What an ADD made, independent of the version it is rendered in."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IP, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Mapping[str, Any] = {}

    def render(self, version: str) -> dict[str, Any]:
        """The JSON object of that cniVersion; CniError if it cannot be said in it."""
        return FORMATS[version].render(self, version)


def parse_result(body: Mapping[str, Any], version: str) -> Result:
    """A result object (prevResult); its own cniVersion goes before the configuration's. CniError if it is malformed."""
    own = body.get("cniVersion") or version
    if own not in FORMATS:
        raise CniError(INCOMPATIBLE_VERSION, "incompatible CNI versions", f'prevResult is of version "{own}"')
    try:
        return FORMATS[own].parse(body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CniError(DECODING_FAILURE, "could not parse prevResult", repr(error)) from None


class Format(NamedTuple):
    """How one generation of results is written and read."""

    render: Callable[[Result, str], dict[str, Any]]
    parse: Callable[[Mapping[str, Any]], Result]


def _without_empty(body: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in body.items() if v not in ("", 0, None) and v != {}}


def _render_interface(interface: Interface, extended: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"name": interface.name, "mac": interface.mac, "sandbox": interface.sandbox}
    if extended:
        body |= {
            "mtu": interface.mtu,
            "socketPath": interface.socket_path,
            "pciID": interface.pci_id,
        }
    return _without_empty(body)


def _render_route(route: Route, extended: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"dst": route.dst, "gw": route.gw}
    if extended:
        body |= {"mtu": route.mtu, "advmss": route.advmss, "priority": route.priority}
        # Table 0 and scope 0 (universe) say something, so only None is left out.
        body |= {k: v for k, v in (("table", route.table), ("scope", route.scope)) if v is not None}
        kept = {k: body[k] for k in ("table", "scope") if k in body}
        return _without_empty(body) | kept
    return _without_empty(body)


def _render_ip(ip: IP, with_family: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"version": family_digit(ip.address)} if with_family else {}
    body["address"] = ip.address
    if ip.gateway:
        body["gateway"] = ip.gateway
    if ip.interface is not None:
        body["interface"] = ip.interface
    return body


def _render_list(result: Result, version: str, *, with_family: bool, extended: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        body["interfaces"] = [_render_interface(i, extended) for i in result.interfaces]
    if result.ips:
        body["ips"] = [_render_ip(ip, with_family) for ip in result.ips]
    if result.routes:
        body["routes"] = [_render_route(r, extended) for r in result.routes]
    if result.dns:
        body["dns"] = dict(result.dns)
    return body


def _render_030(result: Result, version: str) -> dict[str, Any]:
    """0.3.0 to 0.4.0: ``ips[].version``."""
    return _render_list(result, version, with_family=True, extended=False)


def _render_100(result: Result, version: str) -> dict[str, Any]:
    """1.0.0: the family is seen from the address."""
    return _render_list(result, version, with_family=False, extended=False)


def _render_110(result: Result, version: str) -> dict[str, Any]:
    """1.1.0: MTU of interfaces; MTU, MSS, priority, table and scope of routes."""
    return _render_list(result, version, with_family=False, extended=True)


def _render_010(result: Result, version: str) -> dict[str, Any]:
    """0.1.0 and 0.2.0: ``ip4`` and ``ip6``, the first address of each family with the routes of that family."""
    body: dict[str, Any] = {"cniVersion": version}
    for ip in result.ips:
        digit = family_digit(ip.address)
        if f"ip{digit}" in body:
            continue
        routes = [_render_route(r, False) for r in result.routes if family_digit(r.dst) == digit]
        entry: dict[str, Any] = {"ip": ip.address}
        if ip.gateway:
            entry["gateway"] = ip.gateway
        if routes:
            entry["routes"] = routes
        body[f"ip{digit}"] = entry
    if len(body) == 1:
        raise CniError(INCOMPATIBLE_VERSION, f"cannot convert: no valid IP addresses (cniVersion {version})")
    if result.dns:
        body["dns"] = dict(result.dns)
    return body


def _parse_route(body: Mapping[str, Any]) -> Route:
    return Route(
        dst=body["dst"],
        gw=body.get("gw") or "",
        mtu=body.get("mtu") or 0,
        advmss=body.get("advmss") or 0,
        priority=body.get("priority") or 0,
        table=body.get("table"),
        scope=body.get("scope"),
    )


def _parse_list(body: Mapping[str, Any]) -> Result:
    return Result(
        interfaces=tuple(
            Interface(
                name=i["name"],
                mac=i.get("mac") or "",
                sandbox=i.get("sandbox") or "",
                mtu=i.get("mtu") or 0,
                socket_path=i.get("socketPath") or "",
                pci_id=i.get("pciID") or "",
            )
            for i in body.get("interfaces") or ()
        ),
        ips=tuple(IP(ip["address"], ip.get("gateway") or "", ip.get("interface")) for ip in body.get("ips") or ()),
        routes=tuple(_parse_route(r) for r in body.get("routes") or ()),
        dns=dict(body.get("dns") or {}),
    )


def _parse_010(body: Mapping[str, Any]) -> Result:
    ips: list[IP] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        entry = body.get(key)
        if entry:
            ips.append(IP(entry["ip"], entry.get("gateway") or ""))
            routes += [_parse_route(r) for r in entry.get("routes") or ()]
    return Result(ips=tuple(ips), routes=tuple(routes), dns=dict(body.get("dns") or {}))


FORMATS: dict[str, Format] = {
    "0.1.0": Format(_render_010, _parse_010),
    "0.2.0": Format(_render_010, _parse_010),
    "0.3.0": Format(_render_030, _parse_list),
    "0.3.1": Format(_render_030, _parse_list),
    "0.4.0": Format(_render_030, _parse_list),
    "1.0.0": Format(_render_100, _parse_list),
    "1.1.0": Format(_render_110, _parse_list),
}


def version_at_least(version: str, least: str) -> bool:
    """Whether one supported version is ``least`` or newer."""
    return SUPPORTED_VERSIONS.index(version) >= SUPPORTED_VERSIONS.index(least)


def family_digit(address: str) -> str:
    """``"4"`` or ``"6"``, as results of 0.3.0 to 0.4.0 name the family of an address."""
    return "6" if ":" in address else "4"
