"""The operations: ADD, DEL, CHECK, GC and STATUS, in process and without a fork.

They run in the network namespace of the calling thread, which is the node's. Packets of a pod pass: its ``eth0``, the
veth, a port of the bridge; from there to another port (same node), or by the gateway address on the bridge into the
node's routing.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from cni import bridge
from cni.args import check_container_id, check_ifname, check_network_name
from cni.attach import Place, Undo, attach, extend
from cni.attachment import Attachment
from cni.check import Checker
from cni.config import Ipam, NetConf, parse_config, parse_version
from cni.detach import collect_garbage, delete_links, detach
from cni.firewall import Firewall
from cni.ipam.allocator import choose_next
from cni.ipam.store import Store
from cni.types import (
    INCOMPATIBLE_VERSION,
    INTERNAL,
    INVALID_CONFIG,
    INVALID_NETNS,
    IO_FAILURE,
    KERNEL_REFUSED,
    NOT_AVAILABLE,
    CniError,
    Request,
    Result,
    version_at_least,
)
from netsim.kernel.netns import Netns
from netsim.kernel.rtnl import Rtnl
from netsim.model.errors import FeatureMissing, KernelError

T = TypeVar("T")


class Plugin:
    """The CNI plugin. Holds no state: any number may work at once, in threads and processes.

    Every method raises CniError and nothing else that is expected; ADD has undone its work by then.
    """

    def add(self, request: Request) -> Result:
        """Attaches the container to the network. Source: SPEC.md 1.1.0, ADD."""
        return _guard(request, lambda: _add(request))

    def delete(self, request: Request) -> None:
        """Detaches it and frees everything; succeeds however little of it is left."""
        _guard(request, lambda: detach(*_begin(request)))

    def delete_links(self, attachments: Sequence[tuple[str, str, str]]) -> None:
        """Ahead of the DELs of several (network, container, interface): their links in one operation. KernelError.

        Not of the specification, and never needed: a DEL that finds its link gone has less to wait for.
        """
        delete_links([Attachment(*one).veth for one in attachments])

    def check(self, request: Request) -> None:
        """CniError if something ADD made is missing or changed."""
        _guard(request, lambda: _check(request), since="0.4.0")

    def gc(self, request: Request) -> None:
        """Frees everything of the network that belongs to none of ``cni.dev/valid-attachments``."""
        _guard(request, lambda: collect_garbage(_begin_network(request)), since="1.1.0")

    def status(self, request: Request) -> None:
        """CniError 50 if an ADD could not be served."""
        _guard(request, lambda: _status(_begin_network(request)), since="1.1.0")


def _add(request: Request) -> Result:
    attachment, conf = _begin(request)
    with _open_netns(request) as netns, Rtnl() as node, Firewall() as firewall:
        place = Place(attachment, conf, netns, node, firewall, Undo())
        try:
            result = conf.previous if conf.chained and conf.previous else attach(place)
            return extend(place, result)
        except BaseException as error:
            place.undo.run(error)
            raise


def _check(request: Request) -> None:
    attachment, conf = _begin(request)
    if conf.previous is None:
        raise CniError(INVALID_CONFIG, "required prevResult missing")
    with _open_netns(request) as netns, Rtnl() as node, Rtnl(netns) as pod, Firewall() as firewall:
        Checker(attachment, conf, conf.previous, netns.name, node, pod, firewall).run()


def _status(conf: NetConf) -> None:
    try:
        if conf.ipam:
            _check_pool(conf, conf.ipam)
        with Rtnl() as node:
            link = node.link(conf.bridge)
            if link is not None and link.kind != "bridge":
                raise CniError(NOT_AVAILABLE, f'"{conf.bridge}" already exists but is not a bridge')
            if link is not None and len(node.links(master=link.ifindex)) >= bridge.BRIDGE_MAX_PORTS:
                raise CniError(NOT_AVAILABLE, f'bridge "{conf.bridge}" is full ({bridge.BRIDGE_MAX_PORTS:,} ports)')
        if conf.ip_masq:
            from netsim.kernel.nft import load_library  # late: only networks with ipMasq need nft

            load_library()
    except CniError as error:
        raise CniError(NOT_AVAILABLE, error.summary, error.details) from None
    except (KernelError, FeatureMissing) as error:
        raise CniError(NOT_AVAILABLE, error.message, error.hint) from None


def _guard(request: Request, operation: Callable[[], T], *, since: str = "") -> T:
    """Any error as CniError, with the kernel's words; the operation exists from cniVersion ``since`` on."""
    try:
        if since and not version_at_least(parse_version(request.config), since):
            raise CniError(INCOMPATIBLE_VERSION, f"config version does not allow {request.command}")
        return operation()
    except CniError:
        raise
    except (KernelError, FeatureMissing) as error:
        details = "; ".join(part for part in (error.where, error.hint) if part)
        raise CniError(KERNEL_REFUSED, error.message, details) from error
    except OSError as error:
        raise CniError(IO_FAILURE, f"{error.filename or 'I/O'}: {error.strerror}") from error
    except RecursionError as error:
        raise CniError(INTERNAL, "the configuration is nested too deeply") from error


def _begin(request: Request) -> tuple[Attachment, NetConf]:
    check_network_name(request.config.get("name"))
    check_container_id(request.container_id)
    check_ifname(request.ifname)
    conf = parse_config(request)
    return Attachment(conf.name, request.container_id, request.ifname), conf


def _begin_network(request: Request) -> NetConf:
    check_network_name(request.config.get("name"))
    return parse_config(request)


def _open_netns(request: Request) -> Netns:
    try:
        netns = Netns.open(request.netns)
    except KernelError as error:
        words = f'CNI_NETNS: failed to open netns "{request.netns}"'
        raise CniError(INVALID_NETNS, words, error.message) from None
    if not request.netns_override:
        with Netns.current() as own:
            if own.inode == netns.inode:
                netns.close()
                words = "CNI_NETNS: the plugin's netns and the container's should not be the same"
                raise CniError(INVALID_NETNS, words, request.netns)
    return netns


def _check_pool(conf: NetConf, ipam: Ipam) -> None:
    """CniError if some range set has no free address."""
    with Store(ipam.data_dir, conf.name, create=False) as store:
        for index, ranges in enumerate(ipam.sets):
            if store.exists:
                choose_next(ranges, store.last_reserved(index), store.is_taken)
