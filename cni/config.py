"""The plugin's configuration, read and checked. Pure.

The keys are those of the reference plugins bridge, host-local, portmap and bandwidth, so that a conflist written for
them runs with the type changed. Keys that we do not know are accepted, as the spec allows: runtimes pass everything on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cni.args import CniArgs, parse_args
from cni.ipam.ranges import Addr, RangeSet, check_sets, parse_addr, parse_range, parse_subnet
from cni.reader import Reader
from cni.types import (
    DECODING_FAILURE,
    DEFAULT_VERSION,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    SUPPORTED_VERSIONS,
    UNSUPPORTED_FIELD,
    CniError,
    Request,
    Result,
    Route,
    parse_result,
    version_at_least,
)
from netsim.kernel.rtnl_wire import parse_mac, render_mac
from netsim.model.errors import NetsimError
from netsim.model.names import check_link_name

DEFAULT_BRIDGE = "cni0"
DEFAULT_DATA_DIR = "/var/lib/cni/networks"
MAX_BURST_BITS = (1 << 32) * 8  # tbf counts bytes in 32 bits
# A configuration with none of these and a prevResult belongs to a plugin further down the chain, such as portmap.
_INTERFACE_KEYS = frozenset(
    ("bridge", "isGateway", "isDefaultGateway", "ipMasq", "hairpinMode", "promiscMode", "mtu", "vlan", "ipam")
)


class PortMapping(NamedTuple):
    """A port of the node that leads to the container. ``host_ip`` empty: every address of the node."""

    host_port: int
    container_port: int
    protocol: str
    host_ip: str


class Bandwidth(NamedTuple):
    """Limits in bit/s and bits; 0: none. Ingress is towards the pod."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class Ipam(NamedTuple):
    """Where addresses come from."""

    sets: tuple[RangeSet, ...]
    routes: tuple[Route, ...]
    data_dir: str
    resolv_conf: str
    requested: tuple[Addr, ...]


class NetConf(NamedTuple):
    """One plugin object, checked. ``chained``: no interface is ours, only mappings and limits on the previous one."""

    version: str
    name: str
    bridge: str
    is_gateway: bool
    is_default_gateway: bool
    force_address: bool
    ip_masq: bool
    mtu: int
    hairpin: bool
    static_neighbours: bool
    promisc: bool
    port_isolation: bool
    disable_container_interface: bool
    enable_dad: bool
    mac: str
    ipam: Ipam | None
    dns: Mapping[str, Any]
    port_mappings: tuple[PortMapping, ...]
    snat: bool
    bandwidth: Bandwidth
    chained: bool
    previous: Result | None
    valid_attachments: tuple[tuple[str, str], ...] | None


def parse_version(config: Mapping[str, Any]) -> str:
    """The configuration's cniVersion; CniError unless it is exactly one of ours."""
    version = config.get("cniVersion")
    if version is None or version == "":
        return DEFAULT_VERSION
    if not isinstance(version, str):
        raise CniError(DECODING_FAILURE, f"cniVersion: {version!r} is no string")
    if version not in SUPPORTED_VERSIONS:
        offered = ", ".join(SUPPORTED_VERSIONS)
        details = f'config is "{version}", plugin supports [{offered}]'
        raise CniError(INCOMPATIBLE_VERSION, "incompatible CNI versions", details)
    return version


