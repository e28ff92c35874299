"""KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1: upstream's configuration, as a file and as a document.

A *document* is the whole configuration as plain data in the file's shape, every field there and defaulted. Flags set
fields of it (`proxy.options`), and `make_config` turns it into what the proxy works with.

Sources: kubernetes staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go, pkg/proxy/apis/config/v1alpha1/defaults.go,
pkg/proxy/apis/config/validation/validation.go.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from netsim.model.errors import InputError, UsageError
from netsim.model.manifests import parse_documents
from proxy.addresses import choose_cidrs, family_of, parse_cidr, parse_ip
from proxy.config import ConntrackConfig, IpvsTimeouts, ProxyConfig, check_proxy_config
from proxy.durations import parse_duration, render_duration

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
HEALTHZ_PORT, METRICS_PORT = 10256, 10249

Document = dict[str, Any]

# Every field with its type: as a value of that type, or as the type where null is not the same as nothing. `_D` is
# a duration. The values are those of a file that says nothing; `set_defaults` does the rest.
_D = "0s"
_SCHEMA: Document = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "featureGates": {},
    "clientConnection": {"kubeconfig": "", "acceptContentTypes": "", "contentType": "", "qps": 0.0, "burst": 0},
    "logging": {},
    "hostnameOverride": "",
    "bindAddress": "",
    "healthzBindAddress": "",
    "metricsBindAddress": "",
    "bindAddressHardFail": False,
    "enableProfiling": False,
    "showHiddenMetricsForVersion": "",
    "mode": "",
    "iptables": {
        "masqueradeBit": int,
        "masqueradeAll": False,
        "localhostNodePorts": bool,
        "syncPeriod": _D,
        "minSyncPeriod": _D,
    },
    "ipvs": {
        "syncPeriod": _D,
        "minSyncPeriod": _D,
        "scheduler": "",
        "excludeCIDRs": [],
        "strictARP": False,
        "tcpTimeout": _D,
        "tcpFinTimeout": _D,
        "udpTimeout": _D,
    },
    "nftables": {"masqueradeBit": int, "masqueradeAll": False, "syncPeriod": _D, "minSyncPeriod": _D},
    "winkernel": {
        "networkName": "",
        "sourceVip": "",
        "enableDSR": False,
        "rootHnsEndpointName": "",
        "forwardHealthCheckVip": False,
    },
    "detectLocalMode": "",
    "detectLocal": {"bridgeInterface": "", "interfaceNamePrefix": ""},
    "clusterCIDR": "",
    "nodePortAddresses": [],
    "oomScoreAdj": int,
    "conntrack": {
        "maxPerCore": int,
        "min": int,
        "tcpEstablishedTimeout": str,  # durations that null and 0s are not the same for
        "tcpCloseWaitTimeout": str,
        "tcpBeLiberal": False,
        "udpTimeout": _D,
        "udpStreamTimeout": _D,
    },
    "configSyncPeriod": _D,
    "portRange": "",
    "windowsRunAsService": False,
}
_FREE = ("featureGates", "logging")  # maps whose keys are not ours to know
_NULL_DURATIONS = ("conntrack.tcpEstablishedTimeout", "conntrack.tcpCloseWaitTimeout")
# Upstream's defaults of what is null, empty or zero (v1alpha1/defaults.go, app/server_linux.go platformApplyDefaults).
_DEFAULTS: dict[str, Any] = {
    "bindAddress": "0.0.0.0",
    "mode": "iptables",
    "detectLocalMode": "ClusterCIDR",
    "oomScoreAdj": -999,
    "iptables.masqueradeBit": 14,
    "iptables.localhostNodePorts": True,
    "iptables.syncPeriod": "30s",
    "iptables.minSyncPeriod": "1s",
    "ipvs.syncPeriod": "30s",
    "nftables.masqueradeBit": 14,
    "nftables.syncPeriod": "30s",
    "nftables.minSyncPeriod": "1s",
    "conntrack.maxPerCore": 32 * 1024,
    "conntrack.min": 128 * 1024,
    "conntrack.tcpEstablishedTimeout": "24h0m0s",
    "conntrack.tcpCloseWaitTimeout": "1h0m0s",
    "configSyncPeriod": "15m0s",
    "clientConnection.contentType": "application/vnd.kubernetes.protobuf",
    "clientConnection.qps": 5.0,
    "clientConnection.burst": 10,
}
_NULL_ONLY = {"oomScoreAdj", "iptables.masqueradeBit", "nftables.masqueradeBit", "iptables.localhostNodePorts"} | {
    path for path in _DEFAULTS if path.startswith("conntrack.")
}


def get_field(document: Mapping[str, Any], path: str) -> Any:
    """The value at ``iptables.syncPeriod``."""
    group, dot, name = path.partition(".")
    return document[group][name] if dot else document[group]


def set_field(document: Document, path: str, value: Any) -> None:
    """Set the value at ``iptables.syncPeriod``."""
    group, dot, name = path.partition(".")
    if dot:
        document[group][name] = value
    else:
        document[group] = value


def read_file(path: str | Path) -> Document:
    """The document a file holds, without defaults. Raises InputError naming the file and the field."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the configuration: {error}", where=str(path)) from error
    return parse_document(text, str(path))


