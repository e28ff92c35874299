"""Traffic shaping over rtnetlink: token buckets, ifb, redirection. Message builders (pure) and their reading back.

A qdisc shapes what leaves a link. To shape what a pod sends, which *enters* the node by its host end, that is
redirected to an ifb link of its own, whose leaving is shaped.
Sources: include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

import struct
from typing import NamedTuple

from netsim.kernel import rtnl_wire as wire
from netsim.kernel.rtnl_socket import Channel
from netsim.kernel.rtnl_wire import Message, attribute, nested, u32

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC, _RTM_NEWTFILTER = 36, 37, 38, 44
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TC_H_ROOT, _TC_H_INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TC_LINKLAYER_ETHERNET = 1
_TCA_U32_CLASSID, _TCA_U32_SEL, _TCA_U32_ACT = 1, 5, 7
_TC_U32_TERMINAL = 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_MIRRED_PARMS, _TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 2, 4, 1
_ETH_P_ALL_NETWORK_ORDER = 0x0300
_TBF_HANDLE = 0x10000  # 1:

_TCMSG = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_RATESPEC = struct.Struct("=BBHhHI")  # struct tc_ratespec: cell log, link layer, overhead, cell align, mpu, rate
_QOPT_TAIL = struct.Struct("=III")  # the rest of struct tc_tbf_qopt: limit, buffer, mtu
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, counts, egress action, ifindex
# struct tc_u32_sel with one struct tc_u32_key that matches everything.
_U32_EVERYTHING = struct.pack("=BBBxHHhhI", _TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)


class Qdisc(NamedTuple):
    """A queueing discipline; rate in bytes/s, 0 unless it is a tbf."""

    ifindex: int
    kind: str
    parent: int
    rate: int
    handle: int = 0  # 0 where the kernel put it there by itself

    @property
    def at_root(self) -> bool:
        """Whether it shapes everything that leaves the link."""
        return self.parent == _TC_H_ROOT


def new_tbf(
    ifindex: int, *, rate_bytes: int, burst_bytes: int, latency_s: float = 0.025, handle: int = _TBF_HANDLE
) -> Message:
    """A token bucket at the root of a link: ``rate_bytes`` a second, bursts up to ``burst_bytes``.

    What waits longer than ``latency_s`` is dropped (tc-tbf(8)).
    """
    limit = min(int(rate_bytes * latency_s) + burst_bytes, 0xFFFFFFFF)
    spec = _RATESPEC.pack(0, _TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate_bytes, 0xFFFFFFFF))
    parms = spec + bytes(_RATESPEC.size) + _QOPT_TAIL.pack(limit, 0, 0)
    options = attribute(_TCA_TBF_PARMS, parms) + u32(_TCA_TBF_BURST, burst_bytes)
    if rate_bytes > 0xFFFFFFFF:
        options += attribute(_TCA_TBF_RATE64, rate_bytes.to_bytes(8, "little"))
    body = _TCMSG.pack(0, ifindex, handle, _TC_H_ROOT, 0)
    body += wire.text(_TCA_KIND, "tbf") + nested(_TCA_OPTIONS, options)
    words = f"tc qdisc replace dev if{ifindex} root tbf rate {rate_bytes}bps burst {burst_bytes} limit {limit}"
    return Message(_RTM_NEWQDISC, wire.NLM_F_CREATE | wire.NLM_F_REPLACE, body, words)


def new_ingress(ifindex: int) -> Message:
    """The hook that filters of arriving packets hang on."""
    body = _TCMSG.pack(0, ifindex, _INGRESS_HANDLE, _TC_H_INGRESS, 0) + wire.text(_TCA_KIND, "ingress")
    return Message(_RTM_NEWQDISC, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, f"tc qdisc add dev if{ifindex} ingress")


def del_qdisc(ifindex: int) -> Message:
    """Takes the root qdisc off a link, which then has the default one."""
    body = _TCMSG.pack(0, ifindex, 0, _TC_H_ROOT, 0)
    return Message(_RTM_DELQDISC, 0, body, f"tc qdisc delete dev if{ifindex} root")


def new_redirect(ifindex: int, to: int) -> Message:
    """Everything that arrives on a link leaves by link ``to`` instead, and comes back from there (ifb)."""
    parms = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, to)
    action = wire.text(_TCA_ACT_KIND, "mirred") + nested(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, parms))
    options = u32(_TCA_U32_CLASSID, 0x10001) + attribute(_TCA_U32_SEL, _U32_EVERYTHING)
    options += nested(_TCA_U32_ACT, nested(1, action))
    body = _TCMSG.pack(0, ifindex, 0, _INGRESS_HANDLE, (1 << 16) | _ETH_P_ALL_NETWORK_ORDER)
    body += wire.text(_TCA_KIND, "u32") + nested(_TCA_OPTIONS, options)
    words = f"tc filter add dev if{ifindex} ingress u32 match u32 0 0 action mirred egress redirect dev if{to}"
    return Message(_RTM_NEWTFILTER, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, words)


def new_ifb(name: str, *, mtu: int = 0) -> Message:
    """An ifb link, up. EOPNOTSUPP where the kernel has none (CONFIG_IFB)."""
    body = wire.LINK.pack(0, 0, 0, wire.IFF_UP, wire.IFF_UP) + wire.text(wire.IFLA_IFNAME, name)
    if mtu:
        body += u32(wire.IFLA_MTU, mtu)
    body += nested(wire.IFLA_LINKINFO, wire.text(wire.IFLA_INFO_KIND, "ifb"))
    words = f"ip link add {name}{f' mtu {mtu}' if mtu else ''} up type ifb"
    return Message(wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body, words)


def read_qdiscs(channel: Channel, ifindex: int) -> list[Qdisc]:
    """The qdiscs of a link. Raises KernelError."""
    body = _TCMSG.pack(0, ifindex, 0, 0, 0)
    bodies = channel.query(_RTM_GETQDISC, body, f"tc qdisc show dev if{ifindex}")
    return [q for q in map(parse_qdisc, bodies) if q.ifindex == ifindex]


def parse_qdisc(body: bytes) -> Qdisc:
    """A qdisc from an RTM_NEWQDISC body."""
    _, ifindex, handle, parent, _ = _TCMSG.unpack_from(body)
    found = wire.parse_attributes(body, _TCMSG.size)
    kind = found.get(_TCA_KIND, b"").split(b"\0", 1)[0].decode()
    rate = 0
    if kind == "tbf":
        options = wire.parse_attributes(found.get(_TCA_OPTIONS, b""))
        if _TCA_TBF_RATE64 in options:
            rate = int.from_bytes(options[_TCA_TBF_RATE64], "little")
        elif _TCA_TBF_PARMS in options:
            rate = _RATESPEC.unpack_from(options[_TCA_TBF_PARMS])[5]
    return Qdisc(ifindex, kind, parent, rate, handle)