def parse_config(request: Request) -> NetConf:
    """The configuration of a request, checked; CniError names the key and what it should be."""
    reader = Reader(request.config)
    version = parse_version(request.config)
    args = parse_args(request.args)
    runtime = reader.object("runtimeConfig")
    overrides = reader.object("args").object("cni")
    _refuse_unsupported(reader)
    previous = request.config.get("prevResult")
    ipam = _parse_ipam(reader, runtime, overrides, args, version)
    conf = NetConf(
        version=version,
        name=str(request.config.get("name", "")),
        bridge=_parse_link_name(reader.text("bridge") or DEFAULT_BRIDGE),
        is_gateway=reader.flag("isGateway") or reader.flag("isDefaultGateway"),
        is_default_gateway=reader.flag("isDefaultGateway"),
        force_address=reader.flag("forceAddress"),
        ip_masq=reader.flag("ipMasq"),
        mtu=reader.number("mtu", maximum=65535),
        hairpin=reader.flag("hairpinMode"),
        static_neighbours=reader.flag("staticNeighbours"),
        promisc=reader.flag("promiscMode"),
        port_isolation=reader.flag("portIsolation"),
        disable_container_interface=reader.flag("disableContainerInterface"),
        enable_dad=reader.flag("enabledad"),
        mac=_parse_mac(runtime.text("mac") or overrides.text("mac") or args.mac),
        ipam=ipam,
        dns=_parse_dns(reader, runtime),
        port_mappings=_parse_port_mappings(runtime),
        snat=reader.flag("snat", default=True),
        bandwidth=_parse_bandwidth(reader, runtime),
        chained=previous is not None and not _INTERFACE_KEYS & request.config.keys(),
        previous=parse_result(previous, version) if isinstance(previous, Mapping) else None,
        valid_attachments=_parse_attachments(request.config),
    )
    if conf.hairpin and conf.promisc:
        words = "cannot set hairpin mode and promiscuous mode at the same time"
        raise CniError(INVALID_CONFIG, f"{words} (hairpinMode, promiscMode)")
    if conf.disable_container_interface and conf.ipam:
        raise CniError(INVALID_CONFIG, "disableContainerInterface goes without ipam: a down link has no addresses")
    return conf


def _refuse_unsupported(reader: Reader) -> None:
    """What the reference plugins can and we cannot is refused by name and value, never ignored (code 2)."""
    vlan = reader.number("vlan", maximum=4094)
    for key, value in (
        ("vlan", vlan),
        ("vlanTrunk", reader.get("vlanTrunk")),
        ("macspoofchk", reader.flag("macspoofchk")),
        ("masqAll", reader.flag("masqAll")),
        ("externalSetMarkChain", reader.get("externalSetMarkChain")),
        ("conditionsV4", reader.get("conditionsV4")),
        ("conditionsV6", reader.get("conditionsV6")),
    ):
        if value:
            raise CniError(UNSUPPORTED_FIELD, f'unsupported field "{key}"', f"value: {value!r}")
    kind = reader.object("ipam").text("type")
    if kind not in ("", "host-local", "netsim-cni"):
        details = f'value: "{kind}"; address management here is host-local\'s, built in'
        raise CniError(UNSUPPORTED_FIELD, 'unsupported field "ipam.type"', details)


def _parse_link_name(name: str) -> str:
    try:
        return check_link_name(name)
    except NetsimError as error:
        raise CniError(INVALID_CONFIG, f"bridge: {error.message}", error.hint) from None


def _parse_mac(mac: str) -> str:
    try:
        return render_mac(parse_mac(mac)) if mac else ""
    except ValueError:
        raise CniError(INVALID_CONFIG, f'mac: "{mac}" is no MAC address') from None


def _parse_ipam(reader: Reader, runtime: Reader, overrides: Reader, args: CniArgs, version: str) -> Ipam | None:
    """None for a link without addresses: no ``ipam``, or one without type, as the reference has it."""
    ipam = reader.object("ipam")
    requested = _parse_requested(runtime, overrides, args)
    if not ipam.text("type"):
        return None
    bodies: list[list[Mapping[str, Any]]] = []
    bodies += [list(one.objects()) for one in runtime.lists("ipRanges")]
    if ipam.get("subnet") not in (None, ""):
        bodies.append([ipam.body])  # the old style: one range, written flat
    bodies += [list(one.objects()) for one in ipam.lists("ranges")]
    if not bodies:
        raise CniError(INVALID_CONFIG, "no IP ranges specified (ipam.subnet or ipam.ranges)")
    sets = tuple(
        tuple(parse_range(body, f"invalid range set {index}") for body in one) for index, one in enumerate(bodies)
    )
    check_sets(sets)
    families = [one[0].family for one in sets]
    if len(set(families)) < len(families) and not version_at_least(version, "0.3.0"):
        raise CniError(INVALID_CONFIG, f"CNI version {version} does not support more than 1 address per family")
    return Ipam(
        sets=sets,
        routes=tuple(_parse_route(one) for one in ipam.readers("routes")),
        data_dir=ipam.text("dataDir") or DEFAULT_DATA_DIR,
        resolv_conf=ipam.text("resolvConf"),
        requested=requested,
    )