def parse_document(text: str, where: str = "") -> Document:
    """The same of its text, YAML or JSON. An unknown field, one that is there twice, a wrong type, another kind:
    InputError.
    """
    documents = parse_documents(text, where)
    if len(documents) > 1:
        raise InputError("the configuration is one document, and here begins another", where=documents[1].position_of())
    found = documents[0].value if documents else None
    if not isinstance(found, dict):
        raise InputError(f"no configuration: a {KIND} expected", where=where)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if found.get(field) != wanted:
            raise InputError(f'{field}: "{found.get(field, "")}" is not "{wanted}"', where=where)
    return _read_group(found, _SCHEMA, "", where)


def _read_group(found: Mapping[str, Any], schema: Document, path: str, where: str) -> Document:
    for name in found:
        if name not in schema:
            known = ", ".join(key for key in schema if str(name)[:3].lower() in key.lower()) or ", ".join(schema)
            raise InputError(f"{path}{name}: unknown field", where=where, hint=f"known: {known}")
    document: Document = {}
    for name, like in schema.items():
        value = found.get(name)
        if isinstance(like, dict) and f"{path}{name}" not in _FREE:
            if value is not None and not isinstance(value, dict):
                raise InputError(f"{path}{name}: a mapping expected, not {value!r}", where=where)
            document[name] = _read_group(value or {}, like, f"{path}{name}.", where)
        else:
            document[name] = _read_value(value, like, f"{path}{name}", where)
    return document


def _read_value(value: Any, like: Any, path: str, where: str) -> Any:
    """A value of the type of ``like``; null is that type's nothing, or null where ``like`` is a type."""
    nullable = isinstance(like, type)
    if value is None:
        return None if nullable else copy.copy(like)
    kind = like if nullable else type(like)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a string", int: "a number", float: "a number", bool: "true or false", list: "a list"}
        raise InputError(f"{path}: {names.get(kind, 'a mapping')} expected, not {value!r}", where=where)
    if like == _D or path in _NULL_DURATIONS:
        try:
            parse_duration(value)
        except UsageError as error:
            raise InputError(f"{path}: {error.message}", where=where, hint=error.hint) from error
    if kind is list and not all(isinstance(item, str) for item in value):
        raise InputError(f"{path}: a list of strings expected", where=where)
    return value


def set_defaults(document: Document) -> Document:
    """The document with upstream's defaults for what it leaves open."""
    made = copy.deepcopy(document)
    for path, default in _DEFAULTS.items():
        value = get_field(made, path)
        empty = value is None if path in _NULL_ONLY else value in (None, "", 0, _D, "0")
        if empty:
            set_field(made, path, default)
    ipv6 = ":" in made["bindAddress"]
    for path, any_address, port in (
        ("healthzBindAddress", "[::]" if ipv6 else "0.0.0.0", HEALTHZ_PORT),
        ("metricsBindAddress", "[::1]" if ipv6 else "127.0.0.1", METRICS_PORT),
    ):
        made[path] = append_port(made[path], port) if made[path] else f"{any_address}:{port}"
    return made


def append_port(address: str, port: int) -> str:
    """``1.2.3.4`` with the port it lacks; what has one, and what is no address, stays."""
    ip = parse_ip(address.strip("[]"))
    if ip is None:
        return address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def default_document() -> Document:
    """The configuration of a proxy that was told nothing."""
    return set_defaults(_read_group({"apiVersion": API_VERSION, "kind": KIND}, _SCHEMA, "", ""))


def render_document(document: Document) -> str:
    """As a file, which `parse_document` reads."""
    return yaml.safe_dump(document, sort_keys=True, default_flow_style=False)


