"""Puts the rules of `cni.nat` into the kernel and takes them out, in the namespace of the calling thread."""

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cni import nat
from cni.attachment import Attachment, masquerade_chain, network_digest
from cni.config import PortMapping
from cni.types import ALREADY_ATTACHED, CHECK_FAILED, CniError
from netsim.kernel.netns import Netns
from netsim.model.errors import KernelError

if TYPE_CHECKING:
    from netsim.kernel.nft import Nft

_INTERRUPTED_TIMES = 50
_MAPS = frozenset((*nat.MASQUERADE_MAPS, *nat.PORT_MAPS))


class Firewall:
    """nft in the calling thread's namespace, opened on first use. Use it in a ``with`` block. Raises KernelError."""

    def __init__(self) -> None:
        self._ns: Netns | None = None
        self._opened: Nft | None = None

    def __enter__(self) -> "Firewall":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._opened:
            self._opened.close()
        if self._ns:
            self._ns.close()

    def _run(self, commands: str) -> str:
        if self._opened is None:
            from netsim.kernel.nft import Nft  # late: only ipMasq and port mappings need it

            self._ns = Netns.current("node")
            self._opened = Nft(self._ns)
        for _ in range(_INTERRUPTED_TIMES):
            try:
                return self._opened.run(commands)
            except KernelError as error:
                # Somebody changed the tables while the library read them (NLM_F_DUMP_INTR), so nothing was done yet.
                if error.errno != errno.EINTR:
                    raise
        return self._opened.run(commands)

    def _if_there(self, commands: str) -> str:
        """As `_run`, but a missing table, map, chain or element is no error: "" then."""
        try:
            return self._run(commands)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return ""

    def _list(self, name: str) -> str:
        """A map or chain as text. One in each run: nft 1.0.6 finds only the last of several that are asked for."""
        return self._if_there(f"list {'map' if name in _MAPS else 'chain'} {nat.TABLE} {name}\n")

    def _port_elements(self) -> list[tuple[str, str, str]]:
        return [(name, *element) for name in nat.PORT_MAPS for element in nat.parse_ports(self._list(name))]

    # -- masquerading

    def masquerade(self, attachment: Attachment, cidrs: Sequence[str]) -> None:
        """Traffic of these addresses that leaves the network gets the node's address.

        CniError ALREADY_ATTACHED if another network has one of them on this node.
        """
        elements = nat.plan_masquerade_elements(attachment, cidrs)
        try:
            self._run(elements)  # all that the second pod of a network needs
        except KernelError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
            # The network's first pod; or elements left behind by somebody who lost the address store.
            addresses = [c.partition("/")[0] for c in cidrs]
            self.unmasquerade(attachment.network, addresses)
            for address in addresses:
                other = self._masquerade_chain(address)
                if other:
                    words = f"ipMasq: another network on this node has the address {address} too"
                    raise CniError(ALREADY_ATTACHED, words, f"chain {other} of nft table {nat.TABLE}") from None
            self._run(nat.plan_skeleton() + nat.plan_masquerade_chain(attachment.network, cidrs) + elements)

    def unmasquerade(self, network: str, addresses: Iterable[str]) -> None:
        """Undoes `masquerade`, for addresses of this network only; may be repeated."""
        for address in addresses:
            if self._masquerade_chain(address).startswith(nat.masquerade_prefix(network)):
                self._if_there(nat.plan_masquerade_removal([address]))

    def _masquerade_chain(self, address: str) -> str:
        """The chain that an address leads to, "" for none."""
        found = nat.parse_masquerade(self._if_there(nat.plan_masquerade_query(address)))
        return found[0][1] if found else ""

    def check_masquerade(self, attachment: Attachment, cidrs: Sequence[str]) -> None:
        """CniError unless every address leads to its network's chain, and that masquerades."""
        chain = masquerade_chain(attachment.network, sorted({nat.network_of(c) for c in cidrs}))
        for cidr in cidrs:
            if self._masquerade_chain(cidr.partition("/")[0]) != chain:
                raise CniError(CHECK_FAILED, f"ipMasq: no masquerading for {cidr} in table {nat.TABLE}")
        if "masquerade" not in self._list(chain):
            raise CniError(CHECK_FAILED, f"ipMasq: chain {chain} of table {nat.TABLE} does not masquerade")
        self._check_hooks("postrouting", "masquerade4")

    # -- port mappings

    def map_ports(
        self, attachment: Attachment, cidrs: Sequence[str], mappings: Sequence[PortMapping], *, snat: bool
    ) -> None:
        """Makes ports of the node lead to the container. CniError ALREADY_ATTACHED if one is somebody else's."""
        commands = nat.plan_port_mappings(attachment, cidrs, mappings, snat=snat)
        try:
            self._run(nat.plan_skeleton() + commands)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            raise self._taken(attachment, mappings, error) from None
        self._forget_udp(mappings)

    def _taken(self, attachment: Attachment, mappings: Sequence[PortMapping], error: KernelError) -> CniError:
        wanted = {key for family in "46" for key in nat.port_keys(mappings, family)}
        for name, key, chain in self._port_elements():
            if (name, key) in wanted and chain != attachment.port_chain:
                words = f"host port {key.replace(' . ', ' ')} is mapped to another container already"
                return CniError(ALREADY_ATTACHED, words, f"chain {chain} of nft table {nat.TABLE}")
        return CniError(ALREADY_ATTACHED, "a host port is mapped already", error.message)

    def unmap_ports(self, attachment: Attachment, mappings: Sequence[PortMapping] = ()) -> None:
        """Undoes `map_ports`, whatever was mapped then; may be repeated."""
        self._remove_ports(lambda chain: chain == attachment.port_chain, [attachment.port_chain])
        self._forget_udp(mappings)

    def _remove_ports(self, is_ours: Callable[[str], bool], chains: Sequence[str]) -> None:
        elements = [e for e in self._port_elements() if is_ours(e[2])]
        named = sorted({chain for _, _, chain in elements})
        if named:
            self._run(nat.plan_port_removal(elements, named))
            return
        for chain in chains:  # no mapping of a family it has, so a chain without elements
            self._if_there(nat.plan_port_removal((), [chain]))

    def _forget_udp(self, mappings: Sequence[PortMapping]) -> None:
        """Running UDP conversations would go on to the old place for ever: the kernel looks only new ones up."""
        ports = {one.host_port for one in mappings if one.protocol == "udp"}
        if not ports or self._ns is None:
            return
        from netsim.kernel.conntrack import Conntrack  # late: needed by few, and slow to import

        with Conntrack(self._ns) as conntrack:
            stale = [f for f in conntrack.flows(protocol=17) if f.original.destination_port in ports]
            conntrack.delete_all(stale)

    def check_ports(
        self, attachment: Attachment, cidrs: Sequence[str], mappings: Sequence[PortMapping], *, snat: bool
    ) -> None:
        """CniError unless every mapping of the container's families is in place."""
        chain = attachment.port_chain
        found = {(n, k) for n, k, c in self._port_elements() if c == chain}
        for family in sorted({nat.family_of(c) for c in cidrs}):
            for name, key in nat.port_keys(mappings, family):
                if (name, key) not in found:
                    words = f"portMappings: {key} leads nowhere in map {name} of table {nat.TABLE}"
                    raise CniError(CHECK_FAILED, words)
        rules = self._list(chain)
        if found and ("dnat" not in rules or (snat and "meta mark set" not in rules)):
            raise CniError(CHECK_FAILED, f"portMappings: rules are missing in chain {chain} of table {nat.TABLE}")
        if found:
            self._check_hooks("prerouting", "hostports")

    def _check_hooks(self, chain: str, word: str) -> None:
        if word not in self._list(chain):
            raise CniError(CHECK_FAILED, f"chain {chain} of table {nat.TABLE} has lost its rules")

    # -- GC

    def sweep(self, network: str, valid: Iterable[Attachment], reserved: Callable[[str], bool]) -> None:
        """Removes every rule of a network that belongs to no valid attachment and no reserved address."""
        elements = [e for name in nat.MASQUERADE_MAPS for e in nat.parse_masquerade(self._list(name))]
        self.unmasquerade(network, [address for address, _ in elements if not reserved(address)])
        kept = {attachment.port_chain for attachment in valid}
        prefix = f"hp-{network_digest(network)}-"
        self._remove_ports(lambda chain: chain.startswith(prefix) and chain not in kept, ())
