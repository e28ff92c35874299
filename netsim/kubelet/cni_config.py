"""CNI network configuration as a runtime reads it: conflists, injection, capabilities. Pure.

Source: containernetworking/cni libcni/conf.go and libcni/api.go (buildOneConfig, injectRuntimeConfig); SPEC.md 1.1.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cni.types import INVALID_CONFIG, NEWEST_VERSION, SUPPORTED_VERSIONS, CniError
from netsim.model.config import ClusterConfig
from netsim.model.names import POD_BRIDGE

OWN_TYPE = "netsim-cni"
# Stand for the node's share of the pod network in a conflist, as in Calico's host-local configurations: of the primary
# family, and of IPv6.
USE_POD_CIDR = "usePodCidr"
USE_POD_CIDR_IPV6 = "usePodCidrIPv6"
_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
_IPAM_WITH_SUBNET = ("host-local", OWN_TYPE, "")


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A checked conflist. ``plugins`` are the plugins' objects as they were written."""

    name: str
    cni_version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False


def parse_conflist(document: Mapping[str, Any]) -> NetworkList:
    """A conflist, or a single plugin's configuration, which becomes a list of one. Raises CniError 7."""
    if "plugins" not in document and document.get("type"):
        document = {
            "cniVersion": document.get("cniVersion", ""),
            "name": document.get("name"),
            "plugins": [{k: v for k, v in document.items() if k not in ("cniVersion", "name")}],
        }
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise CniError(INVALID_CONFIG, "error parsing configuration list: no name")
    plugins = document.get("plugins")
    if not isinstance(plugins, Sequence) or isinstance(plugins, str) or not plugins:
        raise CniError(INVALID_CONFIG, f'error parsing configuration list "{name}": no plugins in list')
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, Mapping) else None
        if not isinstance(kind, str) or not kind:
            raise CniError(INVALID_CONFIG, f'network "{name}": a plugin configuration has no type')
        if "/" in kind:
            raise CniError(INVALID_CONFIG, f'network "{name}": invalid plugin type "{kind}": contains "/"')
    return NetworkList(
        name,
        _choose_version(document),
        tuple(plugins),
        _parse_flag(document, "disableCheck"),
        _parse_flag(document, "disableGC"),
    )


def _choose_version(document: Mapping[str, Any]) -> str:
    """The highest of cniVersion and cniVersions that we know; newer ones are ignored."""
    wanted = [document.get("cniVersion") or "", *(document.get("cniVersions") or ())]
    for version in wanted:
        parts = str(version).split(".")
        if version and (len(parts) != 3 or not all(part.isdigit() for part in parts)):
            raise CniError(INVALID_CONFIG, f'invalid cniVersion "{version}"')
    known = [index for index, version in enumerate(SUPPORTED_VERSIONS) if version in wanted]
    if known:
        return SUPPORTED_VERSIONS[known[-1]]
    if any(wanted):
        raise CniError(1, "incompatible CNI versions", f"config is {wanted}, netsim supports {SUPPORTED_VERSIONS}")
    return SUPPORTED_VERSIONS[0]


def _parse_flag(document: Mapping[str, Any], key: str) -> bool:
    """A boolean, which may be the string "true" or "false" in any case."""
    value = document.get(key, False)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise CniError(INVALID_CONFIG, f"error parsing configuration list: invalid {key} value {value!r}")


def plan_network(config: ClusterConfig, pod_cidrs: Sequence[str], data_dir: str) -> NetworkList:
    """The network list of one node: the cluster's own conflist, or netsim's.

    Nodes of a cluster share one file system, so each gets its own ``dataDir``. A list written for every node leaves
    ``subnet`` and ``ranges`` out, and gets the node's shares of all pod networks, or says ``usePodCidr`` or
    ``usePodCidrIPv6`` where a subnet is wanted, and gets that share.
    """
    parsed = parse_conflist(config.cni if config.cni is not None else _own_conflist(config))
    plugins = tuple(_localise(plugin, pod_cidrs, data_dir) for plugin in parsed.plugins)
    return NetworkList(parsed.name, parsed.cni_version, plugins, parsed.disable_check, parsed.disable_gc)


def _own_conflist(config: ClusterConfig) -> Mapping[str, Any]:
    return {
        "cniVersion": NEWEST_VERSION,
        "name": "netsim",
        "plugins": [
            {
                "type": OWN_TYPE,
                "bridge": POD_BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "staticNeighbours": True,
                "ipMasq": False,  # the node masquerades what leaves the cluster
                "mtu": config.pod_mtu,
                "capabilities": {"portMappings": True, "bandwidth": True, "ips": True, "mac": True},
                "ipam": {"type": "host-local", "routes": [{"dst": _DEFAULT[family]} for family in config.families]},
            }
        ],
    }


