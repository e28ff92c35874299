"""The names of what an attachment owns in the kernel, all derived, so that DEL finds them without any record. Pure."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from cni.ipam.store import Owner

ALIAS_PREFIX = "netsim-cni"
_COMMENT_MAX_BYTES = 120  # NFTNL_UDATA_COMMENT_MAXLEN is 128


def _digest(*parts: str) -> str:
    return hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def network_digest(network: str) -> str:
    """What the names of a network's rules begin with."""
    return _digest(network)[:8]


class Attachment(NamedTuple):
    """One interface of one container in one network. The network counts: another network's DEL must not touch ours."""

    network: str
    container_id: str
    ifname: str

    @property
    def owner(self) -> Owner:
        """Its name in the address store."""
        return Owner(self.container_id, self.ifname)

    @property
    def veth(self) -> str:
        """The node's end: 44 bits of hash, so that among 1,000 pods a collision has a chance of one in 30 million."""
        return f"veth{_digest(*self)[:11]}"

    @property
    def ifb(self) -> str:
        """The link that shapes what the container sends."""
        return f"ifb{_digest(*self)[:11]}"

    @property
    def alias(self) -> str:
        """What ``ip link`` says about the node's end; GC finds leftovers by it."""
        return f"{ALIAS_PREFIX} {self.network} {self.container_id} {self.ifname}"[:255]

    @property
    def comment(self) -> str:
        """What ``nft list`` says about its rules and elements."""
        return f"{self.network} {self.ifname} {self.container_id}"[:_COMMENT_MAX_BYTES]

    @property
    def port_chain(self) -> str:
        """The chain of its port mappings."""
        return f"hp-{network_digest(self.network)}-{_digest(*self)[:12]}"


def masquerade_chain(network: str, subnets: Sequence[str]) -> str:
    """A network's masquerade chain; its name says what is in it, so an existing one is the right one."""
    return f"masq-{network_digest(network)}-{_digest(network, *subnets)[:12]}"
