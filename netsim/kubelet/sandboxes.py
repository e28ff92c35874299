"""Pod sandboxes: a network namespace and its CNI attachment, made and removed in worker threads."""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class _Removal(NamedTuple):
    network: NetworkList
    attachment: Attachment
    done: "asyncio.Future[None]"


class Removals:
    """The ends of sandboxes. Those of one node that come while others are on their way are made together.

    So a thousand pods of one node that go at once cost a few waits of the kernel, and not a thousand.
    """

    def __init__(self, cni: CniRuntime) -> None:
        self._cni = cni
        self._waiting: dict[int, deque[_Removal]] = {}  # by the node's inode, while a task sees to them
        self._tasks: set[asyncio.Task[None]] = set()

    async def remove(self, node: Netns, sandbox: Sandbox) -> None:
        """DEL, and let go of the namespace whether or not that works. Raises CniError, KernelError."""
        if sandbox.attachment is None or sandbox.network is None:
            return
        loop = asyncio.get_running_loop()
        removal = _Removal(sandbox.network, sandbox.attachment, loop.create_future())
        if node.inode in self._waiting:
            self._waiting[node.inode].append(removal)
        else:
            self._waiting[node.inode] = deque([removal])
            task = loop.create_task(self._see_to(node))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await removal.done
        finally:
            sandbox.netns.close()

    async def _see_to(self, node: Netns) -> None:
        waiting = self._waiting[node.inode]
        taken: list[_Removal] = []
        try:
            while waiting:
                failures = await run_in(node, self._delete_waiting, node, waiting, taken)
                for removal, failure in zip(taken, failures, strict=True):
                    _finish(removal, failure)
                taken.clear()
        except Exception as error:  # those who wait must hear of it, whatever it is
            for removal in (*taken, *waiting):
                _finish(removal, error)
        finally:
            del self._waiting[node.inode]

    def _delete_waiting(self, node: Netns, waiting: deque[_Removal], taken: list[_Removal]) -> list[CniError | None]:
        """In a worker thread, which may have been waited for: all that have come by now."""
        while waiting:
            taken.append(waiting.popleft())
        return self._cni.delete_all(node, [(one.network, one.attachment) for one in taken])


def _finish(removal: _Removal, failure: Exception | None) -> None:
    if removal.done.done():
        return  # who waited was cancelled
    if failure is None:
        removal.done.set_result(None)
    else:
        removal.done.set_exception(failure)
