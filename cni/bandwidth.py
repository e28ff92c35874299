"""Limits on what a pod receives and sends: a token bucket on the node's end of its veth, another on an ifb.

Ingress is towards the pod, so it is what leaves the node's end. Egress arrives there, is redirected to an ifb link of
the attachment, and leaves that one shaped.
"""

import errno

from cni.attachment import Attachment
from cni.config import Bandwidth
from cni.types import CHECK_FAILED, UNSUPPORTED_FIELD, CniError
from netsim.kernel.rtnl import Rtnl, del_link
from netsim.kernel.rtnl_read import Link
from netsim.kernel.rtnl_socket import BatchError
from netsim.kernel.rtnl_tc import new_ifb, new_ingress, new_redirect, new_tbf, read_qdiscs
from netsim.kernel.rtnl_wire import Message
from netsim.model.errors import KernelError


def limit_link(node: Rtnl, attachment: Attachment, host: Link, limits: Bandwidth) -> Link | None:
    """Puts the limits on; the ifb link if there is one now. CniError where the kernel has no ifb; KernelError."""
    if limits.ingress_rate:
        node.batch([_bucket(host.ifindex, limits.ingress_rate, limits.ingress_burst)])
    if not limits.egress_rate:
        return None
    try:
        node.batch([new_ifb(attachment.ifb, mtu=host.mtu)])
    except KernelError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        words = 'bandwidth: "egressRate" needs the kernel feature ifb (CONFIG_IFB)'
        raise CniError(UNSUPPORTED_FIELD, words, error.message) from None
    ifb = node.link(attachment.ifb)
    if ifb is None:
        raise CniError(CHECK_FAILED, f"bandwidth: {attachment.ifb} disappeared while it was set up")
    node.batch(
        [
            new_ingress(host.ifindex),
            new_redirect(host.ifindex, ifb.ifindex),
            _bucket(ifb.ifindex, limits.egress_rate, limits.egress_burst),
        ]
    )
    return ifb


def _bucket(ifindex: int, rate_bits: int, burst_bits: int) -> Message:
    return new_tbf(ifindex, rate_bytes=max(rate_bits // 8, 1), burst_bytes=max(burst_bits // 8, 1))


def unlimit_link(node: Rtnl, attachment: Attachment) -> None:
    """Removes the ifb; the bucket goes with the veth. May be repeated. KernelError."""
    try:
        node.batch([del_link(attachment.ifb)])
    except BatchError as error:
        if error.errno != errno.ENODEV:
            raise


def check_limits(node: Rtnl, attachment: Attachment, host: Link, limits: Bandwidth) -> None:
    """CniError unless the limits are in the kernel as they should be."""
    if limits.ingress_rate:
        _check_bucket(node, host, limits.ingress_rate, "ingressRate")
    if limits.egress_rate:
        ifb = node.link(attachment.ifb)
        if ifb is None:
            raise CniError(CHECK_FAILED, f"bandwidth: link {attachment.ifb} (egressRate) is missing")
        _check_bucket(node, ifb, limits.egress_rate, "egressRate")
        if not any(q.kind == "ingress" for q in read_qdiscs(node, host.ifindex)):
            raise CniError(CHECK_FAILED, f"bandwidth: {host.name} does not redirect to {ifb.name} (egressRate)")


def _check_bucket(node: Rtnl, link: Link, rate_bits: int, key: str) -> None:
    bucket = next((q for q in read_qdiscs(node, link.ifindex) if q.at_root), None)
    if bucket is None or bucket.kind != "tbf" or bucket.rate != max(rate_bits // 8, 1):
        found = f"{bucket.kind}, {bucket.rate * 8} bit/s" if bucket else "nothing"
        raise CniError(CHECK_FAILED, f"bandwidth: {link.name}: {key} {rate_bits} expected, {found} found")
