"""Pod sandboxes: a network namespace and its CNI attachment, made and removed in worker threads."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cni.types import CniError
from netsim.kernel.netns import Netns, run_in
from netsim.kubelet.cni_config import NetworkList, plan_capabilities
from netsim.kubelet.cni_runtime import Attachment, CniRuntime, read_ips
from netsim.model.names import pod_namespace
from netsim.model.networks import Families


@dataclass(slots=True)
class Sandbox:
    """A pod's network. ``attachment`` is None with hostNetwork, where the namespace is the node's."""

    netns: Netns
    ips: tuple[str, ...]
    attachment: Attachment | None = None
    network: NetworkList | None = None


def plan_attachment(pod: Mapping[str, Any], attempt: int) -> Attachment:
    """The CNI parameters of ``pod``, without a namespace yet. Raises CniError."""
    metadata = pod["metadata"]
    uid = metadata.get("uid", "")
    container_id = hashlib.sha256(f"{uid}/{attempt}".encode()).hexdigest()
    args = (
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE={metadata['namespace']};K8S_POD_NAME={metadata['name']};"
        f"K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
    )
    return Attachment(container_id, "", args, plan_capabilities(pod))


async def make_sandbox(
    cni: CniRuntime, node: Netns, network: NetworkList, pod: Mapping[str, Any], attempt: int, families: Families
) -> Sandbox:
    """A new namespace with these families, attached. Raises CniError, KernelError; nothing is left then."""
    attachment = plan_attachment(pod, attempt)
    metadata = pod["metadata"]
    name = pod_namespace(metadata["namespace"], metadata["name"])
    return await run_in(node, _make, cni, node, network, attachment, name, families)


def _make(
    cni: CniRuntime, node: Netns, network: NetworkList, attachment: Attachment, name: str, families: Families
) -> Sandbox:
    netns = Netns.create(name, ipv6=6 in families)
    try:
        # A path that plugins in other processes can open too: they are in our PID namespace.
        path = f"/proc/{os.getpid()}/fd/{netns.fd}"
        attached = Attachment(attachment.container_id, path, attachment.args, attachment.capabilities)
        result = cni.add(node, network, attached)
        ips = choose_pod_ips(read_ips(result), families)
        if not ips:
            cni.delete(node, network, attached)
            raise CniError(999, f'network "{network.name}" gave the pod no address')
        return Sandbox(netns, ips, attached, network)
    except BaseException:
        netns.close()
        raise


def choose_pod_ips(ips: Sequence[str], families: Families) -> tuple[str, ...]:
    """One address of each family, the node's primary family first, however the plugins ordered them.

    Source: kubernetes pkg/kubelet/kubelet_pods.go sortPodIPs. A family that the cluster has not comes last.
    """
    order = dict.fromkeys((*families, 4, 6))
    first = {6 if ":" in ip else 4: ip for ip in reversed(ips)}
    return tuple(first[family] for family in order if family in first)


async def remove_sandbox(cni: CniRuntime, node: Netns, sandbox: Sandbox) -> None:
    """DEL, and let go of the namespace whether or not that works. Raises CniError."""
    if sandbox.attachment is None or sandbox.network is None:
        return
    try:
        await run_in(node, cni.delete, node, sandbox.network, sandbox.attachment)
    finally:
        sandbox.netns.close()
