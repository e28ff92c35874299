"""IPVS by generic netlink: the virtual and real servers of one network namespace.

On the compact encoder of `rtnl_wire`, and not pyroute2.IPVS: a first sync of 10,000 Services makes 30,000 messages,
which go out in batches here. Sources: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c, genetlink.h.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Sequence

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.modules import load_module
from netsim.kernel.rtnl_socket import Channel, SocketSource
from netsim.kernel.rtnl_wire import Message, attribute, nested, u32
from netsim.model.errors import FeatureMissing, KernelError
from netsim.ruleset.ipvs import FLAG_PERSISTENT, RealServer, RealState, ServerKey, Timeouts, VirtualServer

_GENL = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_U16, _FLAGS, _PORT = struct.Struct("=H"), struct.Struct("=II"), struct.Struct(">H")
_NETLINK_GENERIC = 16  # Python does not name it on every version
_GENL_ID_CTRL, _CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 0x10, 3, 1, 2
_NEW_SERVICE, _SET_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST = 5, 6, 7, 8
_SET_CONFIG, _GET_CONFIG, _FLUSH = 12, 13, 17
_ATTR_SERVICE, _ATTR_DEST = 1, 2
_ATTR_TIMEOUT_TCP, _ATTR_TIMEOUT_TCP_FIN, _ATTR_TIMEOUT_UDP = 4, 5, 6
_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT, _SVC_FWMARK = 1, 2, 3, 4, 5
_SVC_SCHEDULER, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK = 6, 7, 8, 9
_DEST_ADDR, _DEST_PORT, _DEST_METHOD, _DEST_WEIGHT, _DEST_UPPER, _DEST_LOWER = 1, 2, 3, 4, 5, 6
_DEST_ACTIVE, _DEST_INACTIVE, _DEST_FAMILY = 7, 8, 11
_TIMEOUTS = (_ATTR_TIMEOUT_TCP, _ATTR_TIMEOUT_TCP_FIN, _ATTR_TIMEOUT_UDP)
_METHOD_MASQ = 0
_FLAG_HASHED = 0x0002  # the kernel's own
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}


def load_scheduler(name: str) -> None:
    """Load a scheduler's module before the kernel would do it itself, which can stop it for good.

    The kernel asks for the module while it holds __ip_vs_mutex; lblc and lblcr then wait for the namespaces' lock
    (register_pernet_subsys), and whoever takes down a namespace at that moment holds that one and waits for the mutex
    (ip_vs_scheduler_get, ip_vs_sched.c; cleanup_net, net_namespace.c; seen with 6.1). Does nothing without modules.
    """
    load_module("ip_vs")
    load_module(f"ip_vs_{name}")


class Ipvs(Channel):
    """The virtual servers of a namespace. Not for several threads at once; the builders below make its messages."""

    def __init__(self, ns: SocketSource | None = None) -> None:
        """Raises FeatureMissing where the kernel has no IPVS (asking loads the module where there is one)."""
        super().__init__(ns, _NETLINK_GENERIC)
        try:
            self._family = self._find_family()
        except KernelError as error:
            self.close()
            if error.errno != errno.ENOENT:
                raise
            raise FeatureMissing(
                "ipvs",
                "the kernel has no IPVS (CONFIG_IP_VS)",
                where=ns.name if ns else "",
                hint="modprobe ip_vs, a kernel that has it, or another proxy mode",
            ) from None

    def _find_family(self) -> int:
        body = _GENL.pack(_CTRL_GETFAMILY, 1, 0) + wire.text(_CTRL_FAMILY_NAME, "IPVS")
        answer = self.query(_GENL_ID_CTRL, body, "generic netlink family IPVS", dump=False)[0]
        return int(_U16.unpack(wire.parse_attributes(answer, _GENL.size)[_CTRL_FAMILY_ID])[0])

    def servers(self) -> dict[ServerKey, VirtualServer]:
        """All virtual servers known by address; those known by firewall mark are somebody else's."""
        body = _GENL.pack(_GET_SERVICE, 1, 0)
        answers = self.query(self._family, body, "ipvsadm -L")
        return dict(filter(None, map(_parse_service, answers)))

    def count_servers(self) -> int:
        """How many virtual servers there are, of all families, without reading what they are."""
        return len(self.query(self._family, _GENL.pack(_GET_SERVICE, 1, 0), "ipvsadm -L"))

    def reals(self, key: ServerKey) -> dict[RealServer, RealState]:
        """The real servers of one virtual server. Raises KernelError when there is no such virtual server."""
        body = _GENL.pack(_GET_DEST, 1, 0) + _key(key)
        family = _family_of(key.address)
        answers = self.query(self._family, body, f"ipvsadm -L {key}")
        return dict(_parse_dest(answer, family) for answer in answers)

    def timeouts(self) -> Timeouts:
        """How long idle connections are remembered."""
        body = _GENL.pack(_GET_CONFIG, 1, 0)
        found = wire.parse_attributes(self.query(self._family, body, "ipvsadm -L --timeout", dump=False)[0], _GENL.size)
        return Timeouts(*(_number(found, kind) for kind in _TIMEOUTS))

    def run(self, messages: Sequence[Message], *, ignore: Iterable[int] = ()) -> list[int]:
        """Send all; the positions of those refused with an errno in ``ignore``. Raises BatchError for others."""
        from netsim.kernel.rtnl_socket import BatchError

        for message in messages:
            message.kind = self._family  # known only here: generic netlink numbers its families as they come
        try:
            self.batch(messages)
        except BatchError as error:
            ignored = frozenset(ignore)
            rest = [failure for failure in error.failures if failure[1] not in ignored]
            if rest:
                raise BatchError(rest, len(messages), error.where) from None
            return [position for position, _, _ in error.failures]
        return []


