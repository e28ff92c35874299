"""Node objects: what a kubelet says about its node. Pure."""

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netsim import __version__
from netsim.kernel.netns import Netns
from netsim.kubelet.status import render_time
from netsim.model.objects import Object

KUBELET_VERSION = "v1.30.0"  # kubectl of distributions picks its own version by what the server says
NETWORK_NOT_READY = "container runtime network not ready: the pod network of this node is not built yet"


@dataclass(frozen=True, slots=True)
class NodeRuntime:
    """One node as the kubelet is given it. ``addresses`` are its InternalIPs, the primary family's first."""

    name: str
    netns: Netns
    addresses: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    max_pods: int = 110


@dataclass(frozen=True, slots=True)
class Machine:
    """What every node says about the machine under it."""

    cpus: int
    memory_kib: int
    kernel: str
    os_image: str
    architecture: str
    boot_id: str


def read_machine() -> Machine:
    """Observe the machine."""
    memory_kib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    name = "Linux"
    with contextlib.suppress(OSError):  # os-release(5) is optional
        name = platform.freedesktop_os_release().get("PRETTY_NAME", name)
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
    except OSError:
        boot_id = ""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return Machine(os.cpu_count() or 1, memory_kib, os.uname().release, name, architecture, boot_id)


def plan_node(node: NodeRuntime, machine: Machine, wall_s: float) -> Object:
    """The Node object to register, not Ready yet."""
    labels = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        **node.labels,
    }
    spec: dict[str, Any] = {}
    if node.taints:
        spec["taints"] = [dict(taint) for taint in node.taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": spec,
        "status": plan_node_status(node, machine, wall_s, ready=False),
    }


def plan_node_status(node: NodeRuntime, machine: Machine, wall_s: float, *, ready: bool) -> Object:
    """``status`` of a node."""
    resources = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_kib}Ki",
        "pods": str(node.max_pods),
    }
    return {
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in node.addresses),
            {"type": "Hostname", "address": node.name},
        ],
        "capacity": resources,
        "allocatable": dict(resources),
        "conditions": _plan_conditions(wall_s, ready),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": f"netsim://{__version__}",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": KUBELET_VERSION,
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
    }


def _plan_conditions(wall_s: float, ready: bool) -> list[Object]:
    now = render_time(wall_s)
    rows = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
        if ready
        else ("Ready", "False", "KubeletNotReady", NETWORK_NOT_READY),
    ]
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        for kind, status, reason, message in rows
    ]