def make_config(document: Document) -> ProxyConfig:
    """What the proxy works with. Raises InputError in upstream's field names."""
    mode = document["mode"]
    own = document[mode] if mode in ("ipvs", "nftables") else document["iptables"]
    masquerade = document["nftables"] if mode == "nftables" else document["iptables"]
    conntrack = document["conntrack"]
    bind = parse_ip(document["bindAddress"])
    if bind is None:
        raise InputError(f'bindAddress: "{document["bindAddress"]}" is no address')
    if not -1000 <= document["oomScoreAdj"] <= 1000:
        raise InputError(f"oomScoreAdj: {document['oomScoreAdj']} is not in [-1000, 1000]")
    cidrs = tuple(filter(None, document["clusterCIDR"].split(",")))
    if len(cidrs) > 2 or (len(cidrs) == 2 and all(map(parse_cidr, cidrs)) and len(_families(cidrs, bind)) < 2):
        hint = "such as 10.100.0.0/16,fde4:8dba:82e1::/48"
        raise InputError(f'clusterCIDR: "{document["clusterCIDR"]}" is not one CIDR for each family', hint=hint)
    if document["clientConnection"]["burst"] < 0:
        raise InputError("clientConnection.burst: must be non-negative")
    if parse_duration(document["configSyncPeriod"]) <= 0:
        raise InputError("configSyncPeriod: must be greater than 0")
    config = ProxyConfig(
        mode=mode,
        families=_families(cidrs, bind),
        masquerade_bit=masquerade["masqueradeBit"],
        masquerade_all=masquerade["masqueradeAll"],
        detect_local_mode=document["detectLocalMode"],
        cluster_cidrs=cidrs,
        bridge_interface=document["detectLocal"]["bridgeInterface"],
        interface_name_prefix=document["detectLocal"]["interfaceNamePrefix"],
        node_port_addresses=tuple(document["nodePortAddresses"]),
        localhost_node_ports=document["iptables"]["localhostNodePorts"],
        tcp_be_liberal=conntrack["tcpBeLiberal"],
        min_sync_period_s=parse_duration(own["minSyncPeriod"]),
        sync_period_s=parse_duration(own["syncPeriod"]),
        ipvs_scheduler=document["ipvs"]["scheduler"] or "rr",
        ipvs_strict_arp=document["ipvs"]["strictARP"],
        ipvs_exclude_cidrs=tuple(document["ipvs"]["excludeCIDRs"]) if mode == "ipvs" else (),
        ipvs_timeouts=IpvsTimeouts(
            *(parse_duration(document["ipvs"][name]) for name in ("tcpTimeout", "tcpFinTimeout", "udpTimeout"))
        ),
        healthz_bind_address=document["healthzBindAddress"],
        metrics_bind_address=document["metricsBindAddress"],
        bind_address_hard_fail=document["bindAddressHardFail"],
        conntrack=ConntrackConfig(
            max_per_core=conntrack["maxPerCore"],
            min=conntrack["min"],
            tcp_established_s=parse_duration(conntrack["tcpEstablishedTimeout"]),
            tcp_close_wait_s=parse_duration(conntrack["tcpCloseWaitTimeout"]),
            udp_s=parse_duration(conntrack["udpTimeout"]),
            udp_stream_s=parse_duration(conntrack["udpStreamTimeout"]),
        ),
    )
    if config.min_sync_period_s > config.sync_period_s:
        raise InputError("syncPeriod: must be greater than or equal to minSyncPeriod")
    return check_proxy_config(config)


def _families(cidrs: tuple[str, ...], bind: str) -> tuple[int, ...]:
    """The families of clusterCIDR, or that of bindAddress."""
    families = tuple(family for family in (4, 6) if choose_cidrs(cidrs, family))
    return families or (family_of(bind),)


def describe_config(config: ProxyConfig) -> Document:
    """The document of a configuration, which `make_config` turns into the same again; what /configz shows."""
    document = default_document()
    groups = ("ipvs", "nftables") if config.mode == "ipvs" else ("iptables", "ipvs", "nftables")
    for group in groups:
        document[group]["syncPeriod"] = render_duration(config.sync_period_s)
        document[group]["minSyncPeriod"] = render_duration(config.min_sync_period_s)
    for group in ("iptables", "nftables"):
        document[group]["masqueradeBit"] = config.masquerade_bit
        document[group]["masqueradeAll"] = config.masquerade_all
    conntrack = config.conntrack
    fields = {
        "mode": config.mode,
        "bindAddress": "::" if config.families == (6,) else "0.0.0.0",
        "detectLocalMode": config.detect_local_mode,
        "detectLocal.bridgeInterface": config.bridge_interface,
        "detectLocal.interfaceNamePrefix": config.interface_name_prefix,
        "clusterCIDR": ",".join(config.cluster_cidrs),
        "nodePortAddresses": list(config.node_port_addresses),
        "iptables.localhostNodePorts": config.localhost_node_ports,
        "ipvs.scheduler": config.ipvs_scheduler,
        "ipvs.strictARP": config.ipvs_strict_arp,
        "ipvs.excludeCIDRs": list(config.ipvs_exclude_cidrs),
        "ipvs.tcpTimeout": render_duration(config.ipvs_timeouts.tcp_s),
        "ipvs.tcpFinTimeout": render_duration(config.ipvs_timeouts.tcp_fin_s),
        "ipvs.udpTimeout": render_duration(config.ipvs_timeouts.udp_s),
        "healthzBindAddress": config.healthz_bind_address,
        "metricsBindAddress": config.metrics_bind_address,
        "bindAddressHardFail": config.bind_address_hard_fail,
        "conntrack.maxPerCore": conntrack.max_per_core,
        "conntrack.min": conntrack.min,
        "conntrack.tcpEstablishedTimeout": render_duration(conntrack.tcp_established_s),
        "conntrack.tcpCloseWaitTimeout": render_duration(conntrack.tcp_close_wait_s),
        "conntrack.tcpBeLiberal": config.tcp_be_liberal,
        "conntrack.udpTimeout": render_duration(conntrack.udp_s),
        "conntrack.udpStreamTimeout": render_duration(conntrack.udp_stream_s),
    }
    for path, value in fields.items():
        set_field(document, path, value)
    return document
