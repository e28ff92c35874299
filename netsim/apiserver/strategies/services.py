"""Services: ClusterIPs and NodePorts are given out here.

Source: kubernetes ``pkg/registry/core/service/storage/alloc.go`` and ``pkg/printers/internalversion/printers.go``.
"""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any

from netsim.apiserver.ages import NONE, age, labels_text
from netsim.apiserver.allocation import (
    AlreadyAllocated,
    NotInRange,
    NumberAllocator,
    RangeFull,
    make_address_allocator,
    make_port_allocator,
)
from netsim.apiserver.causes import Causes
from netsim.apiserver.names import dns_1035_label
from netsim.apiserver.refusals import internal_error
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy, Undo, nothing_to_undo
from netsim.apiserver.strategies.service_families import (
    adopt_families,
    go_strings,
    settle_families,
    validate_family_change,
)
from netsim.apiserver.strategies.service_rules import (
    default_service_spec,
    drop_by_type,
    is_headless,
    keep_allocated,
    needs_cluster_ip,
    needs_health_port,
    needs_node_port,
    normalize_cluster_ips,
)
from netsim.apiserver.strategies.service_validation import (
    validate_service_spec,
    validate_service_status,
    validate_service_update,
)
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.model.kinds import Kind
from netsim.model.networks import FAMILY_NAMES

_TAKEN_IP = "provided IP is already allocated"
_TAKEN_PORT = "provided port is already allocated"


def _addresses(spec: Object) -> set[str]:
    """The ClusterIPs a spec holds."""
    if not needs_cluster_ip(spec):
        return set()
    return {ip for ip in spec.get("clusterIPs") or () if ip and ip != "None"}


def _node_ports(spec: Object) -> set[int]:
    """The NodePorts a spec holds, the health check's too."""
    found = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        found.add(spec["healthCheckNodePort"])
    return found