def _localise(plugin: Mapping[str, Any], pod_cidrs: Sequence[str], data_dir: str) -> Mapping[str, Any]:
    ipam = plugin.get("ipam")
    if not isinstance(ipam, Mapping) or ipam.get("type", "") not in _IPAM_WITH_SUBNET or not ipam:
        return plugin
    local = dict(ipam)
    if "subnet" in local:
        local["subnet"] = _choose_cidr(local["subnet"], pod_cidrs)
    elif ranges := local.get("ranges"):
        local["ranges"] = [[_localise_range(one, pod_cidrs) for one in group] for group in ranges]
    elif pod_cidrs:
        local["ranges"] = [[{"subnet": cidr}] for cidr in pod_cidrs]
    else:
        raise CniError(INVALID_CONFIG, "the node has no pod CIDR yet")
    local.setdefault("dataDir", data_dir)
    return {**plugin, "ipam": local}


def _localise_range(body: Mapping[str, Any], pod_cidrs: Sequence[str]) -> Mapping[str, Any]:
    return {**body, "subnet": _choose_cidr(body["subnet"], pod_cidrs)} if "subnet" in body else body


def _choose_cidr(subnet: Any, pod_cidrs: Sequence[str]) -> Any:
    """What a subnet of a conflist means on this node. Raises CniError where it has no such share."""
    if subnet == USE_POD_CIDR:
        found = next(iter(pod_cidrs), None)
    elif subnet == USE_POD_CIDR_IPV6:
        found = next((cidr for cidr in pod_cidrs if ":" in cidr), None)
    else:
        return subnet
    if found is None:
        raise CniError(INVALID_CONFIG, f"{subnet}: the node has no such pod CIDR")
    return found


def plan_capabilities(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What a pod asks of the network: ``portMappings`` of hostPorts, ``bandwidth`` of annotations.

    Source: kubernetes pkg/kubelet/dockershim/network/cni/cni.go buildCNIRuntimeConf (now in the CRI runtimes). Raises
    CniError for a bandwidth that is no quantity.
    """
    capabilities: dict[str, Any] = {}
    mappings = [
        {
            "hostPort": int(port["hostPort"]),
            "containerPort": int(port["containerPort"]),
            "protocol": str(port.get("protocol") or "TCP").lower(),
            "hostIP": str(port.get("hostIP") or ""),
        }
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]
    if mappings:
        capabilities["portMappings"] = mappings
    annotations = pod["metadata"].get("annotations")
    if annotations:
        bandwidth: dict[str, int] = {}
        for direction in ("ingress", "egress"):
            text = annotations.get(f"kubernetes.io/{direction}-bandwidth")
            if text is not None:
                bandwidth[f"{direction}Rate"] = parse_rate(text)
                bandwidth[f"{direction}Burst"] = BURST_MAX_BITS  # as the kubelets do: no limit on bursts
        if bandwidth:
            capabilities["bandwidth"] = bandwidth
        if addresses := annotations.get("netsim.dev/ips"):
            capabilities["ips"] = [part.strip() for part in addresses.split(",")]
    return capabilities


BURST_MAX_BITS = (1 << 31) - 1  # math.MaxInt32, what dockershim and cri-o pass
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def parse_rate(text: str) -> int:
    """Bits per second of a quantity such as ``10M``. Raises CniError."""
    number = text.rstrip("kMGi")
    factor = _SUFFIXES.get(text[len(number) :])
    try:
        if factor is None:
            raise ValueError(text)
        rate = int(float(number) * factor)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f'bandwidth annotation "{text}" is no quantity') from error
    if not 1000 <= rate <= 10**15:  # pkg/util/bandwidth/utils.go: 1k to 1P
        raise CniError(INVALID_CONFIG, f'bandwidth annotation "{text}" is not between 1k and 1P')
    return rate


def plan_request_config(
    network: NetworkList,
    plugin: Mapping[str, Any],
    capabilities: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a plugin reads: its own object, cniVersion, name, the capabilities it declares, prevResult."""
    config = {**plugin, "cniVersion": network.cni_version, "name": network.name}
    declared = plugin.get("capabilities") or {}
    runtime = {key: value for key, value in capabilities.items() if declared.get(key) is True}
    if runtime:
        config["runtimeConfig"] = runtime
    if previous is not None:
        config["prevResult"] = previous
    return config
