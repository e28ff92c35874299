"""DEL and GC: taking away what ADD made, however little of it is left."""

import errno
import os
import random
from collections.abc import Callable, Sequence
from functools import partial

from cni import bandwidth
from cni.attachment import ALIAS_PREFIX, Attachment
from cni.config import Ipam, NetConf
from cni.firewall import Firewall
from cni.ipam.store import Owner, Store
from cni.types import INVALID_CONFIG, KERNEL_REFUSED, CniError
from netsim.kernel.rtnl import Rtnl, del_group, del_link, del_neighbour, set_link
from netsim.kernel.rtnl_socket import BatchError
from netsim.model.errors import FeatureMissing, KernelError

_GROUP = 0x6E000000  # what groups of links that are deleted together begin with


def detach(attachment: Attachment, conf: NetConf) -> None:
    """Removes links, then rules, and frees the address last: nobody gets an address that still has rules."""
    with Rtnl() as node, Firewall() as firewall:
        bandwidth.unlimit_link(node, attachment)
        if conf.chained:
            firewall.unmap_ports(attachment, conf.port_mappings)
            return
        delete_link(node, attachment.veth)
        record, held = _read_store(attachment, conf)
        if conf.static_neighbours:
            forget_neighbours(node, conf, held)
        # Whatever it was added with: the configuration may have changed since. Without a record, ask the kernel.
        if record.get("ports", True) if record is not None else conf.port_mappings:
            firewall.unmap_ports(attachment, conf.port_mappings)
        if held and (conf.ip_masq or record is None or record.get("masquerade", True)):
            firewall.unmasquerade(conf.name, held)
        if conf.ipam:
            release(conf.ipam, conf.name, attachment.owner)


def forget_neighbours(node: Rtnl, conf: NetConf, addresses: list[str]) -> None:
    """Removes the bridge's permanent neighbour entries for these addresses; those inside went with the link."""
    link = node.link(conf.bridge)
    if link is None:
        return
    for address in addresses:
        try:
            node.batch([del_neighbour(address, link.ifindex)])
        except BatchError as error:
            if error.errno != errno.ENOENT:
                raise


def _read_store(attachment: Attachment, conf: NetConf) -> tuple[dict[str, object] | None, list[str]]:
    if conf.ipam is None:
        return None, []
    with Store(conf.ipam.data_dir, conf.name, create=False) as store:
        if not store.exists:
            return None, []
        return store.record(attachment.owner), store.held(attachment.owner)


def release(ipam: Ipam, network: str, owner: Owner) -> None:
    with Store(ipam.data_dir, network, create=False) as store:
        if store.exists:
            store.release(owner)


def delete_link(node: Rtnl, name: str) -> None:
    try:
        node.batch([del_link(name)])
    except BatchError as error:
        if error.errno != errno.ENODEV:
            raise


def delete_links(names: Sequence[str]) -> None:
    """Deletes several links in one operation, for their DELs to find nothing to wait for. Those that are gone are fine.

    One after the other the kernel would wait for each, 10 ms and more. They are put into a group for that; its number
    is drawn, so that others who do the same do not meet.
    """
    group = _GROUP | random.getrandbits(24)
    with Rtnl() as node:
        try:
            node.batch([set_link(name, group=group) for name in names])
        except BatchError as error:
            if any(number != errno.ENODEV for _, number, _ in error.failures):
                raise
        try:
            node.batch([del_group(group)])
        except BatchError as error:
            if error.errno != errno.ENODEV:
                raise


def collect_garbage(conf: NetConf) -> None:
    """Frees all of the network that no valid attachment owns; goes on after failures, CniError names them all."""
    if conf.valid_attachments is None:
        raise CniError(INVALID_CONFIG, 'GC needs "cni.dev/valid-attachments"')
    valid = {Attachment(conf.name, *pair) for pair in conf.valid_attachments}
    stale = [one for one in (Attachment(conf.name, *owner) for owner in _owners(conf)) if one not in valid]
    steps: list[Callable[[], None]] = [partial(detach, one, conf) for one in stale]
    steps += [partial(_sweep_links, conf, valid), partial(_sweep_rules, conf, valid)]
    failures: list[str] = []
    for step in steps:
        try:
            step()
        except (CniError, KernelError, FeatureMissing) as error:
            failures.append(error.message)
    if failures:
        raise CniError(KERNEL_REFUSED, f"GC: {len(failures)} of its steps failed", "; ".join(failures))


def _owners(conf: NetConf) -> list[Owner]:
    if conf.ipam is None:
        return []
    with Store(conf.ipam.data_dir, conf.name, create=False) as store:
        if not store.exists:
            return []
        store.reclaim()
        return store.owners()


def _sweep_links(conf: NetConf, valid: set[Attachment]) -> None:
    """Deletes the veths of this network that no valid attachment owns."""
    prefix = f"{ALIAS_PREFIX} {conf.name} "
    kept = {name for one in valid for name in (one.veth, one.ifb)}
    with Rtnl() as node:
        for link in node.links():
            if link.alias.startswith(prefix) and link.name not in kept:
                delete_link(node, link.name)


def _sweep_rules(conf: NetConf, valid: set[Attachment]) -> None:
    with Firewall() as firewall:
        if conf.ipam is None:
            # A plugin further down the chain does not know the addresses: it must not take them for leftovers.
            firewall.sweep(conf.name, valid, lambda address: True)
            return
        path = os.path.join(conf.ipam.data_dir, conf.name)
        firewall.sweep(conf.name, valid, lambda address: os.path.lexists(os.path.join(path, address)))
