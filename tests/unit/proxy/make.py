"""Test data: Services, EndpointSlices, and what a node's proxy makes of them."""

from collections.abc import Iterable
from typing import Any

from netsim.model.objects import Object
from netsim.ruleset.iptables import Tables, parse_edits
from netsim.ruleset.iptables_model import apply_edits, make_tables
from netsim.ruleset.iptables_walk import Walker
from proxy.config import FamilyView, NodeView, ProxyConfig
from proxy.iptables.plan import IptablesDialect
from proxy.servicemap import ServiceMap

NODE_IP = "172.18.0.2"
CONFIG = ProxyConfig(cluster_cidrs=("10.244.0.0/16",))


def make_service(name: str = "web", ip: str = "10.96.0.10", **spec: Any) -> Object:
    """A Service in namespace ``ns`` with port 80 unless ``ports`` says otherwise. ``status``, ``labels`` go there."""
    status, labels = spec.pop("status", {}), spec.pop("labels", {})
    spec.setdefault("ports", [{"name": "http", "port": 80, "protocol": "TCP"}])
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("clusterIPs", [ip])
    return {
        "metadata": {"namespace": "ns", "name": name, "labels": labels},
        "spec": {"clusterIP": ip, **spec},
        "status": status,
    }


def make_endpoint(address: str, node: str = "node-1", state: str = "ready", **more: Any) -> Object:
    """``state``: ready, unready, terminating (still serving) or gone (neither)."""
    conditions = {
        "ready": {"ready": True, "serving": True, "terminating": False},
        "unready": {"ready": False, "serving": False, "terminating": False},
        "terminating": {"ready": False, "serving": True, "terminating": True},
        "gone": {"ready": False, "serving": False, "terminating": True},
    }[state]
    return {"addresses": [address], "nodeName": node, "conditions": conditions, **more}


def make_slice(endpoints: Iterable[Object], service: str = "web", name: str = "", **fields: Any) -> Object:
    labels = {"kubernetes.io/service-name": service, **fields.pop("labels", {})}
    fields.setdefault("ports", [{"name": "http", "port": 8080, "protocol": "TCP"}])
    fields.setdefault("addressType", "IPv4")
    meta = {"namespace": "ns", "name": name or f"{service}-abc", "labels": labels}
    return {"metadata": meta, "endpoints": list(endpoints), **fields}


def make_map(objects: Iterable[Object], family: int = 4) -> ServiceMap:
    """A map that has taken these Services and EndpointSlices."""
    service_map = ServiceMap(family)
    for obj in objects:
        (service_map.update_slice if "endpoints" in obj else service_map.update_service)(None, obj)
    service_map.take()
    return service_map


def make_view(node: str = "node-1", zone: str = "", config: ProxyConfig = CONFIG, family: int = 4) -> FamilyView:
    ips = {"node-1": NODE_IP, "node-2": "172.18.0.3", "node-3": "172.18.0.4"}
    return FamilyView(config, NodeView(node, (ips[node], "fd00::2"), (), zone), family)


def make_rules(objects: Iterable[Object], view: FamilyView | None = None) -> Tables:
    """The tables of a fresh node after a full sync."""
    view = view or make_view()
    plan = IptablesDialect().plan_full(make_map(objects, view.family).snapshot(), view, {})
    return apply_edits(make_tables(), parse_edits(plan.text))


def make_walker(objects: Iterable[Object], view: FamilyView | None = None, **walker: Any) -> Walker:
    return Walker(make_rules(objects, view), local=(NODE_IP, "127.0.0.1", "10.244.1.1"), **walker)