class ServiceStrategy(Strategy):
    """Services. One address range for each family of the cluster."""

    selectable = frozenset({"spec.clusterIP", "spec.type"})
    returns_deleted_object = True
    columns = (
        NAME,
        Column("Type"),
        Column("Cluster-IP"),
        Column("External-IP"),
        Column("Port(s)"),
        AGE,
        Column("Selector", priority=1),
    )

    def __init__(self, kind: Kind, config: ClusterConfig) -> None:
        super().__init__(kind)
        self._networks = {FAMILY_NAMES[network.version]: network for network in config.service_cidrs}
        self._families = list(self._networks)
        self._ips = {family: make_address_allocator(network) for family, network in self._networks.items()}
        self._port_range = config.node_port_range
        self._ports = make_port_allocator(*config.node_port_range)

    def check_name(self, name: str) -> str:
        return dns_1035_label(name)

    def prepare_create(self, obj: Object) -> None:
        obj["status"] = {"loadBalancer": {}}
        normalize_cluster_ips(obj.setdefault("spec", {}), None)

    def prepare_update(self, new: Object, old: Object) -> None:
        super().prepare_update(new, old)
        spec = new.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
        keep_allocated(spec, old["spec"])
        normalize_cluster_ips(spec, old["spec"])
        adopt_families(spec, old["spec"])
        drop_by_type(spec, old["spec"])
        if (
            spec["type"] != "LoadBalancer"
        ):  # its addresses are let go of at once, or proxies would go on answering there
            new["status"] = {**new.get("status", {}), "loadBalancer": {}}

    def default(self, obj: Object) -> None:
        default_service_spec(obj["spec"])

    def validate(self, obj: Object, causes: Causes) -> None:
        validate_service_spec(obj["spec"], causes)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        validate_service_update(new["spec"], old["spec"], causes)

    def validate_status(self, new: Object, old: Object, causes: Causes) -> None:
        validate_service_status(new, causes)

    # --- allocation -------------------------------------------------------------------------------

    def restore(self, obj: Object) -> None:
        spec = obj["spec"]
        for ip in _addresses(spec):
            self._allocator(ip).take(int(ip_address(ip)))
        for number in _node_ports(spec):
            self._ports.take(number)

    def _allocator(self, ip: str) -> NumberAllocator:
        return self._ips["IPv6" if ":" in ip else "IPv4"]

    def allocate(self, new: Object, old: Object | None, causes: Causes) -> Undo:
        spec = new["spec"]
        if old is not None and spec is old["spec"]:
            return nothing_to_undo  # an update of the status
        old_spec: Object = old["spec"] if old else {}
        settle_families(spec, old_spec or None, self._families, causes)
        if old and not causes:
            validate_family_change(spec, old_spec, causes)
        if causes:
            return nothing_to_undo
        undos: list[Callable[[], None]] = []

        def undo() -> None:
            for step in undos:
                step()

        try:
            if needs_cluster_ip(spec) and not is_headless(spec):
                self._allocate_ips(spec, _addresses(old_spec), undos, causes)
            if not causes:
                self._allocate_ports(spec, _node_ports(old_spec), undos, causes)
        except ApiError:
            undo()
            raise
        return undo

    def _allocate_ips(self, spec: Object, held: set[str], undos: list[Undo], causes: Causes) -> None:
        ips = list(spec.get("clusterIPs") or [])
        for index, family in enumerate(spec["ipFamilies"]):
            allocator = self._ips[family]
            if index >= len(ips):
                try:
                    number = allocator.take_next()
                except RangeFull as error:
                    raise internal_error("failed to allocate a serviceIP: range is full") from error
                undos.append(partial(allocator.release, number))
                ips.append(str(self._networks[family].network_address + (number - allocator.first + 1)))
            elif ips[index] not in held:
                self._take_ip(ips, index, family, undos, causes)
        spec["clusterIPs"], spec["clusterIP"] = ips, ips[0]

    def _take_ip(self, ips: list[str], index: int, family: str, undos: list[Undo], causes: Causes) -> None:
        allocator, number = self._ips[family], int(ip_address(ips[index]))
        try:
            allocator.take(number)
        except AlreadyAllocated:
            why = _TAKEN_IP
        except NotInRange:
            network = self._networks[family]
            why = f"the provided IP ({ips[index]}) is not in the valid range. The range of valid IPs is {network}"
        else:
            undos.append(partial(allocator.release, number))
            return
        causes.invalid_go("spec.clusterIPs", go_strings(ips), f"failed to allocate IP {ips[index]}: {why}")

    def _allocate_ports(self, spec: Object, held: set[int], undos: list[Undo], causes: Causes) -> None:
        """Asked-for numbers first, so that none of them is given to another port of the same Service."""
        mine = set(held)
        if needs_node_port(spec):
            ports = spec.get("ports") or ()
            for index, port in enumerate(ports):
                if port.get("nodePort"):
                    self._take_port(port["nodePort"], f"spec.ports[{index}].nodePort", "", mine, undos, causes)
            if not causes:
                self._give_ports(ports, mine, undos)
        if needs_health_port(spec) and not causes:
            number = spec.get("healthCheckNodePort", 0)
            if number:
                prefix = f"failed to allocate requested HealthCheck NodePort {number}: "
                self._take_port(number, "spec.healthCheckNodePort", prefix, mine, undos, causes)
            else:
                spec["healthCheckNodePort"] = self._take_any_port(undos)

    def _take_port(
        self, number: int, path: str, prefix: str, mine: set[int], undos: list[Undo], causes: Causes
    ) -> None:
        if number in mine:
            return  # held already, or the same number for another protocol of this Service
        try:
            self._ports.take(number)
        except AlreadyAllocated:
            causes.invalid(path, number, f"{prefix}{_TAKEN_PORT}")
        except NotInRange:
            first, last = self._port_range
            why = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
            causes.invalid(path, number, f"{prefix}{why}")
        else:
            mine.add(number)
            undos.append(partial(self._ports.release, number))

    def _give_ports(self, ports: Any, mine: set[int], undos: list[Undo]) -> None:
        """One number each; the same one for both protocols of a port, as DNS wants it."""
        by_port: dict[int, set[tuple[str, int]]] = {}
        for port in ports:
            if port.get("nodePort"):
                by_port.setdefault(port["port"], set()).add((port["protocol"], port["nodePort"]))
        used = {(port["protocol"], port["nodePort"]) for port in ports if port.get("nodePort")}
        for port in ports:
            if port.get("nodePort"):
                continue
            shared = [number for _, number in by_port.get(port["port"], ()) if (port["protocol"], number) not in used]
            number = shared[0] if shared else self._take_any_port(undos)
            mine.add(number)
            port["nodePort"] = number
            used.add((port["protocol"], number))
            by_port.setdefault(port["port"], set()).add((port["protocol"], number))

    def _take_any_port(self, undos: list[Undo]) -> int:
        try:
            number = self._ports.take_next()
        except RangeFull as error:
            raise internal_error("failed to allocate a nodePort: range is full") from error
        undos.append(partial(self._ports.release, number))
        return number

    def written(self, new: Object, old: Object | None) -> None:
        if old is not None:
            self._release(
                _addresses(old["spec"]) - _addresses(new["spec"]), _node_ports(old["spec"]) - _node_ports(new["spec"])
            )

    def deleted(self, obj: Object) -> None:
        self._release(_addresses(obj["spec"]), _node_ports(obj["spec"]))

    def _release(self, ips: set[str], ports: set[int]) -> None:
        for ip in ips:
            self._allocator(ip).release(int(ip_address(ip)))
        for number in ports:
            self._ports.release(number)

    # --- table ------------------------------------------------------------------------------------

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata, spec = obj["metadata"], obj["spec"]
        ports = ",".join(_port_text(port) for port in spec.get("ports") or ())
        return [
            metadata["name"],
            spec.get("type", ""),
            spec.get("clusterIP") or NONE,
            _external_ip(obj),
            ports or NONE,
            age(metadata.get("creationTimestamp"), now_s),
            labels_text(spec.get("selector")),
        ]


def _port_text(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol')}"


def _external_ip(obj: Object) -> str:
    spec = obj["spec"]
    external = list(spec.get("externalIPs") or ())
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    if spec.get("type") == "LoadBalancer":
        ingress = (obj.get("status", {}).get("loadBalancer") or {}).get("ingress") or ()
        given = [item.get("ip") or item.get("hostname", "") for item in ingress]
        return ",".join(given + external) or "<pending>"
    return ",".join(external) or NONE