def new_server(key: ServerKey, server: VirtualServer) -> Message:
    """A virtual server without real servers: the kernel refuses what is sent to it (ICMP port unreachable)."""
    return _message(_NEW_SERVICE, _key(key, _service(key, server)), f"ipvsadm -A {key} {server}")


def set_server(key: ServerKey, server: VirtualServer) -> Message:
    """Another scheduler, affinity or flags; connections stay."""
    return _message(_SET_SERVICE, _key(key, _service(key, server)), f"ipvsadm -E {key} {server}")


def del_server(key: ServerKey) -> Message:
    """A virtual server goes with its real servers; with expire_nodest_conn its connections end at their next packet."""
    return _message(_DEL_SERVICE, _key(key), f"ipvsadm -D {key}")


def new_real(key: ServerKey, real: RealServer, weight: int = 1) -> Message:
    """A real server; EEXIST when it is there."""
    return _message(_NEW_DEST, _key(key) + _dest(real, weight), f"ipvsadm -a {key} {real} -w {weight}")


def set_real(key: ServerKey, real: RealServer, weight: int) -> Message:
    """Another weight; 0: no new connections."""
    return _message(_SET_DEST, _key(key) + _dest(real, weight), f"ipvsadm -e {key} {real} -w {weight}")


def del_real(key: ServerKey, real: RealServer) -> Message:
    """A real server goes at once."""
    return _message(_DEL_DEST, _key(key) + _dest(real, None), f"ipvsadm -d {key} {real}")


def set_timeouts(timeouts: Timeouts) -> Message:
    """How long idle connections are remembered from now on; 0 leaves one as it is."""
    body = b"".join(u32(kind, seconds) for kind, seconds in zip(_TIMEOUTS, timeouts, strict=True))
    return _message(_SET_CONFIG, body, f"ipvsadm --set {' '.join(map(str, timeouts))}")


def flush() -> Message:
    """All virtual servers of the namespace go."""
    return _message(_FLUSH, b"", "ipvsadm -C")


def _message(command: int, body: bytes, text: str) -> Message:
    return Message(0, 0, _GENL.pack(command, 1, 0) + body, text)


def _family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _key(key: ServerKey, more: bytes = b"") -> bytes:
    family, packed = wire.parse_ip(key.address)
    return nested(
        _ATTR_SERVICE,
        attribute(_SVC_AF, _U16.pack(family)),
        attribute(_SVC_PROTOCOL, _U16.pack(_PROTOCOLS[key.protocol])),
        attribute(_SVC_ADDR, packed.ljust(16, b"\0")),
        attribute(_SVC_PORT, _PORT.pack(key.port)),
        more,
    )


def _service(key: ServerKey, server: VirtualServer) -> bytes:
    flags = server.flags | (FLAG_PERSISTENT if server.persistent_s else 0)
    # Affinity is by whole address: the mask is in network order for IPv4, a prefix length for IPv6.
    netmask = 128 if ":" in key.address else 0xFFFFFFFF
    return b"".join(
        (
            wire.text(_SVC_SCHEDULER, server.scheduler),
            attribute(_SVC_FLAGS, _FLAGS.pack(flags, 0xFFFFFFFF)),
            u32(_SVC_TIMEOUT, server.persistent_s),
            u32(_SVC_NETMASK, netmask),
        )
    )


def _dest(real: RealServer, weight: int | None) -> bytes:
    family, packed = wire.parse_ip(real.address)
    parts = [
        attribute(_DEST_ADDR, packed.ljust(16, b"\0")),
        attribute(_DEST_PORT, _PORT.pack(real.port)),
        attribute(_DEST_FAMILY, _U16.pack(family)),
    ]
    if weight is not None:
        parts += [u32(_DEST_METHOD, _METHOD_MASQ), u32(_DEST_WEIGHT, weight), u32(_DEST_UPPER, 0), u32(_DEST_LOWER, 0)]
    return nested(_ATTR_DEST, *parts)


def _number(attributes: dict[int, bytes], kind: int, order: str = "little") -> int:
    return int.from_bytes(attributes.get(kind, b""), "big" if order == "big" else "little")


def _address(packed: bytes, family: int) -> str:
    return wire.render_ip(packed[: 16 if family == socket.AF_INET6 else 4])


def _parse_service(body: bytes) -> tuple[ServerKey, VirtualServer] | None:
    found = wire.parse_attributes(wire.parse_attributes(body, _GENL.size)[_ATTR_SERVICE])
    protocol = _NAMES.get(_number(found, _SVC_PROTOCOL))
    if _SVC_FWMARK in found or protocol is None:
        return None
    key = ServerKey(protocol, _address(found[_SVC_ADDR], _number(found, _SVC_AF)), _number(found, _SVC_PORT, "big"))
    flags = int(_FLAGS.unpack(found[_SVC_FLAGS])[0])
    persistent_s = _number(found, _SVC_TIMEOUT) if flags & FLAG_PERSISTENT else 0
    scheduler = found[_SVC_SCHEDULER].rstrip(b"\0").decode()
    return key, VirtualServer(scheduler, persistent_s, flags & ~(FLAG_PERSISTENT | _FLAG_HASHED))


def _parse_dest(body: bytes, family: int) -> tuple[RealServer, RealState]:
    found = wire.parse_attributes(wire.parse_attributes(body, _GENL.size)[_ATTR_DEST])
    real = RealServer(_address(found[_DEST_ADDR], family), _number(found, _DEST_PORT, "big"))
    state = RealState(_number(found, _DEST_WEIGHT), _number(found, _DEST_ACTIVE), _number(found, _DEST_INACTIVE))
    return real, state