def _parse_requested(runtime: Reader, overrides: Reader, args: CniArgs) -> tuple[Addr, ...]:
    """The capability goes before ``args.cni``, and that before CNI_ARGS (CONVENTIONS.md)."""
    for source, values in (
        ("runtimeConfig.ips", runtime.texts("ips")),
        ("args.cni.ips", overrides.texts("ips")),
        ("CNI_ARGS IP", args.ips),
    ):
        if values:
            return tuple(parse_addr(v.partition("/")[0], source) for v in values)
    return ()


def _parse_route(reader: Reader) -> Route:
    dst, prefix = parse_subnet(reader.get("dst"), "ipam.routes: dst")
    gateway = reader.text("gw")
    if gateway and parse_addr(gateway, "ipam.routes: gw").family != dst.family:
        raise CniError(INVALID_CONFIG, f"ipam.routes: gw {gateway} is of another family than {dst}/{prefix}")
    return Route(
        dst=f"{dst}/{prefix}",
        gw=gateway,
        mtu=reader.number("mtu"),
        advmss=reader.number("advmss"),
        priority=reader.number("priority"),
        table=reader.optional_number("table"),
        scope=reader.optional_number("scope"),
    )


def _parse_dns(reader: Reader, runtime: Reader) -> Mapping[str, Any]:
    """What the runtime gives, else the configuration's; with any key set it replaces IPAM's, even by an empty list."""
    for source in (runtime, reader):
        dns = source.object("dns").body
        if dns:
            return dict(dns)
    return {}


def _parse_port_mappings(runtime: Reader) -> tuple[PortMapping, ...]:
    found = []
    for one in runtime.readers("portMappings"):
        host_port, container_port = one.number("hostPort"), one.number("containerPort")
        for key, port in (("hostPort", host_port), ("containerPort", container_port)):
            if not 0 < port < 65536:
                raise CniError(INVALID_CONFIG, f"portMappings: invalid {key} number: {port}")
        protocol = (one.text("protocol") or "tcp").lower()
        if protocol not in ("tcp", "udp", "sctp"):
            raise CniError(INVALID_CONFIG, f'portMappings: unknown protocol "{protocol}"')
        host_ip = one.text("hostIP")
        if host_ip:
            address = parse_addr(host_ip, "portMappings: hostIP")
            host_ip = str(address) if address.number else f"any{6 if ':' in host_ip else 4}"
        found.append(PortMapping(host_port, container_port, protocol, host_ip))
    return tuple(found)


def _parse_bandwidth(reader: Reader, runtime: Reader) -> Bandwidth:
    """Written in the configuration it wins over the capability, as in the reference."""
    keys = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
    source = reader if any(reader.number(key) for key in keys) else runtime.object("bandwidth")
    values = Bandwidth(*(source.number(key) for key in keys))
    for rate, burst, direction in ((values[0], values[1], "ingress"), (values[2], values[3], "egress")):
        if bool(rate) != bool(burst):
            given, missing = ("Rate", "Burst") if rate else ("Burst", "Rate")
            words = f"{direction}{given} without {direction}{missing}"
            raise CniError(INVALID_CONFIG, f"bandwidth: if one of rate and burst is set, both are: {words}")
        if burst >= MAX_BURST_BITS:
            raise CniError(INVALID_CONFIG, f"bandwidth: {direction}Burst {burst} is 4 GiB or more")
    return values


def _parse_attachments(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """``cni.dev/valid-attachments``, or the name libcni also sends; None if neither is there."""
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        value = config.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str):
            readers = [Reader(one, key) for one in value]
            return tuple((one.text("containerID"), one.text("ifname")) for one in readers)
        if value is not None:
            raise CniError(INVALID_CONFIG, f"{key}: expected a list, got {value!r}")
    return None
