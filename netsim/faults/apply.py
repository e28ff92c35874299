"""Carrying out a plan of faults in the kernel: the acting half. Blocking, for worker threads."""

import errno
from collections.abc import Mapping, Sequence

from netsim.faults.fault import Cable, End
from netsim.faults.plan import Operation, SetLink, SetShape, SetTable, Shape, Step
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.rtnl import Rtnl, new_address, set_link
from netsim.kernel.rtnl_netem import Netem, has_netem, new_netem
from netsim.kernel.rtnl_read import Address, Link
from netsim.kernel.rtnl_tc import Qdisc, del_qdisc, new_tbf, read_qdiscs
from netsim.model.errors import FeatureMissing, KernelError, NetsimError

# Two, since a qdisc is changed in place only into one of its kind (net/sched/sch_api.c).
TBF_HANDLE, NETEM_HANDLE = 0xFA100000, 0xFA200000
HANDLES = (TBF_HANDLE, NETEM_HANDLE)
LATENCY_S = 0.05  # what would wait longer for a rate is dropped
NETEM_HINT = (
    "modprobe sch_netem where it is a module; else boot a kernel that has it, such as Debian's: scripts/vm. "
    "loss and rate need it not"
)


def read_netem(fabric: Netns) -> bool:
    """Whether this kernel has netem. Raises KernelError."""
    with Rtnl(fabric) as rtnl:
        return has_netem(rtnl)


def netem_missing(kind: str) -> FeatureMissing:
    """The error of a fault that nothing but netem can make."""
    message = f"fault {kind}: this kernel has no network emulation (CONFIG_NET_SCH_NETEM)"
    return FeatureMissing("netem", message, hint=NETEM_HINT)


def read_cable(place: str, inner: Netns, outer: Netns, outer_name: str = "") -> Cable:
    """The cable of a place: its eth0, and the other end in ``outer``, found as its peer where it has no known name.

    Raises NetsimError when eth0 is no veth with its other end there.
    """
    with Rtnl(inner) as rtnl:
        eth0 = rtnl.link("eth0")
    if eth0 is None or eth0.kind != "veth":
        raise NetsimError(f"{place} has no eth0 that is a veth", where=place, hint="faults are made at such links only")
    with Rtnl(outer) as rtnl:
        port = rtnl.link(outer_name or eth0.peer_index)
        qdiscs = read_qdiscs(rtnl, port.ifindex) if port is not None else []
    if port is None or port.kind != "veth" or port.peer_index != eth0.ifindex:
        raise NetsimError(f"the other end of {place}'s eth0 is not in {outer.name}", where=place)
    redirected = any(qdisc.kind in ("ingress", "clsact") for qdisc in qdiscs)
    return Cable(place, End(inner.name, "eth0"), End(outer.name, port.name), eth0.mtu, port.gso_max_segs, redirected)


class Applier:
    """Carries out steps in these namespaces, by name."""

    def __init__(self, namespaces: Mapping[str, Netns]) -> None:
        self._namespaces = namespaces
        self._lost: dict[End, list[Address]] = {}  # addresses that the kernel took off links that went down

    def apply(self, steps: Sequence[Step]) -> None:
        """Do all, or take back what was done. Raises KernelError, FeatureMissing, NetsimError naming what is in the
        way.
        """
        done: list[Step] = []
        try:
            for step in steps:
                self._run(step.do)
                done.append(step)
        except NetsimError as error:
            for step in reversed(done):
                try:
                    self._run(step.undo)
                except KernelError as second:  # told as well: something is left
                    error.message += f"; and it could not be taken back: {second.message}"
            raise

    def _run(self, operation: Operation) -> None:
        match operation:
            case SetTable():
                with Nft(self._namespaces[operation.table.netns]) as nft:
                    nft.run(operation.render())
            case SetShape():
                self._shape(operation)
            case SetLink():
                self._change(operation)

    def _shape(self, operation: SetShape) -> None:
        end, shape = operation.end, operation.shape
        with Rtnl(self._namespaces[end.netns]) as rtnl:
            link = _need(rtnl, end)
            root = next((q for q in read_qdiscs(rtnl, link.ifindex) if q.at_root), None)
            if shape is None:
                if root is not None and root.handle in HANDLES:
                    rtnl.batch([del_qdisc(link.ifindex)])
                return
            if operation.fresh and root is not None and root.kind != "noqueue":
                raise _occupied(end, root)
            if not shape.netem:
                rate_bytes = max(shape.rate_bits // 8, 1)
                rtnl.batch(
                    [
                        new_tbf(
                            link.ifindex,
                            rate_bytes=rate_bytes,
                            burst_bytes=shape.burst_bytes,
                            latency_s=LATENCY_S,
                            handle=TBF_HANDLE,
                        )
                    ]
                )
                return
            try:
                rtnl.batch([new_netem(link.ifindex, make_netem(shape), handle=NETEM_HANDLE)])
            except KernelError as error:
                if error.errno == errno.ENOENT:
                    raise netem_missing("of this kind") from None
                raise

    def _change(self, operation: SetLink) -> None:
        """``up`` comes last and ``down`` first. What a link loses by going down (its IPv6 addresses, and the IPv4
        routes that they carry) it gets back: only the fabric's leg to the external host has any.
        """
        end = operation.end
        with Rtnl(self._namespaces[end.netns]) as rtnl:
            link = _need(rtnl, end)
            if operation.up is False:
                self._lost[end] = [a for a in rtnl.addresses(index=link.ifindex) if not a.address.startswith("fe80:")]
            message = set_link(
                link.ifindex,
                up=operation.up,
                mtu=operation.mtu or 0,
                gso_max_segs=operation.gso_max_segs or 0,
            )
            rtnl.batch([message])
            if operation.up:
                there = set(rtnl.addresses(index=link.ifindex))
                lost = [address for address in self._lost.pop(end, []) if address not in there]
                rtnl.batch([new_address(address.cidr, link.ifindex) for address in lost])


def _need(rtnl: Rtnl, end: End) -> Link:
    link = rtnl.link(end.link)
    if link is None:
        raise KernelError(f"there is no link {end.link}", errno=errno.ENODEV, where=end.netns)
    return link


def _occupied(end: End, root: Qdisc) -> NetsimError:
    return NetsimError(
        f"{end.link} has a queueing discipline that no fault put there: {root.kind} {root.handle >> 16:x}:",
        where=end.netns,
        hint="a bandwidth annotation of the pod, or a person's; take it off first, or choose the other --direction",
    )


def make_netem(shape: Shape) -> Netem:
    """What netem is to do; its rate takes the place of tbf's, with a queue as long as that would let it become."""
    limit = 10_000
    if shape.rate_bits:
        waiting_s = shape.delay_s + shape.jitter_s + LATENCY_S
        limit = max(10, round(shape.rate_bits / 8 * waiting_s / (shape.mtu + 14)))
    return Netem(
        delay_s=shape.delay_s,
        jitter_s=shape.jitter_s,
        loss_percent=shape.loss,
        duplicate_percent=shape.duplicate,
        corrupt_percent=shape.corrupt,
        reorder_percent=shape.reorder,
        rate_bytes=shape.rate_bits // 8,
        limit_packets=limit,
    )
